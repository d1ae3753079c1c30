"""The fair counterpart: the same core, records and queues on a TCP connection, behind the carriers' interface.

A message travels with its length and stream number before it (7 bytes). Bulk waits in the core's own queues here too:
the socket is given 16 KiB at a time, as long as it takes them, so an alert waits behind what the kernel holds and no
more. How much that is, the kernel decides (it tunes the send buffer), or TCP_NOTSENT_LOWAT.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

from fcgi_core.sctp.carrier import MESSAGE_SIZE, Address, AssociationHandler, Message
from fcgi_core.sctp.statistics import AssociationStatistics

__all__ = ["TcpCarrier"]

HEAD = struct.Struct(">IHB")
CHUNK = MESSAGE_SIZE
STREAMS = 65535
TCP_NOTSENT_LOWAT = 25


class TcpAssociation(asyncio.Protocol):
    """A connection, as an association: all streams in one order."""

    def __init__(self, handler: AssociationHandler | None, accept: Callable[[str], AssociationHandler | None]) -> None:
        self.handler = handler
        self.peer = ""
        self.outgoing_streams = self.incoming_streams = STREAMS
        self.message_size = MESSAGE_SIZE
        self._accept = accept
        self._paused = False
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        host, port = transport.get_extra_info("peername")[:2]
        self.peer = f"{host}:{port}"
        if self.handler is None:
            self.handler = self._accept(self.peer)
        assert self.handler is not None
        self.handler.association_up(self)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at, end, messages = 0, len(data), []
        while end - at >= HEAD.size:
            length, stream, unordered = HEAD.unpack_from(data, at)
            start = at + HEAD.size
            if end - start < length:
                break
            at = start + length
            messages.append(Message(stream, data[start:at], 0, bool(unordered)))
        self._rest = data[at:]
        if messages and self.handler is not None:
            self.handler.messages_received(messages)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.handler is not None:
            self.handler.association_down("" if error is None else str(error))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self.handler is not None:
            self.handler.writable()

    def room(self, urgent: bool = False) -> int:
        return 0 if self._paused or self._transport is None else CHUNK

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        if self._transport is None:
            return 0
        parts: list[bytes] = []
        for message in messages:
            parts += (HEAD.pack(len(message.data), message.stream, message.unordered), message.data)
        self._transport.write(b"".join(parts))
        return len(messages)

    def set_priority(self, stream: int, priority: int) -> None:
        pass

    def add_streams(self, count: int) -> bool:
        return False

    def shutdown(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str = "") -> None:
        if self._transport is not None:
            self._transport.abort()

    def statistics(self) -> AssociationStatistics:
        return AssociationStatistics()


class TcpCarrier:
    """Makes such connections."""

    name = "tcp"

    def __init__(self, notsent: int, congestion: str) -> None:
        self._notsent = notsent
        self._congestion = congestion
        self._tasks: set[asyncio.Task[object]] = set()

    def _socket(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio does this only for sockets that it makes; without it an alert may wait a round trip for an ACK
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._notsent:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, self._notsent)
        if self._congestion:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self._congestion.encode())
        sock.setblocking(False)
        return sock

    def _task(self, coroutine: object) -> None:
        task = asyncio.ensure_future(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> None:
        sock = self._socket()
        sock.bind((address.hosts[0], address.port))
        sock.listen(512)
        loop = asyncio.get_running_loop()
        self._task(loop.create_server(lambda: TcpAssociation(None, accept), sock=sock))

    def connect(self, address: Address, handler: AssociationHandler) -> None:
        async def connect() -> None:
            loop = asyncio.get_running_loop()
            sock = self._socket()
            await loop.sock_connect(sock, (address.hosts[0], address.port))
            await loop.create_connection(lambda: TcpAssociation(handler, lambda peer: None), sock=sock)

        self._task(connect())

    def close(self) -> None:
        pass
