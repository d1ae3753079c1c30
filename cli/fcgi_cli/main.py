"""The command `fcgi-sctp`. Each subcommand imports what it needs when it runs, so that `logs` starts at once."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from fcgi_core import __version__
from fcgi_core.common.text import escape

from .admin import AdminError
from .output import guarded

__all__ = ["main", "make_parser"]

INTERRUPTED = 130

EXIT_STATUSES = """
Exit status, of all commands (those of sysexits.h):
    0  done
    1  what was asked for did not come, or was refused
   64  wrong words
   69  what is needed is not there: no SCTP, no feed, no process that answers
   74  standard output cannot be written; one whose reader has gone (| head) is no error
   78  wrong configuration
  130  Ctrl-C
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is sysexits': 64 wrong words, 78 wrong configuration, 69 unavailable."""
    parser = make_parser()
    ended: SystemExit | None = None
    status: int | None = None
    try:
        with guarded() as output:
            try:
                args = parser.parse_args(arguments)
                if args.run not in (_web, _app):  # what an application prints is its own affair
                    status = args.run(args)
            except AdminError as error:
                print(f"fcgi-sctp: {escape(str(error))}", file=sys.stderr)
                status = os.EX_UNAVAILABLE
            except SystemExit as end:  # help, and wrong words
                ended = end
            sys.stdout.flush()
            if output.problem:
                print(f"fcgi-sctp: {output.problem}", file=sys.stderr)
                return os.EX_IOERR
        if ended is not None:
            raise ended
        if status is None:
            status = args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def make_parser() -> argparse.ArgumentParser:
    """All words of the command."""
    from . import change, check, completion, doctor, logs, plugins, status, top, version, webserver
    from .parser import Parser

    parser = Parser(prog="fcgi-sctp", description="FastCGI over SCTP, with feedback plugins.", epilog=EXIT_STATUSES)
    parser.add_argument("--version", action="version", version=f"fcgi-sctp {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    web = commands.add_parser("web", help="run the side beside the web server")
    _service_arguments(web)
    web.add_argument("--listen", action="append", metavar="ADDRESS", help="for the web server: unix:/PATH or HOST:PORT")
    web.add_argument("--connect", action="append", metavar="ADDRESS", help="an application: HOST:PORT[/UDPPORT]")
    web.add_argument("--feed", metavar="PATH", help="unix socket of the live feed")
    web.set_defaults(run=_web)

    app = commands.add_parser("app", help="run an application")
    _service_arguments(app)
    app.add_argument("application", nargs="?", metavar="MODULE:CALLABLE", help="the WSGI or ASGI application")
    app.add_argument("--fastcgi", metavar="ADDRESS", help="instead, a FastCGI server: unix:/PATH or HOST:PORT")
    app.add_argument("--fastcgi-connections", type=int, metavar="N", help="requests that it gets at once, at most (5)")
    app.add_argument("--interface", choices=("auto", "wsgi", "asgi"), help="what MODULE:CALLABLE is (auto)")
    app.add_argument("--listen", action="append", metavar="ADDRESS", help="for the web side: HOST:PORT[/UDPPORT]")
    app.add_argument("--threads", type=int, metavar="N", help="requests worked on at once (16)")
    app.add_argument("--workers", type=int, metavar="N", help="processes, from the port of --listen on")
    app.set_defaults(run=_app)

    logs_parser = commands.add_parser("logs", help="follow the live feed of a running web side")
    logs.add_arguments(logs_parser)
    logs_parser.set_defaults(run=logs.run)

    for module, name, text in (
        (status, "status", "what the processes do now, and the streams of each association"),
        (top, "top", "requests, hosts, associations and plugins, live"),
        (plugins, "plugins", "the plugins installed, their options, and how they fare"),
        (change, "set", "change options of plugins while they run"),
        (doctor, "doctor", "what SCTP this machine has, and what would give what it lacks"),
        (check, "check", "what is wrong with configuration files"),
        (webserver, "nginx-config", "what to write into nginx's configuration, or another web server's"),
        (completion, "completion", "a script that completes these words in a shell"),
        (version, "version", "this program and what it stands on"),
    ):
        module_parser = commands.add_parser(name, help=text)
        module.add_arguments(module_parser)
        module_parser.set_defaults(run=module.run)

    return parser


def _service_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", "-c", metavar="FILE", help="the YAML file; flags go over what it says")
    parser.add_argument("--sctp", choices=("auto", "kernel", "userspace"), help="which SCTP (auto)")
    parser.add_argument("--plugin", action="append", metavar="NAME", help="enable a plugin with its defaults")
    parser.add_argument("--name", help="what this process is called in the other side's log")
    parser.add_argument("--admin", metavar="PATH", help="unix socket for fcgi-sctp status, top, plugins")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))


def _service_overrides(args: argparse.Namespace) -> dict[str, Any]:
    sctp = None if args.sctp is None else {"carrier": args.sctp}
    overrides: dict[str, Any] = {"log_level": args.log_level, "sctp": sctp}
    if args.plugin:
        overrides["plugins"] = {name: {} for name in args.plugin}
    return overrides


def _web(args: argparse.Namespace) -> int:
    def run() -> None:
        from fcgi_core.process.config import load_config
        from fcgi_core.process.run import run_web

        overrides = _service_overrides(args)
        if args.config is None and not (args.listen and args.connect):
            _usage("web needs --config FILE, or --listen and --connect")
        overrides["web"] = {
            "listen": args.listen,
            "connect": args.connect,
            "feed": args.feed,
            "admin": args.admin,
            "name": args.name,
        }
        run_web(load_config(args.config, overrides, "web"))

    return _guarded(run)


def _app(args: argparse.Namespace) -> int:
    def run() -> None:
        from fcgi_core.process.config import load_config
        from fcgi_core.process.run import run_app

        overrides = _service_overrides(args)
        if args.config is None and not (args.listen and (args.application or args.fastcgi)):
            _usage("app needs --config FILE, or MODULE:CALLABLE or --fastcgi ADDRESS, and --listen")
        fastcgi = {"address": args.fastcgi, "connections": args.fastcgi_connections}
        overrides["app"] = {
            "application": args.application,
            "interface": args.interface,
            "fastcgi": fastcgi if any(fastcgi.values()) else None,
            "listen": args.listen,
            "threads": args.threads,
            "workers": args.workers,
            "admin": args.admin,
            "name": args.name,
        }
        run_app(load_config(args.config, overrides, "app"))

    return _guarded(run)


def _usage(text: str) -> None:
    _complain([text])
    raise SystemExit(os.EX_USAGE)


def _guarded(run: Any) -> int:
    """Run, and turn what can go wrong into sentences and exit statuses."""
    from fcgi_core.errors import ConfigError, FcgiSctpError
    from fcgi_core.sctp.carrier import CarrierError

    try:
        run()
    except ConfigError as error:
        _complain(error.problems)
        return os.EX_CONFIG
    except (CarrierError, FcgiSctpError, OSError) as error:
        _complain([str(error)])
        return os.EX_UNAVAILABLE
    return os.EX_OK


def _complain(problems: list[str]) -> None:
    with guarded():
        for problem in problems:
            print(f"fcgi-sctp: {escape(problem)}", file=sys.stderr)
