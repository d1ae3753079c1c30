"""The rules of RFC 9110 and PEP 3333 for a gateway, for both WSGI and ASGI: statuses, headers and lengths.

A response that cannot be passed on raises an exception inside the application: the client gets 500, and the log has the
sentence. Values from applications are `Any` here: compiled, another type would raise the compiler's TypeError before
these checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

__all__ = ["NO_LENGTH", "as_bytes", "body_length", "has_no_body", "make_head", "make_text_head", "request_length"]

NO_LENGTH: Final = -1
"""Stands for a length that is not known."""
LONGEST_LENGTH = 18
"""Digits of a length: nginx and Python's clients accept 63 bits."""
MAX_KNOWN_NAMES = 1000
"""Header names whose kind is kept; applications can make up names, so their number is bounded."""

_NOT_PASSED_ON = frozenset(
    {
        # of CGI: the response's status (RFC 3875 section 6.3.3)
        b"status",
        # of the connection, which is the web server's (RFC 9110 section 7.6.1; PEP 3333, "Other HTTP Features")
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"trailers", b"transfer-encoding"),
        *(b"upgrade", b"proxy-authenticate", b"proxy-authorization"),
    }
)
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""RFC 9110 section 5.6.2."""
_NO_BODY = frozenset({204, 304})
_STATUS_LINES = {status.value: f"Status: {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_STATUSES = {f"{status.value} {status.phrase}": status.value for status in HTTPStatus if status.value >= 200}

_PASSED_ON: Final = 0
_LEFT_OUT: Final = 1
_LENGTH: Final = 2
_kinds: dict[bytes, int] = {}
_kinds_of_text: dict[str, int] = {}


def as_bytes(data: Any) -> bytes:
    """Return a piece of a body, which may be any buffer, as bytes. TypeError if it is not a buffer."""
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(f"a piece of the body is of type {type(data).__name__}: bytes were expected") from None


def has_no_body(status: int) -> bool:
    """Return whether a response with this status never has a body (RFC 9110 sections 15.3.5 and 15.4.5)."""
    return status in _NO_BODY


def request_length(params: Mapping[str, str]) -> int:
    """Return the CONTENT_LENGTH of a request, NO_LENGTH if it has none. ValueError if it is not a number of bytes."""
    value = params.get("CONTENT_LENGTH")
    return body_length(value, "CONTENT_LENGTH") if value else NO_LENGTH


def body_length(value: str, name: str) -> int:
    """Return a length by RFC 9110 section 8.6. ValueError for anything else, even if Python's int() accepts it."""
    if not (value.isascii() and value.isdigit() and len(value) <= LONGEST_LENGTH):
        raise ValueError(f"{name} {value[:80]!r} is not a number of bytes")
    return int(value)


def _status_number(status: Any) -> int:
    """Return the number in a WSGI status: 404 for "404 Not Found". TypeError, ValueError."""
    if not isinstance(status, str):
        raise TypeError(f"status {status!r} is of type {type(status).__name__}: a str like '200 OK' was expected")
    number = _STATUSES.get(status)
    if number is None:
        digits = status[:3]
        if not (len(digits) == 3 and digits.isascii() and digits.isdigit() and status[3:4] in ("", " ")):
            raise ValueError(f"status {status[:80]!r} does not begin with a number: use one like '200 OK'")
        number = int(digits)
        _check(number)
    return number


def _check(status: int) -> None:
    if not 200 <= status <= 999:
        raise ValueError(f"status {status}: use a number from 200 to 999")


def make_text_head(status: Any, headers: Any) -> tuple[bytes, int, int]:
    """Return what `make_head` returns, for WSGI's texts, and the number of the status."""
    number = _status_number(status)
    lines = [f"Status: {status}\r\n"]
    length = NO_LENGTH
    for name, value in headers:
        kind = _kinds_of_text.get(name)
        if kind is None:
            kind = _kind_of_text(name)
        if not isinstance(value, str):
            raise TypeError(f"header {name}: {value!r} is of type {type(value).__name__}: a str was expected")
        if kind:
            if kind == _LEFT_OUT:
                continue
            length, known = _length(length, value), length
            if known != NO_LENGTH or number == 204:
                continue
        lines.append(f"{name}: {value}\r\n")
    head = "".join(lines)
    if head.count("\n") != len(lines) or head.count("\r") != len(lines) or "\0" in head:
        raise ValueError("the status or a header contains a line break or a NUL")
    return head.encode("latin-1"), length, number


def make_head(status: int, headers: Any) -> tuple[bytes, int]:
    """Return the head of a response in CGI's form (RFC 3875 section 6), without the empty line, and its Content-Length.

    Headers that an application must not set are left out, and so is Content-Length if RFC 9110 section 8.6 forbids it.
    TypeError, ValueError.
    """
    _check(status)
    lines = [_STATUS_LINES.get(status) or b"Status: %d \r\n" % status]
    length = NO_LENGTH
    for name, value in headers:
        kind = _kinds.get(name)
        if kind is None:
            kind = _kind(name)
        if kind:
            if kind == _LEFT_OUT:
                continue
            length, known = _length(length, value.decode("latin-1")), length
            if known != NO_LENGTH or status == 204:
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        raise ValueError("a response header contains a line break or a NUL")
    return head, length


def _length(known: int, value: str) -> int:
    length = body_length(value, "Content-Length")
    if known not in (NO_LENGTH, length):
        raise ValueError(f"the response has two lengths: Content-Length {known} and {length}")
    return length


def _kind_of_text(name: Any) -> int:
    if not isinstance(name, str):
        raise TypeError(f"header name {name!r} is of type {type(name).__name__}: a str was expected")
    kind = _new_kind(name.encode("latin-1", "replace"))
    if len(_kinds_of_text) < MAX_KNOWN_NAMES:
        _kinds_of_text[name] = kind
    return kind


def _kind(name: Any) -> int:
    if not isinstance(name, bytes):
        raise TypeError(f"header name {name!r} is of type {type(name).__name__}: bytes were expected")
    kind = _new_kind(name)
    if len(_kinds) < MAX_KNOWN_NAMES:
        _kinds[name] = kind
    return kind


def _new_kind(name: bytes) -> int:
    if not name or not _TOKEN.issuperset(name):
        raise ValueError(f"{name[:80].decode('latin-1')!r} is not the name of a header")
    name = name.lower()
    return _LENGTH if name == b"content-length" else _LEFT_OUT if name in _NOT_PASSED_ON else _PASSED_ON
