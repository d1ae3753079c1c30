"""A FastCGI server for tests of the bridge, which does what a test tells it, right or wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fcgi_core.app.fastcgi.bridge import FastcgiBridge
from fcgi_core.hosting.byte_stream import KEEP_CONN, RecordReader
from fcgi_core.protocol.records import RecordType, decode_pairs, end_request, record, stream_records
from tests.byte_stream import Record, records_in


class Served:
    """One connection of the bridge, as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.number = number
        self.writer = writer
        self.params: dict[str, str] = {}
        self.role = 0
        self.keep = False
        self.stdin = b""
        self.data = b""
        self._reader = reader
        self._records = RecordReader()
        self._waiting: list[Record] = []

    async def next(self) -> Record | None:
        """The next record; None at the end of the connection."""
        while not self._waiting:
            try:
                piece = await self._reader.read(65536)
            except ConnectionError:
                return None
            if not piece:
                return None
            self._waiting = records_in(piece, self._records)
        return self._waiting.pop(0)

    async def params_come(self) -> bool:
        """Read BEGIN_REQUEST and PARAMS; False if the connection ended instead."""
        begin = await self.next()
        if begin is None:
            return False
        assert (begin.type, begin.request_id) == (RecordType.BEGIN_REQUEST, 1)
        self.role = begin.content[0] << 8 | begin.content[1]
        self.keep = bool(begin.content[2] & KEEP_CONN)
        raw = b""
        while (params := await self.next()) is not None and params.content:
            assert params.type == RecordType.PARAMS
            raw += params.content
        self.params = decode_pairs(raw)
        return True

    async def stream_comes(self, kind: int = RecordType.STDIN) -> bytes:
        """Read all of STDIN or DATA."""
        whole = b""
        while (piece := await self.next()) is not None:
            assert piece.type == kind
            if not piece.content:
                return whole
            whole += piece.content
        raise ConnectionError("closed before the input's end")

    async def request_comes(self) -> bool:
        """Read the whole request; False if the connection ended instead."""
        if not await self.params_come():
            return False
        self.stdin = await self.stream_comes()
        return True

    def write(self, *records: bytes) -> None:
        self.writer.write(b"".join(records))

    def output(self, data: bytes, size: int = 65535) -> None:
        self.write(*stream_records(RecordType.STDOUT, 1, data, size=size))

    def answer(self, body: bytes = b"hello", app_status: int = 0) -> None:
        """A whole answer."""
        self.output(b"Content-Type: text/plain\r\n\r\n" + body)
        self.write(record(RecordType.STDOUT, 1), end_request(1, app_status))

    async def drained(self) -> None:
        await self.writer.drain()

    async def closed(self) -> None:
        """Wait until the bridge has closed the connection."""
        while await self.next() is not None:
            pass


def with_children(count: int, serve: Callable[[Served], Awaitable[None]]) -> Callable[[Served], Awaitable[None]]:
    """As `serve`, on `count` connections at once: a child has a connection until it is closed, and others wait."""
    free = asyncio.Semaphore(count)

    async def child(connection: Served) -> None:
        async with free:
            await serve(connection)

    return child


@asynccontextmanager
async def fastcgi_server(
    address: Path | int, serve: Callable[[Served], Awaitable[None]]
) -> AsyncIterator[list[Served]]:
    """Run `serve` for each connection at a path or a port of the loopback, and close it when that returns; gives the
    list of all connections that there have been."""
    connections: list[Served] = []
    tasks: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Served(reader, writer, len(connections))
        connections.append(connection)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(connection)
        except ConnectionError:
            pass
        except (Exception, asyncio.CancelledError) as error:
            errors.append(error)
        finally:
            writer.close()
            tasks.discard(task)

    if isinstance(address, int):
        server = await asyncio.start_server(accept, "127.0.0.1", address)
    else:
        server = await asyncio.start_unix_server(accept, address)
    try:
        yield connections
    finally:
        server.close()
        for connection in connections:
            connection.writer.close()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=2)
            assert not left, "the server still works on a connection"
        assert not errors, errors


BODY = bytes(range(256)) * 400


def bridge(path: Path, **named: Any) -> FastcgiBridge:
    return FastcgiBridge(f"unix:{path}", **named)


async def answering(connection: Served) -> None:
    """A server that does everything right: it tells what it got."""
    while await connection.request_comes():
        connection.answer(b"%b %d" % (connection.params["REQUEST_METHOD"].encode(), len(connection.stdin)))
        if not connection.keep:
            break
