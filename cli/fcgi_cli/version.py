"""``fcgi-sctp version``: this program, and what it stands on; for reports of problems."""

from __future__ import annotations

import argparse
import json
import platform
import sys

from fcgi_core import __version__

__all__ = ["add_arguments", "run"]

PACKAGES = ("pysctp", "cffi", "uvloop", "pydantic", "rich", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "This program and what it stands on, for reports of problems."
    parser.add_argument("-o", "--output", choices=("pretty", "json"), default="pretty")


def run(args: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    from fcgi_core.sctp.probe import kernel_finding, userspace_finding

    versions = {"fcgi-sctp": __version__, "Python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    for finding in (kernel_finding(), userspace_finding()):
        versions[finding.name] = finding.value
    if args.output == "json":
        print(json.dumps(versions, indent=2))
    else:
        width = max(map(len, versions))
        sys.stdout.write("".join(f"{name:{width}}  {text}\n" for name, text in versions.items()))
    return 0
