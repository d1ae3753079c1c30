"""Lines to a socket as journald's. The real one is in test_journald.py."""

from __future__ import annotations

import array
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fcgi_syslog import sinks
from fcgi_syslog.journal_sink import JournalSink

from fcgi_core.plugin import FeedEntry

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(10)
        journal.bind(str(tmp_path / "socket"))
        yield journal


@pytest.fixture
def sink(journal: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[JournalSink]:
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    sink = JournalSink(journal.getsockname(), LOG)
    yield sink
    sink.close()
    sink.join(10)


def test_fields(journal: socket.socket, sink: JournalSink) -> None:
    fields = {"uri": "/a\nPRIORITY=0", "_pid": "1"}
    sink.write(FeedEntry(1.5, 3, "one\ntwo\x1b[0m", "shop.example", "shop", 16, "71", "cart", "req-1", fields, "app1"))
    assert journal.recv(65536) == (
        b"MESSAGE\n\x0e\0\0\0\0\0\0\0one\ntwo\\x1b[0m\n"
        b"PRIORITY=3\nSYSLOG_FACILITY=16\nSYSLOG_IDENTIFIER=shop\n"
        b"SYSLOG_PID=71\nSYSLOG_TIMESTAMP=1.500000\nFCGI_SERVER_NAME=shop.example\nFCGI_REQUEST=req-1\n"
        b"FCGI_KIND=cart\nFCGI_HOST=app1\nFCGI_URI=/a\\nPRIORITY=0\nFCGI__PID=1\n"
    )


def test_a_long_line_goes_in_a_sealed_file(journal: socket.socket, sink: JournalSink) -> None:
    text = "x" * (1 << 20)
    sink.write(FeedEntry(0.0, 6, text))
    data, ancillary, _, _ = journal.recvmsg(10, socket.CMSG_SPACE(4))
    assert data == b""
    ((_, _, content),) = ancillary
    descriptor = array.array("i", content)[0]
    try:
        assert os.pread(descriptor, 2 << 20, 0).startswith(b"MESSAGE=" + text.encode() + b"\n")
        with pytest.raises(OSError, match="Operation not permitted"):
            os.truncate(descriptor, 1)
    finally:
        os.close(descriptor)


def test_a_journal_that_is_away(tmp_path: Path, journal: socket.socket, sink: JournalSink) -> None:
    sink.write(FeedEntry(0.0, 6, "one"))
    assert journal.recv(65536).startswith(b"MESSAGE=one\n")
    journal.close()
    os.unlink(tmp_path / "socket")
    sink.write(FeedEntry(0.0, 6, "two"))
    assert not sink.drain(0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.settimeout(10)
        again.bind(str(tmp_path / "socket"))
        assert again.recv(65536).startswith(b"MESSAGE=two\n")
    assert sink.drain()
