"""The configuration as it is written: files that include others, with variables of the environment, made one mapping.

    include: [conf.d/*.yaml, "hosts/{hostname}.yaml"]
    web:
      listen: unix:${RUNTIME_DIRECTORY:-/run/fcgi-sctp}/web.sock

What is included goes over what the including file says itself, in the order of the list; files of one pattern in the
order of their names. Mappings are joined name by name, anything else is replaced. What was said where is remembered, so
that a problem can name its file.
"""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError

__all__ = ["Written", "read_files"]

INCLUDE = "include"
SHORT_FOR = {"sctp": "carrier", "fastcgi": "address"}
"""Sections for which a text may stand, and what it says."""
_VARIABLE = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
"""``${NAME}`` or ``${NAME:-what it is if not set}``; with another ``$`` before it, it stands for itself."""
_PATTERN = re.compile(r"[*?\[]")


class Written:
    """What files say together."""

    def __init__(self, where: str) -> None:
        """`where` names what is in no file."""
        self.content: dict[str, Any] = {}
        self._where = where
        self._origins: dict[str, str] = {}

    def add(self, content: Mapping[str, Any], origin: str) -> None:
        """Put `content` over what there is."""
        self.content = self._join(self.content, content, origin, "")

    def where(self, path: str) -> str:
        """The file that said what is at `path` (names with dots between them), or has said something above it."""
        above = [name for name in self._origins if path == name or path.startswith(f"{name}.")]
        return self._origins[max(above, key=len)] if above else self._where

    def _join(self, base: Mapping[str, Any], over: Mapping[str, Any], origin: str, above: str) -> dict[str, Any]:
        joined = dict(base)
        for name, value in over.items():
            path = f"{above}{name}"
            held = joined.get(name)
            self._origins[path] = origin
            if not isinstance(value, dict):
                if value is None and isinstance(held, dict) and above == "plugins.":
                    continue  # `syslog:` with nothing behind it does not undo its options
                joined[name] = value
                continue
            if isinstance(held, str) and name in SHORT_FOR:
                held = {SHORT_FOR[name]: held}
            joined[name] = self._join(held if isinstance(held, dict) else {}, value, origin, f"{path}.")
        return joined


def read_files(path: str, environment: Mapping[str, str] = os.environ) -> Written:
    """The file at `path` with all that it includes. ConfigError tells all that cannot be read, and variables that are
    not set."""
    written = Written(path)
    problems: list[str] = []
    _read(Path(path), written, environment, problems, ())
    if problems:
        raise ConfigError(problems)
    return written


def _read(
    path: Path, written: Written, environment: Mapping[str, str], problems: list[str], above: tuple[Path, ...]
) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError as error:
        problems.append(f"{path}: is not UTF-8 text: {error}")
        return
    except yaml.YAMLError as error:
        problems.append(f"{path}: is not YAML: {error}")
        return
    content = {} if content is None else content
    if not isinstance(content, dict):
        problems.append(f"{path}: the file holds {type(content).__name__}; names with values were expected")
        return
    content = _expand(content, environment, str(path), (), problems)
    included = content.pop(INCLUDE, [])
    written.add(content, str(path))
    if isinstance(included, str):
        included = [included]
    if not isinstance(included, list) or not all(isinstance(one, str) and one for one in included):
        problems.append(f"{path}: {INCLUDE}: is {included!r}; a path or a list of paths was expected")
        return
    for one in included:
        for other in _files(path, one):
            if other.resolve() in (*above, path.resolve()):
                problems.append(f"{path}: {INCLUDE}: {other} includes this file, or is it")
            else:
                _read(other, written, environment, problems, (*above, path.resolve()))


def _files(path: Path, text: str) -> list[Path]:
    """The files that an include means; a pattern that nothing fits means none, and so does a host's own that it has
    not."""
    own = "{hostname}" in text
    pattern = os.path.join(path.parent, text.replace("{hostname}", socket.gethostname()))
    if _PATTERN.search(text):
        return [Path(found) for found in sorted(glob.glob(pattern))]
    return [] if own and not os.path.exists(pattern) else [Path(pattern)]


def _expand(value: Any, environment: Mapping[str, str], file: str, path: tuple[str, ...], problems: list[str]) -> Any:
    """`value` with variables in its texts replaced; names are left alone."""
    if isinstance(value, dict):
        return {name: _expand(one, environment, file, (*path, str(name)), problems) for name, one in value.items()}
    if isinstance(value, list):
        return [_expand(one, environment, file, (*path, str(number)), problems) for number, one in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        escaped, name, default = found.groups()
        if escaped:
            return found[0][1:]
        if (held := environment.get(name)) is not None and (held or default is None):
            return held
        if default is not None:
            return default
        problems.append(f"{file}: {'.'.join(path)}: the variable {name} is not set; ${{{name}:-…}} gives a default")
        return ""

    return _VARIABLE.sub(replace, value)
