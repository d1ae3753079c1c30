"""The spool: nothing that was added goes before it is acknowledged, in memory and in its file."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.spool import ITEM_OVERHEAD, Spool


def drain(spool: Spool, receiver: str) -> list[tuple[int, bytes]]:
    """Send all there is to a receiver."""
    sent = []
    while (entry := spool.next()) is not None:
        spool.sent(receiver, entry[0])
        sent.append(entry)
    return sent


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It takes a part of what is written, and no more."""
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        yield


def test_what_is_acknowledged_makes_room() -> None:
    spool = Spool(2 * (10 + ITEM_OVERHEAD))
    assert spool.add(b"0123456789")
    assert spool.add(b"0123456789")
    assert not spool.add(b"x")
    assert [number for number, _ in drain(spool, "a")] == [1, 2]
    spool.acknowledge("a", 7)
    spool.acknowledge("b", 1)
    assert len(spool) == 2, "nobody was sent those"
    spool.acknowledge("a", 1)
    assert len(spool) == 1
    assert spool.add(b"0123456789")


def test_what_a_lost_receiver_had_goes_to_another_first() -> None:
    spool = Spool(1 << 20)
    for number in range(1, 6):
        spool.add(b"%d" % number)
    assert drain(spool, "a") == [(number, b"%d" % number) for number in range(1, 6)]
    spool.acknowledge("a", 2)
    spool.add(b"6")
    assert spool.forget("a") == 3
    assert [item for _, item in drain(spool, "b")] == [b"3", b"4", b"5", b"6"]
    assert spool.forget("a") == 0


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=30), st.data())
def test_a_file_gives_back_what_was_not_acknowledged(items: list[bytes], data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one" / "x.spool"
        spool = Spool(1 << 20, path)
        for item in items:
            assert spool.add(item)
        drain(spool, "a")
        taken = data.draw(st.integers(0, len(items)))
        if taken:
            spool.acknowledge("a", taken)
        # the process is killed: nothing is closed in order
        torn = data.draw(st.integers(0, 15))
        if torn:
            with path.open("ab") as file:
                file.write(bytes(torn))
        again = Spool(1 << 20, path)
        assert [item for _, item in drain(again, "b")] == items[taken:]
        assert again.add(b"new")
        number, item = drain(again, "b")[0]
        assert item == b"new"
        assert number > len(items) or not items
        again.acknowledge("b", number)
        assert len(again) == 0
        again.close()
        assert not path.exists()
        spool.close()


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    spool = Spool(1 << 20, path)
    for _ in range(200):
        for _ in range(10):
            spool.add(b"x" * 1000)
        last = drain(spool, "a")[-1][0]
        spool.acknowledge("a", last)
    assert path.stat().st_size < 300_000
    spool.close()


def test_a_file_that_cannot_be_written_anew_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file descriptor, or on a full disk: nothing is lost, and it is written anew later."""
    path = tmp_path / "x.spool"
    spool = Spool(1 << 30, path)
    assert spool.add(b"kept")
    assert spool.next() == (1, b"kept")
    spool.sent("first", 1)

    def pass_on(items: int) -> None:
        for _ in range(items):
            assert spool.add(bytes(10_000))
        spool.acknowledge("second", drain(spool, "second")[-1][0])

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        pass_on(30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    size = path.stat().st_size
    assert size > 300_000

    with full_disk(monkeypatch):
        pass_on(30)
    assert path.stat().st_size == size

    pass_on(90)
    assert path.stat().st_size < 1000
    again = Spool(1 << 30, path)
    assert drain(again, "another") == [(1, b"kept")]
    again.close()
    spool.close()


def test_what_a_full_disk_did_not_take_hides_nothing_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(1 << 20, tmp_path / "x.spool")
    spool.add(b"before")
    with full_disk(monkeypatch):
        spool.add(b"meanwhile")
    spool.add(b"after")
    assert [item for _, item in drain(spool, "a")] == [b"before", b"meanwhile", b"after"]
    again = Spool(1 << 20, tmp_path / "x.spool")
    assert drain(again, "a") == [(1, b"before"), (3, b"after")]
    again.close()
    spool.close()


def test_foreign_code_inside_it_can_add(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A destructor logs while its thread is in the middle of writing; one waits for a thread that logs itself."""
    spool = Spool(1 << 20, tmp_path / "spool")
    monkeypatch.setattr("fcgi_core.spool.PATIENCE", 0.01)
    write = os.write
    foreign = [b"of the same thread", b"of another thread"]

    def interrupted(descriptor: int, data: bytes) -> int:
        if foreign:
            assert spool.add(foreign.pop(0))
            other = threading.Thread(target=lambda: foreign and spool.add(foreign.pop()), daemon=True)
            other.start()
            other.join(10)
            assert not other.is_alive()
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        adding = threading.Thread(target=spool.add, args=(b"first",), daemon=True)
        adding.start()
        adding.join(10)
        assert not adding.is_alive(), "dead-lock"
    expected = [(1, b"first"), (2, b"of the same thread"), (3, b"of another thread")]
    assert drain(spool, "a") == expected
    spool.close()
    assert drain(Spool(1 << 20, tmp_path / "spool"), "a") == expected
