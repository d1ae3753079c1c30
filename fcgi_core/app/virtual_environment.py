"""The application's own virtual environment: its packages go before those of this program.

The program runs in its own Python, so the environment must be made with the same version of Python. What the program
has imported already stays as it is, for two versions of one package cannot be in one process: a warning names them.
"""

from __future__ import annotations

import logging
import os
import re
import site
import sys
from collections.abc import Iterator
from glob import escape, glob
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES

from ..errors import ConfigError

__all__ = ["adopt_environment", "made_for_another_python"]

log = logging.getLogger("fcgi_sctp.app")

OPTION = "app.virtualenv"
HERE = "{}.{}".format(*sys.version_info[:2])


def adopt_environment(folder: str) -> None:
    """Put the packages of the virtual environment in `folder` before all others. ConfigError if it is none, or one of
    another version of Python."""
    packages, with_system = _packages(folder)
    before = len(sys.path)
    for one in packages:
        site.addsitedir(one)  # with its .pth files: packages that are installed as editable
    sys.path[:] = sys.path[before:] + sys.path[:before]
    if with_system:  # include-system-site-packages
        for one in site.getsitepackages([sys.base_prefix]):
            if os.path.isdir(one):
                site.addsitedir(one)
    os.environ["VIRTUAL_ENV"] = os.path.abspath(folder)
    for sentence in _conflicts(packages):
        log.warning("%s", sentence)


def _packages(folder: str) -> tuple[list[str], bool]:
    """Return the folders with packages, and whether the system's packages are to be used too."""
    if not os.path.isdir(folder):
        raise ConfigError([f"{OPTION}: is {folder!r}; there is no such folder"])
    try:
        with open(os.path.join(folder, "pyvenv.cfg"), encoding="utf-8") as file:
            lines = [line.partition("=") for line in file]
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            [f"{OPTION}: is {folder!r}, which is no virtual environment: it has no pyvenv.cfg that can be read"]
        ) from None
    options = {name.strip().lower(): value.strip() for name, _, value in lines}
    version = options.get("version") or options.get("version_info", "")  # venv writes the one, others the other
    if not f"{version}.".startswith(f"{HERE}."):
        made_with = version[:20] or "of unknown version"
        problem = (
            f"{OPTION}: {folder!r} was made with Python {made_with}, and fcgi-sctp runs in {HERE} ({sys.executable}): "
            f"make it with Python {HERE}, or install fcgi-sctp in it"
        )
        raise ConfigError([problem])
    found = {
        os.path.realpath(path): path
        for library in ("lib64", "lib")  # the first is often a link to the second
        if os.path.isdir(path := os.path.abspath(os.path.join(folder, library, f"python{HERE}", "site-packages")))
    }
    if not found:
        raise ConfigError([f"{OPTION}: is {folder!r}, which has no folder lib/python{HERE}/site-packages"])
    return list(found.values()), options.get("include-system-site-packages", "").lower() == "true"


def _conflicts(packages: list[str]) -> Iterator[str]:
    """Yield a sentence for each package of which this program has imported another version."""
    for one in metadata.distributions(path=packages):
        name = one.metadata["Name"] or ""
        modules = (one.read_text("top_level.txt") or name.replace("-", "_").lower()).split()
        if not any(module in sys.modules for module in modules):
            continue
        try:
            ours = next(
                iter(metadata.distributions(name=name, path=[p for p in sys.path if p not in packages]))
            ).version
        except StopIteration:
            continue
        if ours != one.version:
            yield (
                f"the application gets {name} {ours}, which fcgi-sctp has imported, and not {one.version} of its "
                "virtual environment; install fcgi-sctp in that to use it"
            )


def made_for_another_python(error: BaseException) -> str | None:
    """Return the path of a compiled module whose import failed because it was made for another Python; None if that is
    not why."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ImportError):
            name = seen.name or ""
            if missing := re.match(r"cannot import name '(\w+)' from", str(seen)):
                name = f"{name}.{missing[1]}"
            parent, _, last = name.rpartition(".")
            folders = list(getattr(sys.modules.get(parent), "__path__", ())) if parent else sys.path
            for folder in folders:
                for file in glob(os.path.join(escape(folder), f"{last}.*.so")) if last else ():
                    if os.path.basename(file).removeprefix(last) not in EXTENSION_SUFFIXES:
                        return file
        seen = seen.__cause__ or seen.__context__
    return None
