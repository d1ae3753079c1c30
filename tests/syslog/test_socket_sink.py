"""Lines to the system's syslog."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fcgi_syslog import datagram_sink, sinks
from fcgi_syslog.socket_sink import SocketSink, format_datagram
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.plugin import FeedEntry

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")


def entry(message: str = "text") -> FeedEntry:
    return FeedEntry(1_700_000_000.0, 3, message, "shop.example", "shop:app", 16, "71")


class Daemon:
    """What listens on /dev/log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket: socket.socket | None = None

    def start(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(10)
        self._socket.bind(str(self.path))

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self.path.unlink()

    def receive(self) -> bytes:
        assert self._socket is not None
        return self._socket.recv(1 << 20)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "log")
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def sink(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketSink]:
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    monkeypatch.setattr(datagram_sink, "RETRY_AFTER", 0.01)
    sink = SocketSink(str(daemon.path), LOG)
    yield sink
    sink.close()
    sink.join(10)


def test_the_datagram() -> None:
    datagram = format_datagram(entry("a\nb"))
    assert re.fullmatch(rb"<131>Nov 1[45] \d\d:\d\d:20 shop_app\[71\]: shop\.example: a\\nb", datagram)
    assert format_datagram(FeedEntry(0.0, 6, "text")).endswith(b" -: text")


@given(st.text(st.characters()), st.text(st.characters()))
def test_no_datagram_can_be_forged(message: str, name: str) -> None:
    datagram = format_datagram(FeedEntry(0.0, 6, message, name, name, 1, name))
    assert re.fullmatch(
        rb"<14>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d [\w.-]+(?:\[[\w.-]+\])?: [^\x00-\x1f\x7f]*", datagram
    )


def test_lines_arrive(daemon: Daemon, sink: SocketSink) -> None:
    sink.write(entry("one"))
    sink.write(entry("two"))
    assert daemon.receive().endswith(b": one")
    assert daemon.receive().endswith(b": two")


def test_a_daemon_that_is_restarted(daemon: Daemon, sink: SocketSink) -> None:
    sink.write(entry("one"))
    assert daemon.receive().endswith(b": one")
    daemon.stop()
    daemon.start()
    sink.write(entry("two"))
    assert daemon.receive().endswith(b": two")


def test_a_daemon_that_is_away(daemon: Daemon, sink: SocketSink, caplog: pytest.LogCaptureFixture) -> None:
    daemon.stop()
    sink.write(entry("one"))
    sink.write(entry("two"))
    assert not sink.drain(0.05)
    daemon.start()
    assert daemon.receive().endswith(b": one")
    assert daemon.receive().endswith(b": two")
    assert sink.drain()
    assert "failed: [Errno 2]" in caplog.records[0].getMessage()
    assert caplog.records[-1].getMessage().endswith("works again")


def test_a_daemon_that_does_not_read(daemon: Daemon, sink: SocketSink) -> None:
    for number in range(2000):  # more than net.unix.max_dgram_qlen
        sink.write(entry(str(number)))
    received = [daemon.receive().rsplit(b" ", 1)[1] for _ in range(2000)]
    assert received == [b"%d" % number for number in range(2000)]


def test_a_line_that_is_too_long_is_cut(daemon: Daemon, sink: SocketSink) -> None:
    sink.write(entry("x" * (1 << 20)))
    datagram = daemon.receive()
    assert len(datagram) < 9000
    assert datagram.endswith(b"x [cut: 1048590 bytes in all]")
