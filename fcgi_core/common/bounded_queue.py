"""A queue of items that holds so many bytes and drops the least urgent first, and budgets that queues share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

__all__ = ["BoundedQueue", "Budget", "WhenFull"]


class WhenFull(Enum):
    """Which items a full queue drops for a new one."""

    LEAST_URGENT = "least-urgent"
    """The items with the highest urgency number, the oldest of them first; the new one if none is less urgent."""
    OLDEST = "oldest"
    """The items that have waited longest: for items that lose their worth with age."""
    NEWEST = "newest"
    """The new one: for a sequence that must not have gaps in the middle."""


class Budget:
    """Bytes of memory that several holders may use together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def add(self, count: int) -> bool:
        """Count bytes that are held from now on; False if they go beyond the limit."""
        self.used += count
        return self.used <= self.limit


class BoundedQueue:
    """Items in order, within a bound of bytes; `when_full` says what is dropped.

    `urgency` is a small number, lower is more urgent (a syslog severity serves as it is). Each dropped item is reported
    to `on_drop` as (urgency, item).
    """

    __slots__ = ("_budget", "_by_urgency", "_bytes", "_items", "_on_drop", "_when_full", "bound", "size")

    def __init__(
        self,
        bound: int,
        on_drop: Callable[[int, bytes], None],
        budget: Budget | None = None,
        when_full: WhenFull = WhenFull.LEAST_URGENT,
    ) -> None:
        self._when_full = when_full
        self._budget = budget or Budget(bound)
        self.bound = bound
        self.size = 0
        self._items: deque[list[Any]] = deque()
        # [item, urgency]; the same lists, by urgency: emptying one there leaves a gap here that pop() steps over
        self._by_urgency: dict[int, deque[list[Any]]] = {}
        self._bytes: dict[int, int] = {}
        self._on_drop = on_drop

    def __bool__(self) -> bool:
        return self.size > 0

    def push(self, item: bytes, urgency: int) -> bool:
        """Add an item of at least one byte; False if it was dropped itself."""
        length = len(item)
        budget = self._budget
        if self.size + length > self.bound or budget.used + length > budget.limit:
            excess = max(self.size + length - self.bound, budget.used + length - budget.limit)
            if excess > self._droppable(urgency):
                # all that may be dropped would not make enough room: drop nothing in vain
                self._on_drop(urgency, item)
                return False
            while excess > 0:
                excess -= self._drop_oldest() if self._when_full is WhenFull.OLDEST else self._drop_one()
        cell = [item, urgency]
        self._items.append(cell)
        by_urgency = self._by_urgency.get(urgency)
        if by_urgency is None:
            by_urgency = self._by_urgency[urgency] = deque()
            self._bytes[urgency] = 0
        by_urgency.append(cell)
        self._bytes[urgency] += length
        self.size += length
        budget.used += length
        return True

    def _droppable(self, urgency: int) -> int:
        """Bytes that may be dropped for a new item."""
        if self._when_full is WhenFull.NEWEST:
            return 0
        if self._when_full is WhenFull.OLDEST:
            return self.size
        return sum(held for level, held in self._bytes.items() if level > urgency)

    def pop(self) -> bytes:
        """Remove and return the item that has waited longest; b'' if there is none."""
        return self._pop()[0]

    def _pop(self) -> tuple[bytes, int]:
        while self._items:
            item: bytes
            urgency: int
            item, urgency = self._items.popleft()
            if item:
                # the longest waiting of all is the longest waiting of its urgency
                self._by_urgency[urgency].popleft()
                self._account(urgency, len(item))
                return item, urgency
        return b"", 0

    def _drop_oldest(self) -> int:
        """Drop the item that has waited longest; its bytes, 0 if there is none."""
        item, urgency = self._pop()
        if item:
            self._on_drop(urgency, item)
        return len(item)

    def pop_all(self) -> list[tuple[bytes, int]]:
        """Remove and return all items in order, each with its urgency."""
        waiting = []
        while self:
            waiting.append(self._pop())
        return waiting

    def drop_all(self) -> None:
        """Drop all items."""
        while self._drop_one():
            pass

    def _drop_one(self) -> int:
        """Drop the item that has waited longest among the least urgent; its bytes, 0 if there is none."""
        worst = max((level for level, queue in self._by_urgency.items() if queue), default=None)
        if worst is None:
            return 0
        cell = self._by_urgency[worst].popleft()
        item: bytes
        item, cell[0] = cell[0], b""
        length = len(item)
        self._account(worst, length)
        self._on_drop(worst, item)
        return length

    def _account(self, urgency: int, length: int) -> None:
        self._bytes[urgency] -= length
        self.size -= length
        self._budget.used -= length
