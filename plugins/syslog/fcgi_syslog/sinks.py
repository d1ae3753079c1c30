"""Where the web side writes lines to. A disk or a network may stall for seconds: each sink has a thread of its own.

When a sink fails, it is told once in the operator's log; what is unwritten waits, within a bound, and is tried again
after a pause that grows from `RETRY_AFTER` to `RETRY_MOST`; what does not fit any more is counted, and told when the
sink works again. Whoever wants to know when a line is written for good asks with `when_written`.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from fcgi_core.plugin import FeedEntry

from .lines import Lines

__all__ = ["QUEUE_BYTES", "Part", "Sink"]

Part = FeedEntry | Lines

QUEUE_BYTES = 16 << 20
"""Bytes of text that may wait for one sink."""
SURE_QUEUE_BYTES = 256 << 20
"""The same where delivery is acknowledged: who sends is bounded by its own spool, so this is for many of them."""
RETRY_AFTER = 0.25
RETRY_MOST = 8.0
LOOK_AFTER = 0.02
"""Seconds until a sink is asked again about what it wrote and is not sure of."""
GATHER_FOR = 0.01
"""Seconds that what comes first waits for more, to be written together."""
CLOSE_WITHIN = 5.0
"""Seconds that `close` waits for a sink that stalls; what it has not written then is lost."""
_ENTRY_OVERHEAD = 256


class Sink(ABC):
    """A queue, and a thread that empties it. `threshold`: the least severe that is to be written here."""

    def __init__(self, name: str, log: logging.Logger, threshold: int = 7) -> None:
        self.name = name
        self.threshold = threshold
        self.required = True
        """Whether an acknowledgement waits for this sink."""
        self.bound = QUEUE_BYTES
        self.lost = 0
        """Lines that found the queue full."""
        self.accepted = 0
        """Lines taken since the start."""
        self.written = 0
        """Of those, how many are written for good, or given up; the first ones."""
        self.closing = False
        self._log = log
        self._changed = threading.Condition()
        self._queue: list[Part] = []
        self._queued = 0
        self._unwritten = 0
        self._waiting_lines = 0
        self._taken = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._reopen = False
        self._busy = False
        self._failing = False
        self._pause = RETRY_AFTER
        self._reported = 0
        self._thread: threading.Thread | None = None

    def write(self, entry: FeedEntry) -> None:
        """Take a line; returns at once and never raises. Nothing is taken after `close`."""
        self._take(entry, 1, len(entry.message) + _ENTRY_OVERHEAD)

    def write_all(self, lines: Lines) -> None:
        """The same for many; they are taken together or not at all."""
        self._take(lines, len(lines), lines.size + len(lines) * _ENTRY_OVERHEAD)

    def _take(self, part: Part, count: int, size: int) -> None:
        with self._changed:
            if self.closing:
                return
            if self._queued + self._unwritten + size > self.bound:
                self.lost += count
                return
            self._queue.append(part)
            self._queued += size
            self.accepted += count
            self._waiting_lines += count
            if self._thread is None:
                # a daemon: a disk that hangs for good must not keep the process from ending
                self._thread = threading.Thread(target=self._run, name=f"syslog {self.name}", daemon=True)
                self._thread.start()
            elif not self._busy:
                self._busy = True  # one wake-up is enough
                self._changed.notify_all()

    @property
    def held(self) -> int:
        """Bytes counted for what waits and what is being written; `bound` at most."""
        with self._changed:
            return self._queued + self._unwritten

    def when_written(self, number: int, done: Callable[[], None]) -> None:
        """Call `done` once, on any thread, when the first `number` lines are written for good or given up."""
        with self._changed:
            if self.written < number:
                self._waiting.append((number, done))
                return
        done()

    def reopen(self) -> None:
        """Open anew what is written to, before the next line."""
        with self._changed:
            self._reopen = True
            self._changed.notify_all()

    def drain(self, timeout: float = CLOSE_WITHIN) -> bool:
        """Wait until everything is written; False if it is not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_drained, timeout)

    def close(self) -> None:
        """Write what waits, and end. What fails now is lost and counted."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_WITHIN)
            if self._thread.is_alive():
                self._log.error("%s does not take what waits for it; some lines are lost", self.name)

    @abstractmethod
    def deliver(self, entries: list[FeedEntry]) -> None:
        """Write `entries`, and first what an earlier call left. Runs on the thread.

        OSError if it cannot be written now: what is left is kept for the next call, which may bring no entries.
        """

    def deliver_parts(self, parts: list[Part]) -> None:
        """The same, for a sink that writes many lines faster together; else each is made an entry."""
        entries: list[FeedEntry] = []
        for part in parts:
            if isinstance(part, Lines):
                entries.extend(part)
            else:
                entries.append(part)
        self.deliver(entries)

    @abstractmethod
    def left(self) -> int:
        """The bytes that the last `deliver` left, unwritten or not known to have arrived."""

    @abstractmethod
    def release(self) -> None:
        """Close what is open. Runs on the thread."""

    def lines_left(self) -> int | None:
        """The lines that `left` is about; None if that is not known: then they are written when nothing is left."""
        return None

    def _is_drained(self) -> bool:
        return not (self._queue or self._unwritten or self._busy)

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._busy = bool(self._queue)
                self._changed.notify_all()
                if self._failing:
                    self._changed.wait_for(lambda: self.closing or self._reopen, self._pause)
                else:
                    self._changed.wait_for(
                        lambda: self._queue or self.closing or self._reopen, LOOK_AFTER if self._unwritten else None
                    )
                self._busy = True
                if self._queue:
                    # a thread that wakes up for each line would cost the loop more than the line does
                    self._changed.wait_for(lambda: self.closing, GATHER_FOR)
                parts, self._queue = self._queue, []
                self._unwritten += self._queued
                count, self._waiting_lines = self._waiting_lines, 0
                self._taken += count
                self._queued = 0
                reopen, self._reopen = self._reopen, False
                closing = self.closing
            if reopen:
                self.release()
            self._attempt(parts, count)
        self.release()
        with self._changed:
            self._busy = False
            self._changed.notify_all()
        if self._unwritten:
            self._log.error("%s: %d bytes of lines could not be written and are lost", self.name, self._unwritten)

    def _attempt(self, parts: list[Part], count: int) -> None:
        try:
            self.deliver_parts(parts)
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._pause = RETRY_AFTER
                self._log.error("%s cannot be written: %s; lines wait and it is tried again", self.name, error)
            else:
                self._pause = min(self._pause * 2, RETRY_MOST)
        except Exception:  # a bug: the thread goes on with other lines
            self.lost += count
            self._log.exception("%s: %d lines could not be written and are lost", self.name, count)
        else:
            if self._failing:
                self._failing = False
                self._log.warning("%s is written again", self.name)
        left, lines_left = self.left(), self.lines_left()
        with self._changed:
            self._unwritten = left
            if left == 0:
                self.written = self._taken
            elif lines_left is not None:
                self.written = max(self.written, self._taken - lines_left)
            over = [done for number, done in self._waiting if number <= self.written]
            self._waiting = [one for one in self._waiting if one[0] > self.written]
            lost = self.lost - self._reported
        for done in over:
            done()
        if lost and not self._failing:
            self._log.error("%s: %d lines found its queue full and are lost", self.name, lost)
            self._reported += lost
