"""The spool: nothing that was added goes before it is acknowledged, in memory and in its file."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.hosting.spool import ITEM_OVERHEAD, STEP, Spool

RECORD = 16
"""Bytes of a record beside its item."""


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


def test_acknowledged_items_make_room() -> None:
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


def test_a_range_takes_what_was_sent_of_it_and_nothing_else() -> None:
    spool = Spool(1 << 20)
    for number in range(1, 10):
        spool.add(b"%d" % number)
    drain(spool, "a")
    for first, last in ((4, 4), (1 << 50, 1 << 60), (7, 6), (1, 1)):
        spool.acknowledge("a", last, first)
    spool.acknowledge("b", 9, 1)
    assert spool.in_flight("a") == 7
    spool.acknowledge("a", 6, 4)  # the fourth came again
    spool.acknowledge("a", 1 << 60, 8)
    assert spool.forget("a") == 3
    assert [number for number, _ in drain(spool, "b")] == [2, 3, 7]


def test_items_of_a_lost_receiver_go_to_another_first() -> None:
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


def test_a_file_that_cannot_be_rewritten_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_part_that_a_full_disk_refused_hides_no_later_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# ---- damage, and files that are no spool of ours


def damaged(path: Path, items: list[bytes], at: int, damage: bytes) -> Spool:
    """The spool of a later process, which finds `damage` in the file."""
    spool = Spool(1 << 20, path)
    for item in items:
        assert spool.add(item)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(damage)
    again = Spool(1 << 20, path)
    spool.close()
    return again


@given(st.data())
def test_items_behind_damage_are_read(data: st.DataObject) -> None:
    import tempfile

    items = data.draw(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20))
    starts = [0]
    for item in items:
        starts.append(starts[-1] + RECORD + len(item))
    damage = data.draw(st.sampled_from([b"\xaa", b"\x00", b"\x55"])) * data.draw(st.integers(1, 400))
    at = data.draw(st.integers(0, starts[-1] - 1))
    with tempfile.TemporaryDirectory() as folder:
        again = damaged(Path(folder) / "x.spool", items, at, damage)
        kept = drain(again, "a")
        hit = {n for n, item in enumerate(items, 1) if starts[n - 1] < at + len(damage) and at < starts[n]}
        assert {number for number, _ in kept} >= {*range(1, len(items) + 1)} - hit
        assert all(items[number - 1] == item for number, item in kept)
        if {number for number, _ in kept} >= hit:
            assert not again.unreadable or at + len(damage) > starts[-1], "the damage made no difference"
        else:
            assert again.unreadable
        again.close()


def test_the_bytes_that_could_not_be_read_are_known_and_written_no_more(tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    again = damaged(path, [b"one", b"two", b"three"], RECORD + 3 + 4, b"\xff" * 8)
    assert [item for _, item in drain(again, "a")] == [b"one", b"three"]
    assert again.unreadable == RECORD + 3
    whole = Spool(1 << 20, path)
    assert (len(whole), whole.unreadable) == (2, 0)
    whole.close()
    again.close()


def test_a_damaged_number_is_not_believed(tmp_path: Path) -> None:
    """In its upper half, too, which the checksum left out."""
    for at in range(4, 12):
        again = damaged(tmp_path / f"{at}.spool", [b"\0", b"two"], at, b"\xaa")
        assert drain(again, "a") == [(2, b"two")]
        assert again.unreadable == RECORD + 1
        again.close()


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_blocks_of_equal_bytes_are_not_a_record(tmp_path: Path, fill: bytes) -> None:
    again = damaged(tmp_path / "x.spool", [b"one", b"two", b"three"], RECORD + 3, fill * (RECORD + 3))
    assert drain(again, "a") == [(1, b"one"), (3, b"three")]
    assert again.add(b"four")
    assert again.next() == (4, b"four")
    again.close()


def test_acknowledgements_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    spool = Spool(1 << 20, path)
    for item in (b"one", b"two", b"three"):
        spool.add(item)
    with path.open("ab") as file:
        file.write(struct.pack(">IQI", 0xFFFFFFFF, 2, zlib.crc32(b"", 2)))
    again = Spool(1 << 20, path)
    assert drain(again, "a") == [(1, b"one"), (3, b"three")]
    again.close()
    spool.close()


def test_no_more_than_the_bound_is_kept_of_a_file_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    spool = Spool(1 << 20, path)
    for number in range(10):
        spool.add(b"%d" % number + bytes(999))
    small = Spool(4 * (1000 + ITEM_OVERHEAD), path)
    assert [item[:1] for _, item in drain(small, "a")] == [b"0", b"1", b"2", b"3"]
    assert small.left_out == 6
    assert path.stat().st_size < 5000
    small.close()
    spool.close()


def test_a_file_that_no_spool_wrote_is_read_no_further_than_one_could_be(tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: to read it takes hours
    spool = Spool(1 << 20, path)
    assert (len(spool), spool.unreadable) == (0, 1 << 40)
    assert path.stat().st_size == 0
    spool.close()


def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"of somebody else")
    path = tmp_path / "x.spool"
    path.symlink_to(other)
    with pytest.raises(OSError, match="symbolic link"):
        Spool(1 << 20, path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        Spool(1 << 20, path)
    path.unlink()
    path.with_name("x.spool.new").symlink_to(other)
    spool = Spool(1 << 20, path)
    for _ in range(10):
        spool.add(bytes(50_000))
    spool.acknowledge("a", drain(spool, "a")[-1][0])
    assert path.stat().st_size < 1000, "it was written anew"
    assert other.read_bytes() == b"of somebody else"
    spool.close()


# ---- written anew a little with each call


def test_a_file_is_rewritten_in_steps_and_whole_at_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.spool"
    spool = Spool(1 << 30, path)
    for number in range(1000):
        assert spool.add(b"%04d" % number + bytes(10_000))
    drain(spool, "a")
    sizes: list[int] = []
    write = os.write

    def measured(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", measured)
    spool.acknowledge("a", 800)
    calls = 0
    while path.stat().st_size > 3_000_000:
        calls += 1
        spool.acknowledge("a", 800 + calls)
        if calls % 3 == 0:
            assert spool.add(b"new")
        again = Spool(1 << 30, _copy_of(path))
        assert [number for number, _ in drain(again, "b")] == [*range(801 + calls, 1001 + calls // 3)]
        again.close()
    assert 5 < calls < 20
    assert max(sizes) < STEP + 11_000
    assert not path.with_name("x.spool.new").exists()
    spool.close()


def _copy_of(path: Path) -> Path:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    return copy


def test_a_disk_that_fills_during_a_rewrite_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.spool"
    spool = Spool(1 << 30, path)
    for _ in range(500):
        assert spool.add(bytes(10_000))
    drain(spool, "a")
    spool.acknowledge("a", 400)
    assert path.with_name("x.spool.new").exists(), "it is under way"
    with full_disk(monkeypatch):
        spool.acknowledge("a", 401)
    assert not path.with_name("x.spool.new").exists()
    again = Spool(1 << 30, _copy_of(path))
    assert {*range(402, 501)} <= {number for number, _ in drain(again, "b")}
    again.close()
    spool.close()


def test_a_file_that_is_closed_during_a_rewrite_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    spool = Spool(1 << 30, path)
    for _ in range(500):
        assert spool.add(bytes(10_000))
    drain(spool, "a")
    spool.acknowledge("a", 400)
    spool.close()
    assert [one.name for one in tmp_path.iterdir()] == ["x.spool"]
    again = Spool(1 << 30, path)
    assert len(again) == 100
    again.close()


HOLDS = """
import sys
from pathlib import Path
from fcgi_core.hosting.spool import Spool
spool = Spool(1 << 20, Path(sys.argv[1]))
for number in range(200):
    spool.add(bytes(10_000))
    while (entry := spool.next()) is not None:
        spool.sent("a", entry[0])
    spool.acknowledge("a", number + 1)
spool.add(b"kept")
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_use_one_file(tmp_path: Path) -> None:
    """Two applications with the same folder: each would lose what is the other's. Also after it was written anew."""
    path = tmp_path / "x.spool"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"ready\n"
        with pytest.raises(OSError, match=f"another process uses this spool: '{path}'"):
            Spool(1 << 20, path)
        one.kill()
    again = Spool(1 << 20, path)
    assert [item for _, item in drain(again, "a")] == [b"kept"]
    again.close()


def test_foreign_code_inside_it_can_add(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A destructor logs while its thread is in the middle of writing; one waits for a thread that logs itself."""
    spool = Spool(1 << 20, tmp_path / "spool")
    monkeypatch.setattr("fcgi_core.hosting.spool.PATIENCE", 0.01)
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
