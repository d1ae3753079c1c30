"""The live feed: events as lines, for programs that listen on a unix socket.

A line is a JSON object. The first line that a listener gets describes the feed. The listener may send one line itself,
to ask for past entries::

    <- {"feed": "fcgi-sctp", "version": 1, "instance": "…", "first": 1017, "next": 2042}
    -> {"since": 1900}            from this number on; or {"tail": 10}: the last 10 before `next`
    <- {"n": 1900, "time": …, "severity": 4, "server_name": "shop.example", "message": "…", …}

Numbers rise by one, from 1 for each new `instance`; a listener that reads too slowly gets ``{"lost": COUNT, "next":
NUMBER}`` in the place of the entries that it missed. A listener that sends nothing for `SPEAK_WITHIN` seconds gets new
entries only; if it closes its half, it gets the entries that there are and is then closed. Anything else that it sends
is ignored.

A listener cannot delay the web side: there is one bounded ring of the latest entries, a listener is but a position in
it, and a line is made only when a listener reads it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, cast

from ..common.memory_cost import memory_cost
from ..common.unix_socket import UnixSocket
from ..plugin import FeedEntries, FeedEntry

__all__ = ["Feed", "FEED_VERSION"]

FEED_VERSION = 1
KEEP_ENTRIES = 10_000
KEEP_BYTES = 16 << 20
"""Bytes of memory that the ring takes, lines made of its entries included: 10,000 entries of 1.6 KiB, the usual size of
a line about a request."""
MAX_LISTENERS = 64
"""Listeners at once; each holds a file descriptor, up to `BATCH_BYTES` and the socket's own buffer."""
BATCH = 500
BATCH_BYTES = 256 << 10
"""Lines, and about so many bytes, made for one listener before the loop goes on with other work (some 2 ms)."""
MAX_LINE = 1 << 20
"""Bytes of one line, which a listener that does not read holds in addition to `BATCH_BYTES`. Longer lines are cut."""
CUT_TO = 100_000
"""Characters of the message of a line that is cut, at 6 bytes each."""
MOST_GONE = 1000
"""Parts that have gone from the ring and still stand in its lists."""
SPEAK_WITHIN = 0.25
"""Seconds that a listener has to ask for past entries."""
MAX_WISH = 4096
"""Bytes of the one line that a listener may send."""
_PART_COST = 512
"""Bytes of memory of a part of the ring, without its entries."""
_ENTRY_COST = 160
"""Bytes of memory of an entry without its texts: a tuple of 11, a time, its place in a list."""
_LINE_COST = 140
"""Bytes of memory of a line without its text."""

_to_json = json.JSONEncoder(separators=(",", ":")).encode  # ASCII: lone surrogates come out as \udXXX


def _encode(number: int, entry: FeedEntry) -> bytes:
    line: dict[str, Any] = {
        "n": number,
        "time": round(entry.time, 6),
        "severity": entry.severity,
        "facility": entry.facility,
    }
    for name in ("server_name", "application", "process", "kind", "request"):
        value = getattr(entry, name)
        if value:
            line[name] = value
    line["message"] = entry.message
    if entry.fields:
        line["fields"] = dict(entry.fields)
    encoded = _to_json(line)
    if len(encoded) > MAX_LINE:
        line.pop("fields", None)
        line["message"] = f"{entry.message[:CUT_TO]} [cut: {len(entry.message)} characters in all]"
        encoded = _to_json(line)
    return encoded.encode() + b"\n"


def _cost(entry: FeedEntry) -> int:
    """Return the bytes of memory that an entry takes."""
    return _ENTRY_COST + memory_cost((entry.message, *entry[3:5], *entry[6:9], entry.host), entry.fields)


class _Part:
    """Entries that were published together."""

    __slots__ = ("entries", "lines", "size")

    def __init__(self, entries: Sequence[FeedEntry], size: int) -> None:
        self.entries = entries
        self.lines: dict[int, bytes] = {}
        """The lines of the entries that a listener has read, by position."""
        self.size = size
        """Bytes of memory, `lines` included."""


_NONE = _Part([], 0)


