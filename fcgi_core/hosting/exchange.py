"""A request and its response, as the services of both sides keep them: the data that plugins see, and the counters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from ..plugin import AssociationInfo, Outcome
from ..protocol.request import Request
from .links import Link

__all__ = ["MAX_HEAD", "SAFE_METHODS", "Exchange", "end_of_head", "error_page", "header_value", "status_of"]

MAX_HEAD = 64 * 1024
"""Bytes of a response in which its head is looked for; nginx takes 4 to 8 KiB (fastcgi_buffer_size)."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods whose requests may be sent twice (RFC 9110 section 9.2.1). PUT and DELETE are idempotent, but those of real
applications not always; nginx repeats them, Apache httpd does not."""
_BODILESS = frozenset({204, 304})
"""Statuses of responses without a body (RFC 9110 section 6.4.1)."""

_new = tuple.__new__
"""Makes an Outcome; Outcome(…) takes longer than everything that is done with it."""


class Exchange:
    """Implements `fcgi_core.plugin.RequestInfo`. Each side derives its own exchange from it."""

    __slots__ = (
        "_head",
        "_head_begun",
        "_identity",
        "_plugin_data",
        "_status",
        "began",
        "bytes_in",
        "bytes_out",
        "first_byte",
        "head_size",
        "link",
        "request",
        "started",
    )

    def __init__(self) -> None:
        self.link: Link
        """The association that carries it; unset until that is known."""
        self.request: Request
        """The request on that association; unset until it is begun there."""
        self.began = time.monotonic()
        """Seconds by `time.monotonic`. The loop's clock is the same one, but may stand still for a turn (uvloop): it
        says when time is up, and durations are measured with this one."""
        self.first_byte: float | None = None
        """When the first byte of the response came."""
        self.started: float | None = None
        """When work on it began, by the same clock; set by the service that runs it."""
        self.bytes_in = 0
        self.bytes_out = 0
        self._status = 0
        """0 until somebody asks for the status."""
        self.head_size = 0
        """Bytes of the response's head, the empty line included; 0 until it is complete."""
        self._head = b""
        """The head, once it is complete."""
        self._head_begun: bytearray | None = None
        """The part of the head that has come, if it comes in several pieces."""
        self._identity = ""
        self._plugin_data: dict[str, Any] | None = None

    @property
    def params(self) -> Mapping[str, str]:
        raise NotImplementedError

    @property
    def status(self) -> int:
        """HTTP status of the response, 0 until its head is complete. It is looked for when first asked for: nobody asks
        on an application side without plugins."""
        if not self._status and self.head_size:
            self._status = status_of(self._head)
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        self._status = status

    @property
    def server_name(self) -> str:
        return self.params.get("SERVER_NAME", "")

    @property
    def reference(self) -> tuple[AssociationInfo, int] | None:
        try:
            request = self.request
        except AttributeError:
            return None
        link = self.link
        return (link.info, link.mark | request.id << 8 | request.generation)

    @property
    def plugin_data(self) -> dict[str, Any]:
        if self._plugin_data is None:
            self._plugin_data = {}
        return self._plugin_data

    @property
    def identity(self) -> str:
        if not self._identity:
            given = self._given_identity()
            # remote text: used if a log line can carry it
            if given and len(given) <= 128 and given.isascii() and given.isprintable() and " " not in given:
                self._identity = given
            else:
                self._identity = self._made_identity()
        return self._identity

    def _given_identity(self) -> str:
        """Returns REQUEST_ID, '' if the web server did not pass it."""
        return self.params.get("REQUEST_ID", "")

    def _made_identity(self) -> str:
        raise NotImplementedError

    def read_head(self, data: bytes) -> None:
        """Read the next piece of the response; call this until `head_size` is not 0: the head is complete, or longer
        than MAX_HEAD."""
        if len(data) > MAX_HEAD:
            data = data[:MAX_HEAD]
        begun = self._head_begun
        if begun is None:
            end = end_of_head(data)
            if end < 0 and len(data) < MAX_HEAD:
                self._head_begun = bytearray(data)
                return
            self._head = data if end < 0 else data[:end]
        else:
            looked_at = max(0, len(begun) - 3)
            begun += data
            end = end_of_head(begun, looked_at)
            if end < 0 and len(begun) < MAX_HEAD:
                return
            self._head_begun = None
            self._head = bytes(begun if end < 0 else begun[:end])
        self.head_size = len(self._head)

    def has_come_whole(self, *, closed: bool = False) -> bool:
        """Whether all of the response has come, by what its head says of its length. `closed`: the application closed
        the connection after it, which is the end of a response without a length."""
        if not self.head_size:
            return False
        if self.status in _BODILESS or self.params.get("REQUEST_METHOD") == "HEAD":
            return True
        length = header_value(self._head, b"content-length")
        if not length.isdigit() or len(length) > 18:
            return closed
        return self.bytes_out - self.head_size >= int(length)

    def is_whole(self) -> bool:
        """Whether all of the response has been passed on: a client that closes the connection then has got it all."""
        return self.has_come_whole()

    def _now(self) -> float:
        """Returns the time by the clock of `began`."""
        return time.monotonic()

    def outcome(self, *, aborted: bool = False, error: str = "") -> Outcome:
        """Returns the outcome of an exchange that ends now. A complete response was not aborted."""
        if aborted and self.is_whole():
            aborted, error = False, ""
        first, started = self.first_byte, self.started
        began = self.began
        return _new(
            Outcome,
            (
                self.status,
                self._now() - began,
                None if first is None else first - began,
                self.bytes_in,
                self.bytes_out,
                aborted,
                error,
                None if started is None else started - began,
            ),
        )


