"""The part of YAML that a configuration needs, read in time and memory proportional to the length of the text.

It is a part of YAML 1.1 as PyYAML reads it. A name that stands twice in one mapping is an error, because YAML keeps
only one of the two. Names are texts; a name that YAML reads as something else (``no``, ``on``, ``123``) is an error,
which asks for quotes. So is a value that does not mean what it seems to: a date, ``1:30`` (90 to YAML), ``0660`` (432).
Tags are refused, except ``!!str``. Aliases and merges are allowed; what they repeat counts as if it were written out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["MAX_DEPTH", "MAX_SIZE", "Budget", "YamlError", "read_yaml", "MAX_VALUE", "parse_value"]

MAX_VALUE = 1024
"""Bytes of a value that is set while the program runs."""
MAX_SIZE = 1 << 20
"""Characters of one text. 5,000 virtual hosts, each with options, need 300,000."""
MAX_DEPTH = 32
"""Mappings and lists within each other; the deepest option is at level 7."""
MAX_TOTAL = 4 << 20
"""Characters of all texts that are read together, with what aliases repeat."""
LEAST = 10
"""Characters that a value counts for at least: an empty value takes memory, too."""

_TEXT = "tag:yaml.org,2002:str"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, which is ten times as fast, where PyYAML was built with it."""
_KINDS = {"bool": "true or false", "null": "nothing", "int": "a number", "float": "a number", "timestamp": "a date"}
_MISTAKEN = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
"""Octal numbers, and numbers in base 60."""


class YamlError(ValueError):
    """The text is not YAML, or exceeds a bound. The message is one line."""


class Budget:
    """The characters that may still be read."""

    def __init__(self, size: int = MAX_TOTAL) -> None:
        self.left = size

    def take(self, size: int) -> None:
        """Count `size` characters. YamlError if fewer are left."""
        self.left -= size
        if self.left < 0:
            raise YamlError(f"holds more than {MAX_TOTAL:,} characters, repeated aliases included")


class _Value:
    """A value with its depth and size."""

    __slots__ = ("content", "depth", "size")

    def __init__(self, content: Any, size: int, depth: int = 0) -> None:
        self.content = content
        self.size = size
        self.depth = depth


def read_yaml(text: str, problems: list[str], budget: Budget | None = None, *, depth: int = MAX_DEPTH) -> Any:
    """Returns the value of the text; None if it is empty.

    YamlError if it cannot be read. Names and values that are readable but not allowed are added to `problems`, one
    sentence each, beginning with the path.
    """
    if len(text) > MAX_SIZE:
        raise YamlError(f"holds more than {MAX_SIZE:,} characters")
    try:
        loader = _LOADER(text)
        try:
            return _Reader(loader, problems, budget or Budget(), depth).document()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise YamlError(f"is not YAML: {_sentence(error)}") from None
    except UnicodeError:  # half of a surrogate pair, which no file has
        raise YamlError("is not YAML: it holds half of a surrogate pair") from None


def _sentence(error: yaml.YAMLError) -> str:
    """Returns PyYAML's message without the excerpt of the text."""
    mark = getattr(error, "problem_mark", None)
    words = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).partition("\n")[0]
    return words if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {words}"


