"""Lines into files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from fcgi_syslog import file_sink, sinks
from fcgi_syslog.file_sink import FileSink, file_name
from fcgi_syslog.formats import format_line
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.plugin import FeedEntry

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")
ANY_TEXT = st.text(st.characters())


def entry(message: str = "text", server_name: str = "shop.example") -> FeedEntry:
    return FeedEntry(0.0, 6, message, server_name, "shop", 1, "71", "cart", "req-1")


def deliver(sink: FileSink, *entries: FeedEntry) -> None:
    """What the sink's thread does."""
    for one in entries:
        sink.prepare(one)
    sink.push()


def test_the_line() -> None:
    assert format_line(entry()) == "1970-01-01T00:00:00.000000Z info shop.example shop[71] [req-1] text\n"
    assert format_line(FeedEntry(0.0, 0, "")) == "1970-01-01T00:00:00.000000Z emerg - - [-] \n"


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_no_line_can_be_forged(message: str, name: str, process: str, request: str) -> None:
    line = format_line(FeedEntry(0.0, 6, message, name, name, 1, process, "", request))
    assert line.splitlines() == [line[:-1]]
    assert line.startswith("1970-01-01T00:00:00.000000Z info ")
    line.encode()


@given(ANY_TEXT)
def test_file_names_are_safe(server_name: str) -> None:
    name = file_name(server_name)
    assert name
    assert "/" not in name
    assert not name.startswith(".")
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= 100


@pytest.mark.parametrize(
    ("server_name", "name"),
    [("Shop.Example", "shop.example"), ("", "_"), ("..", "_."), ("../../etc", "_._.._etc"), ("[::1]", "___1_")],
)
def test_file_names(server_name: str, name: str) -> None:
    assert file_name(server_name) == name


def test_a_file_for_each_host(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "logs" / "{server_name}.log"), LOG)
    for number in range(3):
        sink.write(entry(str(number), "a.example"))
        sink.write(entry(str(number), "B.example"))
    sink.write(entry("x", "../evil"))
    sink.close()
    sink.join(10)
    files = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert sorted(files) == ["_._evil.log", "a.example.log", "b.example.log"]
    assert [line[-1] for line in files["a.example.log"].splitlines()] == ["0", "1", "2"]
    assert [line[-1] for line in files["b.example.log"].splitlines()] == ["0", "1", "2"]
    assert (tmp_path / "logs" / "a.example.log").stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_files_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_sink, "MAX_NAMES", 3)
    monkeypatch.setattr(file_sink, "MAX_OPEN", 2)
    sink = FileSink(str(tmp_path / "{server_name}"), LOG)
    for _ in range(2):
        for name in "abcde":
            sink.write(entry("x", name))
            assert sink.drain()
    sink.write(entry("x", "a"))
    sink.drain()
    deliver(sink, *[entry("x", name) for name in "abc"])  # in one batch; the sink's thread is idle
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert sum(name.startswith(str(tmp_path)) for name in open_files) <= 2
    sink.close()
    sink.join(10)
    lines = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert lines == {"a": 4, "b": 3, "c": 3, "_others": 4}


def _is_link(descriptor: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{descriptor}")


def test_reopen(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    sink = FileSink(str(path), LOG)
    sink.write(entry("one"))
    assert sink.drain()
    path.rename(tmp_path / "a.log.1")
    sink.reopen()
    sink.write(entry("two"))
    sink.close()
    sink.join(10)
    assert path.read_text().endswith(" two\n")
    assert (tmp_path / "a.log.1").read_text().endswith(" one\n")


def test_lines_that_cannot_be_written_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.log"
    path.mkdir()  # even root cannot write into a directory
    sink = FileSink(str(tmp_path / "{server_name}.log"), LOG)
    with pytest.raises(IsADirectoryError):
        deliver(sink, entry("one", "a"), entry("two", "b"))
    assert (tmp_path / "b.log").read_text().endswith(" two\n")
    assert sink.left() == len(format_line(entry("one", "a")))
    sink.release()
    path.rmdir()
    deliver(sink, entry("three", "a"))
    assert sink.left() == 0
    sink.release()
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "three"]


def test_a_full_disk_loses_no_line_and_writes_none_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room = 30
    write = os.write

    def write_little(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        written = write(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write_little)
    path = tmp_path / "a.log"
    sink = FileSink(str(path), LOG)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.log'"):
        deliver(sink, entry("one"))
    room = 10_000
    deliver(sink, entry("two"))
    sink.release()
    assert path.read_text() == format_line(entry("one")) + format_line(entry("two"))


def test_one_host_whose_file_fails_holds_up_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.log").symlink_to("/dev/full")
    sink = FileSink(str(tmp_path / "{server_name}.log"), LOG)
    sink.bound = 200_000
    for number in range(1000):
        sink.write(entry(f"{number} {'x' * 1000}", "bad"))
        sink.write(entry(str(number), "good"))
        if number % 20 == 0:
            sink.drain(0.02)
    sink.close()
    assert sink.join(10)
    figures = sink.figures()
    assert figures.state == "failing"
    assert figures.lost > 800
    good = (tmp_path / "good.log").read_text().splitlines()
    assert len(good) > 50
    assert sink.lost + len(good) == 2000
    assert "No space left on device" in caplog.text


def test_a_pipe(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nothing reads from is a failure, not a thread that hangs without a word; so is one that is full."""
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    monkeypatch.setattr(sinks, "RETRY_MOST", 0.01)
    monkeypatch.setattr(file_sink, "RETRY_AFTER", 0.001)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = FileSink(str(path), LOG)
    sink.write(entry("one"))
    assert not sink.drain(0.05)
    assert sink.figures().state == "failing"
    assert "nothing reads from this pipe" in caplog.text
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, encoding="ascii") as reader:
        os.set_blocking(descriptor, True)
        assert sink.drain(10)
        count = 200
        for number in range(count):
            sink.write(entry(f"{number} {'x' * 1000}"))
        assert not sink.drain(0.05), "the pipe is full"
        sink.close()  # the last attempt takes as much as the pipe does
        lines = [reader.readline() for _ in range(50)]
        assert lines[0].endswith("] one\n")
        assert sink.join(10)
    figures = sink.figures()
    assert figures.lost > 0
    assert figures.written + figures.lost == count + 1
    assert "what reads from this pipe is too slow" in caplog.text


@pytest.mark.parametrize("kind", ["directory", "full disk", "forbidden"])
def test_a_path_that_cannot_be_written_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    monkeypatch.setattr(sinks, "RETRY_MOST", 0.01)
    path = tmp_path / "log"
    if kind == "directory":
        path.mkdir()
    elif kind == "full disk":
        path.symlink_to("/dev/full")
    else:
        path.symlink_to("/proc/version")
    sink = FileSink(str(path), LOG)
    sink.write(entry("one"))
    assert not sink.drain(0.05)
    figures = sink.figures()
    assert (figures.state, figures.waiting, figures.lost) == ("failing", 1, 0)
    assert figures.errors > 0
    assert str(path) in figures.last_error
    path.rmdir() if kind == "directory" else path.unlink()
    sink.reopen()
    sink.write(entry("two"))
    assert sink.drain(10)
    figures = sink.figures()
    assert (figures.state, figures.waiting, figures.last_error) == ("idle", 0, "")
    sink.close()
    assert sink.join(10)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two"]
