"""Hooks of plugins, called so that they do no harm.

A hook that raises is logged with its traceback and counted, and its plugin is set aside for a while when the hook keeps
failing. A slow hook is reported, and its plugin is set aside when slow hooks, or many quick ones, take too much time
together; content goes on. `hook_due` says until when the running hook may run: the module `hook_limit` ends one that
does not return.

The cost of `feedback` is charged to the association that sent the item: each has an account, and it alone is set aside
unless others cause the same trouble, so that one application cannot have a plugin set aside for all.
"""

from __future__ import annotations

import logging
import math
import sys
from asyncio import CancelledError
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from threading import get_ident
from time import perf_counter
from typing import Any

from ..common.loop import Loop
from ..common.text import escape
from ..errors import HookTimeout, PluginError
from ..plugin import AssociationInfo, Half, Make
from ..protocol.channels import Channel
from .discovery import EnabledPlugin

__all__ = ["Account", "Entry", "HookCaller", "Tally"]

FAILURES_ALLOWED = 10
"""Failures of one hook in a row after which its plugin is set aside."""
SET_ASIDE_FOR = 60.0
"""Seconds that a plugin is set aside; then it gets another chance."""
SLOW = 0.05
"""Seconds of one hook that are reported: content waits for it. A packet around the world takes as long."""
BLOCKING_ALLOWED = 2.0
"""Seconds of slow hooks, within `BLOCKING_WITHIN`, after which a plugin is set aside."""
BLOCKING_WITHIN = 60.0
SHARE_WINDOW = 10.0
"""Seconds over which the share of the loop's time that a plugin's hooks take is measured."""
SHARE_TOLD = 0.1
"""The share that is reported."""
SHARE_ALLOWED = 0.5
"""The share beyond which a plugin, or an association, is set aside."""
TELL_SLOW_EVERY = 60.0
"""Seconds between two lines in the log about slow hooks of one plugin, and about its share."""
LIMIT_OF_CHANGES = 15.0
"""Seconds at least that a half may take to be made, configured or closed, before that is ended as a hook that does not
return is: it may wait until something is written."""
NEVER = math.inf
"""The `hook_due` when no hook runs, or it may run for ever."""

_FAILURES = (Exception, SystemExit, CancelledError, HookTimeout)
"""Exceptions of a hook that end here; KeyboardInterrupt, for example, does not."""


@dataclass(slots=True, eq=False)
class Tally:
    """The figures of a plugin in this process, whether it runs now or not."""

    errors: int = 0
    calls: int = 0
    seconds: float = 0.0
    """Time in its hooks, all together."""
    slowest: float = 0.0
    slow: int = 0
    """Hooks that took longer than `SLOW`."""


class Account:
    """The faults of a plugin's hooks; or those of its `feedback`, charged to the association that sent the items."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        """How often each hook failed in a row: a hook that works does not excuse one that fails."""
        self.aside_until = 0.0
        """When the plugin, or the association, comes back; 0 if it is not set aside, infinity if it is switched off."""
        self.blocked = 0.0
        """Seconds of slow hooks since `blocked_since`."""
        self.blocked_since = 0.0
        self.spent = 0.0
        """Seconds in hooks; of an association, seconds of `feedback` in this window."""


class Entry(Account):
    """One running half and its figures."""

    def __init__(self, enabled: EnabledPlugin, half: Half, tally: Tally, channels: list[Channel], now: float) -> None:
        super().__init__()
        self.enabled = enabled
        self.half = half
        self.tally = tally
        self.channels = channels
        """The channels that the plugin declared, and channels that the half opened since."""
        self.name = enabled.plugin.name
        self.peers: dict[str, Account] = {}
        """The accounts of the other side's processes, by `Link.account`."""
        self.told_slow = -TELL_SLOW_EVERY
        self.slow_untold = 0
        self.told_share = -TELL_SLOW_EVERY
        self.share = 0.0
        """The share of the loop's time that its hooks took in the last whole window."""
        self.withheld = False
        """Whether it is set aside because of its `make`: nothing is gathered then. Otherwise gathering goes on, because
        threads wait for it."""
        self.window_began = now
        self.held = 0.0
        """Seconds that its hooks blocked the loop."""
        self.window_from = 0.0
        """`held` when the window began."""
        self.budget = SHARE_TOLD * SHARE_WINDOW
        """The value of `held` at which its share has to be checked."""

    def peer(self, address: str) -> Account:
        """Returns the account of a process of the other side."""
        account = self.peers.get(address)
        if account is None:
            account = self.peers[address] = Account()
        return account


