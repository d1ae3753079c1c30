"""A peer that makes its packets by hand, over UDP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from tests.sctp.contract import PATIENCE
from tests.sctp.userspace import packet

INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, COOKIE_ECHO, COOKIE_ACK = 1, 2, 3, 4, 5, 6, 10, 11
DATA, I_DATA = 0, 0x40
SUPPORTED_EXTENSIONS = 0x8008
WHOLE = 3
"""Flags of DATA: the first and the last fragment."""


def chunk(kind: int, content: bytes, flags: int = 0) -> bytes:
    return bytes((kind, flags)) + (4 + len(content)).to_bytes(2) + content + bytes(-len(content) % 4)


def padding(size: int) -> bytes:
    """A chunk that is ignored (RFC 4820)."""
    return chunk(0x84, bytes(size))


class RawPeer:
    """One association; its chunks have the TSN 0 and so on."""

    def __init__(self, udp_port: int, port: int = 9000, interleaving: bool = False) -> None:
        self.interleaving = interleaving
        self.port = port
        self.tag = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.connect(("127.0.0.1", udp_port))

    async def __aenter__(self) -> RawPeer:
        init = (7).to_bytes(4) + (1 << 20).to_bytes(4) + (2000).to_bytes(2) * 2 + bytes(4)
        if self.interleaving:
            init += SUPPORTED_EXTENSIONS.to_bytes(2) + (5).to_bytes(2) + bytes((I_DATA, 0, 0, 0))
        self.send(chunk(INIT, init))
        ack = await self.comes(INIT_ACK)
        self.tag = int.from_bytes(ack[4:8])
        cookie = ack[20:]
        while cookie[:2] != b"\0\7":
            cookie = cookie[(int.from_bytes(cookie[2:4]) + 3) & ~3 :]
        self.send(chunk(COOKIE_ECHO, cookie[4 : int.from_bytes(cookie[2:4])]))
        await self.comes(COOKIE_ACK)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.send(chunk(ABORT, b""))
        self.socket.close()

    def send(self, *chunks: bytes) -> None:
        self.socket.send(packet(self.tag, *chunks, port=self.port))

    async def comes(self, kind: int) -> bytes:
        """Wait for a packet whose first chunk is of that type; its chunks."""
        async with asyncio.timeout(PATIENCE):
            while (got := (await asyncio.get_running_loop().sock_recv(self.socket, 65536))[12:])[0] != kind:
                assert got[0] != ABORT, got
            return got

    def data(self, tsn: int, payload: bytes = b"x", number: int = 0) -> bytes:
        """A chunk with a message of stream 0; `number` is its place in the stream."""
        if self.interleaving:
            return chunk(I_DATA, tsn.to_bytes(4) + bytes(4) + number.to_bytes(4) + bytes(4) + payload, WHOLE)
        return chunk(DATA, tsn.to_bytes(4) + bytes(2) + number.to_bytes(2) + bytes(4) + payload, WHOLE)

    async def flood(self, packets: Iterable[Iterable[bytes]]) -> None:
        """Send packets, not faster than they are read."""
        for number, chunks in enumerate(packets):
            self.send(*chunks)
            if number % 16 == 0:
                await self.settle()
        await self.settle()

    async def settle(self) -> None:
        """Wait until all packets were read."""
        self.send(chunk(HEARTBEAT, bytes((0, 1, 0, 8)) + b"mark"))
        await self.comes(HEARTBEAT_ACK)
