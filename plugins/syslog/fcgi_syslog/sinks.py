"""Where the web side writes lines to. A disk or a network may stall for seconds: each sink has a thread of its own.

A sink that fails is reported once in the operator's log; what is unwritten waits, within a bound, and is tried again
after a pause that grows from `RETRY_AFTER` to `RETRY_MOST`. What does not fit any more is lost; so is a line that the
sink can never write, and it holds up no other. Both are counted and reported. `when_written` reports when a line is
written for good. Nothing here makes the loop wait: a sink that is closed ends by itself, and `finish` waits for all of
them at the end of the process.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from fcgi_core.plugin import FeedEntry, OutputFigures

from .backlog import Backlog, Part, count_of, held_by, size_of
from .lines import Lines

__all__ = ["QUEUE_BYTES", "Part", "Sink", "finish"]

QUEUE_BYTES = 16 << 20
"""Bytes of memory that what waits for one sink may hold."""
SURE_QUEUE_BYTES = 256 << 20
"""The same where delivery is acknowledged: who sends is bounded by its own spool, so this is for many of them."""
PORTION = 512 << 10
"""Bytes of text, about, that are made of what waits at once."""
RETRY_AFTER = 0.25
RETRY_MOST = 8.0
LOOK_AFTER = 0.02
"""Seconds until a sink is asked again about what it wrote and is not sure of."""
GATHER_FOR = 0.01
"""Seconds that what comes first waits for more, to be written together."""
CLOSE_WITHIN = 5.0
"""Seconds that sinks that were closed have to write what waits; what they have not written then is lost."""
STALLED_AFTER = 5.0
"""Seconds without progress after which a sink that neither writes nor fails is said to stall."""
REPORT_EVERY = 60.0
"""Seconds between two reports of lines that one sink lost, unless it has written all that waited, or ends."""

_ending: set[Sink] = set()
"""Those that were closed and still write."""


class Sink(ABC):
    """A queue, and a thread that empties it. `threshold`: the least severe that is to be written here."""

    apart = False
    """Lines go to several places, and one that fails holds up none of the others."""

    def __init__(self, name: str, log: logging.Logger, threshold: int = 7) -> None:
        self.name = name
        self.threshold = threshold
        self.required = True
        """Whether an acknowledgement waits for this sink."""
        self.bound = QUEUE_BYTES
        self.lost = 0
        """Lines that found the queue full, could never be written, or were not when the sink had to end."""
        self.lost_bytes = 0
        """Characters of their text."""
        self.cut = 0
        """Lines that were too long for the sink and were written shorter."""
        self.accepted = 0
        """Lines taken since the start."""
        self.written = 0
        """Of those, how many are written for good, or given up; the first ones."""
        self._given_up = 0
        self.closing = False
        self._log = log
        self._changed = threading.Condition()
        self._queue: list[tuple[Part, int]] = []
        """With the memory that each holds."""
        self._last: Part | None = None
        self._queued = 0
        self._queued_lines = 0
        self._backlog = Backlog()
        self._unwritten = 0
        """Bytes held by what the thread has: the backlog, and what is in hand."""
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._reopen = False
        self._busy = False
        self._failing = False
        self._error = ""
        self._errors = 0
        self._pause = RETRY_AFTER
        self._full = 0
        """Lines that found the queue full and were not reported yet."""
        self._refused = 0
        """Lines that could never be written and were not reported yet."""
        self._refusal = ""
        self._report_at = 0.0
        self._began = math.inf
        """When the thread last made progress, if it is at work."""
        self._stalled = False
        self._thread: threading.Thread | None = None

    # ---- any thread

    def write(self, entry: FeedEntry) -> None:
        """Take a line; returns at once and never raises. Nothing is taken after `close`."""
        self._take(entry)

    def write_all(self, lines: Lines) -> None:
        """The same for many; they are taken together or not at all."""
        self._take(lines)

    def _take(self, part: Part) -> None:
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
                self._busy = True  # one wake-up is enough
                self._changed.notify_all()

    @property
    def held(self) -> int:
        """Bytes of memory held by what waits and what is being written; `bound` at most."""
        with self._changed:
            return self._queued + self._unwritten

    def figures(self) -> OutputFigures:
        """How it fares."""
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
        """Report a sink that stalls: its thread cannot. To be called about once a second."""
        figures = self.figures()
        stalled = figures.state == "stalled"
        if stalled and not self._stalled:
            self._log.error("%s has taken nothing for %g s; %d lines wait", self.name, STALLED_AFTER, figures.waiting)
        self._stalled = stalled

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
        """Write what waits, and end; returns at once. What fails from now on is lost and counted."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()
            if self._thread is not None and self._thread.is_alive():
                _ending.add(self)

    def join(self, timeout: float = CLOSE_WITHIN) -> bool:
        """After `close`: wait until it has ended; False if it has not after `timeout` seconds, which is reported."""
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                waiting = self.figures().waiting
                self._log.error("%s does not take what waits for it; %d lines are lost", self.name, waiting)
                return False
        return True

    # ---- what kinds of sinks do, on the thread

    @abstractmethod
    def prepare(self, part: Part) -> None:
        """Take lines in hand, as they are to be written; all or none. What this raises is the fault of a line, which is
        then given up."""

    @abstractmethod
    def push(self) -> None:
        """Write what is in hand. OSError if that cannot be done now: what is left stays in hand for the next call."""

    @abstractmethod
    def left(self) -> int:
        """The bytes in hand, unwritten or not known to have arrived."""

    def lines_left(self) -> int | None:
        """The lines in hand; None if that is not known, or if they are not written in order: then none counts as
        written before all are."""
        return None

    @abstractmethod
    def abandon(self) -> int:
        """Forget what is in hand; how many lines that were."""

    @abstractmethod
    def release(self) -> None:
        """Close what is open."""

    def give_up(self, count: int, size: int, why: object) -> None:
        """Lines can never be written. Runs on the thread."""
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
                    # a thread that wakes up for each line would cost the loop more than the line does
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
        """How long the thread may sleep."""
        if self._unwritten:
            return LOOK_AFTER
        if self._full or self._refused:
            return max(0.0, self._report_at - time.monotonic())
        return None

    def _attempt(self) -> bool:
        """Whether it is written again."""
        failure = self._write_backlog()
        if failure is not None:
            with self._changed:
                self._errors += 1
                self._error = str(failure) or type(failure).__name__
            if not self._failing:
                self._pause = RETRY_AFTER
                self._log.error("%s cannot be written: %s; lines wait and it is tried again", self.name, self._error)
            else:
                self._pause = min(self._pause * 2, RETRY_MOST)
            self._failing = True
        elif self._failing:
            self._failing = False
            self._log.warning("%s is written again", self.name)
            return True
        return False

    def _write_backlog(self) -> OSError | None:
        """Write what there is, portion by portion, until one cannot be written; why not."""
        backlog = self._backlog
        while True:
            failure = None
            try:
                self.push()
            except OSError as error:
                failure = error
            except Exception as error:  # a bug: what is in hand is lost, the rest goes on
                self._log.exception("%s: what was in hand could not be written", self.name)
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
            taken = self.accepted - self._queued_lines - self._backlog.lines
            before = self.written
            if left == 0:
                self.written = taken
            elif lines_left is not None:
                self.written = max(self.written, taken - lines_left)
            if self.written > before:
                self._began = time.monotonic()
            over = [done for number, done in self._waiting if number <= self.written]
            self._waiting = [one for one in self._waiting if one[0] > self.written]
        for done in over:
            done()

    def _report(self, at_once: bool) -> None:
        """Report what was lost since it was last reported."""
        now = time.monotonic()
        if not (self._full or self._refused) or (now < self._report_at and not at_once):
            return
        self._report_at = now + REPORT_EVERY
        with self._changed:
            full, self._full = self._full, 0
            refused, self._refused = self._refused, 0
        if full:
            self._log.error("%s: %d lines found its queue full and are lost", self.name, full)
        if refused:
            self._log.error("%s: %d lines can never be written and are lost: %s", self.name, refused, self._refusal)

    def _end(self) -> None:
        size = self._unwritten
        lost = self.abandon() + self._backlog.lines
        self.release()
        with self._changed:
            self.lost += lost
            self._given_up += lost
            self.lost_bytes += size
            self.written = self.accepted  # nothing waits any more; an acknowledgement that did is never sent
            self._backlog = Backlog()
            self._unwritten = 0
            self._busy = False
            self._began = math.inf
            self._changed.notify_all()
        if lost:
            self._log.error("%s: %d lines of %d bytes could not be written and are lost", self.name, lost, size)
        _ending.discard(self)


def finish() -> None:
    """Wait for the sinks that were closed, for all of them together no longer than one may take."""
    deadline = time.monotonic() + CLOSE_WITHIN
    for sink in list(_ending):
        sink.join(max(0.0, deadline - time.monotonic()))


atexit.register(finish)
