"""Lines over TCP: what happens when the server stalls, closes, or dies."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import pytest
from fcgi_syslog import sinks, stream_sink
from fcgi_syslog.lines import Head, Lines
from fcgi_syslog.stream_sink import StreamSink

from fcgi_core.plugin import FeedEntry

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")


def entry(message: str) -> FeedEntry:
    return FeedEntry(0.0, 6, message)


class Server:
    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.port = self.listener.getsockname()[1]
        self._rest = b""

    def accept(self) -> socket.socket:
        self._rest = b""
        connection, _ = self.listener.accept()
        connection.settimeout(10)
        return connection

    def read(self, connection: socket.socket, count: int) -> list[str]:
        """The texts of the next messages, by their octet counts."""
        texts = []
        while len(texts) < count:
            length, space, rest = self._rest.partition(b" ")
            if space and len(rest) >= int(length):
                texts.append(rest[: int(length)].decode().split(" - ")[-1])
                self._rest = rest[int(length) :]
                continue
            piece = connection.recv(1 << 16)
            assert piece, f"closed after {len(texts)} messages"
            self._rest += piece
        return texts


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.listener.close()


@pytest.fixture
def sink(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamSink]:
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.001)
    monkeypatch.setattr(sinks, "RETRY_MOST", 0.01)
    sink = StreamSink("127.0.0.1", server.port, LOG)
    yield sink
    sink.close()
    sink.join(10)


def reset(connection: socket.socket) -> None:
    """Close it as a process that is killed with unread data does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_octet_counts(server: Server, sink: StreamSink) -> None:
    for text in ("one", "two\nlines", "é"):
        sink.write(entry(text))
    with server.accept() as connection:
        assert server.read(connection, 3) == ["one", "two\\nlines", "é"]
        assert sink.drain()
        assert (sink.written, sink.accepted) == (3, 3)


def test_a_server_that_closes_is_noticed_before_the_next_line(server: Server, sink: StreamSink) -> None:
    sink.write(entry("one"))
    connection = server.accept()
    assert server.read(connection, 1) == ["one"]
    assert sink.drain()
    connection.close()
    sink.write(entry("two"))
    with server.accept() as connection:
        assert server.read(connection, 1) == ["two"]


def test_after_a_reset_what_may_be_unread_goes_again(server: Server, sink: StreamSink) -> None:
    sink.write(entry("one"))
    connection = server.accept()
    assert sink.drain(), "its kernel has it, but it was not read"
    reset(connection)
    sink.write(entry("two"))
    with server.accept() as connection:
        assert server.read(connection, 2) == ["one", "two"]
        assert sink.drain()
        assert sink.written == 2


def test_a_server_that_does_not_read(server: Server, sink: StreamSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, and the writer does not wait."""
    monkeypatch.setattr(stream_sink, "LOOK_UP_EVERY", 0.01)
    count = 300
    for number in range(count):
        sink.write(entry(f"{number} {'x' * 50_000}"))
    assert sink.lost == 0
    connection = server.accept()
    assert not sink.drain(0.1)
    assert sink.written < count
    with connection:
        assert [text.split()[0] for text in server.read(connection, count)] == [str(number) for number in range(count)]
        assert sink.drain()
    assert sink.written == count


def test_a_server_that_is_away(server: Server, sink: StreamSink, caplog: pytest.LogCaptureFixture) -> None:
    server.listener.close()
    sink.write(entry("one"))
    assert not sink.drain(0.05)
    server.listener = socket.create_server(("127.0.0.1", server.port))
    server.listener.settimeout(10)
    with server.accept() as connection:
        assert server.read(connection, 1) == ["one"]
        assert sink.drain()
    told = [record.getMessage() for record in caplog.records]
    assert "failed: [Errno 111]" in told[0]
    assert told[-1].endswith("works again")


def test_closing_while_the_server_does_not_read(
    server: Server, sink: StreamSink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_sink, "LOOK_UP_EVERY", 0.01)
    monkeypatch.setattr(stream_sink, "CLOSE_WITHIN", 0.02)
    for number in range(300):
        sink.write(entry(f"{number} {'x' * 50_000}"))
    connection = server.accept()
    sink.close()
    sink.join(10)
    connection.close()
    assert "unwritten; they are lost" in caplog.text


def test_a_server_that_does_not_read_is_a_failure_that_is_seen(
    server: Server, sink: StreamSink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_sink, "LOOK_UP_EVERY", 0.01)
    monkeypatch.setattr(stream_sink, "STALLED_AFTER", 0.02)
    count = 300
    for number in range(count):
        sink.write(entry(f"{number} {'x' * 50_000}"))
    connection = server.accept()
    assert not sink.drain(0.2)
    figures = sink.figures()
    assert (figures.state, figures.last_error) == ("failing", "the server does not read what is sent")
    assert figures.written + figures.waiting == count
    assert figures.waiting_bytes > figures.waiting * 50_000
    with connection:  # the connection is the same, and no line comes twice
        assert [text.split()[0] for text in server.read(connection, count)] == [str(number) for number in range(count)]
        assert sink.drain(10)
    assert sink.figures().state == "idle"
    assert "the server does not read what is sent; its lines wait" in caplog.text


def test_a_head_that_many_lines_share_is_made_text_a_portion_at_a_time(server: Server, sink: StreamSink) -> None:
    """2,000 lines with 60 KB of fields each would be 120 MB."""
    head = Head(6, "", "shop", 1, "", "", "", {f"f{number}": "x" * 1000 for number in range(60)}, "")
    count = 2_000
    lines = Lines([head], [0] * count, [0] * count, [str(number) for number in range(count)], clean=True)
    most = 0
    sink.write(lines)
    with server.accept() as connection:
        for number in range(0, count, 10):
            assert server.read(connection, 10)[-1].endswith(f"] {number + 9}")
            most = max(most, sink.held)
        assert sink.drain(10)
    assert most < sink.bound
    assert most < 2 * lines.held + 16 * sinks.PORTION
