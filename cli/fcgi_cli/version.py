"""``fcgi-sctp version``: prints the versions of this program and of what it uses, for bug reports."""

from __future__ import annotations

import argparse
import json
import platform
import sys

from fcgi_core import __version__

from .output import add_output_argument

__all__ = ["add_arguments", "run"]

PACKAGES = ("pysctp", "cffi", "uvloop", "pydantic", "rich", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the versions of this program and of what it uses, for bug reports."
    add_output_argument(parser)


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
