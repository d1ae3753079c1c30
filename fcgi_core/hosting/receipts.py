"""Items that arrive on acknowledged channels: repetitions are recognized, and stored items are acknowledged."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Generic, Literal, TypeVar

from ..common.loop import Loop
from .inbox import WakeLoop, WakeUp
from .links import Link

__all__ = ["Acknowledger", "Receipts"]

ACKNOWLEDGE_AFTER = 0.05
"""Seconds that items of acknowledged channels are collected before their plugin is asked to store them, together."""

ASK_AGAIN_AFTER = 1.0
"""Seconds until an owner that could not store its items is asked again: perhaps no more items come, because the sender
has no room for more until these are acknowledged."""

REMEMBERED_SENDERS = 1024
"""Sending processes of one member, by channel, whose numbers are remembered; the one that has been silent for longest
is forgotten first."""
REMEMBERED_RANGES = 1000
"""Ranges of numbers that are remembered for one sender and channel. Beyond it the lowest is forgotten, and its items
are passed on again if they come again. There is a gap while an item is on its way by another association."""
REMEMBERED_RANGES_OF_MEMBER = 20_000
"""Ranges that are remembered for all senders of one member together; 80 bytes each."""
REMEMBERED_MEMBERS = 1024


class _Seen:
    """Numbers that have been seen, as ranges. Lower numbers than the first one count as unseen: after a restart of this
    side, the items that were sent first may come later, by another association."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __len__(self) -> int:
        return len(self._firsts)

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges():
            yield from range(first, last + 1)

    def ranges(self) -> Iterable[tuple[int, int]]:
        """The first and the last number of each range, in order."""
        return zip(self._firsts, self._lasts, strict=True)

    def add(self, number: int) -> bool:
        firsts, lasts = self._firsts, self._lasts
        if lasts and lasts[-1] == number - 1:
            lasts[-1] = number
            return True
        at = bisect_right(firsts, number)
        if at and number <= lasts[at - 1]:
            return False
        follows = at > 0 and lasts[at - 1] == number - 1
        precedes = at < len(firsts) and firsts[at] == number + 1
        if follows:
            lasts[at - 1] = lasts.pop(at) if precedes else number
            if precedes:
                del firsts[at]
        elif precedes:
            firsts[at] = number
        else:
            firsts.insert(at, number)
            lasts.insert(at, number)
            if len(firsts) > REMEMBERED_RANGES:
                del firsts[0], lasts[0]
        return True


class _Member:
    """The numbers that are remembered for the processes of one member."""

    __slots__ = ("ranges", "seen")

    def __init__(self) -> None:
        self.seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()
        """By instance and channel."""
        self.ranges = 0


class Receipts:
    """Remembers which numbers came, for each sender (`AssociationInfo.process`) and channel. However many processes a
    member says it has, the numbers of other members are kept."""

    def __init__(self) -> None:
        self._members: OrderedDict[str, _Member] = OrderedDict()

    def is_new(self, sender: tuple[str, str], channel: str, number: int) -> bool:
        """Count an item as received. Returns False if it had come before."""
        name, instance = sender
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = _Member()
            if len(self._members) > REMEMBERED_MEMBERS:
                self._members.popitem(last=False)
        self._members.move_to_end(name)
        key = (instance, channel)
        seen = member.seen.get(key)
        if seen is None:
            seen = member.seen[key] = _Seen()
        member.seen.move_to_end(key)
        before = len(seen)
        new = seen.add(number)
        member.ranges += len(seen) - before
        while len(member.seen) > REMEMBERED_SENDERS or (
            member.ranges > REMEMBERED_RANGES_OF_MEMBER and len(member.seen) > 1
        ):
            _, oldest = member.seen.popitem(last=False)
            member.ranges -= len(oldest)
        return new


Owner = TypeVar("Owner")


class Acknowledger(Generic[Owner]):
    """Collects items of acknowledged channels, has their owner store them, and then acknowledges them to the sender.

    `commit(owner)` is the plugin's hook: None, or a future that is done when the owner has stored what came before the
    call; False if the hook failed.
    """

    def __init__(
        self,
        loop: Loop,
        wake_loop: WakeLoop,
        commit: Callable[[Owner], Future[None] | Literal[False] | None],
    ) -> None:
        self._wake_loop = wake_loop
        self._commit = commit
        self._receipts = Receipts()
        self._pending: dict[tuple[str, Link, Owner], _Seen] = {}
        """By channel, association and owner: the items that it was not asked to store yet."""
        self._ask_soon = WakeUp(self._ask, loop, wake_loop)

    def received(self, owner: Owner, channel: str, link: Link, number: int) -> bool:
        """Count an item. Returns False if it had come before."""
        self._ask_soon.ask_after(ACKNOWLEDGE_AFTER)
        key = channel, link, owner
        numbers = self._pending.get(key)
        if numbers is None:
            numbers = self._pending[key] = _Seen()
        numbers.add(number)
        return self._receipts.is_new(link.info.process, channel, number)

    def forget(self, link: Link) -> None:
        """Forget an association that is gone."""
        self._pending = {key: value for key, value in self._pending.items() if key[1] is not link}

    def forget_owner(self, owner: Owner) -> None:
        """Forget an owner that stores nothing any more: items that it was not asked to store come again, to another."""
        self._pending = {key: value for key, value in self._pending.items() if key[2] is not owner}

    def _ask(self) -> None:
        pending, self._pending = self._pending, {}
        by_owner: dict[Owner, list[tuple[str, Link, _Seen]]] = {}
        for (channel, link, owner), numbers in pending.items():
            by_owner.setdefault(owner, []).append((channel, link, numbers))
        for owner, items in by_owner.items():
            done = self._commit(owner)
            if done is None:
                _acknowledge(items)
            elif done is False:
                self._ask_again(owner, items)
            else:
                done.add_done_callback(partial(self._committed, owner, items))

    def _committed(self, owner: Owner, items: list[tuple[str, Link, _Seen]], done: Future[None]) -> None:
        """Acknowledge the items, or ask again. Any thread."""
        failed = done.cancelled() or done.exception() is not None
        try:
            self._wake_loop(partial(self._ask_again, owner, items) if failed else partial(_acknowledge, items))
        except RuntimeError:
            pass  # the loop is closed: the items come again, to another process

    def _ask_again(self, owner: Owner, items: list[tuple[str, Link, _Seen]]) -> None:
        """Ask an owner again later, which could not store the items now."""
        for channel, link, numbers in items:
            if not link.down:
                newer = self._pending.get((channel, link, owner))
                if newer is not None:
                    for number in newer:
                        numbers.add(number)
                self._pending[channel, link, owner] = numbers
        if self._pending:
            self._ask_soon.ask_after(ASK_AGAIN_AFTER)


def _acknowledge(items: list[tuple[str, Link, _Seen]]) -> None:
    """Acknowledge the items that came, and none between them: one that was discarded while its plugin was set aside may
    be on its way again."""
    for channel, link, numbers in items:
        for first, last in numbers.ranges():
            link.connection.acknowledge(channel, last, first)  # nothing happens if the association is gone
        link.driver.wake()
