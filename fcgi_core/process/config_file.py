"""Reads the configuration files: included files and variables of the environment are put together into one mapping.

    include: [conf.d/*.yaml, "hosts/{hostname}.yaml"]
    web:
      listen: unix:${SOCKET:-/run/fcgi-sctp-web-shop.sock}

An included file overrides the file that includes it. Included files come in the order of the list, and the files of one
pattern in the order of their names. Mappings are merged name by name; all other values are replaced. The origin of each
value is kept, so that a problem can name its file.
"""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.model_problems import shown
from ..common.plain_yaml import MAX_SIZE, Budget, YamlError, read_yaml
from ..errors import ConfigError

__all__ = ["Written", "read_files"]

MAX_INCLUDES = 16
"""Depth of files that include each other."""
A_FILE = 1024
"""Characters that each file counts for at least, which bounds the number of files."""

INCLUDE = "include"
SHORT_FOR = {"sctp": "carrier", "web.health": "uri", "app.fastcgi": "address"}
"""Sections that may be a text, by path, and the option that the text then sets."""
_VARIABLE = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
"""``${NAME}`` or ``${NAME:-DEFAULT}``; ``$${NAME}`` is the text ``${NAME}``."""
_PATTERN = re.compile(r"[*?\[]")


class Written:
    """The merged content of several files, with the origin of each value."""

    def __init__(self, where: str) -> None:
        """`where` is the origin of values that are in no file."""
        self.content: dict[str, Any] = {}
        self.problems: list[str] = []
        """Values that cannot be merged."""
        self._where = where
        self._origins: dict[str, str] = {}

    def add(self, content: Mapping[str, Any], origin: str) -> None:
        """Merge `content` over the present content."""
        self.content = self._join(self.content, content, origin, "")

    def where(self, path: str) -> str:
        """Return the file that sets the value at `path` (names with dots between them), or the first that sets anything
        above it."""
        above = [name for name in self._origins if path == name or path.startswith(f"{name}.")]
        return self._origins[max(above, key=len)] if above else self._where

    def _join(self, base: Mapping[str, Any], over: Mapping[str, Any], origin: str, above: str) -> dict[str, Any]:
        joined = dict(base)
        for name, value in over.items():
            path = f"{above}{name}"
            held = joined.get(name)
            if not isinstance(value, dict):
                if value is None and isinstance(held, dict) and above == "plugins.":
                    continue  # `syslog:` without a value does not undo its options
                self._origins[path] = origin
                joined[name] = value
                continue
            if isinstance(held, str) and path in SHORT_FOR:
                held = {SHORT_FOR[path]: held}
            elif held is not None and not isinstance(held, dict | bool):
                self.problems.append(f"{path}: is {shown(held)}; names with values were expected")
            self._origins.setdefault(path, origin)
            joined[name] = self._join(held if isinstance(held, dict) else {}, value, origin, f"{path}.")
        return joined


def read_files(path: str, environment: Mapping[str, str] = os.environ) -> Written:
    """Return the file at `path` merged with all files that it includes. ConfigError lists the files that cannot be read
    and the variables that are not set."""
    written = Written(path)
    problems: list[str] = []
    _Files(written, environment, problems).read(Path(path), ())
    if problems:
        raise ConfigError(problems)
    return written


class _Files:
    """Reads a file and the files that it includes."""

    def __init__(self, written: Written, environment: Mapping[str, str], problems: list[str]) -> None:
        self._written = written
        self._environment = environment
        self._problems = problems
        self._budget = Budget()

    def read(self, path: Path, above: tuple[str, ...]) -> None:
        """Merge the file at `path` over the present content. `above` are the files that include it."""
        problems: list[str] = []
        content = self._content(path, problems)
        included = content.pop(INCLUDE, [])
        self._written.add(content, str(path))
        self._problems += [f"{path}: {problem}" for problem in problems]
        if isinstance(included, str):
            included = [included]
        if not isinstance(included, list) or not all(isinstance(one, str) and one for one in included):
            self._problems.append(f"{path}: {INCLUDE}: is {shown(included)}; a path or a list of paths was expected")
            return
        for one in included:
            self._include(path, one, (*above, os.path.realpath(path)))

    def _content(self, path: Path, problems: list[str]) -> dict[str, Any]:
        try:
            self._budget.take(A_FILE)
            content = read_yaml(_text(path), problems, self._budget)
        except OSError as error:
            problems.append(f"cannot be read: {error.strerror or error}")
            return {}
        except UnicodeDecodeError as error:
            problems.append(f"is not UTF-8 text: {error}")
            return {}
        except YamlError as error:
            problems.append(str(error))
            return {}
        if content is not None and not isinstance(content, dict):
            problems.append(f"the file holds {type(content).__name__}; names with values were expected")
            return {}
        expanded: dict[str, Any] = _expand(content or {}, self._environment, (), problems)
        _lower_hosts(expanded, problems)
        return expanded

    def _include(self, path: Path, one: str, above: tuple[str, ...]) -> None:
        if len(above) > MAX_INCLUDES:
            self._problems.append(f"{path}: {INCLUDE}: the files include each other more than {MAX_INCLUDES} deep")
            return
        if "\0" in one:
            self._problems.append(f"{path}: {INCLUDE}: is {one!r}; a path must not contain NUL")
            return
        for other in _files(path, one):
            if os.path.realpath(other) in above:
                self._problems.append(f"{path}: {INCLUDE}: {other} includes this file or is this file")
            elif self._budget.left >= 0:
                self.read(other, above)


def _text(path: Path) -> str:
    """Return the text of a file, cut one character beyond the limit. OSError, UnicodeDecodeError."""
    with open(path, encoding="utf-8", newline="") as file:
        return file.read(MAX_SIZE + 1)


def _lower_hosts(content: dict[str, Any], problems: list[str]) -> None:
    """Change the names of virtual hosts to lower case, since DNS ignores case: ``Shop.Example`` is ``shop.example``."""
    plugins = content.get("plugins")
    for name, options in plugins.items() if isinstance(plugins, dict) else ():
        hosts = options.get("hosts") if isinstance(options, dict) else None
        if not isinstance(hosts, dict):
            continue
        lower: dict[str, Any] = {}
        for host, own in hosts.items():
            if host.lower() in lower:
                problems.append(f"plugins.{name}.hosts.{host}: stands twice, in upper and lower case; keep one")
            lower[host.lower()] = own
        options["hosts"] = lower


def _files(path: Path, text: str) -> list[Path]:
    """Return the files that an include names: none if no file matches a pattern, or if a file that is named with
    {hostname} does not exist."""
    own = "{hostname}" in text
    pattern = os.path.join(path.parent, text.replace("{hostname}", socket.gethostname()))
    if _PATTERN.search(text):
        return [Path(found) for found in sorted(glob.glob(pattern))]
    return [] if own and not os.path.exists(pattern) else [Path(pattern)]


def _expand(value: Any, environment: Mapping[str, str], path: tuple[str, ...], problems: list[str]) -> Any:
    """Return `value` with the variables in its texts replaced; names are not changed."""
    if isinstance(value, dict):
        return {name: _expand(one, environment, (*path, str(name)), problems) for name, one in value.items()}
    if isinstance(value, list):
        return [_expand(one, environment, (*path, str(number)), problems) for number, one in enumerate(value)]
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
        problems.append(
            f"{'.'.join(path)}: the variable {name} is not set; write ${{{name}:-DEFAULT}} to give a default"
        )
        return ""

    return _VARIABLE.sub(replace, value)
