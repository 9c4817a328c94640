'use strict';
// Started by node.py with one argument, its settings as JSON. Beyond the paths that every peer has:
//
//   /echo                     what came, as JSON: method, target, httpVersion, headers ([name, value] as sent), length and
//                             sha256 of the body, trailers
//   /reflect                  the request's body, chunked, as it comes
//   /client                   on the port with client certificates: the common name of the client's
//   /chunked?n=               n chunks "chunk 0\n", ... (default 3), then the trailers X-Checksum (sha256 of the body) and X-Count;
//                             without n SMALL
//   /pattern?n=&chunked=1     n bytes, byte i is i % 251; with Content-Length unless chunked=1
//   /coded?coding=&n=         as /pattern, in these content codings (gzip, deflate, raw, br), chunked, then the trailer X-Count; raw is
//                             deflate without zlib's header, and called deflate
//   /coded-events?coding=     three server-sent events, flushed; each but the first when /coded-events?next=KEY came, KEY
//                             from the field X-Key; then the end
//   /continue?mode=           with Expect: 100-continue: accept (default), reject (417, body unread) or silent (no 100, waits for the body)
//   /early?mode=              413 while the body is unread. linger (default): closes its side, reads the rest, as nginx does;
//                             keep: keeps the connection and reads the rest; reset: destroys the socket
//   /informational?n=         n times 102 (default 1), 103 with a Link, then 200
//   /upgrade                  101 to the protocol "echo": sends back what it gets, ends when the client ends
//   CONNECT host:port         200, then the same echo
//   /close                    SMALL, Connection: close
//   /http10                   an HTTP/1.0 answer, ended by the close
//   /reset                    half of a Content-Length body, then RST        /truncate  the same with FIN
//   /truncate-chunked         one chunk, then FIN
//   /hang                     never answers     /hang-body  head and half of the body, then silence
//   /status?code=&retry-after=   that status
//   /flaky?key=&fail=n&code=  the first n requests with this key get the code (default 503), later ones 200 and the count
//   /redirect?code=&to=       (default 302 to /small)
//
// Over HTTP/2 too, in the clear and over TLS; what is otherwise there is described at the head of node_h2.js.

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const path = require('node:path');
const zlib = require('node:zlib');
const h2 = require('./node_h2.js');

const settings = JSON.parse(process.argv[2]);
const SMALL = fs.readFileSync(path.join(settings.content, 'small.txt'));
const BIG = fs.readFileSync(path.join(settings.content, 'big.bin'));
const LARGE = fs.readFileSync(path.join(settings.content, 'large.bin'));
const PATTERN = Buffer.from(Array.from({ length: 251 * 256 }, (_, i) => i % 251));

const flaky = new Map();

function whole(response, body, status = 200, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'text/plain', 'Content-Length': body.length, ...headers });
  response.end(body);
}

function pairs(flat) {
  const found = [];
  for (let i = 0; i < flat.length; i += 2) found.push([flat[i], flat[i + 1]]);
  return found;
}

function echo(request, response) {
  const hash = crypto.createHash('sha256');
  let length = 0;
  request.on('data', (data) => {
    hash.update(data);
    length += data.length;
  });
  request.on('end', () => {
    const seen = {
      method: request.method,
      target: request.url,
      httpVersion: request.httpVersion,
      headers: pairs(request.rawHeaders),
      length,
      sha256: hash.digest('hex'),
      trailers: pairs(request.rawTrailers),
    };
    whole(response, Buffer.from(JSON.stringify(seen)), 200, { 'Content-Type': 'application/json' });
  });
}

function chunked(request, response, query) {
  const n = query.get('n');
  const chunks = n === null ? [SMALL] : Array.from({ length: Number(n) }, (_, i) => Buffer.from(`chunk ${i}\n`));
  if (request.method === 'HEAD') {
    response.writeHead(200, { 'Content-Type': 'text/plain' }).end(); // the field Trailer would be an error here
    return;
  }
  const hash = crypto.createHash('sha256');
  response.writeHead(200, { 'Content-Type': 'text/plain', Trailer: 'X-Checksum, X-Count' });
  for (const chunk of chunks) {
    hash.update(chunk);
    response.write(chunk);
  }
  response.addTrailers({ 'X-Checksum': hash.digest('hex'), 'X-Count': String(chunks.length) });
  response.end();
}

