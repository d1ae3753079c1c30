"""``fcgi-sctp check``: reports all errors of configuration files, what this machine lacks for them, and contradictions
between the two sides of a site."""

from __future__ import annotations

import argparse
import os
from itertools import product

from fcgi_core.common.text import escape

from .output import complain

__all__ = ["add_arguments", "run"]

EPILOG = """
A warning names time limits that contradict each other. The exit status is 0 all the same.

Examples:
  fcgi-sctp check web.yaml               one file, and the folders, groups and modules it needs here
  fcgi-sctp check web.yaml app.yaml      also whether the two sides of a site match
  fcgi-sctp check --no-import app.yaml   on a machine without the application's module

Run it as the service's user, so that it reports folders which that user may not write.

Exit status:
    0  no errors
   64  usage error
   78  an error in a file
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Report all errors in configuration files, and contradictions between the two sides of a site."
    parser.epilog = EPILOG
    parser.add_argument("config", nargs="*", metavar="CONFIG", help="a configuration file, or the files of both sides")
    parser.add_argument("--no-import", action="store_true", help="do not import the application's module")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of configuration files and exit")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from fcgi_core.errors import ConfigError
    from fcgi_core.process.config import load_config, path_of
    from fcgi_core.process.examine import contradictions, doubts, doubts_between, examine

    if args.schema:
        import json

        from fcgi_core.process.schema import schema

        print(json.dumps(schema(), indent=2))
        return os.EX_OK
    if not args.config:
        args.usage_error("CONFIG is missing; name a configuration file")
    problems: list[str] = []
    warnings: list[str] = []
    good = {}
    for path in args.config:
        try:
            config = load_config(path, {})
        except ConfigError as error:
            problems += error.problems
            continue
        if config.says_nothing:
            problems.append(f"{path}: has no settings; it needs `web` or `app`")
            continue
        missing = examine(config, imports=not args.no_import)
        problems += [f"{config.origin(path_of(problem))}: {problem}" for problem in missing]
        warnings += [f"{config.origin(path_of(doubt))}: {doubt}" for doubt in doubts(config)]
        good[path] = config
    webs = [path for path, config in good.items() if config.web is not None]
    apps = [path for path, config in good.items() if config.app is not None]
    for web, app in product(webs, apps):
        where = web if web == app else f"{web} and {app}"
        problems += [f"{where}: {problem}" for problem in contradictions(good[web], good[app])]
        warnings += [f"{where}: {doubt}" for doubt in doubts_between(good[web], good[app])]
    complain("fcgi-sctp", *(f"warning: {warning}" for warning in warnings))
    complain("fcgi-sctp", *problems)  # as web and app do
    if problems:
        return os.EX_CONFIG
    for path, config in good.items():
        sides = ", ".join(name for name in ("web", "app") if getattr(config, name) is not None)
        plugins = ", ".join(config.plugins)
        print(escape(f"{path}: good; sides: {sides or 'none'}; plugins: {plugins or 'none'}"))
    return os.EX_OK
