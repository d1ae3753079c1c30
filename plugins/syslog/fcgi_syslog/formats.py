"""Formats of a line for outputs: a line of a file, a JSON object, an RFC 5424 message.

A line stays one line with any text: see `escape`. JSON is ASCII, with everything else escaped.
"""

from __future__ import annotations

import json
from typing import Any

from fcgi_core.plugin import SEVERITIES, FeedEntry, escape, escape_word

from .about import FIELDS_ELEMENT, REQUEST_ELEMENT
from .lines import Lines
from .message import (
    APP_NAME_LENGTH,
    HOSTNAME_LENGTH,
    MSGID_LENGTH,
    PROCID_LENGTH,
    clean_name,
    clip,
    format_data,
    format_time,
)

__all__ = ["format_json", "format_line", "format_lines", "format_message", "format_messages"]

_OF_REQUEST = ("method", "uri", "script", "remote", "worker", "application")
_MICRO = 1_000_000
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def format_line(entry: FeedEntry) -> str:
    """Return the line of a file, with its newline."""
    return f"{format_time(entry.time)}{_mark(entry)}{escape_word(entry.request)}] {escape(entry.message)}\n"


def format_lines(lines: Lines) -> list[str]:
    """Return the lines of a file, with their newlines."""
    marks: list[str] = []
    for head in lines.heads:
        if not head.mark:
            head.mark = _mark(head.entry(0, ""))
        marks.append(head.mark)
    texts = lines.texts if lines.clean else [escape(text) for text in lines.texts]
    if lines.requests is None:
        marks = [f"{mark}{escape_word(head.about[5])}] " for mark, head in zip(marks, lines.heads, strict=True)]
        middles = [marks[number] for number in lines.numbers]
    else:
        middles = [
            f"{marks[number]}{escape_word(lines.heads[number].about[5] if request is None else request.identity)}] "
            for number, request in zip(lines.numbers, lines.requests, strict=True)
        ]
    columns = zip(lines.times, middles, texts, strict=True)
    second = min(lines.times) // _MICRO
    if max(lines.times) // _MICRO != second:
        return [f"{format_time(time / _MICRO)}{middle}{text}\n" for time, middle, text in columns]
    beginning = format_time(second)[: -len("000000Z")]
    start = second * _MICRO
    return [f"{beginning}{time - start:06d}Z{middle}{text}\n" for time, middle, text in columns]


def _mark(entry: FeedEntry) -> str:
    """Return the part of a file's line between time and request."""
    process = f"[{escape(entry.process)}]" if entry.process else ""
    return f" {SEVERITIES[entry.severity]} {escape_word(entry.server_name)} {escape_word(entry.application)}{process} ["


def format_json(entry: FeedEntry) -> str:
    """Return a JSON object in a line, with its newline and without empty values."""
    line: dict[str, Any] = {
        "time": format_time(entry.time),
        "severity": SEVERITIES[entry.severity],
        "facility": entry.facility,
    }
    for name in ("host", "server_name", "application", "process", "kind", "request"):
        value = getattr(entry, name)
        if value:
            line[name] = value
    line["message"] = entry.message
    if entry.fields:
        line["fields"] = dict(entry.fields)
    return _to_json(line) + "\n"


def format_message(entry: FeedEntry, limit: int) -> bytes:
    """Return an RFC 5424 message whose text has at most `limit` bytes, or is marked as cut."""
    before, after = _around_time(entry)
    return f"{before}{format_time(entry.time)}{after}{clip(escape(entry.message), limit)}".encode()


def format_messages(lines: Lines, limit: int) -> list[bytes]:
    """Return an RFC 5424 message for each line; see `format_message`."""
    if lines.requests is not None:
        return [format_message(entry, limit) for entry in lines]
    around: list[tuple[str, str]] = []
    for head in lines.heads:
        if head.message is None:
            head.message = _around_time(head.entry(0, ""))
        around.append(head.message)
    texts = lines.texts if lines.clean else [escape(text) for text in lines.texts]
    messages = []
    for time, number, text in zip(lines.times, lines.numbers, texts, strict=True):
        before, after = around[number]
        if len(text) * 4 > limit:
            text = clip(text, limit)
        messages.append(f"{before}{format_time(time / _MICRO)}{after}{text}".encode())
    return messages


def _around_time(entry: FeedEntry) -> tuple[str, str]:
    """Return the parts of an RFC 5424 message before and after its time."""
    data = ""
    about = {"server_name": entry.server_name, "request": entry.request} if entry.server_name or entry.request else {}
    own: dict[str, str] = {}
    for name, value in (entry.fields or {}).items():
        (about if name in _OF_REQUEST else own)[name] = value
    if about:
        data = format_data(REQUEST_ELEMENT, {name: escape(value) for name, value in about.items() if value})
    if own:
        data += format_data(FIELDS_ELEMENT, {name: escape(value) for name, value in own.items()})
    return (
        f"<{entry.facility * 8 + entry.severity}>1 ",
        (
            f" {clean_name(entry.host, HOSTNAME_LENGTH)} {clean_name(entry.application, APP_NAME_LENGTH)}"
            f" {clean_name(entry.process, PROCID_LENGTH)} {clean_name(entry.kind, MSGID_LENGTH)} {data or '-'} "
        ),
    )
