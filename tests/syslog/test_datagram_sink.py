"""A line that no datagram can carry: it is sent shorter, or given up, and holds up no other."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from fcgi_syslog import sinks
from fcgi_syslog.datagram_sink import DatagramSink
from fcgi_syslog.journal_sink import JournalSink
from fcgi_syslog.message import parse
from fcgi_syslog.socket_sink import SocketSink
from fcgi_syslog.udp_sink import UdpSink

from fcgi_core.plugin import FeedEntry

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")
FIELDS = {f"f{number}": "\x01" * 1024 for number in range(13)}
"""More than 65,507 bytes where each character is escaped, and a backslash once more."""


def entry(message: str, fields: dict[str, str] | None = None) -> FeedEntry:
    return FeedEntry(0.0, 6, message, "shop.example", "shop", 1, "71", "", "req-1", fields)


def test_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        sink = UdpSink("127.0.0.1", server.getsockname()[1], LOG)
        for one in (entry("before"), entry("big", FIELDS), entry("x" * 100_000, FIELDS), entry("after")):
            sink.write(one)
        before, big, long, after = (parse(server.recv(1 << 17)) for _ in range(4))
        assert sink.drain(10)
        sink.close()
        assert sink.join(10)
    assert (before.text, big.text, after.text) == ("before", "big", "after")
    assert big.data["fields@32473"] == {"cut": "13 fields"}
    assert big.data["fcgi@32473"] == {"server_name": "shop.example", "request": "req-1"}
    assert long.text == f"{'x' * 8192} [cut: 100000 bytes in all]"
    assert (sink.written, sink.lost, sink.cut) == (4, 0, 2)


class Kernel:
    """A socket that takes datagrams up to `longest` bytes."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> int:
        if len(data) > self.longest:
            raise OSError(errno.EMSGSIZE, "Message too long")
        self.sent.append(data)
        return len(data)

    def sendmsg(self, *_: object) -> int:
        raise OSError(errno.EMSGSIZE, "Message too long")

    def close(self) -> None: ...


MAKERS: list[Callable[[Path], DatagramSink]] = [
    lambda path: UdpSink("127.0.0.1", 9, LOG),
    lambda path: SocketSink(str(path / "log"), LOG),
    lambda path: JournalSink(str(path / "journal"), LOG),
]


@pytest.mark.parametrize("make", MAKERS, ids=["udp", "socket", "journal"])
@pytest.mark.parametrize(("longest", "went"), [(4000, ["a", "x", "b"]), (300, ["a", "b"])])
def test_a_datagram_that_is_too_long_is_shortened_or_given_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], DatagramSink],
    longest: int,
    went: list[str],
) -> None:
    kernel = Kernel(longest)
    sink = make(tmp_path)
    sink._socket = kernel  # type: ignore[assignment]
    for one in (entry("a"), entry("x" * 100_000, FIELDS), entry("b")):
        sink.write(one)
    assert sink.drain(10)
    sink.close()
    assert sink.join(10)
    assert len(kernel.sent) == len(went)
    figures = sink.figures()
    assert (figures.written, figures.cut, figures.lost) == (len(went), len(went) - 2, 3 - len(went))
    if sink.lost:
        assert "refused 1 lines, which are lost: [Errno 90] Message too long" in caplog.text
    else:
        assert b"[cut: 1000" in kernel.sent[1]


@pytest.mark.parametrize("make", MAKERS[1:], ids=["socket", "journal"])
def test_a_daemon_that_does_not_read_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], DatagramSink]
) -> None:
    for module in ("datagram_sink", "sinks"):
        monkeypatch.setattr(f"fcgi_syslog.{module}.RETRY_AFTER", 0.001)
    monkeypatch.setattr(sinks, "RETRY_MOST", 0.01)
    sink = make(tmp_path)
    path = tmp_path / ("log" if isinstance(sink, SocketSink) else "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        daemon.settimeout(10)
        for number in range(1000):
            sink.write(entry(str(number)))
        assert not sink.drain(0.05)
        figures = sink.figures()
        assert (figures.state, figures.lost) == ("failing", 0)
        assert figures.waiting > 900
        for _ in range(1000):
            daemon.recv(1 << 16)
        assert sink.drain(10)
    sink.close()
    assert sink.join(10)
    assert sink.written == 1000
