"""The input for programs that call syslog(3)."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fcgi_syslog import local_socket
from fcgi_syslog.local_socket import LocalLine, LocalSocket, read_datagram
from hypothesis import given
from hypothesis import strategies as st

Lines = queue.Queue[tuple[LocalLine, int, int]]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"<11>Nov 22 22:01:02 cron[71]: done\0", (3, 1, "cron", "done")),
        (b"<134>2026-11-22T22:01:02.5+01:00 shop: a: b\n", (6, 16, "shop", "a: b")),
        (b"<0>kernel panic", (0, 1, "", "kernel panic")),
        (b"no priority at all", (5, 1, "", "no priority at all")),
        (b"<999>x", (5, 1, "", "<999>x")),
        (b"<13>two\nlines\xff", (5, 1, "", "two\nlines\\xff")),
        (b"", (5, 1, "", "")),
    ],
)
def test_the_parts_of_a_datagram(data: bytes, line: tuple[int, int, str, str]) -> None:
    assert read_datagram(data) == LocalLine(*line)


@given(st.binary())
def test_anything_may_come(data: bytes) -> None:
    line = read_datagram(data)
    assert 0 <= line.severity <= 7
    assert 1 <= line.facility <= 23


@pytest.fixture
def lines() -> Lines:
    return queue.Queue()


@pytest.fixture
def listening(tmp_path: Path, lines: Lines) -> Iterator[LocalSocket]:
    listening = LocalSocket(str(tmp_path / "log"), lambda *line: lines.put(line), lambda: None)
    yield listening
    listening.close()


SEND = """
import socket, sys
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.connect(sys.argv[1])
sender.send(b"<30>Nov 22 22:00:00 daemon[1]: started")
"""


def test_another_process(listening: LocalSocket, lines: Lines) -> None:
    subprocess.run([sys.executable, "-c", SEND, listening.path], check=True)
    line, pid, uid = lines.get(timeout=10)
    assert line == LocalLine(6, 3, "daemon", "started")
    assert pid not in (0, 1, os.getpid()), "the kernel says who sent it"
    assert uid == os.getuid()


def test_every_user_may_write_and_the_last_lines_are_read(listening: LocalSocket, lines: Lines) -> None:
    assert os.stat(listening.path).st_mode & 0o777 == 0o666
    with pytest.raises(OSError, match="another process listens here"):
        LocalSocket(listening.path, lambda *line: None, lambda: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(listening.path)
        for number in range(3):
            sender.send(b"last words %d" % number)
    listening.close()
    assert [lines.get(timeout=10)[0].text for _ in range(3)] == [f"last words {number}" for number in range(3)]
    assert not os.path.exists(listening.path)


def test_a_socket_that_a_killed_process_left(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    LocalSocket(str(path), lambda *line: None, lambda: None).close()
    path.write_text("a file of another program")
    with pytest.raises(OSError, match="in use"):
        LocalSocket(str(path), lambda *line: None, lambda: None)
    assert path.read_text()


def test_no_datagram_ends_the_reader(tmp_path: Path, lines: Lines) -> None:
    """Any program on the machine may send anything; a call of syslog(3) that is not read waits for ever."""
    lost = threading.Semaphore(0)

    def take(line: LocalLine, pid: int, uid: int) -> None:
        if line.text == "bug":
            raise RuntimeError("a bug of ours")
        lines.put((line, pid, uid))

    listening = LocalSocket(str(tmp_path / "log"), take, lost.release)
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(listening.path)
        sender.settimeout(10)
        for data in (b"", b"\0", b"\n", b"<", b"\xff" * 1000, b"<13>bug", b""):
            sender.send(data)
        socket.send_fds(sender, [b""], [read])
        socket.send_fds(sender, [b"with a descriptor"], [read, write])
        for number in range(600):  # more than wait in the kernel
            sender.send(b"<13>after %d" % number)
            sender.send(b"")
        sender.send(b"last")
    os.close(read)
    with pytest.raises(BrokenPipeError):  # no copy of the reading end is left in this process
        os.write(write, b"x")
    os.close(write)
    assert lost.acquire(timeout=10)
    listening.close()
    texts = [line.text for line, _, _ in lines.queue]
    assert texts[-1] == "last"
    assert texts.count("with a descriptor") == 1
    assert sum(text.startswith("after ") for text in texts) == 600
    assert all(pid == os.getpid() for _, pid, _ in lines.queue)


def test_a_line_that_the_kernel_cut_says_so(
    listening: LocalSocket, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_socket, "LONGEST", 8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(listening.path)
        sender.send(b"first")  # the reader waits with the longest of before
        sender.send(b"0123456789")
    lines.get(timeout=10)
    assert lines.get(timeout=10)[0].text == "01234567 [cut by the socket]"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_it_alone(listening: LocalSocket, lines: Lines) -> None:
    child = os.fork()
    if not child:
        listening.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(listening.path)
        sender.send(b"still here")
    assert lines.get(timeout=10)[0].text == "still here"