def error_page(status: HTTPStatus, method: str, retry_after: int | None = None) -> bytes:
    """Returns a CGI response (RFC 3875 section 6) for a request that the application did not answer. On HEAD it has no
    body: the web server should remove it (section 4.3.3), but HAProxy answers 502."""
    text = f"{status.value} {status.phrase}\n"
    retry = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    head = (
        f"Status: {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(text)}\r\n{retry}\r\n"
    )
    return (head if method == "HEAD" else head + text).encode()


def end_of_head(data: bytes | bytearray, start: int = 0) -> int:
    """Returns where the body of a CGI response begins (RFC 3875 section 6.2): after the first empty line in `data` from
    `start` on; -1 if there is none. A line ends with LF, or with CR LF."""
    if start == 0 and data.startswith((b"\n", b"\r\n")):
        return data.find(b"\n") + 1
    with_return = data.find(b"\n\r\n", start)
    end = data.find(b"\n\n", start) if with_return < 0 else data.find(b"\n\n", start, with_return + 1)
    if end >= 0:
        return end + 2
    return with_return + 3 if with_return >= 0 else -1


def header_value(head: bytes, name: bytes) -> bytes:
    """Returns the value of the first header with this name (lower case) in a response's head, in lower case and without
    white space around it; b'' if there is none. `head` ends where the body begins: see `end_of_head`."""
    return _value_in(b"\n" + head.lower(), b"\n" + name + b":")


def _value_in(lines: bytes, mark: bytes) -> bytes:
    """The value of the first header that begins with `mark`, LF and its name and a colon, in a head in lower case with
    LF before it. Lowered once for two headers: 3,100 instructions in the place of 4,600 for a head without a status."""
    position = lines.find(mark)
    if position < 0:
        return b""
    start = position + len(mark)
    end = lines.find(b"\n", start)
    return (lines[start:] if end < 0 else lines[start:end]).strip()


def status_of(head: bytes) -> int:
    """Returns the HTTP status that the head of a CGI response says (RFC 3875 section 6.3): without a Status header 302
    if it has a Location, else 200."""
    lines = b""
    if head.startswith(b"Status: "):
        digits = head[8:11]
    else:
        lines = b"\n" + head.lower()
        digits = _value_in(lines, b"\nstatus:")[:3]
    if len(digits) == 3 and digits.isdigit():
        return int(digits)
    return 302 if not digits and _value_in(lines, b"\nlocation:") else 200
