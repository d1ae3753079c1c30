"""Runs ``fcgi-sctp logs`` on a terminal: lines scroll, a status line is below them, and keys change what is shown."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from fcgi_core.common.text import SEVERITIES, escape

from .controls import Controls
from .events import Event, Line, OutputClosed
from .filter import Filter
from .goal import Goal, exit_status
from .keys import Keyboard
from .painter import Painter
from .past import Past
from .pump import Pump
from .screen import Screen
from .source import Source
from .status import Tally, fit, status_line
from .view import View

__all__ = ["Live"]

FRAME = 0.05
"""Seconds between drawings while lines come."""
IDLE_FRAME = 0.5
"""Seconds between drawings of the status line while no lines come."""
MOST_HOSTS = 1000
"""Names kept for completion at the prompt for a host."""


class Live:
    """The viewer: reads sources and keys, and draws frames, until the goal, the deadline or a key ends it."""

    def __init__(
        self,
        args: argparse.Namespace,
        sources: Sequence[Source],
        wanted: Filter,
        goal: Goal,
        tail: int | None,
        deadline: float,
    ) -> None:
        painter = Painter.of(args)
        self._view = View(wanted, painter)
        self._sources = sources
        self._goal = goal
        self._deadline = deadline
        self._past = Past(tail) if tail is not None else None
        self._tally = Tally(time.monotonic())
        self._screen = Screen(sys.stdout.fileno())
        self._controls = Controls(self._view)
        self._suspend = False
        self._catching_up = True
        """Whether lines may still be past, of which only the latest are shown."""
        self._stale = False
        """Whether a key or the end of the past changed something that is not drawn yet."""

    def run(self) -> int:
        """Show lines until the end, and return the exit status."""
        with ExitStack() as stack:
            keyboard = Keyboard()
            stack.callback(keyboard.release)
            wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, wake)
            stack.callback(os.close, woken)
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(woken, warn_on_full_buffer=False))
            for number, handler in (
                (signal.SIGWINCH, self._resized),
                (signal.SIGTSTP, self._stop),
                (signal.SIGTERM, self._end),
                (signal.SIGHUP, self._end),
            ):
                stack.callback(signal.signal, number, signal.signal(number, handler))
            pump = Pump(self._sources, deadline=self._deadline, output=sys.stdout.fileno())
            stack.callback(pump.close)
            pump.start()
            self._open(keyboard)
            stack.callback(self._screen.close)
            try:
                self._loop(pump, keyboard, wake)
            except KeyboardInterrupt:
                self._view.backlog.paused = False
                self._draw(pump, last=True)
                return 130
        return exit_status(self._goal, pump)

    def _open(self, keyboard: Keyboard) -> None:
        keyboard.open()
        self._screen.open()
        self._resized()

    def _loop(self, pump: Pump, keyboard: Keyboard, wake: int) -> None:
        view = self._view
        drawn = -math.inf
        while not view.ended:
            pump.watched = [wake] if keyboard.descriptor is None else [wake, keyboard.descriptor]
            paused = view.backlog.paused
            busy = len(view.backlog) > 0 and not paused
            # lines that are not read wait in the file or in the feed, which reports the lines that it drops
            reading = not (paused or (busy and (pump.past or view.backlog.whole)))
            left = drawn + (FRAME if busy or self._stale else IDLE_FRAME) - time.monotonic()
            events = pump.wait(max(0.0, left), reading=reading)
            self._take(events, pump)
            self._keys(keyboard, wake)
            done = self._goal.reached or pump.timed_out or pump.ended
            if done and not view.backlog.paused:
                while len(view.backlog):
                    self._draw(pump, last=True)
                return
            if time.monotonic() - drawn >= FRAME or view.ended:
                self._draw(pump)
                drawn = time.monotonic()
                self._stale = False

    def _keys(self, keyboard: Keyboard, wake: int) -> None:
        try:
            os.read(wake, 1024)
        except BlockingIOError:
            pass
        if self._suspend:
            self._suspend = False
            self._stop_now(keyboard)
        import select

        while keyboard.descriptor is not None and select.select([keyboard.descriptor], [], [], 0)[0]:
            for key in keyboard.read():
                if not key:
                    raise OutputClosed  # the terminal has gone
                self._controls.key(key)
                self._stale = True

    def _take(self, events: Sequence[Event], pump: Pump) -> None:
        view, tally = self._view, self._tally
        live = not pump.past
        if live and self._catching_up:
            self._catching_up, self._stale = False, True
        now = time.time()
        for event in events:
            tally.count(event)
            if isinstance(event, Line):
                view.history.add(event)
                if event.server_name not in view.hosts and len(view.hosts) < MOST_HOSTS:
                    view.hosts.add(event.server_name)
                if live:
                    tally.lag = max(0.0, now - event.time)
                if self._goal.reached or not view.filter.takes(event):
                    continue
                if self._past is None:
                    self._goal.reached_with(event)
            if self._past is None:
                view.backlog.add(event)
            else:
                self._past.add(event)
        if self._past is not None and live:
            for event in self._past.events():
                if not self._goal.reached:
                    if isinstance(event, Line):
                        self._goal.reached_with(event)
                    view.backlog.add(event)
            self._past = None

    def _draw(self, pump: Pump, *, last: bool = False) -> None:
        view = self._view
        events = view.backlog.take(whole=pump.past or last)
        text = view.written()  # written before these events
        view.show(events)
        self._screen.draw(text + view.written(), self._below())

    def _below(self) -> str:
        """The status line or the prompt, a column narrower than the terminal, so that it never wraps."""
        columns, rows = self._screen.size()
        width = columns - 1
        painter, now = self._view.painter, time.monotonic()
        if self._controls.prompt is not None:
            before, after = self._controls.prompt.show(width)
            before = fit(before, width - 1)
            return before + painter.styled(" ", "reverse") + painter.styled(fit(after, width - 1 - len(before)), "red")
        if rows < 2 or width < 8:
            return ""
        return status_line(painter, width, self._state(), self._tally, now, self._rest())

    def _state(self) -> str:
        if self._view.backlog.paused:
            return "PAUSED"
        waiting = sum(source.waiting for source in self._sources)
        if waiting:
            return "waiting" if len(self._sources) == 1 else f"{waiting} of {len(self._sources)} waiting"
        if self._catching_up:  # until the feed has greeted, it may count new lines as past
            return "catching up"
        return "live" if len(self._sources) == 1 else f"live, {len(self._sources)} sources"

    def _rest(self) -> list[str]:
        wanted, backlog = self._view.filter.wanted, self._view.backlog
        parts = []
        if backlog.skipped:
            parts.append(f"{backlog.skipped:,} not drawn")
        if wanted.level < 7:
            parts.append(f"≥{SEVERITIES[wanted.level]}")
        parts += [escape(name) for name in wanted.server_names]
        parts += [f"app {escape(name)}" for name in wanted.applications]
        parts += [f"request {escape(request[:8])}" for request in wanted.requests]
        parts += [f"/{escape(pattern.pattern)}/" for pattern in self._view.painter.highlights]
        parts += [escape(f"{one.name}{one.sign}{one.value}") for one in wanted.where]
        parts.append(f"lag {self._tally.lag:.1f} s" if self._tally.lag < 600 else "lag > 10 min")
        if self._view.painter.folded:
            parts.append("folded")
        parts.append("? help")
        return parts

    # ---- signals

    def _resized(self, *_: object) -> None:
        self._view.painter.width = self._screen.size()[0]
        self._screen.forget()

    def _stop(self, *_: object) -> None:
        self._suspend = True

    def _stop_now(self, keyboard: Keyboard) -> None:
        """Ctrl-Z: restore the terminal, stop, and continue after SIGCONT."""
        self._screen.close()
        keyboard.close()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._open(keyboard)

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)
