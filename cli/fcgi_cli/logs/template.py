"""Formats lines by ``--template '{time} {host} {message}'``."""

from __future__ import annotations

import re
import string
from collections.abc import Callable

from fcgi_core.common.text import SEVERITIES, escape

from .events import Line
from .formats import Clock
from .where import value_of

__all__ = ["template"]

_NAMES = (
    *("time", "level", "severity", "host", "server_name", "app", "application", "process", "kind", "request"),
    *("message", "source", "n"),
)
_SPEC = re.compile(r"(?:.?[<>^])?\d{0,3}(?:\.\d{1,4})?")
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


def template(text: str, clock: Clock) -> Callable[[Line], str]:
    r"""A function that formats a line by `text`: ``{NAME}`` or ``{NAME:<20}``, ``{fields.NAME}``, ``\t`` for a tab.

    Values are escaped; widths are those of Python's format strings. ValueError for an unknown name or width.
    """
    parts: list[tuple[str, str | None, str]] = []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(text):
            if name is not None:
                if name not in _NAMES and not name.startswith("fields."):
                    raise ValueError(f"unknown name {name!r}; names are {', '.join(_NAMES)}, fields.NAME")
                if conversion or not _SPEC.fullmatch(spec or ""):
                    raise ValueError(f"{{{name}…}}: give only a width, as in {{{name}:<20.20}}")
            literal = re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], literal)
            parts.append((literal, name, spec or ""))
    except ValueError as error:
        raise ValueError(f"invalid template {text!r}: {error}") from None

    def form(line: Line) -> str:
        made = []
        for literal, name, spec in parts:
            made.append(literal)
            if name is not None:
                made.append(format(_value(line, name), spec))
        return "".join(made) + "\n"

    def _value(line: Line, name: str) -> str:
        if name == "time":
            return clock.text(line.time)
        if name == "level":
            return SEVERITIES[line.severity]
        if name.startswith("fields."):
            return escape(line.fields.get(name[7:], "-"))
        return escape(value_of(line, name) or "-")

    return form