function pattern(request, response, query) {
  let left = Number(query.get('n'));
  let at = 0;
  const framing = query.get('chunked') ? {} : { 'Content-Length': left };
  response.writeHead(200, { 'Content-Type': 'application/octet-stream', ...framing });
  const more = () => {
    while (left > 0) {
      const piece = PATTERN.subarray(at, Math.min(PATTERN.length, at + left));
      at = (at + piece.length) % PATTERN.length;
      left -= piece.length;
      if (!response.write(piece)) {
        response.once('drain', more);
        return;
      }
    }
    response.end();
  };
  more();
}

const coders = { gzip: zlib.createGzip, deflate: zlib.createDeflate, raw: zlib.createDeflateRaw, br: zlib.createBrotliCompress };

function coded(request, response, query) {
  const n = Number(query.get('n'));
  const codings = query.get('coding').split(', ');
  response.writeHead(200, { 'Content-Encoding': codings.join(', ').replaceAll('raw', 'deflate'), Trailer: 'X-Count' });
  const content = Buffer.alloc(n);
  for (let at = 0; at < n; at += PATTERN.length) PATTERN.copy(content, at);
  const chain = codings.map((coding) => coders[coding]());
  const last = chain.reduce((from, to) => from.pipe(to));
  last.on('data', (data) => response.write(data));
  last.on('end', () => {
    response.addTrailers({ 'X-Count': String(n) });
    response.end();
  });
  chain[0].end(content);
}

const events = new Map();

function codedEvents(request, response, query) {
  const next = query.get('next');
  if (next !== null) {
    events.get(next)();
    whole(response, SMALL);
    return;
  }
  const key = crypto.randomUUID();
  const coding = query.get('coding');
  const options = { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 4 } };
  const coder = coding === 'br' ? zlib.createBrotliCompress(options) : coders[coding]();
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Content-Encoding': coding, 'X-Key': key });
  coder.on('data', (data) => response.write(data));
  coder.on('end', () => response.end());
  let number = 0;
  const send = () => {
    if (number === 3) {
      events.delete(key);
      coder.end();
      return;
    }
    coder.write(`data: ${number}\n\n`);
    coder.flush();
    number += 1;
  };
  events.set(key, send);
  send();
}

