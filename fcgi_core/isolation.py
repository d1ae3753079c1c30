"""Hooks of plugins, called so that they do no harm.

One that raises is logged with its own frames and counted, and its plugin is set aside for a while when it keeps
failing; one that is slow is told, and sets its plugin aside when that adds up; content goes on. `hook_due` says until
when the hook that runs may run: the module `hook_limit` ends one that does not return.
"""

from __future__ import annotations

import logging
import math
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import get_ident
from time import perf_counter
from typing import Any

from .channels import Channel
from .delivery import Link
from .discovery import EnabledPlugin
from .driver import Loop
from .errors import HookTimeout, PluginError
from .plugin import AssociationInfo, Half, Make

__all__ = ["Entry", "HookCaller", "Tally"]

FAILURES_ALLOWED = 10
"""Failures of one hook in a row after which its plugin is set aside."""
SET_ASIDE_FOR = 60.0
"""Seconds that it is set aside; then it gets another chance."""
SLOW = 0.05
"""Seconds of one hook that are told: content waits for it. A packet's way through the world takes as long."""
BLOCKING_ALLOWED = 2.0
"""Seconds of slow hooks, within `BLOCKING_WITHIN`, after which a plugin is set aside."""
BLOCKING_WITHIN = 60.0
TELL_SLOW_EVERY = 60.0
"""Seconds between two lines in the log about slow hooks of one plugin."""
LIMIT_OF_CHANGES = 15.0
"""Seconds at least that a half may take to be made, configured or closed, before it is ended as a hook that does not
return is: it may wait for what it writes."""
NEVER = math.inf
"""No hook runs, or it may run for ever."""

_FAILURES = (Exception, SystemExit, CancelledError, HookTimeout)
"""What comes out of a hook and ends there; KeyboardInterrupt, for example, does not."""


@dataclass(slots=True, eq=False)
class Tally:
    """How a plugin has fared in this process, whether it runs now or not."""

    errors: int = 0
    calls: int = 0
    seconds: float = 0.0
    """In its hooks, all together."""
    slowest: float = 0.0
    slow: int = 0
    """Hooks that took longer than `SLOW`."""


@dataclass(slots=True, eq=False)
class Entry:
    """One running half and how it fares."""

    enabled: EnabledPlugin
    half: Half
    tally: Tally
    channels: list[Channel]
    """Those that were declared, and those that it opened since."""
    failing: dict[str, int] = field(default_factory=dict)
    """How often hooks failed in a row, by the hook: that others of the plugin work does not count for one that does
    not."""
    aside_until: float = 0.0
    """Set aside until then; for ever once it has been switched off."""
    kept: list[tuple[str, bytes, Link]] = field(default_factory=list)
    """Items of acknowledged channels that came while it was set aside. The other side sends no more than its spool
    holds before they are acknowledged."""
    blocked: float = 0.0
    """Seconds of slow hooks since `blocked_since`."""
    blocked_since: float = 0.0
    told_slow: float = -TELL_SLOW_EVERY
    slow_untold: int = 0
    withheld: bool = False
    """Set aside for what its `make` did: nothing is gathered. Else that goes on, for threads wait for it."""

    @property
    def name(self) -> str:
        return self.enabled.plugin.name


