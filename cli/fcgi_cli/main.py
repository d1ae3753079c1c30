"""The command `fcgi-sctp`. Each subcommand imports what it needs when it runs, so that `logs` starts at once."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Literal

from fcgi_core import __version__

from .admin import AdminError
from .output import complain, guarded

__all__ = ["main", "make_parser"]

INTERRUPTED = 130

EXIT_STATUSES = """
Exit status of all commands (as in sysexits.h):
    0  success
    1  the awaited result did not come (logs --count), or was refused (set, drain)
   64  usage error
   69  something needed is missing or in use: SCTP, an address, the feed, a process that answers
   70  a hook of a plugin did not return and could not be ended
   74  standard output cannot be written; a closed pipe (| head) is not an error
   78  configuration error
  130  interrupted with Ctrl-C
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status. SystemExit after help and after a usage error."""
    parser = make_parser()
    ended: SystemExit | None = None
    status: int | None = None
    try:
        with guarded() as output:
            try:
                args = parser.parse_args(arguments)
                if args.run not in (_web, _app):  # an application writes to the real standard output
                    status = args.run(args)
            except AdminError as error:
                complain("fcgi-sctp", str(error))
                status = os.EX_UNAVAILABLE
            except SystemExit as end:
                ended = end
            sys.stdout.flush()
            if output.problem:
                complain("fcgi-sctp", output.problem)
                return os.EX_IOERR
        if ended is not None:
            raise ended
        if status is None:
            status = args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    from . import change, check, completion, doctor, drain, logs, plugins, status, top, version, webserver
    from .parser import Parser

    parser = Parser(prog="fcgi-sctp", description="FastCGI over SCTP, with feedback plugins.", epilog=EXIT_STATUSES)
    parser.add_argument("--version", action="version", version=f"fcgi-sctp {__version__}")
    parser.set_defaults(parser=parser)  # for `completion`, which describes all of it
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    web = commands.add_parser("web", help="run the side next to the web server")
    _service_arguments(web)
    web.add_argument(
        "--listen", action="append", metavar="ADDRESS", help="listen here for the web server: unix:/PATH or HOST:PORT"
    )
    web.add_argument(
        "--connect", action="append", metavar="ADDRESS", help="connect to this application: HOST:PORT[/UDPPORT]"
    )
    web.add_argument("--feed", metavar="PATH", help="create the live feed's unix socket here")
    web.set_defaults(run=_web)

    app = commands.add_parser("app", help="run an application")
    _service_arguments(app)
    app.add_argument("application", nargs="?", metavar="MODULE:CALLABLE", help="the WSGI or ASGI application to run")
    app.add_argument(
        "--fastcgi", metavar="ADDRESS", help="pass requests to a FastCGI server instead: unix:/PATH or HOST:PORT"
    )
    app.add_argument(
        "--fastcgi-connections", type=int, metavar="N", help="pass at most N requests at once to that server (5)"
    )
    app.add_argument("--interface", choices=("auto", "wsgi", "asgi"), help="the interface of MODULE:CALLABLE (auto)")
    app.add_argument(
        "--listen", action="append", metavar="ADDRESS", help="listen here for the web side: HOST:PORT[/UDPPORT]"
    )
    app.add_argument("--threads", type=int, metavar="N", help="handle at most N requests at once (16)")
    app.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="run N processes, which listen on consecutive ports from that of --listen on",
    )
    app.set_defaults(run=_app)

    for module, name, text in (
        (logs, "logs", "follow the log lines of all applications"),
        (status, "status", "show what each process does now, and the streams of each association"),
        (top, "top", "show rates of requests, hosts, associations and plugins, live"),
        (plugins, "plugins", "list plugins, describe their options, write a new one"),
        (change, "set", "change options of plugins in running processes"),
        (drain, "drain", "give an application no new requests"),
        (doctor, "doctor", "show which SCTP this machine has, and how to get what it lacks"),
        (check, "check", "report errors in configuration files"),
        (webserver, "nginx-config", "print the configuration for nginx or another web server"),
        (completion, "completion", "print a script that completes this command in a shell"),
        (version, "version", "print the versions of this program and of what it uses"),
    ):
        module_parser = commands.add_parser(name, help=text)
        module.add_arguments(module_parser)
        module_parser.set_defaults(run=module.run)
    undrain = commands.add_parser("undrain", help="give an application requests again")
    drain.undo_arguments(undrain)
    undrain.set_defaults(run=drain.run)

    return parser


def _service_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", "-c", metavar="FILE", help="read this YAML file; options override it")
    parser.add_argument("--sctp", choices=("auto", "kernel", "userspace"), help="the SCTP to use (auto)")
    parser.add_argument("--plugin", action="append", metavar="NAME", help="enable this plugin with its defaults")
    parser.add_argument("--name", help="the name of this process in the other side's log")
    parser.add_argument(
        "--admin", metavar="PATH", help="create the unix socket for fcgi-sctp status, top, plugins, set and drain here"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="log this severity and worse (info)"
    )


def _web(args: argparse.Namespace) -> int:
    web = {
        "listen": args.listen,
        "connect": args.connect,
        "feed": args.feed,
        "admin": args.admin,
        "name": args.name,
    }
    missing = "" if args.listen and args.connect else "web needs --config FILE, or --listen and --connect"
    return _serve(args, "web", web, missing)


def _app(args: argparse.Namespace) -> int:
    fastcgi = {"address": args.fastcgi, "connections": args.fastcgi_connections}
    app = {
        "application": args.application,
        "interface": args.interface,
        "fastcgi": fastcgi if any(fastcgi.values()) else None,
        "listen": args.listen,
        "threads": args.threads,
        "workers": args.workers,
        "admin": args.admin,
        "name": args.name,
    }
    complete = args.listen and (args.application or args.fastcgi)
    missing = "" if complete else "app needs --config FILE, or --listen and MODULE:CALLABLE or --fastcgi ADDRESS"
    return _serve(args, "app", app, missing)


def _serve(args: argparse.Namespace, side: Literal["web", "app"], options: dict[str, Any], missing: str) -> int:
    """Run one side with its file and the `options` that override it. Without a file, `missing` is a usage error."""
    if args.config is None and missing:
        _complain(missing)
        raise SystemExit(os.EX_USAGE)

    from fcgi_core.errors import ConfigError, FcgiSctpError
    from fcgi_core.process import run
    from fcgi_core.process.config import load_config
    from fcgi_core.sctp.carrier import CarrierError

    sctp = None if args.sctp is None else {"carrier": args.sctp}
    overrides: dict[str, Any] = {"log_level": args.log_level, "sctp": sctp or None, side: options}
    if args.plugin:
        overrides["plugins"] = {name: {} for name in args.plugin}
    try:
        config = load_config(args.config, overrides, side)
        (run.run_web if side == "web" else run.run_app)(config)
    except ConfigError as error:
        _complain(*error.problems)
        return os.EX_CONFIG
    except (CarrierError, FcgiSctpError, OSError) as error:
        _complain(str(error))
        return os.EX_UNAVAILABLE
    return os.EX_OK


def _complain(*problems: str) -> None:
    with guarded():
        complain("fcgi-sctp", *problems)
