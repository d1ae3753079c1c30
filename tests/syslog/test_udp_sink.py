"""Lines in datagrams."""

from __future__ import annotations

import logging
import socket

import pytest
from fcgi_syslog import sinks
from fcgi_syslog.message import parse
from fcgi_syslog.udp_sink import UdpSink

from fcgi_core.plugin import FeedEntry

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")


def test_a_server_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        port = server.getsockname()[1]
        sink = UdpSink("localhost", port, LOG)
        sink.write(FeedEntry(0.0, 6, "x" * 100_000))
        text = parse(server.recv(1 << 17)).text
        assert text == f"{'x' * 8192} [cut: 100000 bytes in all]"
        assert sink.drain()
    for text in ("no server hears this", "two", "three"):
        sink.write(FeedEntry(0.0, 6, text))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        server.settimeout(10)
        while parse(server.recv(1 << 17)).text != "three":
            pass
    sink.close()
    sink.join(10)
