"""Parses lines of JSON, and lines of files that the syslog plugin wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fcgi_core.common.text import SEVERITIES, severity_number

from .events import Line, Lost

__all__ = ["from_file", "from_json", "line_of"]

_FILE_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)) (?P<severity>[a-z]+) (?P<server_name>\S+)"
    r" (?P<application>\S+?)(?:\[(?P<process>[^\]]*)\])? \[(?P<request>\S+)\] (?P<message>.*)"
)
_TRACE = re.compile(r"\\n\s+(?:File \"|at |#\d)|Traceback \(most recent call last\):\\n")
"""Shows that a backslash and an n in a line of a file stand for a newline, and are not part of a path."""
_EARLIEST, _LATEST = -62135424000.0, 253402128000.0
"""Seconds since the epoch: 0001-01-03 and 9999-12-30, which have years of four digits in every zone."""


def from_json(raw: bytes, before: float = 0.0) -> Line | Lost | None:
    """Parse a line of the feed or of ``-o json``; None if this version does not know its form. An impossible time is
    replaced by `before`, the time of the line before it."""
    try:
        value = json.loads(raw.decode(errors="replace"))
        if "lost" in value:
            return Lost(int(value["lost"]))
        return line_of(value, before)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def line_of(value: Mapping[str, Any], before: float = 0.0) -> Line:
    """The line that an object describes. ValueError, KeyError, TypeError."""
    moment, severity = value["time"], value["severity"]
    seconds = datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else float(moment)
    if isinstance(severity, str):
        severity = severity_number(severity)
    fields = value.get("fields")
    return Line(
        int(value.get("n", 0)),
        _possible(seconds, before),
        min(7, max(0, int(severity))),
        str(value["message"]),
        str(value.get("server_name") or ""),
        str(value.get("application") or ""),
        str(value.get("process") or ""),
        str(value.get("kind") or ""),
        str(value.get("request") or ""),
        {str(name): str(text) for name, text in fields.items()} if fields else {},
        int(value.get("facility", 1)),
        str(value.get("source") or ""),
    )


def from_file(raw: bytes, before: float) -> Line | Lost:
    """Parse a line of a file: JSON, the syslog plugin's form, or any text, which gets the time `before`."""
    if raw.startswith(b"{") and (event := from_json(raw, before)) is not None:
        return event
    text = raw.decode(errors="backslashreplace").rstrip("\r")
    match = _FILE_LINE.fullmatch(text)
    if match is None or match["severity"] not in SEVERITIES:
        return Line(0, before, 6, text)
    try:
        moment = datetime.fromisoformat(match["time"]).timestamp()
    except ValueError:
        return Line(0, before, 6, text)
    message = match["message"]
    if "\\n" in message and _TRACE.search(message):
        message = message.replace("\\n", "\n").replace("\\t", "\t")
    return Line(
        0,
        _possible(moment, before),
        SEVERITIES.index(match["severity"]),
        message,
        _word(match["server_name"]),
        _word(match["application"]),
        match["process"] or "",
        request=_word(match["request"]),
    )


def _possible(seconds: float, before: float) -> float:
    """The time, or `before` if it is impossible or NaN."""
    return seconds if _EARLIEST < seconds < _LATEST else before


def _word(text: str) -> str:
    return "" if text == "-" else text.replace("\\x20", " ")