class Feed:
    """A feed on a unix socket at `path`, with file mode `mode`; a `group` (a name) may listen too.

    Everything runs on the event loop's thread.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep_entries: int = KEEP_ENTRIES,
        keep_bytes: int = KEEP_BYTES,
        mode: int = 0o600,
        group: str | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.instance = secrets.token_hex(8)
        self._mode = mode
        self._group = group
        self._keep_bytes = keep_bytes
        self._capacity = keep_entries
        self._parts: list[_Part] = []
        self._firsts: list[int] = []
        """The number of each part's first entry."""
        self._gone = 0
        """How many parts have gone; they leave the lists many at a time."""
        self._bytes = 0
        self.first = 1
        self.next = 1
        self._listeners: set[_Listener] = set()
        self._idle: set[_Listener] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.AbstractServer | None = None
        self._socket: UnixSocket | None = None
        self._closed = False

    async def start(self) -> None:
        """Listen. OSError if the path cannot be used: EADDRINUSE if another process listens on it, EEXIST if it is
        something else than a socket, EINVAL if there is no such group."""
        self._loop = asyncio.get_running_loop()
        self._socket = UnixSocket(self.path, mode=self._mode, group=self._group)
        self._server = await self._socket.serve(lambda: _Listener(self))

    def publish(self, entry: FeedEntry) -> None:
        """Add an entry; the oldest entries go when the ring is full."""
        self.publish_all((entry,))

    def publish_all(self, entries: Iterable[FeedEntry]) -> None:
        """Add entries; the oldest entries go when the ring is full. `FeedEntries` are kept as they are."""
        if not isinstance(entries, FeedEntries):
            for entry in entries:
                self._add(_Part([entry], _cost(entry) + _PART_COST))
        elif entries:
            self._add(_Part(entries, entries.held + _PART_COST))
        if self._idle and self._loop is not None:
            for listener in self._idle:
                self._loop.call_soon(listener.pump)
            self._idle.clear()

    def _add(self, part: _Part) -> None:
        parts = self._parts
        parts.append(part)
        self._firsts.append(self.next)
        self.next += len(part.entries)
        self._bytes += part.size
        first = max(self.first, self.next - self._capacity)
        last = len(parts) - 1
        while self._gone < last and (self._firsts[self._gone + 1] <= first or self._bytes > self._keep_bytes):
            self._bytes -= parts[self._gone].size
            parts[self._gone] = _NONE
            self._gone += 1
            first = max(first, self._firsts[self._gone])
        self.first = first
        if self._gone > MOST_GONE:
            del parts[: self._gone], self._firsts[: self._gone]
            self._gone = 0

    def close(self) -> None:
        """Stop listening and remove the socket; listeners get as much as the socket's buffer takes."""
        self._closed = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for listener in list(self._listeners):
            listener.finish()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def line(self, number: int) -> bytes:
        """Return the line of an entry that the feed still has; it is made once if there is room to keep it."""
        place = bisect_right(self._firsts, number, self._gone) - 1
        part = self._parts[place]
        position = number - self._firsts[place]
        line = part.lines.get(position)
        if line is None:
            line = _encode(number, part.entries[position])
            cost = len(line) + _LINE_COST
            if self._bytes + cost <= self._keep_bytes:
                part.lines[position] = line
                part.size += cost
                self._bytes += cost
        return line

    def greeting(self) -> bytes:
        """Return the first line that a listener gets."""
        about = {"feed": "fcgi-sctp", "version": FEED_VERSION, "instance": self.instance}
        return _to_json({**about, "first": self.first, "next": self.next}).encode() + b"\n"

    def admit(self, listener: _Listener) -> bool:
        """Add a listener; return False if there are too many already, or the feed is closed."""
        if self._closed or len(self._listeners) >= MAX_LISTENERS:
            return False
        self._listeners.add(listener)
        return True

    def wait(self, listener: _Listener) -> None:
        """Call the listener's `pump` when there is more: it has got everything."""
        self._idle.add(listener)

    def dismiss(self, listener: _Listener) -> None:
        self._listeners.discard(listener)
        self._idle.discard(listener)

    def call_later(self, delay: float, listener: _Listener) -> asyncio.TimerHandle:
        """Call the listener's `listen` after `delay` seconds."""
        assert self._loop is not None
        return self._loop.call_later(delay, listener.listen)

    def call_soon(self, listener: _Listener) -> None:
        assert self._loop is not None
        self._loop.call_soon(listener.pump)


class _Listener(asyncio.Protocol):
    """A listener: a position in the ring, and whether its socket accepts more."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._transport: asyncio.Transport | None = None
        self._position = feed.next
        self._said = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._listening = False
        self._paused = False
        self._only_past = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._transport = transport
        if not self._feed.admit(self):
            transport.close()
            return
        self._position = self._feed.next
        transport.write(self._feed.greeting())
        self._deadline = self._feed.call_later(SPEAK_WITHIN, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        self._feed.dismiss(self)

    def data_received(self, data: bytes) -> None:
        if self._listening:
            return
        self._said += data[:MAX_WISH]
        if b"\n" in self._said or len(self._said) > MAX_WISH:
            self.listen()

    def eof_received(self) -> bool:
        self._only_past = True
        if not self._listening:
            self.listen()
        elif self._transport is not None and not self._paused:
            self.pump()
        return True

    def listen(self) -> None:
        """Read which entries are wanted, and begin. All entries since the greeting are sent, whatever is wanted."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._listening = True
        self._position = self._wish()
        self._said = b""
        self.pump()

    def _wish(self) -> int:
        try:
            wish = json.loads(self._said.partition(b"\n")[0] or b"{}")
            since = wish.get("since")
            tail = wish.get("tail")
        except (ValueError, RecursionError, AttributeError):
            return self._position
        if isinstance(since, int):
            return max(1, min(since, self._position))
        if isinstance(tail, int):
            return max(min(self._feed.first, self._position), self._position - max(0, tail))
        return self._position

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._listening:
            self.pump()

    def pump(self) -> None:
        """Write the entries that this listener has not got, as far as its socket accepts them."""
        if self._transport is None or self._paused or self._transport.is_closing():
            return
        feed = self._feed
        lines: list[bytes] = []
        size = 0
        if self._position < feed.first:
            lost = {"lost": feed.first - self._position, "next": feed.first}
            lines.append(_to_json(lost).encode() + b"\n")
            self._position = feed.first
        last = min(feed.next, self._position + BATCH)
        while self._position < last and size < BATCH_BYTES:
            line = feed.line(self._position)
            lines.append(line)
            size += len(line)
            self._position += 1
        if lines:
            self._transport.write(b"".join(lines))  # may call pause_writing
        if self._position == feed.next:
            if self._only_past:
                self._transport.close()
            else:
                feed.wait(self)
        elif not self._paused:
            feed.call_soon(self)

    def finish(self) -> None:
        """Close the connection: bytes that are written already still go, unless the listener does not read."""
        if self._listening:
            self.pump()
        if self._transport is None:
            return
        if self._paused:
            self._transport.abort()
        else:
            self._transport.close()