class _Reader:
    """Makes values from the parser's events. It recurses no deeper than `MAX_DEPTH`."""

    def __init__(self, loader: Any, problems: list[str], budget: Budget, depth: int) -> None:
        self._loader = loader
        self._problems = problems
        self._budget = budget
        self._depth = depth
        self._anchors: dict[str, _Value | None] = {}

    def document(self) -> Any:
        loader = self._loader
        loader.get_event()  # the stream begins
        if loader.check_event(yaml.StreamEndEvent):
            return None
        loader.get_event()
        value = self._value(loader.get_event(), ())
        loader.get_event()
        if not loader.check_event(yaml.StreamEndEvent):
            line = loader.get_event().start_mark.line + 1
            raise YamlError(f"line {line}: another document begins here; expected only one")
        return value.content

    def _value(self, event: Any, path: tuple[str, ...]) -> _Value:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag not in (None, "!", _TEXT):
            raise YamlError(f"line {_line(event)}: the tag {_short(event.tag)!r} is not allowed; leave it out")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        else:
            if len(path) >= self._depth:
                raise YamlError(f"line {_line(event)}: {self._too_deep()}")
            many = self._mapping if isinstance(event, yaml.MappingStartEvent) else self._list
            value = many(event, path)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _alias(self, event: Any) -> _Value:
        if event.anchor not in self._anchors:
            raise YamlError(f"line {_line(event)}: *{_short(event.anchor)} is not defined above")
        value = self._anchors[event.anchor]
        if value is None:
            raise YamlError(f"line {_line(event)}: *{_short(event.anchor)} would contain itself")
        self._budget.take(value.size)
        return value

    def _scalar(self, event: Any, path: tuple[str, ...]) -> _Value:
        size = max(len(event.value), LEAST)
        self._budget.take(size)
        kind = self._kind(event)
        if kind == "str":
            return _Value(event.value, size)
        if kind == "null":
            return _Value(None, size)
        if kind == "timestamp" or _MISTAKEN.fullmatch(event.value):
            self._complain(path, f"is {_short(event.value)}, which YAML reads as {_taken_for(event.value, kind)}")
            return _Value(event.value, size)
        make = getattr(self._loader, f"construct_yaml_{kind}")
        try:
            return _Value(make(yaml.ScalarNode(event.tag, event.value)), size)
        except (ValueError, OverflowError):
            self._complain(path, f"is {_short(event.value)}, which YAML reads as a number, but it is not one")
            return _Value(event.value, size)

    def _kind(self, event: Any) -> str:
        """Returns the type that YAML reads a value as: ``str``, ``int``, ``bool``, …"""
        if event.tag is not None or not event.implicit[0]:
            return "str"
        tag: str = self._loader.resolve(yaml.ScalarNode, event.value, (True, False))
        kind = tag.rpartition(":")[2]
        return kind if kind in _KINDS else "str"

    def _list(self, event: Any, path: tuple[str, ...]) -> _Value:
        made = _Value([], LEAST)
        self._budget.take(LEAST)
        for one in self._until(yaml.SequenceEndEvent):
            self._put(made, self._value(one, (*path, str(len(made.content)))), path)
            made.content.append(self._last)
        return made

    def _mapping(self, event: Any, path: tuple[str, ...]) -> _Value:
        made = _Value({}, LEAST)
        self._budget.take(LEAST)
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for one in self._until(yaml.MappingEndEvent):
            if _is_merge(one):
                value = self._value(self._loader.get_event(), (*path, "<<"))
                self._put(made, value, path)
                self._merge(value.content, merged, _line(one))
                continue
            name = self._name(one, path, made)
            self._put(made, self._value(self._loader.get_event(), (*path, name)), path)
            if name in lines:
                self._complain((*path, name), f"stands twice, in lines {lines[name]} and {_line(one)}; keep one", "")
            lines.setdefault(name, _line(one))
            made.content[name] = self._last
        made.content = {**merged, **made.content}
        return made

    def _name(self, event: Any, path: tuple[str, ...], made: _Value) -> str:
        if isinstance(event, yaml.AliasEvent):
            value = self._alias(event)
            if not isinstance(value.content, str):
                raise YamlError(f"line {_line(event)}: expected a name, but *{_short(str(event.anchor))} is not a text")
            self._put(made, value, path)
            return value.content
        if not isinstance(event, yaml.ScalarEvent):
            raise YamlError(f"line {_line(event)}: expected a name, found a list or a mapping")
        if event.anchor is not None:
            self._anchors[event.anchor] = _Value(event.value, max(len(event.value), LEAST))
        size = max(len(event.value), LEAST)
        self._budget.take(size)
        made.size += size
        if event.tag not in (None, "!", _TEXT):
            raise YamlError(f"line {_line(event)}: the tag {_short(event.tag)!r} is not allowed; leave it out")
        if (kind := self._kind(event)) != "str":
            taken_for = _taken_for(event.value, kind)
            self._complain(path, f"the name {_short(event.value)} in line {_line(event)} is {taken_for} to YAML")
        text: str = event.value
        return text

    def _merge(self, content: Any, merged: dict[str, Any], line: int) -> None:
        """Merge what follows ``<<``: a mapping, or a list of mappings of which the first one that has a name wins."""
        several = content if isinstance(content, list) else [content]
        if not all(isinstance(one, dict) for one in several):
            raise YamlError(f"line {line}: << needs a mapping, or a list of mappings")
        for one in several:
            for name, value in one.items():
                merged.setdefault(name, value)

    def _put(self, made: _Value, value: _Value, path: tuple[str, ...]) -> None:
        """Count a value as part of another."""
        made.size += value.size
        made.depth = max(made.depth, value.depth + 1)
        if len(path) + made.depth > self._depth:
            raise YamlError(f"{_short('.'.join(path))}: {self._too_deep()}")
        self._last = value.content

    def _too_deep(self) -> str:
        if self._depth == 0:
            return "expected one value (in quotes if it is a text), found a list or a mapping"
        return f"more than {self._depth} lists and mappings within each other"

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := self._loader.get_event(), end):
            yield event

    def _complain(self, path: tuple[str, ...], what: str, do: str = "; put it in quotes") -> None:
        self._problems.append(f"{_short('.'.join(path))}{': ' if path else ''}{what}{do}")


def _line(event: Any) -> int:
    line: int = event.start_mark.line + 1
    return line


def _is_merge(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]


def _taken_for(text: str, kind: str) -> str:
    if _MISTAKEN.fullmatch(text):
        return "a number in base 60" if ":" in text else "an octal number"
    return {"true": "true", "yes": "true", "on": "true"}.get(text.lower(), "false") if kind == "bool" else _KINDS[kind]


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def parse_value(text: str) -> str | int | float | bool | None:
    """Returns one value of YAML, which follows ``=`` in `fcgi-sctp set` and in a peer's CONFIG: a text, a number, true,
    false or null, of at most `MAX_VALUE` bytes. ValueError, one sentence, for a list, a mapping, an alias, or more.
    """
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_VALUE:
        raise ValueError(f"the value has {size:,} bytes; at most {MAX_VALUE:,} are allowed")
    problems: list[str] = []
    value: str | int | float | bool | None = read_yaml(text, problems, depth=0)
    if problems:
        raise ValueError(problems[0])
    return value