function early(request, response, query) {
  const mode = query.get('mode') || 'linger';
  const body = Buffer.from('too large\n');
  if (mode === 'keep') {
    whole(response, body, 413);
    request.resume();
    return;
  }
  const socket = request.socket;
  const raw = `HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  if (mode === 'reset') {
    socket.write(raw, () => socket.resetAndDestroy());
    return;
  }
  request.resume();
  socket.end(raw);
}

function informational(request, response, query) {
  for (let i = 0; i < Number(query.get('n') || 1); i++) response.writeProcessing();
  response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
  whole(response, SMALL);
}

function half(ending) {
  return (request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': SMALL.length });
    response.write(SMALL.subarray(0, SMALL.length >> 1), () => ending(request.socket));
  };
}

function small(request, response) {
  const headers = { ETag: '"small"' };
  if (request.headers['if-none-match'] === headers.ETag) {
    response.writeHead(304, headers).end();
    return;
  }
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range || '');
  if (!range) {
    whole(response, SMALL, 200, headers);
    return;
  }
  const [first, last] = [Number(range[1]), Number(range[2])];
  const part = SMALL.subarray(first, last + 1);
  whole(response, part, 206, { ...headers, 'Content-Range': `bytes ${first}-${last}/${SMALL.length}` });
}

const routes = {
  '/small': small,
  '/big': (request, response) => whole(response, BIG, 200, { 'Content-Type': 'application/octet-stream' }),
  '/large': (request, response) => whole(response, LARGE, 200, { 'Content-Type': 'application/octet-stream' }),
  '/no-content': (request, response) => response.writeHead(204).end(),
  '/unavailable': (request, response) => whole(response, Buffer.from('unavailable\n'), 503),
  '/redirect': (request, response, query) => {
    const location = query.get('to') || '/small';
    whole(response, Buffer.from('elsewhere\n'), Number(query.get('code') || 302), { Location: location });
  },
  '/status': (request, response, query) => {
    const after = query.get('retry-after');
    whole(response, Buffer.from('as asked\n'), Number(query.get('code')), after === null ? {} : { 'Retry-After': after });
  },
  '/flaky': (request, response, query) => {
    const count = (flaky.get(query.get('key')) || 0) + 1;
    flaky.set(query.get('key'), count);
    whole(response, Buffer.from(String(count)), count <= Number(query.get('fail')) ? Number(query.get('code') || 503) : 200);
  },
  '/echo': echo,
  '/reflect': (request, response) => request.pipe(response),
  '/client': (request, response) => whole(response, Buffer.from(request.socket.getPeerCertificate().subject.CN)),
  '/chunked': chunked,
  '/pattern': pattern,
  '/coded': coded,
  '/coded-events': codedEvents,
  '/continue': echo,
  '/early': early,
  '/informational': informational,
  '/close': (request, response) => whole(response, SMALL, 200, { Connection: 'close' }),
  '/http10': (request) => request.socket.end(`HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n${SMALL}`),
  '/reset': half((socket) => socket.resetAndDestroy()),
  '/truncate': half((socket) => socket.end()),
  '/truncate-chunked': (request, response) => response.write(SMALL, () => request.socket.end()),
  '/hang': () => {},
  '/hang-body': half(() => {}),
};

const h2Routes = { ...routes, ...h2.routes(SMALL, whole) };

function handle(request, response) {
  const isH2 = request.httpVersionMajor === 2;
  if (isH2) {
    request.on('error', () => {});
    response.on('error', () => {});
  }
  const url = new URL(request.url, 'http://localhost');
  const route = (isH2 ? h2Routes : routes)[url.pathname];
  if (route) route(request, response, url.searchParams);
  else whole(response, Buffer.from('not found\n'), 404);
}

function checkContinue(request, response) {
  const url = new URL(request.url, 'http://localhost');
  const mode = url.searchParams.get('mode');
  if (url.pathname === '/continue' && mode === 'reject') {
    whole(response, Buffer.from('not expected\n'), 417);
    return;
  }
  if (url.pathname !== '/early' && mode !== 'silent') response.writeContinue();
  handle(request, response);
}

function speakEcho(socket, head) {
  if (head.length) socket.write(head);
  socket.pipe(socket);
}

function upgrade(request, socket, head) {
  if (request.url !== '/upgrade' || request.headers.upgrade !== 'echo') {
    socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
    return;
  }
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
  speakEcho(socket, head);
}

function connect(request, socket, head) {
  if (request.httpVersionMajor === 2) {
    h2.connect(request, socket); // its response, that is
    return;
  }
  socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
  speakEcho(socket, head);
}

const options = { keepAliveTimeout: 600_000, requestTimeout: 0, headersTimeout: 0 };
const mutual = { requestCert: true, rejectUnauthorized: true, ca: fs.readFileSync(settings.authority) };
const identity = { cert: fs.readFileSync(settings.certificate), key: fs.readFileSync(settings.key) };
const tls = { ...identity, ALPNProtocols: ['http/1.1'] };

for (const address of settings.addresses) {
  for (const [server, port] of [
    [http.createServer(options), settings.port],
    [https.createServer({ ...options, ...tls }), settings.tlsPort],
    [https.createServer({ ...options, ...tls, ...mutual }), settings.mutualTlsPort],
    [h2.secure({ ...options, ...identity }, settings.h2Settings), settings.h2Port],
    [h2.plain(settings.h2Settings), settings.h2cPort],
  ]) {
    server.on('request', handle);
    server.on('checkContinue', checkContinue);
    server.on('upgrade', upgrade);
    server.on('connect', connect);
    // A client that goes away is no reason to end: tests cancel and reset on purpose.
    server.on('connection', (socket) => socket.on('error', () => {}));
    server.on('secureConnection', (socket) => socket.on('error', () => {}));
    server.on('tlsClientError', () => {});
    server.on('clientError', (error, socket) => socket.writable && socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    server.listen(port, address);
  }
}
