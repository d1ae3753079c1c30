"""The kernel carrier on networks that delay, lose, reorder, slow down and break."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import struct
from collections import Counter
from typing import Any, ClassVar

import pytest

from bench.streams.network import inside
from fcgi_core.sctp.carrier import Address, Carrier, CarrierError, CarrierOptions, Message, Scheduler
from tests.lab.namespaces import APP, kernel_carrier, scenario
from tests.sctp.contract import CarrierContract, Lab, Recorder

QUICK: dict[str, Any] = {
    "heartbeat_interval": 0.2,
    "path_max_retransmissions": 2,
    "rto_initial": 0.1,
    "rto_min": 0.05,
    "rto_max": 0.2,
}
"""A failed path of several is noticed after about (2 + 1) * (0.2 + 0.2) seconds."""


class Kernel(CarrierContract):
    """The contract's helpers with kernel carriers; its tests run in test_kernel.py."""

    hosts: ClassVar[tuple[str, ...]] = APP[:1]

    def make(self, side: str, options: CarrierOptions) -> Carrier:
        return kernel_carrier(side, options)

    def address(self) -> Address:
        return Address(self.hosts, super().address().port)


def lab(hosts: tuple[str, ...] = APP[:1]) -> CarrierContract:
    contract = Kernel()
    contract.hosts = hosts  # type: ignore[misc]
    return contract


async def echo_intact(near: Recorder, far: Recorder, count: int, longest: int) -> None:
    """Send `count` messages, which come back; every stream's arrive in order and by hash what they were."""
    chosen = random.Random(count)
    sent: dict[int, list[bytes]] = {}
    for number in range(count):
        stream = chosen.randrange(1, 100)
        data = number.to_bytes(4, "big") + chosen.randbytes(chosen.randrange(1, longest))
        sent.setdefault(stream, []).append(hashlib.sha256(data).digest())
        near.send([Message(stream, data)])
        if number % 100 == 0:
            await asyncio.sleep(0)
    await near.until(lambda: near.received == count or bool(near.down))
    for end in (near, far):
        assert end.down == []
        got: dict[int, list[bytes]] = {}
        for message in end.messages:
            got.setdefault(message.stream, []).append(hashlib.sha256(message.data).digest())
        assert got == sent


@pytest.mark.usefixtures("lossy")
def test_loss_delay_and_reordering() -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair(echo=True)
        await echo_intact(near, far, 3000, 600)
        assert (near.up.statistics().retransmissions or 0) > 0

    lab().run(body)