class HookCaller:
    """Calls hooks of halves. Made on the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        self.hook_limit: float = NEVER
        """Seconds that a hook may take; somebody has to look at `hook_due`."""
        self.hook_due: float = NEVER
        """By perf_counter(): when the hook that the loop's thread is in must have returned."""
        self._loop = loop
        self._loop_thread = get_ident()
        self._log = logging.getLogger("fcgi_sctp.plugins")

    def _close(self, entry: Entry) -> None:
        """Call its `close`, set aside or not."""
        entry.aside_until = 0.0
        usual, self.hook_limit = self.hook_limit, max(self.hook_limit, LIMIT_OF_CHANGES)
        self._call(entry, entry.half.close)
        self.hook_limit = usual

    def bounded(self, call: Callable[..., Any], *args: Any) -> Any:
        """Have a half made or configured; whatever that raises, PluginError if it did not return."""
        due = self.hook_due
        self.hook_due = perf_counter() + max(self.hook_limit, LIMIT_OF_CHANGES)
        try:
            return call(*args)
        except HookTimeout as error:
            raise PluginError(f"{getattr(call, '__name__', 'a call')} {error}") from error
        finally:
            self.hook_due = due

    def _call(
        self, entry: Entry, hook: Callable[..., Any], *args: Any, failed: Any = None, on_loop: bool = True
    ) -> Any:
        """Call a hook; `failed` if it raised, or its plugin is set aside. On another thread than the loop's nobody ends
        one that does not return."""
        if entry.aside_until and (self._is_aside(entry) if on_loop else self._loop.time() < entry.aside_until):
            return failed
        name = getattr(hook, "__name__", "a hook")
        due = self.hook_due  # of a hook that this one is called in: printing, for example, calls `stderr`
        began = perf_counter()
        if on_loop:
            self.hook_due = began + self.hook_limit
        try:
            result = hook(*args)
        except BaseException:
            if on_loop:
                self.hook_due = NEVER
            self._failed(entry, name)
            result = failed
        else:
            if entry.failing:
                entry.failing.pop(name, None)
        took = perf_counter() - began
        if on_loop:
            self.hook_due = due + took  # it was not the outer one's
            self._took(entry, name, took)
        else:  # on a thread of the application it holds up that thread alone
            entry.tally.calls += 1
            entry.tally.seconds += took
        return result

    def _gathered(self, entry: Entry, make: Make, crowded: bool) -> Iterable[tuple[bytes, int, AssociationInfo | None]]:
        """What a half has to be gathered; nothing if it failed."""
        if entry.withheld and self._is_aside(entry):
            return ()
        made: tuple[tuple[bytes, int, AssociationInfo | None], ...] = ()
        until = entry.aside_until
        due = self.hook_due
        began = perf_counter()
        self.hook_due = began + self.hook_limit
        try:
            made = tuple(make(crowded))
        except BaseException:
            self.hook_due = NEVER
            self._failed(entry, "make")
        else:
            if entry.failing:
                entry.failing.pop("make", None)
        took = perf_counter() - began
        self.hook_due = due + took
        self._took(entry, "make", took)
        if entry.aside_until != until:
            entry.withheld = True
        return made

    def _took(self, entry: Entry, hook: str, seconds: float) -> None:
        tally = entry.tally
        tally.calls += 1
        tally.seconds += seconds
        if seconds > SLOW:
            self._slow(entry, hook, seconds)

    def _comes_back(self, entry: Entry) -> None:
        """The time for which it was set aside is over."""

    def _is_aside(self, entry: Entry) -> bool:
        """Whether it still is; if its time is over, it gets what was kept for it."""
        if self._loop.time() < entry.aside_until:
            return True
        entry.aside_until = 0.0
        self._comes_back(entry)
        return entry.aside_until > 0.0

    def _failed(self, entry: Entry, hook: str) -> None:
        """What is being handled came out of a hook. Raises it again if it is none of the hook's failures."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, _FAILURES):
            raise error
        entry.tally.errors += 1
        failures = entry.failing[hook] = entry.failing.get(hook, 0) + 1
        self._log.exception("plugin %s: %s failed", entry.name, hook)
        if isinstance(error, HookTimeout):
            self._set_aside(entry, f"did not return from {hook}")  # at once: what blocked once will block again
        elif failures >= FAILURES_ALLOWED:
            self._set_aside(entry, f"failed {FAILURES_ALLOWED} times in a row")

    def _slow(self, entry: Entry, hook: str, took: float) -> None:
        """A hook held up the loop, and so content."""
        entry.tally.slow += 1
        entry.tally.slowest = max(entry.tally.slowest, took)
        entry.slow_untold += 1
        now = self._loop.time()
        if now - entry.told_slow >= TELL_SLOW_EVERY:
            entry.told_slow = now
            self._log.warning(
                "plugin %s: %s took %.0f ms, and everything waited (%d slow hooks since this was last said)",
                entry.name,
                hook,
                took * 1000,
                entry.slow_untold,
            )
            entry.slow_untold = 0
        if now - entry.blocked_since > BLOCKING_WITHIN:
            entry.blocked, entry.blocked_since = 0.0, now
        entry.blocked += took
        if entry.blocked >= BLOCKING_ALLOWED:
            if entry.aside_until <= now:  # it may be set aside already, because it did not return
                self._set_aside(entry, f"held everything up for {entry.blocked:.1f} s")
            entry.blocked = 0.0

    def _set_aside(self, entry: Entry, why: str) -> None:
        entry.failing.clear()
        entry.aside_until = self._loop.time() + SET_ASIDE_FOR
        self._log.error("plugin %s %s and is set aside for %g s", entry.name, why, SET_ASIDE_FOR)
