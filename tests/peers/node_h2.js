'use strict';
// What the Node peer has over HTTP/2 only, or does otherwise there than over HTTP/1.1:
//
//   /session                  JSON: session (counted from 1 in the order of connections), stream, and the client's settings
//   /settings?name=value      sends SETTINGS with these (maxConcurrentStreams, initialWindowSize, ... as Node calls them) on this
//                             connection, waits for their ACK, then SMALL
//   /ping                     SMALL, after a PING of the server was answered
//   /goaway?code=&last=&cut=  GOAWAY with the code (default 0) and this last stream id (default: that of this request), then
//                             SMALL (nothing if this stream is above the last one: nghttp2 drops it); with cut=1 the
//                             connection is cut off at once after the GOAWAY
//   /close                    SMALL, then GOAWAY(NO_ERROR); the connection ends when its last stream has
//   /rst?code=&after=         RST_STREAM with the code (default 2), after=nothing (default), head, or half of the body
//   /early?mode=              413 while the body is unread. reset (default): then RST_STREAM(NO_ERROR), as RFC 9113 8.1 has it;
//                             keep: reads the rest; cancel: RST_STREAM(CANCEL) with no answer
//   /informational?n=         n times 102 (default 1), 103 with a Link, then 200
//   /reset                    half of a Content-Length body, then RST of the TCP connection
//   /truncate                 half of a Content-Length body, then END_STREAM, which is malformed
//   CONNECT host:port         200, then an echo
//
// /http10, /truncate-chunked and /upgrade do not exist here.

const http2 = require('node:http2');

const { NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR } = http2.constants;

const sockets = new Map(); // by the client's address: what HTTP/2 sessions hide
const numbers = new WeakMap();
let sessions = 0;

const address = (socket) => `${socket.remoteAddress} ${socket.remotePort}`;

function routes(SMALL, whole) {
  const small = (response) => whole(response, SMALL);
  const head = { ':status': 200, 'content-type': 'text/plain', 'content-length': SMALL.length };
  const halfOf = (stream, then, options) => {
    stream.respond(head, options);
    stream.write(SMALL.subarray(0, SMALL.length >> 1), then);
  };

  return {
    '/session': ({ stream }, response) => {
      const { session } = stream;
      const found = { session: numbers.get(session), stream: stream.id, settings: session.remoteSettings };
      whole(response, Buffer.from(JSON.stringify(found)));
    },
    '/settings': ({ stream }, response, query) => {
      const values = Object.fromEntries([...query].map(([name, value]) => [name, Number(value)]));
      stream.session.settings(values, () => small(response));
    },
    '/ping': ({ stream }, response) => stream.session.ping(() => small(response)),
    '/goaway': ({ stream }, response, query) => {
      const { session } = stream;
      const last = query.get('last');
      session.goaway(Number(query.get('code') || 0), last === null ? stream.id : Number(last), Buffer.from('as asked'));
      if (query.get('cut')) setImmediate(() => sockets.get(address(session.socket)).end());
      else small(response);
    },
    '/close': ({ stream }, response) => {
      small(response);
      stream.session.close();
    },
    '/rst': ({ stream }, response, query) => {
      const code = Number(query.get('code') || NGHTTP2_INTERNAL_ERROR);
      const after = query.get('after') || 'nothing';
      const reset = () => stream.close(code);
      const options = { waitForTrailers: true }; // or Node would send END_STREAM before the RST_STREAM
      if (after === 'half') halfOf(stream, reset, options);
      else if (after === 'head') {
        stream.respond(head, options);
        setImmediate(reset);
      } else reset();
    },
    '/early': (request, response, query) => {
      const { stream } = request;
      const mode = query.get('mode') || 'reset';
      if (mode === 'cancel') {
        stream.close(NGHTTP2_CANCEL);
        return;
      }
      response.on('finish', () => {
        if (mode === 'reset') stream.close(NGHTTP2_NO_ERROR);
      });
      whole(response, Buffer.from('too large\n'), 413);
      if (mode === 'keep') request.resume();
    },
    '/informational': ({ stream }, response, query) => {
      for (let i = 0; i < Number(query.get('n') || 1); i++) stream.additionalHeaders({ ':status': 102 });
      response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
      small(response);
    },
    '/reset': ({ stream }) => halfOf(stream, () => sockets.get(address(stream.session.socket)).resetAndDestroy()),
    '/truncate': ({ stream }) => halfOf(stream, () => stream.end()),
    '/http10': undefined,
    '/truncate-chunked': undefined,
  };
}

// A server with the listeners that Node's HTTP/2 needs besides those of HTTP/1.1.
function serve(server) {
  server.on('connection', (socket) => {
    const key = address(socket);
    sockets.set(key, socket);
    socket.on('close', () => sockets.delete(key));
  });
  server.on('session', (session) => {
    sessions += 1;
    numbers.set(session, sessions);
  });
  server.on('sessionError', () => {});
  server.on('stream', (stream) => stream.on('error', () => {}));
  return server;
}

function connect(request, response) {
  request.on('error', () => {});
  response.on('error', () => {});
  response.writeHead(200);
  request.pipe(response);
}

module.exports = {
  connect,
  plain: (settings) => serve(http2.createServer({ settings })),
  secure: (tls, settings) => serve(http2.createSecureServer({ ...tls, allowHTTP1: true, settings })),
  routes,
};
