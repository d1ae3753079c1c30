"""Outputs of the web side. A disk or a network may stall for seconds, so each sink writes on a separate thread.

A sink that fails is reported once in the operator's log. Its lines wait, within a bound, and writing is tried again
after a pause that grows from `RETRY_AFTER` to `RETRY_MOST`. Lines beyond the bound are lost; so is a line that the sink
refuses, and the lines after it go on. Both are counted and reported. `when_written` reports when lines are written for
good. The event loop never waits here: a closed sink ends by itself, and `finish` waits for all of them at the end of
the process.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from fcgi_core.plugin import OutputFigures

from .backlog import Backlog, Part, count_of, held_by, size_of
from .lines import Lines

__all__ = ["QUEUE_BYTES", "Part", "Sink", "finish"]

QUEUE_BYTES = 16 << 20
"""Bytes of memory that the lines waiting for one sink may take."""
SURE_QUEUE_BYTES = 256 << 20
"""The same with acknowledged delivery: each application is bounded by its spool, and this has room for many."""
PORTION = 512 << 10
"""Bytes of text, about, that waiting lines are formatted to at once."""
RETRY_AFTER = 0.25
RETRY_MOST = 8.0
LOOK_AFTER = 0.02
"""Seconds until a sink looks again whether the bytes that it wrote have arrived."""
GATHER_FOR = 0.01
"""Seconds that the first line waits for others, to be written together."""
CLOSE_WITHIN = 5.0
"""Seconds that a closed sink has to write its lines; the rest is lost."""
STALLED_AFTER = 5.0
"""Seconds after which a sink that neither writes nor fails is reported as stalled."""
REPORT_EVERY = 60.0
"""Seconds between two reports of lost lines; sooner if the sink has caught up or ends."""

_ending: set[Sink] = set()
"""Closed sinks that still write."""


class Sink(ABC):
    """A queue, and a thread that empties it."""

    apart = False
    """Lines go to several places, and a place that fails does not hold up the others."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        self.name = name
        self.threshold = 7
        """The least severe severity that is written here."""
        self.required = True
        """Whether an acknowledgement waits for this sink."""
        self.bound = QUEUE_BYTES
        self.lost = 0
        """Lines that found the queue full, were refused, or were unwritten when the sink ended."""
        self.lost_bytes = 0
        """Characters of their text."""
        self.cut = 0
        """Lines that were too long for the sink and were shortened."""
        self.accepted = 0
        """Lines queued since the start."""
        self.written = 0
        """How many of them, from the first on, are written for good or given up."""
        self._given_up = 0
        self.closing = False
        self._log = log
        self._changed = threading.Condition()
        self._queue: list[tuple[Part, int]] = []
        """Each with the bytes of memory that it takes."""
        self._last: Part | None = None
        self._queued = 0
        self._queued_lines = 0
        self._backlog = Backlog()
        self._unwritten = 0
        """Bytes of memory of the backlog and of the lines in hand."""
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._reopen = False
        self._busy = False
        self._failing = False
        self._error = ""
        self._errors = 0
        self._pause = RETRY_AFTER
        self._full = 0
        """Unreported lines that found the queue full."""
        self._refused = 0
        """Unreported lines that were refused."""
        self._refusal = ""
        self._report_at = 0.0
        self._began = math.inf
        """When the thread last made progress; infinity while it sleeps."""
        self._stalled = False
        self._thread: threading.Thread | None = None

    # ---- any thread

    def write(self, part: Part) -> None:
        """Queue one line or many, all or none; returns at once and never raises. After `close` nothing is queued."""
        count = count_of(part)
        with self._changed:
            if self.closing:
                return
            held = held_by(part, self._last)
            if self._queued + self._unwritten + held > self.bound:
                self._full += count
                self.lost += count
                self.lost_bytes += size_of(part)
                return
            self._last = part
            self._queue.append((part, held))
            self._queued += held
            self._queued_lines += count
            self.accepted += count
            if self._thread is None:
                # a daemon: a disk that hangs for good must not keep the process from ending
                self._thread = threading.Thread(target=self._run, name=f"syslog {self.name}", daemon=True)
                self._thread.start()
            elif not self._busy:
                self._busy = True  # wake it once
                self._changed.notify_all()

    @property
    def held(self) -> int:
        """Bytes of memory of all unwritten lines, at most `bound`."""
        with self._changed:
            return self._queued + self._unwritten

    def figures(self) -> OutputFigures:
        """Return the state and the counters for the operator."""
        with self._changed:
            if self._failing:
                state = "failing"
            elif time.monotonic() - self._began > STALLED_AFTER:
                state = "stalled"
            else:
                state = "idle" if self._is_drained() else "writing"
            return OutputFigures(
                self.name,
                state,
                self._error if self._failing else "",
                self._errors,
                self.written - self._given_up,
                self.accepted - self.written,
                self._queued + self._unwritten,
                self.lost,
                self.lost_bytes,
                self.cut,
            )

    def look(self) -> None:
        """Report if the sink is stalled, for its thread cannot. Call it about once a second."""
        figures = self.figures()
        stalled = figures.state == "stalled"
        if stalled and not self._stalled:
            self._log.error(
                "output %s is stalled: nothing written for %g s; %d lines wait",
                self.name,
                STALLED_AFTER,
                figures.waiting,
            )
        self._stalled = stalled

    def when_written(self, number: int, done: Callable[[], None]) -> None:
        """Call `done` once, on any thread, when the first `number` lines are written for good or given up."""
        with self._changed:
            if self.written < number:
                self._waiting.append((number, done))
                return
        done()

    def reopen(self) -> None:
        """Open files and sockets again before the next line."""
        with self._changed:
            self._reopen = True
            self._changed.notify_all()

    def drain(self, timeout: float = CLOSE_WITHIN) -> bool:
        """Wait until everything is written; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_drained, timeout)

    def close(self) -> None:
        """Have the thread write the waiting lines and end; returns at once. Lines that fail from now on are lost."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()
            if self._thread is not None and self._thread.is_alive():
                _ending.add(self)

    def join(self, timeout: float = CLOSE_WITHIN) -> bool:
        """After `close`: wait for the thread's end; False, and a report, after `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                waiting = self.figures().waiting
                self._log.error("output %s did not end in time: %d waiting lines are lost", self.name, waiting)
                return False
        return True

    # ---- for subclasses, called on the thread

    @abstractmethod
    def prepare(self, part: Part) -> None:
        """Format lines and take them in hand, all or none. If it raises, a line is at fault, which is then given up."""

    @abstractmethod
    def push(self) -> None:
        """Write the lines in hand. OSError if that fails now: the rest stays in hand for the next call."""

    @abstractmethod
    def left(self) -> int:
        """Return the bytes in hand: unwritten, or not known to have arrived."""

    def lines_left(self) -> int | None:
        """Return the number of lines in hand; None if it is unknown or lines are not written in order: then none counts
        as written before all are."""
        return None

    @abstractmethod
    def abandon(self) -> int:
        """Drop the lines in hand and return their number."""

    @abstractmethod
    def release(self) -> None:
        """Close files and sockets."""

    def give_up(self, count: int, size: int, why: object) -> None:
        """Count lines that the sink refuses. On the thread."""
        with self._changed:
            self.lost += count
            self._given_up += count
            self.lost_bytes += size
            self._refused += count
            self._refusal = str(why) or type(why).__name__

    # ---- the thread

    def _is_drained(self) -> bool:
        return not (self._queue or self._unwritten or self._busy)

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._busy = bool(self._queue)
                self._began = math.inf
                self._changed.notify_all()
                if self._failing:
                    self._changed.wait_for(lambda: self.closing or self._reopen, self._pause)
                else:
                    self._changed.wait_for(lambda: self._queue or self.closing or self._reopen, self._patience())
                self._busy = True
                if self._queue:
                    # waking up for each line would cost the loop more than the line does
                    self._changed.wait_for(lambda: self.closing, GATHER_FOR)
                self._began = time.monotonic()
                self._backlog.extend(self._queue)
                self._queue.clear()
                self._unwritten += self._queued
                self._queued = self._queued_lines = 0
                reopen, self._reopen = self._reopen, False
                closing = self.closing
            if reopen:
                self.release()
            recovered = self._attempt()
            self._report(closing or recovered or not self._unwritten)
        self._end()

    def _patience(self) -> float | None:
        """Return how many seconds the thread may sleep; None for any time."""
        if self._unwritten:
            return LOOK_AFTER
        if self._full or self._refused:
            return max(0.0, self._report_at - time.monotonic())
        return None

    def _attempt(self) -> bool:
        """Write the backlog; True if that works again after failures."""
        failure = self._write_backlog()
        if failure is not None:
            with self._changed:
                self._errors += 1
                self._error = str(failure) or type(failure).__name__
            if not self._failing:
                self._pause = RETRY_AFTER
                self._log.error("output %s failed: %s; its lines wait and are tried again", self.name, self._error)
            else:
                self._pause = min(self._pause * 2, RETRY_MOST)
            self._failing = True
        elif self._failing:
            self._failing = False
            self._log.warning("output %s works again", self.name)
            return True
        return False

    def _write_backlog(self) -> OSError | None:
        """Write all lines, portion by portion; return the error that ended it, None if all are written."""
        backlog = self._backlog
        while True:
            failure = None
            try:
                self.push()
            except OSError as error:
                failure = error
            except Exception as error:  # a bug: the lines in hand are lost, the others go on
                self._log.exception("output %s: unexpected error, the lines in hand are lost", self.name)
                size = self.left()
                self.give_up(self.abandon(), size, error)
            self._progress()
            if not backlog:
                return failure
            if failure is not None and (not self.apart or self.left() + backlog.held > self.bound):
                return failure
            size = 0
            while backlog and size < PORTION:
                part = backlog.take(PORTION)
                size += held_by(part)
                self._prepare(part)

    def _prepare(self, part: Part) -> None:
        try:
            self.prepare(part)
            return
        except Exception as error:
            if count_of(part) == 1:
                self.give_up(1, size_of(part), error)
                return
        assert isinstance(part, Lines)
        for position in range(len(part)):
            self._prepare(part.part(position, position + 1))

    def _progress(self) -> None:
        left, lines_left = self.left(), self.lines_left()
        with self._changed:
            self._unwritten = left + self._backlog.held
            prepared = self.accepted - self._queued_lines - self._backlog.lines
            before = self.written
            if left == 0:
                self.written = prepared
            elif lines_left is not None:
                self.written = max(self.written, prepared - lines_left)
            if self.written > before:
                self._began = time.monotonic()
            over = [done for number, done in self._waiting if number <= self.written]
            self._waiting = [one for one in self._waiting if one[0] > self.written]
        for done in over:
            done()

    def _report(self, at_once: bool) -> None:
        """Report the lines lost since the last report."""
        now = time.monotonic()
        if not (self._full or self._refused) or (now < self._report_at and not at_once):
            return
        self._report_at = now + REPORT_EVERY
        with self._changed:
            full, self._full = self._full, 0
            refused, self._refused = self._refused, 0
        if full:
            self._log.error("output %s: queue full, %d lines lost", self.name, full)
        if refused:
            self._log.error("output %s refused %d lines, which are lost: %s", self.name, refused, self._refusal)

    def _end(self) -> None:
        size = self._unwritten
        lost = self.abandon() + self._backlog.lines
        self.release()
        with self._changed:
            self.lost += lost
            self._given_up += lost
            self.lost_bytes += size
            self.written = self.accepted  # a waiting acknowledgement is never sent
            self._backlog = Backlog()
            self._unwritten = 0
            self._busy = False
            self._began = math.inf
            self._changed.notify_all()
        if lost:
            self._log.error("output %s closed with %d lines (%d bytes) unwritten; they are lost", self.name, lost, size)
        _ending.discard(self)


def finish() -> None:
    """Wait for all closed sinks, together no longer than one may take."""
    deadline = time.monotonic() + CLOSE_WITHIN
    for sink in list(_ending):
        sink.join(max(0.0, deadline - time.monotonic()))


atexit.register(finish)
