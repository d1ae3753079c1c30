"""Items that are kept until somebody has taken them over, in memory and, if wished, in a file that outlives a process.

The file is a log: records of items and of acknowledgements, each with a checksum, so that one that a kill cut in the
middle is seen and left out. It is emptied whenever nothing is left to keep. It is not synced to the disk after each
item: it survives the end of the process, not that of the machine.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Hashable
from functools import partial
from pathlib import Path

from .channels import MAX_ITEM
from .turns import Turns

__all__ = ["Spool"]

_RECORD = struct.Struct(">IQI")
"""length of the item (ACKNOWLEDGED for none), number, CRC-32 of number and item"""
_ACKNOWLEDGED = 0xFFFFFFFF
COMPACT = 4
"""A file this many times as long as what it keeps is written anew."""
ITEM_OVERHEAD = 64
"""Bytes counted for an item beside its own."""
LONGEST = MAX_ITEM - 8
"""Bytes of an item: with its number no longer one could ever be sent, and it would hold up all that came after it."""
PATIENCE = 1.0
"""Seconds at most that `add` waits for another thread that writes the file: then that thread writes the item, too."""


class Spool:
    """A numbered queue. Numbers rise by one, from 1, or from what an earlier process left.

    `add` may be called on any thread, the rest on one.
    """

    def __init__(self, bound: int, path: Path | None = None) -> None:
        """Keep up to `bound` bytes; what a file at `path` holds from before is kept first. OSError if that cannot be
        read or written."""
        self.bound = bound
        self._items: dict[int, bytes] = {}
        self._again: deque[int] = deque()
        """Items that a lost receiver had, all older than those of `_unsent`."""
        self._unsent: deque[int] = deque()
        self._sent: dict[Hashable, dict[int, None]] = {}
        """By receiver: numbers in the order in which they were sent to it."""
        self.size = 0
        """Bytes kept, with what counts for each item."""
        self._next = 1
        self._turns = Turns()
        """For what changes items, numbers and the file; the rest is the loop's alone."""
        self.path = path
        self._file_size = 0
        self._file: int | None = None
        self._not_before = 0
        """It could not be written anew: that is tried again when it is so long."""
        if path is not None:
            self._open(path)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: bytes) -> bool:
        """Keep an item; False if there is no room, or it is longer than can be sent."""
        cost = len(item) + ITEM_OVERHEAD
        if self.size + cost > self.bound or len(item) > LONGEST:
            return False
        self.size += cost
        self._turns.add(partial(self._add, item), PATIENCE)
        return True

    def _add(self, item: bytes) -> None:
        number = self._next
        self._next += 1
        self._items[number] = item
        if self._file is not None:
            self._write(_record(number, item))
        self._unsent.append(number)

    def next(self) -> tuple[int, bytes] | None:
        """The oldest item that has not been sent."""
        waiting = self._again or self._unsent
        if not waiting:
            return None
        number = waiting[0]
        return number, self._items[number]

    def sent(self, receiver: Hashable, number: int) -> None:
        """What `next` gave has been sent to `receiver`, in this order."""
        (self._again or self._unsent).popleft()
        self._sent.setdefault(receiver, {})[number] = None

    def acknowledge(self, receiver: Hashable, number: int) -> None:
        """`receiver` has taken over all that it was sent up to `number`; a number it was not sent changes nothing."""
        sent = self._sent.get(receiver)
        if sent is None or number not in sent:
            return
        taken: list[int] = []
        for one in sent:
            taken.append(one)
            if one == number:
                break
        for one in taken:
            del sent[one]
        self._turns.add(partial(self._leave_out, taken))

    def _leave_out(self, numbers: list[int]) -> None:
        for one in numbers:
            cost = len(self._items.pop(one)) + ITEM_OVERHEAD
            self.size -= cost  # no call in between: `add` changes it on other threads
        if self._file is not None:
            self._write(b"".join(_record(one, None) for one in numbers))
        if self._file is not None and self._file_size > max(COMPACT * max(self.size, 65536), self._not_before):
            try:
                self._rewrite()
            except OSError:  # no file descriptor, or a full disk: the file that there is goes on
                self._not_before = 2 * self._file_size

    def forget(self, receiver: Hashable) -> int:
        """`receiver` is gone: what it had not acknowledged is to be sent again, first. How many items that are."""
        sent = self._sent.pop(receiver, None)
        if not sent:
            return 0
        self._again = deque(sorted({*sent, *self._again}))
        return len(sent)

    def close(self) -> None:
        """Close the file; it is removed if nothing is left in it."""
        self._turns.add(self._close)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if not self._items and self.path is not None:
                self.path.unlink(missing_ok=True)

    # ---- the file

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for number, item in _read(path.read_bytes()):
                if item is None:
                    gone = self._items.pop(number, None)
                    self.size -= 0 if gone is None else len(gone) + ITEM_OVERHEAD
                else:
                    self._items[number] = item
                    self.size += len(item) + ITEM_OVERHEAD
                self._next = max(self._next, number + 1)
            self._unsent.extend(self._items)
        self._rewrite()

    def _rewrite(self) -> None:
        """Write anew what is kept, and put it in the old file's place in one step. OSError, and the old one stays."""
        assert self.path is not None
        content = b"".join(_record(number, item) for number, item in self._items.items())
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, content)
            os.replace(fresh, self.path)
        except OSError:
            os.close(descriptor)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._file_size, self._not_before = descriptor, len(content), 0

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            _write_all(self._file, data)
        except OSError:
            # a full disk: the item is kept in memory all the same; a part of it would hide what comes after it
            os.ftruncate(self._file, self._file_size)
        else:
            self._file_size += len(data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _record(number: int, item: bytes | None) -> bytes:
    body = item or b""
    check = zlib.crc32(body, number & 0xFFFFFFFF)
    return _RECORD.pack(_ACKNOWLEDGED if item is None else len(body), number, check) + body


def _read(data: bytes) -> list[tuple[int, bytes | None]]:
    """The whole records at the beginning of `data`; None for an acknowledgement."""
    records: list[tuple[int, bytes | None]] = []
    position = 0
    while position + _RECORD.size <= len(data):
        length, number, check = _RECORD.unpack_from(data, position)
        start = position + _RECORD.size
        body = b"" if length == _ACKNOWLEDGED else data[start : start + length]
        if zlib.crc32(body, number & 0xFFFFFFFF) != check or (length != _ACKNOWLEDGED and len(body) != length):
            break
        records.append((number, None if length == _ACKNOWLEDGED else body))
        position = start + len(body)
    return records
