"""The input for programs that call syslog(3)."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
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
def test_what_is_in_a_datagram(data: bytes, line: tuple[int, int, str, str]) -> None:
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
    listening = LocalSocket(str(tmp_path / "log"), lambda *line: lines.put(line))
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


def test_who_may_write_and_what_is_left(listening: LocalSocket, lines: Lines) -> None:
    assert os.stat(listening.path).st_mode & 0o777 == 0o666
    with pytest.raises(OSError, match="another process listens here"):
        LocalSocket(listening.path, lambda *line: None)
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
    LocalSocket(str(path), lambda *line: None).close()
    path.write_text("a file of somebody's")
    with pytest.raises(OSError, match="in use"):
        LocalSocket(str(path), lambda *line: None)
    assert path.read_text()
