"""What arrived on acknowledged channels: repetitions are told from what is new, and what is to be acknowledged is kept."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Receipts"]

REMEMBERED_SENDERS = 1024
"""Sending processes whose numbers are remembered; those that have been silent for longest are forgotten first."""
REMEMBERED_NUMBERS = 100_000
"""Numbers above the first gap that are remembered for one sender and channel. A gap stays open while an item is on its
way by another association."""


class _Seen:
    """Numbers that have been seen: all up to `floor`, and some above."""

    __slots__ = ("above", "floor")

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.above: set[int] = set()

    def add(self, number: int) -> bool:
        if number <= self.floor or number in self.above:
            return False
        self.above.add(number)
        while self.floor + 1 in self.above:
            self.floor += 1
            self.above.discard(self.floor)
        if len(self.above) > REMEMBERED_NUMBERS:
            self.floor = min(self.above)
            self.above.discard(self.floor)
        return True


class Receipts:
    """Remembers, for each sender (its instance) and channel, which numbers came."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def is_new(self, sender: str, channel: str, number: int) -> bool:
        """Count an item as received; False if it had come before."""
        key = (sender, channel)
        seen = self._seen.get(key)
        if seen is None:
            # a sender's numbers begin where an earlier process of its spool left off
            seen = self._seen[key] = _Seen(number - 1)
            if len(self._seen) > REMEMBERED_SENDERS:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return seen.add(number)
