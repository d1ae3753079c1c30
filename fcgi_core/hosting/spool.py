"""Items that are kept until the other side has acknowledged them, in memory and, if wished, in a file that survives the
process.

The file is a log: records of items and of acknowledgements, each with a checksum. Damaged parts are skipped, and the
records behind them are found. When most of the file is acknowledged it is rewritten, a little with each call, so that
no call waits for all of it. It is not synced to the disk after each item: it survives the end of the process, not that
of the machine.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import struct
import threading
import zlib
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..common.turns import Turns
from ..protocol.channels import MAX_ITEM

__all__ = ["Spool"]

_RECORD = struct.Struct(">IQI")
"""Length of the item (or one of the two below), number, CRC-32 of number and content."""
_ACKNOWLEDGED = 0xFFFFFFFF
"""The item of this number is acknowledged. No content. Written by earlier versions."""
_ACKNOWLEDGED_TO = 0xFFFFFFFE
"""The items from this number to the one in the content are acknowledged."""
_LAST = struct.Struct(">Q")
_HEADER = re.compile(rb"(?=(?:\xff\xff\xff[\xfe\xff]|[\x00-\x0f]...)\x00\x00\x00(?!\x00{5}).{5})", re.DOTALL)
"""The beginning of a record's header: one of these two or a length below 256 MiB, and a number from 1 to 2**40."""
COMPACT = 4
"""A file this many times as long as what it keeps is rewritten."""
LEAST = 64 << 10
"""Bytes that a file may have in any case before it is rewritten."""
STEP = 256 << 10
"""Bytes that are rewritten with one call, which takes some 0.1 ms."""
MOST_READ = 16
"""A file is read up to this many times the spool's bound: our processes write no longer ones."""
MOST_ITEMS = 1 << 40
"""The highest number: a million items a second for twelve days."""
ITEM_OVERHEAD = 64
"""Bytes counted for an item in addition to its content."""
LONGEST = MAX_ITEM - 8
"""Bytes of an item at most: a longer one, with its number, could not be sent and would hold up all that follow it."""
PATIENCE = 1.0
"""Seconds that `add` waits at most for another thread that writes the file; then that thread writes the item, too."""


