"""The command `plugwire`: demo, get, plugins, explain. `STATUS` says how it ends."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import plugwire

if TYPE_CHECKING:
    from collections.abc import Sequence

OK: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

STATUS: Final = """Exit status: 0 all is well; 1 the network, the peer or the response's status (400 and above) says no,
or the demo found something left open; 2 bad input, told in one line on stderr before any I/O; 130 interrupted; 141
nobody reads the output any more."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status. `arguments` without the program's name; None: those of the process."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # --help, --version and bad arguments end here
        return int(stop.code or 0)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except plugwire.UsageError as error:
        # Some mistakes come to light only when the peer has answered: a redirect wants what was read from stdin again.
        return complain(error, FAILED if error.sent else BAD_INPUT)
    except plugwire.Error as error:
        return complain(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain about the same again.
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError:  # stdout is no file of the system
            pass
        return BROKEN_PIPE


def complain(reason: object, status: int) -> int:
    """One line on stderr; the status."""
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    kind = f"{type(reason).__name__}: " if isinstance(reason, plugwire.Error) and status == FAILED else ""
    print(f"plugwire: {kind}{'; '.join(lines)}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="plugwire", description="A pluggable-transport HTTP client.", epilog=STATUS)
    parser.add_argument("--version", action="version", version=f"plugwire {plugwire.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    seven = "run the seven steps of an HTTP client against an embedded server"
    demo = commands.add_parser("demo", help=seven, description="R" + seven[1:] + ".")
    demo.set_defaults(run=_demo)

    get = commands.add_parser(
        "get",
        help="fetch a URL",
        description="Fetch a URL; the body, decoded, goes to stdout. Redirects are followed.",
        epilog="A response with a status of 400 or above is printed like any other; the exit status is then 1.",
    )
    get.add_argument("url", metavar="URL")
    get.add_argument("--trace", action="store_true", help="print each step with its time in ms to stderr")
    request = get.add_argument_group("request")
    request.add_argument("-X", "--method", metavar="METHOD", help="GET is the default, POST with -d")
    request.add_argument("-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], help="a header field")
    request.add_argument("-d", "--data", metavar="DATA", help="the request's body; @FILE: of a file, @-: of stdin")
    response = get.add_argument_group("response")
    response.add_argument(
        "-i", "--include", action="store_true", help="print the final response's head before the body"
    )
    response.add_argument("-o", "--output", metavar="FILE", help="write the body to a file; progress on a terminal")
    response.add_argument("--no-redirects", action="store_true", help="print a redirect like any other response")
    time = get.add_argument_group("time")
    time.add_argument("--timeout", metavar="SECONDS", type=float, help="for connecting, each read and each write")
    time.add_argument("--max-time", metavar="SECONDS", type=float, help="for everything together")
    _add_connecting(get)
    get.set_defaults(run=_get)

    explain = commands.add_parser(
        "explain",
        help="say what a call would do, without any I/O",
        description="Say what a call would do, without any I/O: the plugins by stage, outermost first, the route, who "
        "makes the connection and why the others do not, time-outs and options.",
    )
    explain.add_argument("url", metavar="URL")
    explain.add_argument("-X", "--method", metavar="METHOD", default="GET", help="GET is the default")
    explain.add_argument("--plugin", metavar="NAME", action="append", default=[], help="with this plugin, too")
    explain.add_argument("--transport", metavar="NAME", action="append", default=[], help="with this transport, too")
    _add_connecting(explain)
    explain.set_defaults(run=_explain)

    plugins = commands.add_parser(
        "plugins",
        help="list the transports and plugins that are shipped and installed",
        description="List the transports and plugins that can be given to a session by name, shipped and installed.",
    )
    plugins.set_defaults(run=_plugins)
    return parser


def _add_connecting(parser: argparse.ArgumentParser) -> None:
    connection = parser.add_argument_group("connection")
    connection.add_argument(
        "-x", "--proxy", metavar="URL", help="by this proxy; 'none': by none, whatever the environment says"
    )
    connection.add_argument(
        "--unix-socket", metavar="PATH", help="connect to this Unix socket in place of the URL's host"
    )
    connection.add_argument(
        "--resolve",
        metavar="HOST:PORT:ADDRESS[,ADDRESS...]",
        action="append",
        default=[],
        help="where this host is, whatever DNS says",
    )
    connection.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    connection.add_argument(
        "--ca-file", metavar="FILE", help="trust these CA certificates (PEM); 'system': the system's"
    )


def _connecting(options: Any) -> dict[str, Any]:
    """What these options mean: keywords of a session."""
    if options.ca_file not in (None, "system") and not os.path.isfile(options.ca_file):
        raise plugwire.UsageError(f"--ca-file {options.ca_file}: there is no such file")
    tls = plugwire.TLSConfig(verify=not options.insecure, ca_file=options.ca_file)
    keywords: dict[str, Any] = {"tls": tls, "options": {}, "transports": []}
    if options.proxy is not None:
        keywords["proxy"] = None if options.proxy == "none" else options.proxy
    if (path := options.unix_socket) is not None:
        keywords["options"] = {"path": os.path.abspath(path) if path else path}
    pins: dict[str, list[str]] = {}
    for text in options.resolve:
        found = re.fullmatch(r"((?:\[[^\]]*\]|[^:\[\]]+):[0-9]+):(.+)", text)
        if found is None or found[1] in pins:
            reason = "is there twice" if found is not None else "is written HOST:PORT:ADDRESS"
            raise plugwire.UsageError(f"--resolve {text}: {reason}")
        pins[found[1]] = found[2].split(",")
    if pins:
        from plugwire.shipped import pinned_hosts

        keywords["transports"] = [pinned_hosts(pins)]
    return keywords


# -- the commands ----------------------------------------------------------------------------------------------------


def _demo(options: Any) -> int:
    from plugwire.demo import run

    return OK if run(sys.stdout) else FAILED


def _get(options: Any) -> int:
    from plugwire.fetch import fetch

    response = fetch(options, _connecting(options))
    if response.ok:
        return OK
    return complain(f"{response.status_code} {response.reason}", FAILED)


def _explain(options: Any) -> int:
    keywords = _connecting(options)
    keywords["transports"] = [*options.transport, *keywords["transports"]]
    with plugwire.Session(plugins=options.plugin, **keywords) as session:
        print(session.explain(options.url, options.method))
    return OK


def _plugins(options: Any) -> int:
    from plugwire.registry import entry_points
    from plugwire.shipped import DEFAULT_PLUGINS, DEFAULT_TRANSPORTS, SHIPPED_PLUGINS, SHIPPED_TRANSPORTS

    defaults = {*DEFAULT_PLUGINS, *(name for names in DEFAULT_TRANSPORTS.values() for name in names)}
    for group, shipped in (("plugwire.transports", SHIPPED_TRANSPORTS), ("plugwire.plugins", SHIPPED_PLUGINS)):
        installed = entry_points(group)
        rows = [
            (name, value, "shipped, in every session" if name in defaults else "shipped, if named")
            for name, value in shipped.items()
        ]
        for name, point in installed.items():
            if name in shipped and point.value == shipped[name]:
                continue
            origin = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"
            note = ", hidden by the shipped one of this name" if name in shipped else ""
            rows.append((name, point.value, f"{origin}{note}"))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        print(f"{group}:")
        for name, value, origin in sorted(rows):
            print(f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
    return OK