class HookCaller:
    """Calls hooks of halves. Made on the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        self.hook_limit: float = NEVER
        """Seconds that a hook may take; `HookLimit` ends it then."""
        self.hook_due: float = NEVER
        """By perf_counter(): when the hook that the loop's thread is in must have returned."""
        self.hook: Any = None
        """That hook, or the last one if it is in none."""
        self._loop = loop
        self._loop_thread = get_ident()
        self._log = logging.getLogger("fcgi_sctp.plugins")

    def _close(self, entry: Entry) -> None:
        """Call a half's `close`, even if its plugin is set aside."""
        entry.aside_until = 0.0
        usual, self.hook_limit = self.hook_limit, max(self.hook_limit, LIMIT_OF_CHANGES)
        self._call(entry, entry.half.close)
        self.hook_limit = usual

    def bounded(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make or configure a half. Raises what the call raises, but PluginError if it did not return or exits."""
        due, hook = self.hook_due, self.hook
        self.hook = call
        self.hook_due = perf_counter() + max(self.hook_limit, LIMIT_OF_CHANGES)
        try:
            return call(*args)
        except HookTimeout as error:
            raise PluginError(f"{getattr(call, '__name__', 'a call')} {error}") from error
        except (SystemExit, CancelledError) as error:  # a plugin cannot end the process
            raise PluginError(f"{getattr(call, '__name__', 'a call')} raised {error!r}") from error
        finally:
            self.hook_due, self.hook = due, hook

    def _call(self, entry: Entry, hook: Callable[..., Any], *args: Any, failed: Any = None) -> Any:
        """Call a hook on the loop's thread. Returns `failed` if it raised, or its plugin is set aside."""
        if entry.aside_until and self._is_aside(entry):
            return failed
        return self._run(entry, entry, getattr(hook, "__name__", "a hook"), hook, args, failed)

    def _run(
        self,
        entry: Entry,
        account: Account,
        name: str,
        hook: Callable[..., Any],
        args: tuple[Any, ...],
        failed: Any = None,
        *,
        on_loop: bool = True,
        collect: bool = False,
    ) -> Any:
        """Call a hook at the expense of `account`, set aside or not. Returns `failed` if it raised. `collect`: the hook
        may be a generator, and a tuple is returned. On another thread than the loop's the hook holds up that thread
        alone, and nothing ends it if it does not return."""
        due, outer = self.hook_due, self.hook  # of a hook that this one is called in: printing, say, calls `stderr`
        began = perf_counter()
        if on_loop:
            self.hook = hook
            self.hook_due = began + self.hook_limit
        try:
            result = tuple(hook(*args)) if collect else hook(*args)
        except BaseException:
            if on_loop:
                self.hook_due = NEVER
            self._failed(entry, name, account)
            result = failed
        else:
            if account.failing:
                account.failing.pop(name, None)
        took = perf_counter() - began
        entry.tally.calls += 1
        entry.tally.seconds += took
        if on_loop:
            self.hook_due, self.hook = due + took, outer  # `took` was not the outer hook's
            account.spent += took
            self._took(entry, name, took, account)
        return result

    def _gathered(self, entry: Entry, make: Make, crowded: bool) -> Iterable[tuple[bytes, int, AssociationInfo | None]]:
        """The items of a half's gathering; none if it failed."""
        if entry.withheld and self._is_aside(entry):
            return ()
        until = entry.aside_until
        made: tuple[tuple[bytes, int, AssociationInfo | None], ...]
        made = self._run(entry, entry, "make", make, (crowded,), (), collect=True)
        if entry.aside_until != until:
            entry.withheld = True
        return made

    def _took(self, entry: Entry, hook: str, seconds: float, account: Account) -> None:
        if seconds > SLOW:
            self._slow(entry, hook, seconds, account)
        entry.held += seconds
        if entry.held > entry.budget:
            self._look_at_share(entry, hook)

    def _comes_back(self, entry: Entry) -> None:
        """A plugin, or one of its associations, is not set aside any more."""

    def _was_set_aside(self) -> None:
        """A plugin or one of its associations has been set aside. Any thread."""

    def _is_aside(self, entry: Entry, account: Account | None = None) -> bool:
        """Returns whether a plugin that was set aside still is, or its `account` of an association."""
        account = account or entry
        if self._loop.time() < account.aside_until:
            return True
        account.aside_until = 0.0
        self._comes_back(entry)
        return account.aside_until > 0.0

    def _look_at_those_aside(self, entry: Entry, up: Container[str]) -> None:
        """Let a plugin and its associations come back when it is time, and forget associations that are not `up`."""
        if entry.aside_until:
            self._is_aside(entry)
        for address, account in tuple(entry.peers.items()):
            if account.aside_until and self._is_aside(entry, account):
                continue
            if address not in up:
                del entry.peers[address]

    def _failed(self, entry: Entry, hook: str, account: Account) -> None:
        """Count the exception that is being handled, which a hook raised. Raises it if it is none of `_FAILURES`."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, _FAILURES):
            raise error
        entry.tally.errors += 1
        failures = account.failing[hook] = account.failing.get(hook, 0) + 1
        self._log.exception("plugin %s: %s failed", entry.name, hook)
        if isinstance(error, HookTimeout):
            self._set_aside(entry, account, f"did not return from {hook}")  # at once: it will block again
        elif failures >= FAILURES_ALLOWED:
            self._set_aside(entry, account, f"failed {FAILURES_ALLOWED} times in a row")

    def _slow(self, entry: Entry, hook: str, took: float, account: Account) -> None:
        """Count and report a hook that blocked the loop, and so content."""
        entry.tally.slow += 1
        entry.tally.slowest = max(entry.tally.slowest, took)
        entry.slow_untold += 1
        now = self._loop.time()
        if now - entry.told_slow >= TELL_SLOW_EVERY:
            entry.told_slow = now
            self._log.warning(
                "plugin %s: %s took %.0f ms and blocked the loop (%d slow hooks since the last report)",
                entry.name,
                hook,
                took * 1000,
                entry.slow_untold,
            )
            entry.slow_untold = 0
        if now - account.blocked_since > BLOCKING_WITHIN:
            account.blocked, account.blocked_since = 0.0, now
        account.blocked += took
        if account.aside_until > now:
            pass  # it has been, because it did not return
        elif took > self.hook_limit:
            self._set_aside(entry, account, f"returned from {hook} only after {took:.1f} s")  # it could not be ended
        elif account.blocked >= BLOCKING_ALLOWED:
            self._set_aside(entry, account, f"blocked the loop for {account.blocked:.1f} s")
        if account.blocked >= BLOCKING_ALLOWED:
            account.blocked = 0.0

    def _look_at_share(self, entry: Entry, hook: str) -> None:
        """Check the share of the loop's time that a plugin's hooks have taken in this window."""
        now = self._loop.time()
        window = max(now - entry.window_began, SHARE_WINDOW)  # a late tick ends it late
        spent = entry.held - entry.window_from
        share = spent / window
        if share > SHARE_ALLOWED:
            self._overspent(entry, share)
            return
        if share > SHARE_TOLD and now - entry.told_share >= TELL_SLOW_EVERY:
            entry.told_share = now
            self._log.warning(
                "plugin %s: its hooks, %s and others, take %.0f %% of the loop's time (%.1f s of %.0f s)",
                entry.name,
                hook,
                share * 100,
                spent,
                window,
            )
        entry.budget = entry.window_from + (SHARE_ALLOWED if share > SHARE_TOLD else SHARE_TOLD) * window

    def _overspent(self, entry: Entry, share: float) -> None:
        """Set the culprit aside: the association whose items took most, if items took most of it; else the plugin."""
        spent = entry.held - entry.window_from
        why = f"took {share * 100:.0f} % of the loop's time"
        most = max(entry.peers.values(), key=lambda peer: peer.spent, default=None)
        if most is not None and sum(peer.spent for peer in entry.peers.values()) > spent / 2:
            self._set_aside(entry, most, why)
            entry.window_from += most.spent  # the time of the others still counts
            most.spent = 0.0
        else:
            self._set_aside(entry, entry, why)
            entry.window_from = entry.held
        entry.budget = entry.window_from + SHARE_TOLD * SHARE_WINDOW

    def _end_window(self, entry: Entry) -> None:
        """Begin another window if this one is over. Called with each tick."""
        now = self._loop.time()
        window = now - entry.window_began
        if window < SHARE_WINDOW:
            return
        entry.share = (entry.held - entry.window_from) / window
        entry.window_began, entry.window_from = now, entry.held
        entry.budget = entry.window_from + SHARE_TOLD * SHARE_WINDOW
        for peer in entry.peers.values():
            peer.spent = 0.0

    def _set_aside(self, entry: Entry, account: Account, why: str) -> None:
        account.failing.clear()
        account.aside_until = self._loop.time() + SET_ASIDE_FOR
        if account is entry:
            self._log.error("plugin %s %s and is set aside for %g s", entry.name, why, SET_ASIDE_FOR)
        else:
            address = next((address for address, one in entry.peers.items() if one is account), "")
            told = "plugin %s %s on items from %s, which is set aside for this plugin for %g s"
            self._log.error(told, entry.name, why, escape(address), SET_ASIDE_FOR)
        self._was_set_aside()