class Spool:
    """A numbered queue. Numbers rise by one, from 1, or from what an earlier process left.

    `add` may be called on any thread, the rest on one.
    """

    def __init__(self, bound: int, path: Path | None = None) -> None:
        """Keep up to `bound` bytes, first the items in a file at `path`. OSError if the file cannot be read or written,
        or is not a regular file."""
        self.bound = bound
        self._items: dict[int, bytes] = {}
        self._again: deque[int] = deque()
        """Items that were sent to a receiver that is lost, all older than those of `_unsent`."""
        self._unsent: deque[int] = deque()
        self._sent: dict[Hashable, dict[int, None]] = {}
        """By receiver: the numbers sent to it, in order."""
        self.size = 0
        """Bytes kept, `ITEM_OVERHEAD` included."""
        self.unreadable = 0
        """Bytes of the file that could not be read."""
        self.left_out = 0
        """Items of the file for which there was no room."""
        self._next = 1
        self._turns = Turns()
        """For changes of items, numbers and the file; everything else is the loop's alone."""
        self.path = path
        self._file_size = 0
        self._file: int | None = None
        self._fresh: int | None = None
        """The file that replaces the other one as soon as all kept items have been copied to it."""
        self._fresh_size = 0
        self._to_copy: deque[int] = deque()
        self._copied = 0
        """Items up to this number are in the new file, if they are still kept."""
        self._not_before = 0
        """The length at which rewriting is tried again after it failed."""
        if path is not None:
            self._open(path)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: bytes) -> bool:
        """Keep an item of at least one byte. Returns False if there is no room, or it is too long to be sent."""
        cost = len(item) + ITEM_OVERHEAD
        if self.size + cost > self.bound or not 0 < len(item) <= LONGEST:
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
            if self._fresh is not None:
                self._to_copy.append(number)
                self._copy_some()
        self._unsent.append(number)

    def next(self) -> tuple[int, bytes] | None:
        """Returns the oldest item that has not been sent, with its number; None if there is none."""
        waiting = self._again or self._unsent
        if not waiting:
            return None
        number = waiting[0]
        return number, self._items[number]

    def sent(self, receiver: Hashable, number: int) -> None:
        """Count the item that `next` returned as sent to `receiver`."""
        (self._again or self._unsent).popleft()
        self._sent.setdefault(receiver, {})[number] = None

    def in_flight(self, receiver: Hashable) -> int:
        """Returns the number of items that `receiver` was sent and has not acknowledged."""
        return len(self._sent.get(receiver, ()))

    def acknowledge(self, receiver: Hashable, number: int, first: int = 0) -> None:
        """Drop what `receiver` was sent of the items from `first` to `number`. If `first` is 0, drop all that it was
        sent before `number`, too; a number that it was not sent changes nothing then."""
        sent = self._sent.get(receiver, {})
        taken: list[int] = []
        if first:
            few = number - first < len(sent)
            taken += [
                one for one in (range(first, number + 1) if few else sent) if one in sent and first <= one <= number
            ]
        elif number in sent:
            for one in sent:
                taken.append(one)
                if one == number:
                    break
        if not taken:
            return
        for one in taken:
            del sent[one]
        self._turns.add(partial(self._leave_out, taken))

    def _leave_out(self, numbers: list[int]) -> None:
        for one in numbers:
            cost = len(self._items.pop(one)) + ITEM_OVERHEAD
            self.size -= cost  # no call in between: `add` changes it on other threads
        if self._file is None:
            return
        self._write(_acknowledgements(numbers))
        if self._fresh is not None:
            self._copy_some(_acknowledgements(one for one in numbers if one <= self._copied))
        elif self._file_size > max(COMPACT * max(self.size, LEAST), self._not_before):
            self._begin_rewrite()
            if self._fresh is not None:
                self._copy_some()

    def forget(self, receiver: Hashable) -> int:
        """Forget a receiver that is gone: its unacknowledged items are sent again, first. Returns how many they are."""
        sent = self._sent.pop(receiver, None)
        if not sent:
            return 0
        self._again = deque(sorted({*sent, *self._again}))
        return len(sent)

    def close(self) -> None:
        """Close the file, and remove it if it holds no item."""
        self._turns.add(self._close)

    def _close(self) -> None:
        if self._file is not None:
            self._give_up_fresh()
            os.close(self._file)
            self._file = None
            if not self._items and self.path is not None:
                self.path.unlink(missing_ok=True)

    # ---- the file

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_alone(path)
        try:
            status = os.fstat(self._file)
            self._file_size = status.st_size
            if status.st_size:
                self._load(self._file, status.st_size)
        except BaseException:
            os.close(self._file)
            raise
        if self._file_size > COMPACT * max(self.size, LEAST) or self.unreadable or self.left_out:
            self._begin_rewrite()
            while self._fresh is not None:
                self._copy_some()

    def _load(self, file: int, size: int) -> None:
        """Read the items of a file that are not acknowledged, the oldest first, as far as there is room."""
        readable = min(size, MOST_READ * max(self.bound, LEAST))
        places: dict[int, tuple[int, int]] = {}
        position = 0
        with mmap.mmap(file, readable, access=mmap.ACCESS_READ) as data:
            for number, start, end, last in _read(data):
                self.unreadable += start - _RECORD.size - position
                position = end
                if last:
                    if last - number > len(places):
                        for one in [one for one in places if number <= one <= last]:
                            del places[one]
                    else:
                        for one in range(number, last + 1):
                            places.pop(one, None)
                else:
                    places[number] = start, end
                self._next = max(self._next, number + 1, last + 1)
            self.unreadable += size - position
            for number, (start, end) in sorted(places.items()):
                cost = end - start + ITEM_OVERHEAD
                if self.size + cost > self.bound:
                    self.left_out += 1
                    continue
                self._items[number] = data[start:end]
                self.size += cost
        self._unsent.extend(self._items)

    def _begin_rewrite(self) -> None:
        """Begin a new file, to which the kept items are copied."""
        assert self.path is not None
        path = self.path.with_name(self.path.name + ".new")
        try:
            path.unlink(missing_ok=True)
            self._fresh = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _lock(self._fresh, path)
        except OSError:  # no file descriptor, for example: the old file stays in use
            self._give_up_fresh()
            self._not_before = 2 * self._file_size
            return
        self._fresh_size = 0
        self._to_copy = deque(self._items)
        self._copied = 0

    def _copy_some(self, first: bytes = b"") -> None:
        """Write `first`, and then some of the kept items, to the new file. When it has all of them, it replaces the old
        one in one step."""
        assert self._fresh is not None
        assert self._file is not None
        assert self.path is not None
        parts = [first]
        room = STEP
        while self._to_copy and room > 0:
            self._copied = number = self._to_copy.popleft()
            item = self._items.get(number)
            room -= _RECORD.size
            if item is not None:
                parts.append(_record(number, item))
                room -= len(item)
        content = b"".join(parts)
        try:
            _write_all(self._fresh, content)
            self._fresh_size += len(content)
            if self._to_copy:
                return
            os.replace(self.path.with_name(self.path.name + ".new"), self.path)
        except OSError:  # a full disk: the old file stays in use
            self._give_up_fresh()
            self._not_before = 2 * self._file_size
            return
        old, self._file, self._fresh = self._file, self._fresh, None
        self._file_size, self._not_before = self._fresh_size, 0
        # its last descriptor: the file system frees all of it then, which may take a while
        threading.Thread(target=os.close, args=(old,), name="close spool", daemon=True).start()

    def _give_up_fresh(self) -> None:
        if self._fresh is not None and self.path is not None:
            os.close(self._fresh)
            self._fresh = None
            self._to_copy.clear()
            self.path.with_name(self.path.name + ".new").unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            _write_all(self._file, data)
        except OSError:
            # a full disk: the item is still kept in memory; a part of it would break the next record
            with suppress(OSError):
                os.ftruncate(self._file, self._file_size)
        else:
            self._file_size += len(data)


