"""``fcgi-sctp check``: what is wrong with configuration files, with what they need here, and with each other.

Exit status: 0; 78 (EX_CONFIG) if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import product

from fcgi_core.common.text import escape

__all__ = ["add_arguments", "run"]

EPILOG = """
  fcgi-sctp check web.yaml             the file, and what it needs of this machine: folders, groups, the application
  fcgi-sctp check web.yaml app.yaml    also whether the two sides of a site fit together
  fcgi-sctp check --no-import app.yaml the application's module is not imported, for it is on another machine

Run it as the user that the service has: what that user may not write is told.
Exit status: 0; 64 for wrong words; 78 if anything is wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say all that is wrong with configuration files, and with the two sides of a site together."
    parser.epilog = EPILOG
    parser.add_argument("config", nargs="*", metavar="CONFIG", help="a file; the files of both sides")
    parser.add_argument("--no-import", action="store_true", help="do not import the application's module")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the file and exit")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from fcgi_core.errors import ConfigError
    from fcgi_core.process.config import load_config, path_of
    from fcgi_core.process.examine import contradictions, examine

    if args.schema:
        import json

        from fcgi_core.process.schema import schema

        print(json.dumps(schema(), indent=2))
        return os.EX_OK
    if not args.config:
        args.usage_error("check needs a CONFIG file")
    problems = []
    good = {}
    for path in args.config:
        try:
            config = load_config(path, {})
        except ConfigError as error:
            problems += error.problems
            continue
        if config.says_nothing:
            problems.append(f"{path}: says nothing; web or app was expected, with what belongs to it")
            continue
        missing = examine(config, imports=not args.no_import)
        problems += [f"{config.origin(path_of(problem))}: {problem}" for problem in missing]
        good[path] = config
    webs = [path for path, config in good.items() if config.web is not None]
    apps = [path for path, config in good.items() if config.app is not None]
    for web, app in product(webs, apps):
        where = web if web == app else f"{web} and {app}"
        problems += [f"{where}: {problem}" for problem in contradictions(good[web], good[app])]
    for problem in problems:
        print(f"fcgi-sctp: {escape(problem)}", file=sys.stderr)
    if problems:
        return os.EX_CONFIG
    for path, config in good.items():
        sides = ", ".join(name for name in ("web", "app") if getattr(config, name) is not None)
        plugins = ", ".join(config.plugins)
        print(escape(f"{path}: good; sides: {sides or 'none'}; plugins: {plugins or 'none'}"))
    return os.EX_OK
