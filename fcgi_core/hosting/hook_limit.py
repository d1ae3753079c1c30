"""Ends a hook of a plugin that does not return: it runs on the event loop, and everything waits for it.

Only the thread that is in the hook can leave it. A watching thread sends it a signal, and the handler raises. An
exception at an arbitrary place breaks the code that it hits: in `logging` it leaves a handler's lock held, for all
threads and for good; in this package a flag set that says that a call is to come. So it is raised only while the
plugin's own code runs. All frames from the signal's to the hook's must be of the plugin's package, or of one of the few
packages that share no state with the rest of the process. Compiled code has no frames, and the hook's frame must be
there: a compiled hook is not ended. Compiled code that a hook calls is safe, because a frame of the plugin that runs
inside it can fail in any case. If the moment is wrong, the next one comes soon.

If there is no right moment, the hook goes on. The standstill's watch logs its frames, its plugin is set aside when it
returns (`isolation`), and if it has not returned after `END_AFTER` the process ends, if it will be started again.

A hook in C code that keeps the interpreter to itself, such as a regular expression that backtracks for ever, lets no
other thread run. So a timer on the process' CPU time sends a signal, too.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from time import perf_counter, thread_time
from types import CodeType, FrameType
from typing import Any, Protocol

from ..errors import HookTimeout

__all__ = ["END_AFTER", "HookLimit", "end_process", "is_started_again"]

log = logging.getLogger("fcgi_sctp.plugins")

SIGNAL = signal.SIGURG
"""The kernel sends it only on request, and by default it does nothing."""
EVERY = 0.5
"""Seconds of CPU time between two signals of that timer."""
BURST = 20
"""Signals with one `look`: a loop that logs is nearly always in `logging`."""
BURST_PAUSE = 0.01
"""Seconds between two of these signals."""
END_AFTER = 30.0
"""Seconds after its limit when the process of a hook that cannot be ended ends: half of the time that nginx waits for a
response (fastcgi_read_timeout, 60 s)."""
SOFTWARE_ERROR = 70
"""The exit status of that process: EX_SOFTWARE of sysexits.h."""
TELL_WITHIN = 2.0
"""Seconds that the last log line may take: the hook may hold a lock of the log."""
_HARMLESS = frozenset({"email", "encodings", "http", "json", "re", "selectors", "socket", "ssl", "urllib"})
"""Packages in which hooks wait or work for long, and which have no state that an exception could break."""


class Hooks(Protocol):
    """The caller of the hooks: `fcgi_core.hosting.isolation.HookCaller`."""

    hook_limit: float
    hook_due: float
    hook: Any


class HookLimit:
    """Ends hooks that run for longer than `seconds`, on the main thread."""

    def __init__(
        self,
        hooks: Hooks,
        seconds: float,
        *,
        every: float = EVERY,
        give_up: Callable[[str, float], None] | None = None,
    ) -> None:
        """`give_up` is called on the thread that calls `look`, with the hook's name and the seconds for which it has
        been late, if that is more than `END_AFTER`."""
        self._hooks = hooks
        self._every = every
        self._give_up = give_up
        self._seen_due = 0.0
        self._seen_worked = 0.0
        """CPU time of the main thread when this hook, known by its `hook_due`, was first seen."""
        hooks.hook_limit = seconds

    def install(self) -> None:
        """Install the signal handlers. Call this on the main thread, which is the loop's."""
        signal.signal(SIGNAL, self.on_signal)
        signal.signal(signal.SIGVTALRM, self.on_cpu_time)
        signal.siginterrupt(signal.SIGVTALRM, False)  # system calls that wait, on any thread, go on
        signal.setitimer(signal.ITIMER_VIRTUAL, self._every, self._every)

    def remove(self) -> None:
        """Remove the signal handlers. Call this on the main thread."""
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN)
        signal.signal(SIGNAL, signal.SIG_DFL)

    def look(self) -> None:
        """Send the main thread the signal if its hook is late, a few times, until it has returned. Call this again and
        again, on any thread."""
        main = threading.main_thread().ident
        assert main is not None
        due = self._hooks.hook_due
        for _ in range(BURST):
            if not self._late() or self._hooks.hook_due != due:
                return
            signal.pthread_kill(main, SIGNAL)
            time.sleep(BURST_PAUSE)
        late = perf_counter() - due
        if self._give_up is not None and late > END_AFTER and self._hooks.hook_due == due:
            self._give_up(_name(self._hooks.hook), late)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Raise HookTimeout if a hook is late and only the plugin's own code would be interrupted."""
        if self._late() and _is_alone(frame, self._hooks.hook):
            raise HookTimeout("did not return")

    def on_cpu_time(self, number: int, frame: FrameType | None) -> None:
        """Do the same if the hook itself uses the CPU: it may wait for another thread that keeps the interpreter to
        itself, which is not its fault."""
        due, worked = self._hooks.hook_due, thread_time()
        if due != self._seen_due:
            self._seen_due, self._seen_worked = due, worked
        elif worked - self._seen_worked >= self._every / 2:
            self.on_signal(number, frame)

    def _late(self) -> bool:
        return perf_counter() > self._hooks.hook_due


def _is_alone(frame: FrameType | None, hook: Any) -> bool:
    """Returns whether all frames from this one to the hook's are the plugin's own, or harmless. If the hook calls
    itself the outermost call counts."""
    code: CodeType | None = getattr(hook, "__code__", None)
    own = _package(getattr(hook, "__module__", None))
    if code is None or not own:
        return False
    alone, found = True, False
    while frame is not None:
        package = _package(frame.f_globals.get("__name__"))
        alone = alone and (package == own or package in _HARMLESS)
        if frame.f_code is code:
            found = alone
        frame = frame.f_back
    return found


def _package(module: object) -> str:
    return module.partition(".")[0] if isinstance(module, str) else ""


def _name(hook: Any) -> str:
    return f"{getattr(hook, '__module__', '?')}.{getattr(hook, '__qualname__', hook)}"


def is_started_again() -> bool:
    """Returns whether this process is started again when it ends: by the parent of workers, systemd, supervisord, or
    the runtime of a container."""
    environment = os.environ
    return (
        "FCGI_SCTP_WORKER" in environment
        or environment.get("SYSTEMD_EXEC_PID") == str(os.getpid())  # INVOCATION_ID is also that of a whole session
        or "NOTIFY_SOCKET" in environment
        or "SUPERVISOR_ENABLED" in environment
        or os.getpid() == 1
    )


def end_process(hook: str, late: float) -> None:
    """Log why, and end the process at once: there is no other way out of the code on the main thread."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    where = "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()

    def say() -> None:
        log.critical(
            "hook %s has been late for %.0f s and cannot be ended; this process ends, so that another is started. The"
            " hook is in:\n%s",
            hook,
            late,
            where,
        )

    saying = threading.Thread(target=say, name="last words", daemon=True)
    saying.start()
    saying.join(TELL_WITHIN)
    os._exit(SOFTWARE_ERROR)
