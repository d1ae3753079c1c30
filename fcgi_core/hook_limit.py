"""Ends a hook of a plugin that does not return: it runs on the event loop, and everything waits for it.

Only the thread that is in it can leave it. Another thread, which watches, sends it a signal; the handler runs wherever
the hook is, in a loop of its own or in a system call that waits, and raises. It looks again itself whether a hook is
late: the one that was may have returned meanwhile, and another be running.

Where the hook is in C code that keeps the interpreter to itself, a regular expression that backtracks for ever, no
other thread runs. So the process' own CPU time sends a signal, too.
"""

from __future__ import annotations

import signal
import threading
from time import perf_counter, thread_time
from types import FrameType
from typing import Protocol

from .errors import HookTimeout

__all__ = ["HookLimit"]

SIGNAL = signal.SIGURG
"""What nobody asks for does not come, and what comes while nobody listens does nothing."""
EVERY = 0.5
"""Seconds of CPU time between two looks by that."""


class Hooks(Protocol):
    """Whose hooks are ended: `fcgi_core.isolation.HookCaller`."""

    hook_limit: float
    hook_due: float


class HookLimit:
    """Ends hooks that run for longer than `seconds`, on the main thread."""

    def __init__(self, hooks: Hooks, seconds: float, *, every: float = EVERY) -> None:
        self._hooks = hooks
        self._every = every
        self._seen_due = 0.0
        self._seen_worked = 0.0
        """When a call was first seen, by its `hook_due`: CPU time of the main thread."""
        hooks.hook_limit = seconds

    def install(self) -> None:
        """From now on it can be done. On the main thread, which is the loop's."""
        signal.signal(SIGNAL, self.on_signal)
        signal.signal(signal.SIGVTALRM, self.on_cpu_time)
        signal.siginterrupt(signal.SIGVTALRM, False)  # what waits, on whatever thread, need not hear of it
        signal.setitimer(signal.ITIMER_VIRTUAL, self._every, self._every)

    def remove(self) -> None:
        """No more. On the main thread."""
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN)
        signal.signal(SIGNAL, signal.SIG_DFL)

    def look(self) -> None:
        """Send the main thread the signal if its hook is late; so again with each look, until it has returned. Any
        thread."""
        if self._late():
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, SIGNAL)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """HookTimeout if a hook is late, and it, not this package, is at work: what that has in its hands it finishes,
        and when it is about to end the hook's call nothing may be raised beside it. The next look comes soon."""
        ours = frame is not None and str(frame.f_globals.get("__name__", "")).startswith("fcgi_core.")
        if self._late() and not ours:
            raise HookTimeout("did not return")

    def on_cpu_time(self, number: int, frame: FrameType | None) -> None:
        """As `on_signal`, if it is the hook that works: it may only wait for another thread that keeps the interpreter
        to itself, and then it is not to blame."""
        due, worked = self._hooks.hook_due, thread_time()
        if due != self._seen_due:
            self._seen_due, self._seen_worked = due, worked
        elif worked - self._seen_worked >= self._every / 2:
            self.on_signal(number, frame)

    def _late(self) -> bool:
        return perf_counter() > self._hooks.hook_due
