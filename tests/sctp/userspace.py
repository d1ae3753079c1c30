"""What the tests of the userspace carrier share: packets, a relay, an application in another process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.sctp.carrier import Address, CarrierOptions
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier
from fcgi_core.sctp.userspace.stack import Stack
from tests.sctp.contract import PATIENCE, CarrierContract, Lab, Recorder

pytest.importorskip("fcgi_core.sctp.userspace._usrsctp", reason="python setup.py build_ext --inplace")
from fcgi_core.sctp.userspace._usrsctp import ffi, lib

ROOT = Path(__file__).resolve().parents[2]


def free_udp_port() -> int:
    """A UDP port of the loopback that no process uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


INIT = b"\x01\0\0\x14" + b"\0\0\0\x07" + b"\0\1\0\0" + b"\0\x0a\0\x0a" + b"\0\0\0\x01"


def packet(tag: int, *chunks: bytes, port: int = 9000) -> bytes:
    """An SCTP packet from port 5000."""
    whole = bytearray((5000).to_bytes(2) + port.to_bytes(2) + tag.to_bytes(4) + bytes(4) + b"".join(chunks))
    whole[8:12] = lib.carrier_crc32c(ffi.from_buffer(whole), len(whole), 1).to_bytes(4, "little")
    return bytes(whole)


def link_local() -> str | None:
    """A link-local address of this machine, with its zone."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for address, _, _, scope, _, zone in map(str.split, lines):
        if scope == "20":
            return f"{IPv6Address(bytes.fromhex(address))}%{zone}"
    return None


class Contract(CarrierContract):
    def make(self, side: str, options: CarrierOptions) -> UserspaceCarrier:
        return UserspaceCarrier(options)

    def address(self) -> Address:
        return super().address()._replace(udp_port=free_udp_port())


ANYWHERE = Address(("127.0.0.1",), 9000, 0)


class UserspaceTests:
    """Tests beyond the contract, whose helpers they use."""

    contract: CarrierContract = Contract()

    def whole(self, body: Callable[[Lab], Awaitable[None]]) -> None:
        """Run a test; nothing of it may be left: no descriptor, no association, no peer, no stack."""
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        self.contract.run(body)
        assert len(os.listdir("/proc/self/fd")) == before
        counters = ffi.new("struct carrier_counters *")
        lib.carrier_get_counters(counters)
        assert (counters.associations, counters.peers) == (0, 0)
        assert Stack.current is None

    async def meet(self, lab: Lab, echo: bool = False, **options: Any) -> tuple[Recorder, Recorder]:
        """A pair; the listener's UDP port is the system's choice."""
        near, far = Recorder(), Recorder(echo=echo)
        self.listener = lab.carrier("app", **options).listen(ANYWHERE, lambda peer: far)
        lab.carrier("web", **options).connect(self.listener.address, near)
        await near.until(lambda: near.association is not None)
        await far.until(lambda: far.association is not None)
        return near, far


async def timed_out(near: Recorder, times: int) -> None:
    """Wait until the retransmission timer has ended `times` times: each doubles it."""
    first = near.up.statistics().retransmission_timeout
    assert first
    async with asyncio.timeout(PATIENCE):
        while (near.up.statistics().retransmission_timeout or 0) < first * 2**times:
            await asyncio.sleep(0.01)


class Relay(asyncio.DatagramProtocol):
    """Passes packets on between one listener and many clients, `delay` seconds later; damages, loses, doubles some."""

    def __init__(
        self,
        target: tuple[str, int],
        chosen: random.Random,
        damage: float = 0.0,
        loss: float = 0.0,
        delay: float = 0.0,
    ) -> None:
        self.target = target
        self.chosen = chosen
        self.damage = damage
        self.loss = loss
        self.delay = delay
        self.withholds = False
        """The clients' next DATA chunk is lost whenever it is sent."""
        self.withheld = b""
        self.ports: list[bytes] = []
        """The clients' SCTP ports."""
        self.silent = b""
        """The client's SCTP port whose packets are lost, and those to it."""
        self.ways: dict[Any, socket.socket] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if address not in self.ways:
            way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            way.connect(self.target)
            self.ways[address] = way
            asyncio.get_running_loop().add_reader(way, self._back, way, address)
        if data and data[:2] not in self.ports:
            self.ports.append(data[:2])
        if data and data[:2] == self.silent:
            return
        if self.withholds and data[12:13] in (b"\0", b"\x40"):
            self.withheld = self.withheld or data[16:20]
            if data[16:20] == self.withheld:
                return
        if data:
            self._send(self.ways[address].send, data)

    def _back(self, way: socket.socket, address: Any) -> None:
        try:
            data = way.recv(65536)
        except OSError:
            return
        if data[2:4] != self.silent:
            self._send(lambda packet: self.transport.sendto(packet, address), data)

    def _send(self, send: Callable[[bytes], Any], data: bytes) -> None:
        packet = bytearray(data)
        if self.chosen.random() < self.damage and len(packet) > 16:
            for _ in range(self.chosen.randrange(1, 4)):
                packet[self.chosen.randrange(12, len(packet))] = self.chosen.randrange(256)
            packet[8:12] = bytes(4)
            packet[8:12] = lib.carrier_crc32c(ffi.from_buffer(packet), len(packet), 0).to_bytes(4, "little")
        fate = self.chosen.random()
        for _ in range((fate >= self.loss) + (fate > 1 - self.loss)):
            if self.delay:
                asyncio.get_running_loop().call_later(self.delay, self._pass, send, bytes(packet))
            else:
                self._pass(send, bytes(packet))

    def _pass(self, send: Callable[[bytes], Any], packet: bytes) -> None:
        with contextlib.suppress(OSError):
            send(packet)

    def close(self) -> None:
        for way in self.ways.values():
            asyncio.get_running_loop().remove_reader(way)
            way.close()


APPLICATION = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.sctp.contract import Recorder
from fcgi_core.sctp.carrier import Address, CarrierOptions
from fcgi_core.sctp.silence import silence
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier

async def main():
    carrier = UserspaceCarrier(CarrierOptions())
    if {connects}:
        print(0, flush=True)
        carrier.connect(Address(("127.0.0.1",), 9000, {connects}), Recorder())
    else:
        listener = carrier.listen(Address(("127.0.0.1",), 9000, {port}), lambda peer: Recorder(echo=True))
        print(listener.address.udp_port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class application:
    """An echo server in another process: (process, UDP port). With `connects` it connects to that UDP port of ours."""

    def __init__(self, port: int = 0, connects: int = 0) -> None:
        self.program = APPLICATION.format(root=str(ROOT), port=port, connects=connects)

    def __enter__(self) -> tuple[subprocess.Popen[str], int]:
        self.process = subprocess.Popen([sys.executable, "-c", self.program], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        return self.process, int(self.process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
