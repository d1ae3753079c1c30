"""RFC 5424 messages: values to bytes and back, without I/O.

    <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID [id name="value" …] MSG

`parse` is strict, `read` accepts anything. One item of the channel is one message, without the octet count of RFC 5425.
MSG is UTF-8. The byte order mark that section 6.4 asks for is accepted, and written only if the text itself begins with
one: no receiver of today needs it, and it clutters captures.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    "DEFAULT_PRIORITY",
    "ENTERPRISE",
    "FACILITIES",
    "LAST_SECOND",
    "PRIORITY",
    "Data",
    "Message",
    "clean_name",
    "clip",
    "format_data",
    "format_time",
    "parse",
    "parse_text",
    "read",
]

ENTERPRISE = 32473
"""The private enterprise number reserved for examples (RFC 5612): this project has not registered one."""
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news"),
    *("uucp", "cron", "authpriv", "ftp", "ntp", "audit", "console", "clock"),
    *(f"local{number}" for number in range(8)),
)
"""RFC 5424 section 6.2.1, by number; the names are those of syslog.conf(5)."""
HOSTNAME_LENGTH, APP_NAME_LENGTH, PROCID_LENGTH, MSGID_LENGTH, DATA_NAME_LENGTH = 255, 48, 128, 32, 32
"""Characters at most (RFC 5424 section 6)."""
FIRST_SECOND, LAST_SECOND = -62135596800, 253402300799
"""Seconds from the epoch to the first and the last second that RFC 3339 can name."""
DEFAULT_PRIORITY = 13
"""user.notice, for a message without PRI (RFC 3164 section 4.3.3)."""

Data = Mapping[str, Mapping[str, str]]
_NO_DATA: Data = MappingProxyType({})

_known_data: dict[str, Data] = {}
"""Parsed structured data by its text: the lines of a request share it. The next two figures bound it."""
KNOWN_DATA = 1024
KNOWN_DATA_LENGTH = 1024
"""Characters of the longest text that is kept."""

MOST_FIELDS = 64
"""Parameters of one message; ours have 40 at most. RFC 5424 sets no bound, but a sender must not keep us busy for as
long as it likes."""
MOST_DATA = 64 << 10
"""Characters of the structured data of one message; ours has 48 Ki at most."""

_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_NOT_DATA_NAME = re.compile(r'[^\x21-\x7e]|[=\]"]')
_SPECIAL = re.compile(r'(["\\\]])')
PRIORITY = re.compile(r"<(\d{1,3})>")
_BEGINNINGS = {f"<{number}>1": (number & 7, number >> 3) for number in range(len(FACILITIES) * 8)}
"""Severity and facility, by PRI and VERSION."""
_HEADER = (
    ("TIMESTAMP", 32),
    ("HOSTNAME", HOSTNAME_LENGTH),
    ("APP-NAME", APP_NAME_LENGTH),
    ("PROCID", PROCID_LENGTH),
    ("MSGID", MSGID_LENGTH),
)
_NAME = r'[^\x00-\x20\x7f-\U0010ffff=\]"]{1,32}'
_VALUE = r'"(?:[^"\\\]]|\\.)*+"'
_DATA = re.compile(rf"(?:\[{_NAME}(?: {_NAME}={_VALUE})*+\])++", re.DOTALL)
_ELEMENT = re.compile(rf"\[({_NAME})((?: {_NAME}={_VALUE})*+)\]", re.DOTALL)
_PARAMETER = re.compile(rf" ({_NAME})=({_VALUE})", re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\\]])')
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")


class Message(NamedTuple):
    """One message. '' and None stand for NILVALUE, ``-``."""

    text: str
    severity: int = 5
    facility: int = 1
    time: float | None = None
    """Seconds since the epoch, to the microsecond."""
    hostname: str = ""
    app_name: str = ""
    procid: str = ""
    msgid: str = ""
    data: Data = _NO_DATA
    """Structured data: parameters by element. The values of a repeated parameter are joined by ``, ``."""

    def encode(self) -> bytes:
        """Return the message as it travels, its names limited to what RFC 5424 allows. ValueError if facility or
        severity is out of range."""
        if not 0 <= self.severity <= 7:
            raise ValueError(f"invalid severity {self.severity}: use 0 to 7")
        if not 0 <= self.facility < len(FACILITIES):
            raise ValueError(f"invalid facility {self.facility}: use 0 to {len(FACILITIES) - 1}")
        when = "-" if self.time is None else format_time(self.time)
        data = "".join(format_data(name, parameters) for name, parameters in self.data.items()) or "-"
        mark = "\ufeff" if self.text.startswith("\ufeff") else ""
        return (
            f"<{self.facility * 8 + self.severity}>1 {when} {clean_name(self.hostname, HOSTNAME_LENGTH)}"
            f" {clean_name(self.app_name, APP_NAME_LENGTH)} {clean_name(self.procid, PROCID_LENGTH)}"
            f" {clean_name(self.msgid, MSGID_LENGTH)} {data} {mark}{self.text}"
        ).encode("utf-8", "backslashreplace")


def clean_name(text: str, length: int) -> str:
    """Return `text` as a header field: printable ASCII, at most `length` characters, ``-`` if empty."""
    return _NOT_PRINTABLE.sub("_", text[:length]) or "-"


def format_data(name: str, parameters: Mapping[str, str]) -> str:
    """Return an SD-ELEMENT (section 6.3)."""
    inside = "".join(f' {_data_name(key)}="{_SPECIAL.sub(_BACKSLASHED, value)}"' for key, value in parameters.items())
    return f"[{_data_name(name)}{inside}]"


_BACKSLASHED = r"\\\1"


def _data_name(text: str) -> str:
    return _NOT_DATA_NAME.sub("_", text[:DATA_NAME_LENGTH]) or "_"


_second: tuple[int, str] = (0, "1970-01-01T00:00:00")


def format_time(when: float) -> str:
    """Return an RFC 3339 time in UTC to the microsecond. The text of a second is kept: many lines share it."""
    global _second
    microseconds = round(when * 1_000_000)
    seconds, rest = divmod(microseconds, 1_000_000)
    known, text = _second  # one read and one write of a tuple: threads may race here
    if known != seconds:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = seconds, text
    return f"{text}.{rest:06d}Z"


def clip(text: str, limit: int) -> str:
    """Return `text`; if its UTF-8 has more than `limit` bytes, its beginning and a note of its length."""
    if len(text) * 4 <= limit:
        return text
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= limit:
        return text
    return encoded[:limit].decode("utf-8", "ignore") + f" [cut: {len(encoded)} bytes in all]"


def parse(item: bytes) -> Message:
    """Return the message. ValueError says what is wrong with it, such as bytes that are not UTF-8."""
    try:
        text = item.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    return parse_text(text)


def read(item: bytes) -> tuple[Message, str]:
    """Return the message, and what is wrong with it or ''. Any other item becomes the text of a message.

    Bytes that are not UTF-8 become ``\\xff``.
    """
    problem = ""
    try:
        text = item.decode()
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
        text = item.decode("utf-8", "backslashreplace")
    try:
        return parse_text(text), problem
    except ValueError as error:
        problem = str(error)
    priority = PRIORITY.match(text)
    number = int(priority[1]) if priority else DEFAULT_PRIORITY
    if priority and number < len(FACILITIES) * 8:
        text = text[priority.end() :]
    else:
        number = DEFAULT_PRIORITY
    return Message(text, number & 7, number >> 3), problem


def parse_text(text: str) -> Message:
    """Return the message. ValueError says what is wrong with it."""
    fields = text.split(" ", 6)
    beginning = _BEGINNINGS.get(fields[0])
    if beginning is None or len(fields) < 7:
        raise ValueError(_what_is_wrong(fields))
    _, when, hostname, app_name, procid, msgid, rest = fields
    header = text[: -len(rest)] if rest else text
    if not (header.isascii() and header.isprintable()) or not (
        0 < len(when) <= 32
        and 0 < len(hostname) <= HOSTNAME_LENGTH
        and 0 < len(app_name) <= APP_NAME_LENGTH
        and 0 < len(procid) <= PROCID_LENGTH
        and 0 < len(msgid) <= MSGID_LENGTH
    ):
        raise ValueError(_what_is_wrong(fields))
    if rest.startswith("-"):
        end = 1
        data = _NO_DATA
    else:
        end = rest.find("] ") + 1
        known = _known_data.get(rest[:end])  # valid, and ended by a space
        if known is None:
            structured = _DATA.match(rest, 0, MOST_DATA)
            if structured is None or _too_many(structured[0]):
                raise ValueError(_what_is_wrong(fields))
            end = structured.end()
            known = _parse_data(structured[0])
        data = known
    message = rest[end + 1 :]
    if rest[end : end + 1] not in ("", " "):
        raise ValueError(_what_is_wrong(fields))
    return Message(
        message[1:] if message.startswith("\ufeff") else message,
        *beginning,
        None if when == "-" else _parse_time(when),
        "" if hostname == "-" else hostname,
        "" if app_name == "-" else app_name,
        "" if procid == "-" else procid,
        "" if msgid == "-" else msgid,
        data,
    )


def _what_is_wrong(fields: list[str]) -> str:
    """Return a sentence about a message that was split at its first six spaces."""
    priority = PRIORITY.match(fields[0])
    if priority is None:
        return "it does not begin with <PRI>"
    if fields[0] not in _BEGINNINGS:
        if fields[0][priority.end() :] != "1":
            return "VERSION after <PRI> is not 1"
        return f"PRI {priority[1]} is not 0 to {len(FACILITIES) * 8 - 1}"
    if len(fields) < 7:
        return f"it has {len(fields) - 1} of the 6 header fields"
    for (name, longest), value in zip(_HEADER, fields[1:], strict=False):
        if not (0 < len(value) <= longest and value.isascii() and value.isprintable()):
            return f"{name} is not 1 to {longest} printable ASCII characters"
    return f"its structured data breaks RFC 5424 section 6.3, or has more than {MOST_FIELDS} parameters"


def _too_many(data: str) -> bool:
    """Return whether structured data has more than MOST_FIELDS parameters."""
    if data.count('="') <= MOST_FIELDS:  # a value that ends with = is counted, too
        return False
    return next(islice(_PARAMETER.finditer(data), MOST_FIELDS, None), None) is not None


def _parse_data(text: str) -> Data:
    data: dict[str, dict[str, str]] = {}
    for name, inside in _ELEMENT.findall(text):
        parameters = data.setdefault(name, {})
        for key, quoted in _PARAMETER.findall(inside):
            value = quoted[1:-1]
            if "\\" in value:
                value = _ESCAPED.sub(r"\1", value)  # any other backslash is a regular character (section 6.3.3)
            parameters[key] = f"{parameters[key]}, {value}" if key in parameters else value
    if len(text) <= KNOWN_DATA_LENGTH:
        if len(_known_data) >= KNOWN_DATA:
            _known_data.clear()
        _known_data[text] = data
    return data


def _parse_time(text: str) -> float:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError(f"TIMESTAMP {text} is not RFC 3339 with at most 6 decimals")
    second, fraction, offset = match.groups()
    try:
        seconds = _epoch(second, offset)
    except ValueError as error:
        raise ValueError(f"TIMESTAMP {text}: {error}") from None
    microseconds = int(fraction[1:].ljust(6, "0")) if fraction else 0
    return (seconds * 1_000_000 + microseconds) / 1_000_000  # one rounding, so that the written time is read back


@lru_cache(maxsize=64)
def _epoch(second: str, offset: str) -> int:
    seconds = int(datetime.fromisoformat(second + offset).timestamp())
    if not FIRST_SECOND <= seconds <= LAST_SECOND:
        raise ValueError("its year in UTC is not 1 to 9999")
    return seconds