def _open_alone(path: Path) -> int:
    """Open a spool's file and lock it for this process: two processes would lose each other's items."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "the spool is not a regular file", str(path))
            _lock(descriptor, path)
            if os.path.samestat(status, os.stat(path)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another process has replaced it meanwhile


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise OSError(errno.EBUSY, "another process uses this spool", str(path)) from None
        # a file system without locks


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _check(number: int, content: bytes | memoryview) -> int:
    """Returns the checksum of a record. All bits of the number count; below 2**32 it is the CRC that begins with the
    number, as in files of earlier versions."""
    return zlib.crc32(content, (number ^ number >> 32) & 0xFFFFFFFF)


def _record(number: int, item: bytes, kind: int | None = None) -> bytes:
    check = _check(number, item)
    return _RECORD.pack(len(item) if kind is None else kind, number, check) + item


def _acknowledgements(numbers: Iterable[int]) -> bytes:
    """Returns the records for acknowledged numbers: one for each run of consecutive numbers."""
    records: list[bytes] = []
    first = last = 0
    for number in numbers:
        if first and number == last + 1:
            last = number
            continue
        if first:
            records.append(_record(first, _LAST.pack(last), _ACKNOWLEDGED_TO))
        first = last = number
    if first:
        records.append(_record(first, _LAST.pack(last), _ACKNOWLEDGED_TO))
    return b"".join(records)


def _read(data: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    """Yields the complete records in `data`: of an item its number, where its content begins and ends, and 0; of an
    acknowledgement the first number, two positions, and the last number. Damaged parts are skipped."""
    position = 0
    with memoryview(data) as view:
        while True:
            found = _read_one(view, position)
            if found is None:
                for match in _HEADER.finditer(data, position + 1):
                    found = _read_one(view, match.start())
                    if found is not None:
                        break
                else:
                    return
            yield found
            position = found[2]


def _read_one(view: memoryview, position: int) -> tuple[int, int, int, int] | None:
    """Returns the record that begins here; None if there is none, or it is damaged."""
    start = position + _RECORD.size
    if start > len(view):
        return None
    length, number, check = _RECORD.unpack_from(view, position)
    if not length:
        return None  # no item is empty, and the checksum of nothing would say little
    end = start + (0 if length == _ACKNOWLEDGED else _LAST.size if length == _ACKNOWLEDGED_TO else length)
    if end > len(view) or not 0 < number <= MOST_ITEMS or _check(number, view[start:end]) != check:
        return None
    last = 0
    if length == _ACKNOWLEDGED:
        last = number
    elif length == _ACKNOWLEDGED_TO:
        (last,) = _LAST.unpack(view[start:end])
    return number, start, end, last
