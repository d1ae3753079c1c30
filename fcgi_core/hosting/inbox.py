"""Items that plugins send on any thread, on their way to the loop, which dequeues many with one wake-up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..common.loop import Loop

__all__ = ["Inbox", "Item", "WakeLoop", "WakeUp"]

WakeLoop = Callable[[Callable[[], None]], object]
"""asyncio's call_soon_threadsafe."""
Item = tuple[str, bytes, Any, int]
"""Channel, content, target and urgency."""

MOST = 100_000
"""Items in the inbox; further ones are dropped."""
TURN = 500
"""Items that the loop dequeues before its other work has its turn (some 2 ms)."""
MANY = 4 * TURN
"""Items in the inbox from which on a thread that adds one lets the loop go first: a thread that does nothing else would
keep the interpreter to itself, and the inbox would grow."""
LET_GO_FIRST = 0.001
"""Seconds that it waits then, once."""
GATHER_AFTER = 0.005
"""Seconds within which the items of requests are collected, and between two gatherings."""
MOST_URGENT = 2
"""Items of this urgency or less do not wait for others."""


class WakeUp:
    """Has the loop make one call soon, however often it is asked before that call."""

    __slots__ = ("_call", "_delay", "_loop", "_wake_loop", "asked", "closed")

    def __init__(self, call: Callable[[], None], loop: Loop, wake_loop: WakeLoop, delay: float = 0.0) -> None:
        """The call comes `delay` seconds after `ask`."""
        self.asked = False
        """Whether the call is to come."""
        self.closed = False
        """Set this at the end: `ask` does nothing then."""
        self._call = call
        self._delay = delay
        self._loop = loop
        self._wake_loop = wake_loop

    def ask(self) -> None:
        """Ask for the call. Any thread."""
        if self.asked or self.closed:
            return
        self.asked = True
        try:
            self._wake_loop(self._wait if self._delay else self._run)
        except BaseException:  # KeyboardInterrupt, too: a flag that stays set would end all sending without a word
            self.asked = False
            raise

    def ask_after(self, seconds: float) -> None:
        """Ask for the call after `seconds`. For the loop's thread."""
        if not self.asked and not self.closed:
            self.asked = True
            self._loop.call_at(self._loop.time() + seconds, self._run)

    def _wait(self) -> None:
        self._loop.call_at(self._loop.time() + self._delay, self._run)

    def _run(self) -> None:
        self.asked = False  # first: what is added from now on asks again
        self._call()


class Inbox:
    """A bounded queue from all threads to the loop."""

    def __init__(self, receive: Callable[[], None], loop: Loop, wake_loop: WakeLoop) -> None:
        """`receive` is called on the loop's thread, which is the one that makes the inbox, to dequeue `TURN` items."""
        self.items: deque[Item] = deque()
        self._at_once = WakeUp(receive, loop, wake_loop)
        self._collected = WakeUp(receive, loop, wake_loop, GATHER_AFTER)
        self._loop_thread = threading.get_ident()

    def add(self, item: Item) -> bool:
        """Queue an item and have the loop dequeue it; False if there is no room."""
        count = len(self.items)
        if count >= MOST:
            return False
        self.items.append(item)
        if not self._at_once.asked:
            self.wake(item[2], item[3])
        if count >= MANY:
            self.let_loop_go_first()
        return True

    def wake(self, target: Any = None, urgency: int = 0) -> None:
        """Have the loop dequeue what is queued, the last item of which is for `target`."""
        if self._at_once.asked:
            return
        if target is not None and urgency > MOST_URGENT:
            # its request is about to send more, or to end, which sends the item too: no wake-up for each line
            self._collected.ask()
        else:
            self._at_once.ask()

    def let_loop_go_first(self) -> bool:
        """Wait for a moment, so that the loop gets the interpreter; False, without waiting, on the loop's thread."""
        if threading.get_ident() == self._loop_thread:
            return False
        time.sleep(LET_GO_FIRST)
        return True

    def close(self) -> None:
        """Wake the loop no more."""
        self._at_once.closed = self._collected.closed = True
