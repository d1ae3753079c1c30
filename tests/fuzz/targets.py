"""What is fuzzed in the core: both roles of an association, and the parser toward web servers.

An input is a list of chunks, each 1 byte of stream number, 2 bytes of length, and so many bytes; toward the web server
the stream number means nothing. Beside what an input hits, a request with the id UNTOUCHED is under way that it cannot
name, and that one must come to its end unless the peer broke the whole connection.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterable

from fcgi_core.errors import RemoteProtocolError
from fcgi_core.hosting.byte_stream import RecordReader
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.events import (
    ConfigReceived,
    ConnectionFailed,
    Event,
    InputClosed,
    InputReceived,
    OutputReceived,
    RequestAborted,
    RequestEnded,
    RequestFailed,
    RequestReceived,
)
from fcgi_core.protocol.records import HEADER, HEADER_SIZE, RecordType, Role, encode_pairs
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.states import Output
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import Message
from fcgi_core.web.exchange import State
from tests.protocol.helpers import CHANNELS, ROOM, Pair, of
from tests.web.web_server import Client, request

UNTOUCHED = 5
SMALL = Settings(window=4096, max_message=4096, max_requests=8)
PARAMS = encode_pairs({"SERVER_NAME": "example.org", "REQUEST_METHOD": "GET"})
MAX_GROWTH = 24 << 20
"""Bytes that a peer may make us keep which sends the same input over and over and takes no answer. The largest parts
are PARAMS, 1 MiB for each of SMALL's requests, and what comes before SETTINGS."""
FLOOD = 4 << 20
"""Bytes that such a peer sends, with FLOOD_OVERHEAD counted for each chunk."""
FLOOD_OVERHEAD = 512


def join(chunks: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([stream]) + len(data).to_bytes(2) + data for stream, data in chunks)


def split(data: bytes) -> list[tuple[int, bytes]]:
    """The chunks of an input; any bytes are an input."""
    chunks = []
    position = 0
    while position + 3 <= len(data):
        start = position + 3
        position = start + int.from_bytes(data[position + 1 : start])
        chunks.append((data[start - 3] % 8, data[start:position]))
    return chunks


def names_untouched(data: bytes) -> bool:
    """Whether a record in this message has the id of the request that is to be left alone."""
    position = 0
    while position + HEADER_SIZE <= len(data):
        _, _, request_id, length, padding, _ = HEADER.unpack_from(data, position)
        if request_id == UNTOUCHED:
            return True
        position += HEADER_SIZE + length + padding
    return False


def messages_of(data: bytes) -> list[Message]:
    return [Message(stream, chunk) for stream, chunk in split(data) if not names_untouched(chunk)]


# ---- an association


def answer(connection: Connection, events: list[Event]) -> None:
    """What an application or a web side does about events, as the documentation asks."""
    assert all(not isinstance(event, ConnectionFailed) for event in events[:-1])
    assert connection.failed is (bool(events) and isinstance(events[-1], ConnectionFailed))
    for event in events:
        if isinstance(event, InputReceived | OutputReceived):
            connection.consumed(event.request, len(event.data))
        elif isinstance(event, ConfigReceived):
            connection.answer_config(event.number, dict.fromkeys(event.pairs, "no"))
        elif isinstance(connection, ApplicationConnection):
            if isinstance(event, RequestReceived):
                connection.send_output(event.request, b"x" * 5000)
                connection.send_stderr(event.request, b"y")
                connection.send_feedback("web.request", b"z", event.request)
            if (
                isinstance(event, InputClosed | RequestAborted | RequestFailed)
                and event.request.output is Output.OPEN
                and event.request.key in connection.requests
            ):
                connection.end_request(event.request)


def check_windows(*connections: Connection) -> None:
    for connection in connections:
        for each in connection.requests.values():
            assert each.send_window.sent <= each.send_window.limit


def role(side: type[Connection], data: bytes) -> None:
    """One side of an association gets these messages: alone before SETTINGS, then among requests in several states."""
    messages = messages_of(data)
    unready = side(SMALL, channels=CHANNELS)
    unready.open(4, 0.0)
    answer(unready, unready.receive(messages, 0.0))
    unready.take(ROOM)

    pair = Pair(SMALL, SMALL, channels=CHANNELS, streams=8)
    requests = [
        pair.web.begin_request(PARAMS, body=b""),
        pair.web.begin_request(PARAMS),
        pair.web.begin_request(PARAMS, role=Role.FILTER),
        pair.web.begin_request(PARAMS),
        pair.web.begin_request(PARAMS, body=b"hello"),
    ]
    untouched = requests[-1]
    assert untouched.id == UNTOUCHED
    pair.run()
    begun = [event.request for event in of(pair.take_app(), RequestReceived)]
    pair.app.send_output(begun[0], b"x" * 6000)
    pair.app.end_request(begun[0])
    pair.web.send_input(requests[1], b"y" * 6000)
    pair.web.abort(requests[3])
    victim: Connection = pair.web if side is WebConnection else pair.app
    victim.take(ROOM)
    for message in messages:  # each by itself: between them the victim acts
        events = victim.receive([message], 0.0)
        answer(victim, events)
        if victim.failed:
            break
    check_windows(pair.web, pair.app)
    assert (victim.timer() is None) or not victim.failed
    if victim.failed:
        victim.take(ROOM)
        return
    pair.app.send_output(begun[-1], b"answer")
    pair.app.end_request(begun[-1], 3)
    pair.run()
    check_windows(pair.web, pair.app)
    if pair.web.failed or pair.app.failed:
        return  # what the messages made the victim say
    events = pair.take_web()
    assert [event.data for event in of(events, OutputReceived) if event.request is untouched] == [b"answer"]
    assert [event.app_status for event in of(events, RequestEnded) if event.request is untouched] == [3]


