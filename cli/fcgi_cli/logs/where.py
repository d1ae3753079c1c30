"""Evaluates conditions on fields: ``status>=500``, ``kind=django.request``, ``path=~^/cart``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fcgi_core.common.text import severity_number

from .events import Line

__all__ = ["Comparison", "value_of"]

_ALIASES = {"host": "server_name", "app": "application", "level": "severity", "text": "message", "n": "number"}
_OWN = frozenset({"number", "time", "severity", "message", "server_name", "application", "process", "kind", "request"})
_FORM = re.compile(r"\s*([^\s!=<>~]+)\s*(!=|>=|<=|=~|!~|==?|>|<)\s*(.*?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def value_of(line: Line, name: str) -> str | None:
    """The value of a line's attribute (``host`` is ``server_name``) or field; None if it has no such field."""
    own = _ALIASES.get(name, name)
    if own in _OWN or own == "source":
        return str(getattr(line, own))
    return line.fields.get(name)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition on the field `name`. It compares numbers if both sides are numbers, and text otherwise. For a missing
    field ``!=`` and ``!~`` hold, and the others do not."""

    name: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Comparison:
        """Parse ``FIELD>=VALUE``. ValueError."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"invalid comparison {text!r}: use NAME, one of = != < <= > >= =~ !~, and a value")
        name, sign, value = match.groups()
        if sign in ("=~", "!~"):
            try:
                re.compile(value)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"invalid regular expression {value[:100]!r}: {error}") from None
        elif name in ("severity", "level"):
            value = str(severity_number(value))  # 0 is the worst
        return cls(name, sign, value)

    def holds(self, line: Line) -> bool:
        found = value_of(line, self.name)
        if found is None:
            return self.sign in ("!=", "!~")
        if self.sign in ("=~", "!~"):
            return (re.search(self.value, found) is not None) is (self.sign == "=~")
        compare = _OPERATORS[self.sign]
        try:
            return compare(float(found), float(self.value))
        except ValueError:
            return compare(found, self.value)
