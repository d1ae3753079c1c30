"""The live feed, read: from its unix socket, over restarts of the web side, by number (see `fcgi_core.web.feed`).

A plain blocking socket: what starts in a blink needs no event loop.
"""

from __future__ import annotations

import json
import math
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Event", "FeedError", "FeedSource", "Line", "Lost", "Note", "OutputClosed"]

KNOWN_VERSION = 1
LONGEST_LINE = 32 << 20
"""Bytes: an item of feedback has 1 MiB at most, and JSON makes six bytes of some."""
RECEIVE = 256 << 10
GREETING_WITHIN = 5.0
RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds between attempts to connect again: twice as long each time, up to the second."""


class FeedError(Exception):
    """The feed cannot be read; a sentence for the user."""


class OutputClosed(Exception):
    """Whoever reads what we write has gone."""


@dataclass(slots=True)
class Line:
    """A line of the feed: text as it came, not yet escaped."""

    number: int
    time: float
    severity: int
    message: str
    server_name: str = ""
    application: str = ""
    process: str = ""
    kind: str = ""
    request: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    facility: int = 1


@dataclass(frozen=True, slots=True)
class Lost:
    """So many lines are missing here."""

    count: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the feed itself."""

    text: str


Event = Line | Lost | Note


class FeedSource:
    """Reads the feed at `path`: the latest `tail` lines, then, if `follow`, what comes.

    `deadline` is a time of `time.monotonic` after which it ends, `output` a file descriptor that is watched meanwhile.
    """

    def __init__(
        self,
        path: str,
        *,
        tail: int,
        follow: bool = True,
        deadline: float = math.inf,
        output: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._tail = tail
        self._follow = follow
        self._deadline = deadline
        self._output = output
        self._sleep = sleep
        self._socket: socket.socket | None = None
        self._rest = b""
        self._instance: str | None = None
        self._next = 0
        self.timed_out = False

    def batches(self) -> Iterator[list[Event]]:
        """What came, as it came; ends when there is no more to come. FeedError if the feed cannot be read at first, or
        is none; OutputClosed."""
        try:
            yield self._begin()
            while True:
                data = self._receive()
                if data:
                    if events := self._events(data):
                        yield events
                    continue
                self._disconnect()
                if not self._follow or self.timed_out:
                    return
                yield [Note("the web side has closed the feed; waiting for it")]
                events = self._begin_again()
                if not events:
                    return
                yield events
        finally:
            self._disconnect()

    def _begin(self) -> list[Event]:
        """Connect and say what is wanted."""
        try:
            self._connect()
            greeting = self._greeting()
            first, following = int(greeting["first"]), int(greeting["next"])
            instance = str(greeting["instance"])
        except FeedError:
            raise
        except (KeyError, TypeError, ValueError):
            raise FeedError(f"{self._path}: whoever listens there gives no live feed of fcgi-sctp") from None
        except OSError as error:
            raise FeedError(_explain(self._path, error)) from None
        events: list[Event] = []
        if self._instance is None:
            self._next = max(first, following - self._tail)
        elif instance != self._instance:
            events.append(Note("the web side has been started anew"))
            self._next = first
        self._instance = instance
        assert self._socket is not None
        self._socket.sendall(json.dumps({"since": self._next}).encode() + b"\n")
        if not self._follow:
            self._socket.shutdown(socket.SHUT_WR)
        return events

    def _begin_again(self) -> list[Event]:
        """Connect again as soon as it works; nothing if the deadline comes first."""
        delay = RETRY_FIRST
        while time.monotonic() < self._deadline:
            self._sleep(min(delay, max(0.0, self._deadline - time.monotonic())))
            try:
                return [*self._begin(), Note("connected again")]
            except (FeedError, OSError):
                self._disconnect()
            delay = min(delay * 2, RETRY_MOST)
        self.timed_out = True
        return []

    def _connect(self) -> None:
        self._rest = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(self._path)

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _greeting(self) -> dict[str, Any]:
        assert self._socket is not None
        self._socket.settimeout(GREETING_WITHIN)
        while b"\n" not in self._rest:
            data = self._socket.recv(RECEIVE)
            if not data:
                raise FeedError(f"{self._path}: the feed closed at once; too many listen already")
            self._rest += data
            if len(self._rest) > RECEIVE:
                raise ValueError("no greeting")
        self._socket.settimeout(None)
        line, _, self._rest = self._rest.partition(b"\n")
        greeting = json.loads(line)
        if greeting["feed"] != "fcgi-sctp":
            raise ValueError("another feed")
        if greeting["version"] != KNOWN_VERSION:
            raise FeedError(f"{self._path}: a feed of version {greeting['version']!r}; this program knows version 1")
        assert isinstance(greeting, dict)
        return greeting

    def _receive(self) -> bytes:
        """What has come next; b'' if the feed has ended, or the deadline has come."""
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if self._output is not None:
            poll.register(self._output, 0)  # errors only: a pipe that nobody reads any more
        left = self._deadline - time.monotonic()
        ready = poll.poll(None if math.isinf(left) else max(0.0, left) * 1000)
        if any(
            descriptor == self._output and events & (select.POLLERR | select.POLLHUP) for descriptor, events in ready
        ):
            raise OutputClosed
        if not ready:
            self.timed_out = True
            return b""
        try:
            return self._socket.recv(RECEIVE)
        except ConnectionError:
            return b""

    def _events(self, data: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise FeedError(f"{self._path}: a line of more than {LONGEST_LINE} bytes")
        events: list[Event] = []
        for raw in lines:
            event = _event(raw)
            if isinstance(event, Line):
                if event.number < self._next:
                    continue  # we have it
                if event.number > self._next:
                    events.append(Lost(event.number - self._next))
                self._next = event.number + 1
                events.append(event)
            elif event is not None:
                events.append(Lost(event.count))
                self._next += event.count
        return events


def _event(raw: bytes) -> Line | Lost | None:
    """A line of the feed; None if it is none that this version knows."""
    try:
        value = json.loads(raw)
        if "lost" in value:
            return Lost(int(value["lost"]))
        moment = float(value["time"])
        fields = value.get("fields") or {}
        return Line(
            number=int(value["n"]),
            time=moment if abs(moment) < 1e11 else 0.0,  # false for NaN too
            severity=min(7, max(0, int(value["severity"]))),
            message=str(value["message"]),
            server_name=str(value.get("server_name", "")),
            application=str(value.get("application", "")),
            process=str(value.get("process", "")),
            kind=str(value.get("kind", "")),
            request=str(value.get("request", "")),
            fields={str(name): str(text) for name, text in fields.items()} if fields else {},
            facility=int(value.get("facility", 1)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _explain(path: str, error: OSError) -> str:
    advice = {
        FileNotFoundError: "is `fcgi-sctp web` running, and is its feed there? (--feed, or FCGI_SCTP_FEED)",
        ConnectionRefusedError: "a socket, but nobody listens on it: `fcgi-sctp web` has ended",
        PermissionError: "ask for `web.feed_group` to be set to a group of yours",
    }.get(type(error), "")
    reason = error.strerror or str(error)
    return f"{path}: {reason}" + (f"; {advice}" if advice else "")