@pytest.mark.usefixtures("two_paths")
def test_a_path_is_cut_while_messages_flow() -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair(echo=True, **QUICK)
        sent = 0

        async def flow(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                near.send([Message(1 + sent % 50, sent.to_bytes(4, "big") + bytes(2000))])
                sent += 1
                if sent % 10 == 0:
                    await asyncio.sleep(0.005)

        async def paths_are(*states: str) -> None:
            async with asyncio.timeout(30):
                while near.up.statistics().paths != tuple(zip(APP, states, strict=True)):
                    await asyncio.sleep(0.05)

        await paths_are("active", "active")
        for cut, states in (("0", ("inactive", "active")), ("1", ("active", "inactive"))):
            await flow(300)
            scenario("cut", cut)
            await flow(300)
            await near.until(lambda: near.received == sent or bool(near.down))
            await paths_are(*states)
            scenario("mend", cut)
            await paths_are("active", "active")
        await flow(100)
        await near.until(lambda: near.received == sent or bool(near.down))
        assert near.down == far.down == []
        for end in (near, far):
            assert sorted(int.from_bytes(message.data[:4], "big") for message in end.messages) == list(range(sent))

    lab(APP).run(body)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("busy", [False, True])
def test_a_silent_peer_is_noticed(busy: bool) -> None:
    """After `dead_after`, however many heartbeats and retransmissions have gone unanswered by then."""

    async def body(lab: Lab) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        near, far = await lab.pair(**QUICK, dead_after=3)
        scenario("cut", "0")
        if busy:
            near.send([Message(1, bytes(1000))] * 10)
        started = loop.time()
        for end in (near, far):
            assert "no packet for 3 s" in await end.end()
            assert loop.time() - begun >= 3
            assert loop.time() - started < 1.5 * 3

    try:
        lab().run(body)
    finally:
        scenario("mend", "0")


@pytest.mark.usefixtures("plain")
def test_connecting_to_silence() -> None:
    async def body(lab: Lab) -> None:
        near = Recorder()
        lab.carrier("web", connect_timeout=0.5).connect(Address((APP[1],), 9000), near)
        assert "within 0.5 s" in await near.end() or "unreachable" in near.down[0]
        scenario("cut", "0")
        again = Recorder()
        lab.carrier("web", connect_timeout=0.5).connect(Address(APP[:1], 9000), again)
        assert "within 0.5 s" in await again.end()

    try:
        lab().run(body)
    finally:
        scenario("mend", "0")


def fill(near: Recorder, message: Message) -> int:
    """Hand the kernel almost as much as there is room for; how many messages that was."""
    count = 0
    while near.up.room() > 2 * len(message.data):
        assert near.up.send([message]) == 1
        count += 1
    return count


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("interleaving", [True, False])
def test_an_alert_overtakes_unsent_messages_in_the_kernel(interleaving: bool) -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair(interleaving=interleaving)
        assert near.up.statistics().interleaving is interleaving
        near.up.set_priority(1, 100)
        near.up.set_priority(2, 1)
        bulk = fill(near, Message(1, bytes(3000)))
        assert bulk >= 3
        assert near.up.send([Message(2, b"alert")]) == 1
        await far.until(lambda: far.received == bulk + 1)
        position = [message.stream for message in far.messages].index(2)
        # it does not overtake messages on their way nor, without interleaving, the rest of a message that was begun
        assert position <= 2, position

    lab().run(body)


@pytest.mark.usefixtures("slow")
def test_first_come_first_served() -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair(scheduler=Scheduler.FIRST_COME)
        near.up.set_priority(1, 100)
        bulk = fill(near, Message(1, bytes(8192)))
        assert near.up.send([Message(2, b"alert")]) == 1
        await far.until(lambda: far.received == bulk + 1)
        assert far.messages[-1].stream == 2

    lab().run(body)


@pytest.mark.usefixtures("slow")
def test_a_lifetime_that_ends_before_its_message_is_sent() -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair()
        near.up.set_priority(1, 1)
        near.up.set_priority(2, 9)
        bulk = fill(near, Message(1, bytes(8192)))
        stale = near.up.send([Message(2, b"stale", lifetime=0.02)] * 5)
        assert stale
        await far.until(lambda: sum(message.stream == 1 for message in far.messages) == bulk)
        near.send([Message(2, b"fresh")])
        await far.until(lambda: any(message.data == b"fresh" for message in far.messages))
        assert not [message for message in far.messages if message.data == b"stale"]

    lab().run(body)


@pytest.mark.usefixtures("slow")
def test_the_round_trip_is_in_seconds_and_the_window_in_bytes_once_a_message_is_acknowledged() -> None:
    """By these the web side decides how many associations there are. 0 is what the kernel tells before."""

    async def body(lab: Lab) -> None:
        near, far = await lab.pair(echo=True)
        for end in (near, far):
            assert not end.up.statistics().round_trip
        near.send([Message(1, b"one")])
        async with asyncio.timeout(30):
            while not all(end.up.statistics().round_trip for end in (near, far)):
                await asyncio.sleep(0.05)
        for end in (near, far):
            seen = end.up.statistics()
            assert 0.2 <= (seen.round_trip or 0.0) < 1, seen
            assert 2 * 1200 <= (seen.congestion_window or 0) < 20_000, seen

    lab().run(body)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("size", [16384, 300])
def test_the_queue_in_the_kernel_stays_short_and_the_path_busy(size: int) -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair()
        count = (2 << 20) // size
        near.send([Message(1 + number % 9, bytes(size)) for number in range(count)])
        longest, widest = 0.0, 0
        while far.received < count:
            seen = near.up.statistics()
            # messages that were sent before a loss made the window narrow are still queued
            widest = max(widest, seen.congestion_window or 0)
            longest = max(longest, seen.queued / max(64 << 10, 2 * widest))
            await asyncio.sleep(0.05)
            assert not near.down
        assert longest < 2, longest
        # it was the path that limited, not the queue: 5 Mbit/s with a round trip of 0.2 s hold 125,000 bytes
        assert widest > 60_000, widest

    lab().run(body)


@pytest.mark.usefixtures("plain")
def test_interleaving_is_on_the_wire() -> None:
    async def body(lab: Lab) -> None:
        with inside("web"):
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
            sniffer.bind(("web0", 3))
        with sniffer:
            sniffer.setblocking(False)
            for interleaving, chunk in ((True, 64), (False, 0)):
                seen: Counter[int] = Counter()
                near, _ = await lab.pair(echo=True, interleaving=interleaving)
                near.send([Message(stream, bytes(20_000)) for stream in range(1, 5)])
                await near.until(lambda near=near: near.received == 4)  # type: ignore[misc]
                while True:
                    try:
                        seen.update(chunks(sniffer.recv(70_000)))
                    except BlockingIOError:
                        break
                assert seen[chunk] >= 50, seen
                assert seen[64 - chunk] == 0, seen

    lab().run(body)


def chunks(packet: bytes) -> list[int]:
    """Types of the SCTP chunks in an IPv4 packet, RFC 9260 section 3.2."""
    if packet[0] >> 4 != 4 or packet[9] != 132:
        return []
    at = (packet[0] & 15) * 4 + 12
    found = []
    while at + 4 <= len(packet):
        kind, _, length = struct.unpack_from(">BBH", packet, at)
        found.append(kind)
        at += max(4, length + 3 & ~3)
    return found


@pytest.mark.usefixtures("plain")
def test_only_allowed_peers() -> None:
    async def body(lab: Lab) -> None:
        address = Address(APP[:1], 7001)
        far = Recorder()
        lab.carrier("app", allowed_peers=("10.9.9.0/24", "::1")).listen(address, lambda peer: far)
        near = Recorder()
        lab.carrier("web").connect(address, near)
        assert "not in allowed_peers" in await near.end()
        assert far.association is None
        address = Address(APP[:1], 7002)
        lab.carrier("app", allowed_peers=("10.9.0.0/24",)).listen(address, lambda peer: far)
        allowed = Recorder()
        lab.carrier("web").connect(address, allowed)
        await allowed.until(lambda: allowed.association is not None)

    lab().run(body)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("hosts", [("fd09:0::2",), ("fd09:0::2", "10.9.0.2")])
def test_ipv6(hosts: tuple[str, ...]) -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair(echo=True)
        assert far.up.peer.startswith(("[fd09::1]:", "10.9.0.1:"))
        near.send([Message(1, b"six")])
        await near.until(lambda: near.received == 1)

    lab(hosts).run(body)


@pytest.mark.usefixtures("plain")
def test_unfinished_messages_are_bounded() -> None:
    async def body(lab: Lab) -> None:
        near, far = await lab.pair(web={"send_buffer": 8 << 20})
        near.send([Message(1, bytes(5 << 20))])
        assert "unfinished messages" in await far.end()
        assert "unfinished messages" in await near.end()

    lab().run(body)


@pytest.mark.usefixtures("plain")
def test_udp_without_a_port_of_the_kernel() -> None:
    async def body(lab: Lab) -> None:
        with pytest.raises(CarrierError, match=r"sysctl -w net\.sctp\.udp_port=9899"):
            lab.carrier("web", udp_encapsulation=True).connect(Address(APP[:1], 7003), Recorder())

    lab().run(body)


@pytest.mark.usefixtures("plain", "udp")
def test_a_listener_that_others_may_reach_does_not_interleave() -> None:
    async def body(lab: Lab) -> None:
        near, _ = await lab.pair()
        assert near.up.statistics().interleaving is False

    lab().run(body)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        (Address(("not-an-address",), 9000), "not an IP address"),
        (Address(("192.0.2.1",), 9000), "192.0.2.1:9000: Cannot assign"),
    ],
)
def test_addresses_to_listen_at(address: Address, message: str) -> None:
    async def body(lab: Lab) -> None:
        with pytest.raises(CarrierError, match=message):
            lab.carrier("app").listen(address, lambda peer: None)

    lab().run(body)
