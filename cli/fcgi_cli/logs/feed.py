"""Reads the live feed from its unix socket, and resumes by number after a restart (see `fcgi_core.web.feed`)."""

from __future__ import annotations

import json
import math
import os
import socket
import stat
import time
from collections.abc import Callable
from typing import Any

from .events import Event, Line, Lost, Note, SourceError
from .parse import from_json
from .source import LONGEST_LINE, RECEIVE, Source

__all__ = ["FeedSource"]

KNOWN_VERSION = 1
GREETING_WITHIN = 5.0
"""Seconds."""
RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds between attempts to connect again: doubled each time, up to the maximum."""


class FeedSource(Source):
    """Reads the feed at `path`: its latest `tail` lines (None: all), then new lines if `follow`."""

    def __init__(
        self,
        path: str,
        *,
        tail: int | None,
        follow: bool = True,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._path = path
        self._tail = tail
        self._follow = follow
        self._clock = clock
        self._socket: socket.socket | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._greeted = False
        self._instance: str | None = None
        self._next = 0
        self._past_until = 0
        self._delay = RETRY_FIRST

    def start(self) -> None:
        try:
            self._connect()
        except OSError as error:
            raise SourceError(_explain(self._path, error)) from None

    def fileno(self) -> int | None:
        return self._socket.fileno() if self._socket is not None else None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def read(self) -> list[Event]:
        if self._socket is None:
            try:
                self._connect()
            except OSError:
                self._retry()
            return []
        try:
            data = self._socket.recv(RECEIVE)
        except BlockingIOError:
            if not self._greeted and self._clock() >= self.due:
                return self._no_feed(f"{self._path}: the feed does not answer")
            return []
        except OSError:
            data = b""
        if not data:
            if not self._greeted:
                return self._no_feed(f"{self._path}: the feed closed the connection: it has too many listeners")
            return self._closed()
        lines = self._lines(data)
        if not self._greeted:
            if self._size > RECEIVE:
                return self._no_feed(None)
            if not lines:
                return []
            return [*self._greeting(lines[0]), *self._events(lines[1:])]
        return self._events(lines)

    def _connect(self) -> None:
        self._pieces, self._size = [], 0
        self._greeted = False
        self.due = self._clock() + GREETING_WITHIN
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(self._path)
        except OSError:
            self.close()
            raise

    def _retry(self) -> None:
        self.close()
        self.due = self._clock() + self._delay
        self._delay = min(self._delay * 2, RETRY_MOST)

    def _closed(self) -> list[Event]:
        self.close()
        self.past = False
        if not self._follow:
            self.ended = True
            self.due = math.inf
            return []
        self.waiting = True
        self._retry()
        return [Note(self._said("the web side closed the feed; waiting for it to come back"))]

    def _no_feed(self, why: str | None) -> list[Event]:
        """Handle an answer that is not a feed's: an error at first, a retry if a feed answered before."""
        if self._instance is None:
            raise SourceError(why or f"{self._path}: not a live feed of fcgi-sctp")
        self._retry()
        return []

    def _lines(self, data: bytes) -> list[bytes]:
        """The complete lines received so far."""
        if b"\n" not in data:
            self._pieces.append(data)
            self._size += len(data)
            if self._size > LONGEST_LINE:
                raise SourceError(f"{self._path}: a line of more than {LONGEST_LINE} bytes")
            return []
        *lines, rest = b"".join((*self._pieces, data)).split(b"\n")
        self._pieces, self._size = [rest], len(rest)
        return lines

    def _greeting(self, raw: bytes) -> list[Event]:
        try:
            greeting: Any = json.loads(raw)
            if greeting["feed"] != "fcgi-sctp":
                return self._no_feed(None)
            if greeting["version"] != KNOWN_VERSION:
                version = greeting["version"]
                return self._no_feed(
                    f"{self._path}: the feed has version {version!r}; this program needs version {KNOWN_VERSION}"
                )
            first, following = int(greeting["first"]), int(greeting["next"])
            instance = str(greeting["instance"])
        except (KeyError, TypeError, ValueError, RecursionError):
            return self._no_feed(None)
        assert self._socket is not None
        events: list[Event] = []
        if self._instance is None:
            self._next = first if self._tail is None else max(first, following - self._tail)
            self._past_until = following
        elif instance != self._instance:
            events.append(Note(self._said("the web side was restarted")))
            self._next = 1  # lines that its ring has dropped already count as lost
        if self._instance is not None:
            events.append(Note(self._said("connected again")))
        self._instance = instance
        self._greeted = True
        self.waiting = False
        self.due = math.inf
        self._delay = RETRY_FIRST
        self.past = self.past and self._next < self._past_until
        try:
            self._socket.send(json.dumps({"since": self._next}).encode() + b"\n")
            if not self._follow:
                self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the feed has closed already, as the next read finds
        return events

    def _events(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        # without `follow`, everything until the feed closes is past
        past_until = math.inf if not self._follow else self._past_until if self.past else 0
        for raw in lines:
            event = from_json(raw)
            if isinstance(event, Line):
                if event.number < self._next:
                    continue  # a duplicate
                if event.number > self._next:
                    events.append(Lost(event.number - self._next, event.number <= past_until))
                self._next = event.number + 1
                event.source = self.name
                event.past = event.number < past_until
                events.append(event)
            elif event is not None:
                self._next += event.count
                events.append(Lost(event.count, self._next <= past_until))
        if self.past and self._next >= self._past_until:
            self.past = False
        return events

    def _said(self, text: str) -> str:
        return f"{self.name}: {text}" if self.name else text


def _explain(path: str, error: OSError) -> str:
    advice = {
        FileNotFoundError: "is `fcgi-sctp web` running, with its feed there? Use --feed PATH or FCGI_SCTP_FEED",
        ConnectionRefusedError: "`fcgi-sctp web` has ended and left the socket",
        PermissionError: "set `web.feed_group` to one of your groups",
    }.get(type(error), "")
    if isinstance(error, ConnectionRefusedError) and not stat.S_ISSOCK(os.stat(path).st_mode):
        advice = "it is not a socket"
    reason = error.strerror or str(error)
    return f"{path}: {reason}" + (f"; {advice}" if advice else "")
