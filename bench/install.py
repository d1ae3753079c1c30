"""What the benchmark needs: ``bench/.venv`` with the peers from PyPI, and Debian's nginx, wrk, ss and uwsgi."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / "bench" / ".venv"
PYTHON = VENV / "bin" / "python"
TOOLS = ("nginx-light", "wrk", "iproute2")
"""Debian packages without which nothing can be measured."""

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian's switch for services: while this program says 101, installing a package starts none."""


def debian_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed (nginx of any flavour counts as nginx-light)."""
    found = {}
    for package in packages:
        try:
            query = subprocess.run(
                ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package),
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:  # not Debian: the programs may still be there
            query = None
        if query is not None and query.stdout.startswith("installed "):
            found[package] = query.stdout.split()[1]
        elif package == "nginx-light" and which("nginx"):
            found[package] = "another nginx"
        elif (package == "wrk" and which("wrk")) or (package == "iproute2" and which("ss")):
            found[package] = "not Debian's"
    return found


def which(program: str) -> str | None:
    """Where the program is; Debian keeps nginx in /usr/sbin, which is not on every user's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def install_debian(packages: Iterable[str]) -> dict[str, str]:
    """Installs what is missing if it may, says what is missing if not; returns the versions that are there."""
    wanted = tuple(dict.fromkeys(packages))
    missing = [package for package in wanted if package not in debian_versions(wanted)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing Debian's {', '.join(missing)}")
        ours = not POLICY.exists()
        try:
            if ours:
                POLICY.write_text("#!/bin/sh\nexit 101\n")
                POLICY.chmod(0o755)
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (
                ("apt-get", "update", "-q"),
                ("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing),
            ):
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                say(f"apt-get failed: {done.stderr.strip()[-300:]}")
        finally:
            if ours:
                POLICY.unlink(missing_ok=True)
    elif missing:
        say(f"missing, and not root: apt-get install {' '.join(missing)}")
    return debian_versions(wanted)


def pypi_versions() -> dict[str, str]:
    """Name and version of everything in ``bench/.venv``; empty if it does not work."""
    try:
        listing = subprocess.run(
            (str(PYTHON), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"),
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {entry["name"].lower(): entry["version"] for entry in json.loads(listing.stdout)}


def install_pypi(distributions: Iterable[str]) -> dict[str, str]:
    """Makes ``bench/.venv`` where needed, installs the peers, and returns the versions that are there.

    One by one: a peer that cannot be built here is left out and must not take the others with it.
    """
    present = pypi_versions()
    if not present:
        say("making bench/.venv")
        subprocess.run((sys.executable, "-m", "venv", "--clear", str(VENV)), check=True)
        present = pypi_versions()
    missing = [name for name in dict.fromkeys(distributions) if name not in present]
    for name in missing:
        say(f"installing {name} into bench/.venv")
        done = subprocess.run(
            (str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", name),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            say(f"{name} could not be installed: {done.stderr.strip()[-300:]}")
    return pypi_versions() if missing else present


def say(text: str) -> None:
    """A line of progress; the results have standard output to themselves."""
    print(text, file=sys.stderr, flush=True)