def web(data: bytes) -> None:
    role(WebConnection, data)


def application(data: bytes) -> None:
    role(ApplicationConnection, data)


# ---- toward the web server

_loop: asyncio.AbstractEventLoop | None = None


def loop() -> asyncio.AbstractEventLoop:
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
    return _loop


def close_loop() -> None:
    if _loop is not None:
        _loop.close()


def downstream(data: bytes) -> None:
    loop().run_until_complete(_downstream([chunk for _, chunk in split(data)]))


async def _downstream(chunks: list[bytes]) -> None:
    client = Client()
    whole = request(UNTOUCHED, b"hello")
    middle = len(whole) - 2 * HEADER_SIZE  # in the middle of its body
    client.send(whole[: middle - 5])
    parser = RecordReader()
    for chunk in chunks:
        if client.wire.closing or names_untouched(chunk) or parser.inside_record:
            break
        try:
            parser.feed(chunk)  # beside the connection's own, to know where in a record it stands
        except RemoteProtocolError:
            pass  # the connection will see it too
        client.connection.data_received(chunk)
        for exchange in client.dispatcher.begun:
            exchange.body, taken = [], exchange.body
            if exchange.id != UNTOUCHED and exchange.input_closed and exchange.state is not State.OVER:
                exchange.send_stderr(b"e")
                exchange.send_output(b"Status: 200 OK\r\n\r\n")
                exchange.end()
            elif exchange.id == UNTOUCHED:
                exchange.body = taken
        await asyncio.sleep(0)
    if not client.wire.closing and not parser.inside_record:
        client.wire.written = b""
        _finish(client, whole[middle - 5 :])
        await asyncio.sleep(0)
        (mine,) = [one for one in RecordReader().feed(client.wire.written) if one[0] == RecordType.STDOUT and one[2]]
        assert mine[1:] == (UNTOUCHED, b"Status: 200 OK\r\n\r\n")
    client.connection.connection_lost(None)
    assert not client.connections
    assert all(exchange.state is State.OVER for exchange in client.dispatcher.begun)


def _finish(client: Client, rest: bytes) -> None:
    client.send(rest)
    (exchange,) = [one for one in client.dispatcher.begun if one.id == UNTOUCHED]
    assert exchange.input_closed
    assert client.dispatcher.input_of(exchange) == b"hello"
    exchange.send_output(b"Status: 200 OK\r\n\r\n")
    exchange.end()


TARGETS: dict[str, Callable[[bytes], None]] = {"web": web, "application": application, "downstream": downstream}


# ---- memory


def flood(target: str, data: bytes) -> int:
    """The bytes of memory that stay when a peer sends this input again and again and takes nothing."""
    chunks = split(data)
    size = sum(len(chunk) + FLOOD_OVERHEAD for _, chunk in chunks)
    times = FLOOD // size if size else 0

    def association(side: type[Connection]) -> tuple[Connection, ...]:
        messages = messages_of(data)
        early, later = side(SMALL, channels=CHANNELS), Pair(SMALL, SMALL, channels=CHANNELS, streams=8)
        early.open(8, 0.0)
        victim: Connection = later.web if side is WebConnection else later.app
        for connection in (early, victim):
            for _ in range(times):
                connection.receive(messages, 0.0)  # nobody consumes, nobody takes
                if connection.failed:
                    break
        return early, victim

    async def server() -> tuple[object, ...]:
        client = Client()
        client.connection.pause_writing()
        for _ in range(times):
            for _, chunk in chunks:
                if client.wire.closing:
                    break
                # what a dispatcher does about a full window is its own matter: here bodies are taken
                client.connection.data_received(chunk)
                for exchange in client.dispatcher.begun:
                    exchange.body = []
                client.dispatcher.begun = [one for one in client.dispatcher.begun if one.state is not State.OVER]
                client.dispatcher.gone.clear()
            await asyncio.sleep(0)
        return (client,)

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        if target == "downstream":
            kept: tuple[object, ...] = loop().run_until_complete(server())
        else:
            kept = association(WebConnection if target == "web" else ApplicationConnection)
        gc.collect()
        growth = tracemalloc.get_traced_memory()[0] - before
        del kept
    finally:
        tracemalloc.stop()
    return growth
