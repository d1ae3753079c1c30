"""A request and its response, as the services of both sides keep them: what plugins see, and what was counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from .delivery import Link
from .plugin import AssociationInfo, Outcome
from .request import Request

__all__ = ["Exchange", "error_page", "status_of"]

_new = tuple.__new__
"""Outcome(…) itself takes longer than all that is done with one."""


class Exchange:
    """Implements `fcgi_core.plugin.RequestInfo`. Each side adds what it does with it."""

    __slots__ = (
        "_identity",
        "_plugin_data",
        "began",
        "bytes_in",
        "bytes_out",
        "first_byte",
        "link",
        "request",
        "started",
        "status",
    )

    def __init__(self) -> None:
        self.link: Link
        """The association that carries it; not before it is known."""
        self.request: Request
        """The request on that association; not before it is begun there."""
        self.began = time.monotonic()
        self.first_byte: float | None = None
        """When the first byte of the response came."""
        self.started: float | None = None
        """When work on it began, by the monotonic clock; set by whoever runs it."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        """HTTP status of the response, 0 while unknown."""
        self._identity = ""
        self._plugin_data: dict[str, Any] | None = None

    @property
    def params(self) -> Mapping[str, str]:
        raise NotImplementedError

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
            # remote text: what a log line can carry, or none of it
            if given and len(given) <= 128 and given.isascii() and given.isprintable() and " " not in given:
                self._identity = given
            else:
                self._identity = self._made_identity()
        return self._identity

    def _given_identity(self) -> str:
        """REQUEST_ID, '' if the web server did not pass it."""
        return self.params.get("REQUEST_ID", "")

    def _made_identity(self) -> str:
        raise NotImplementedError

    def _now(self) -> float:
        """The clock that `began` was read from."""
        return time.monotonic()

    def outcome(self, *, aborted: bool = False, error: str = "") -> Outcome:
        """How it ended, now."""
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
    """A CGI response (RFC 3875 section 6) of our own, for when the application has none. On HEAD it has no body: to
    leave that out is for the web server to do, section 4.3.3, but HAProxy answers 502."""
    text = f"{status.value} {status.phrase}\n"
    retry = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    head = (
        f"Status: {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(text)}\r\n{retry}\r\n"
    )
    return (head if method == "HEAD" else head + text).encode()


def status_of(head: bytes) -> int:
    """The HTTP status of a CGI response (RFC 3875 section 6.3) that begins with `head`; 200 if it names none."""
    if head[:8].lower() != b"status: ":
        position = head.lower().find(b"\nstatus:")
        if position < 0:
            return 302 if head[:9].lower() == b"location:" else 200
        digits = head[position + 8 : position + 16].strip()[:3]
    else:
        digits = head[8:11]
    return int(digits) if digits.isdigit() else 200
