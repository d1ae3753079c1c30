"""The userspace carrier: the carriers' contract, and what only this one has to withstand."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.common.operator_log import AT_ONCE
from fcgi_core.sctp.carrier import (
    LARGE_MESSAGE,
    MESSAGE_SIZE,
    Address,
    AssociationHandler,
    CarrierError,
    CarrierOptions,
    Message,
    Scheduler,
)
from fcgi_core.sctp.reassembly import MAX_PARTIAL
from fcgi_core.sctp.silence import silence
from fcgi_core.sctp.userspace import stack as userspace_stack
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier
from fcgi_core.sctp.userspace.stack import Stack
from tests.garbage import assert_nothing_stays
from tests.sctp.contract import PATIENCE, CarrierContract, Lab, Recorder, by_stream

pytest.importorskip("fcgi_core.sctp.userspace._usrsctp", reason="python setup.py build_ext --inplace")
from fcgi_core.sctp.userspace._usrsctp import ffi, lib

ROOT = Path(__file__).resolve().parents[2]


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


INIT = b"\x01\0\0\x14" + b"\0\0\0\x07" + b"\0\1\0\0" + b"\0\x0a\0\x0a" + b"\0\0\0\x01"


def packet(tag: int, *chunks: bytes) -> bytes:
    """An SCTP packet from port 5000 to 9000."""
    whole = bytearray((5000).to_bytes(2) + (9000).to_bytes(2) + tag.to_bytes(4) + bytes(4) + b"".join(chunks))
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


class TestContract(Contract):
    """The contract itself."""


ANYWHERE = Address(("127.0.0.1",), 9000, 0)


class TestUserspace:
    """Beyond the contract; its helpers are used, its tests are not run again."""

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

    # -- messages

    def test_a_hundred_thousand_messages_arrive_whole(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab)
            count, sent = 100_000, 0
            while sent < count:
                batch = [
                    Message(n % 32, n.to_bytes(4) + bytes(n % 300), n % 7) for n in range(sent, min(sent + 500, count))
                ]
                near.send(batch)
                sent += len(batch)
                await near.until(lambda: near.unsent == 0)
            await far.until(lambda: far.received == count)
            last = dict.fromkeys(range(32), -1)
            for message in far.messages:
                number = int.from_bytes(message.data[:4])
                assert (number % 32, number % 7, number % 300) == (message.stream, message.ppid, len(message.data) - 4)
                assert number > last[message.stream]
                last[message.stream] = number

        self.whole(body)

    @pytest.mark.parametrize(("mtu", "least", "most"), [(None, 32, 200), (1400, 750, 2000)])
    def test_packets_on_the_loopback_are_large(self, mtu: int | None, least: int, most: int) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, mtu=mtu)
            near.send([Message(2, bytes(16384))] * 64)
            await far.until(lambda: far.received == 64)
            # both directions' DATA and SACKs, and a packet or two of the association's beginning
            assert least <= (near.up.statistics().packets_sent or 0) <= most

        self.whole(body)

    @pytest.mark.parametrize(
        ("mtu", "interleaving", "size"),
        [(None, True, LARGE_MESSAGE), (None, False, MESSAGE_SIZE), (1400, True, MESSAGE_SIZE)],
    )
    def test_messages_are_large_where_a_packet_carries_one(
        self, mtu: int | None, interleaving: bool, size: int
    ) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, mtu=mtu, interleaving=interleaving)
            assert (near.up.message_size, far.up.message_size) == (size, size)
            near.send([Message(2, bytes(size))] * 16)
            await far.until(lambda: far.received == 16)
            if size == LARGE_MESSAGE:  # a packet each, their SACKs, and those of the beginning
                assert (near.up.statistics().packets_sent or 0) <= 24

        self.whole(body)

    def test_short_messages_on_the_loopback_need_few_sacks(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab)
            before = far.up.statistics().packets_sent or 0
            for number in range(48):  # a packet each
                near.send([Message(2, bytes([number]))])
            await far.until(lambda: far.received == 48)
            # one for 8 of them; a timer may send one more meanwhile, and nothing else is on the way
            assert (far.up.statistics().packets_sent or 0) - before <= 12

        self.whole(body)

    def test_a_sender_of_much_data_asks_for_sacks(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab)
            before = far.up.statistics().packets_sent or 0
            near.send([Message(2, bytes(16384))] * 64)
            await far.until(lambda: far.received == 64)
            # one for every third message; of the 33 packets or so, one for 8 would be 4
            assert (far.up.statistics().packets_sent or 0) - before >= 16

        self.whole(body)

    @pytest.mark.parametrize("receiver", [1400, None])
    def test_small_packets_bring_sacks_on_the_loopback_too(self, receiver: int | None) -> None:
        async def body(lab: Lab) -> None:
            near, far = Recorder(), Recorder()
            listener = lab.carrier("app", mtu=receiver).listen(ANYWHERE, lambda peer: far)
            lab.carrier("web", mtu=1400).connect(listener.address, near)
            await near.until(lambda: near.association is not None)
            near.send([Message(2, bytes(16384))] * 64)
            await far.until(lambda: far.received == 64)
            packets, sacks = near.up.statistics().packets_sent, far.up.statistics().packets_sent
            assert packets is not None
            assert sacks is not None
            assert packets >= 750
            assert sacks >= packets / 3, "one for two packets, not for eight"

        self.whole(body)

    @pytest.mark.parametrize("interleaving", [True, False])
    def test_large_messages_are_whole(self, interleaving: bool) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, interleaving=interleaving)
            chosen = random.Random(1)
            sent = [Message(stream, chosen.randbytes(256 * 1024 + stream), stream) for stream in range(4)]
            sent.append(Message(5, chosen.randbytes(1 << 20), 5, unordered=True))
            near.send(sent)
            await far.until(lambda: far.received == 5)
            # then an unordered message that does not fit a packet is sent in order
            sent[-1] = Message(5, sent[-1].data, 5, unordered=interleaving)
            assert sorted(far.messages, key=by_stream) == sent
            assert near.up.statistics().interleaving is interleaving

        self.whole(body)

    @pytest.mark.parametrize("interleaving", [True, False])
    def test_what_fits_a_packet_is_unordered_as_it_was_sent(self, interleaving: bool) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, interleaving=interleaving, mtu=1400)
            near.send([Message(1, bytes(1000), unordered=True), Message(1, bytes(3000), unordered=True)])
            await far.until(lambda: far.received == 2)
            assert {len(one.data): one.unordered for one in far.messages} == {1000: True, 3000: interleaving}

        self.whole(body)

    def test_the_queue_of_the_library_stays_short(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, mtu=32_768)  # the first window holds three packets
            messages = [Message(1, bytes(1000))] * 10_000
            taken = near.up.send(messages)
            assert 0 < taken * 1000 < 200_000
            assert near.up.room() == 0
            assert near.up.statistics().queued <= taken * 1000 + 512
            tiny = near.up.send([Message(1, b"x")] * 10_000)
            assert tiny == 0
            await far.until(lambda: far.received == taken)
            await near.until(lambda: near.writable_calls > 0)
            tiny = near.up.send([Message(1, b"x")] * 10_000)
            assert 0 < tiny < 2000, "the overhead of a message counts"

        self.whole(body)

    def test_an_urgent_message_overtakes_bulk(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, scheduler=Scheduler.PRIORITY, mtu=1400)  # the window holds a part of it
            near.up.set_priority(1, 0)
            near.up.set_priority(2, 9)
            near.up.send([Message(2, bytes(64_000))])
            near.up.send([Message(1, b"urgent")], urgent=True)
            await far.until(lambda: far.received == 2)
            assert [message.stream for message in far.messages] == [1, 2]

        self.whole(body)

    def test_urgent_messages_are_bounded_too(self) -> None:
        async def body(lab: Lab) -> None:
            near, _ = await self.meet(lab)
            near.up.send([Message(1, bytes(16384))] * 100)
            urgent = near.up.send([Message(2, bytes(100))] * 10_000, urgent=True)
            assert 10 < urgent < 1000
            assert near.up.room(urgent=True) == 0

        self.whole(body)

    @pytest.mark.parametrize("scheduler", list(Scheduler))
    def test_every_scheduler_delivers(self, scheduler: Scheduler) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, scheduler=scheduler)
            near.send([Message(number % 8, bytes(5000)) for number in range(400)])
            await far.until(lambda: far.received == 400)

        self.whole(body)

    def test_ipv6(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = Recorder(), Recorder(echo=True)
            try:
                listener = lab.carrier("app").listen(Address(("::1",), 9000, 0), lambda peer: far)
            except CarrierError as error:
                pytest.skip(str(error))
            lab.carrier("web").connect(listener.address, near)
            await near.until(lambda: near.association is not None)
            near.send([Message(1, bytes(10_000))])
            await near.until(lambda: near.received == 1)
            assert near.up.peer.startswith("[::1]:")

        self.whole(body)

    def test_one_local_port_for_all(self) -> None:
        async def body(lab: Lab) -> None:
            far: list[Recorder] = []
            peers: list[str] = []

            def accept(peer: str) -> AssociationHandler:
                far.append(Recorder(echo=True))
                peers.append(peer)
                return far[-1]

            listener = lab.carrier("app").listen(ANYWHERE, accept)
            port = free_udp_port()
            web = UserspaceCarrier(CarrierOptions(), bind=("127.0.0.1", port))
            lab.carriers.append(web)
            near = [Recorder() for _ in range(3)]
            for one in near:
                web.connect(listener.address, one)
            for one in near:
                await one.until(lambda one=one: one.association is not None)  # type: ignore[misc]
                one.send([Message(0, b"x")])
                await one.until(lambda one=one: one.received == 1)  # type: ignore[misc]
            assert set(peers) == {f"127.0.0.1:{port}"}

        self.whole(body)

    # -- what goes wrong

    def test_no_udp_port(self) -> None:
        async def body(lab: Lab) -> None:
            near = Recorder()
            lab.carrier("web").connect(Address(("127.0.0.1",), 9000, free_udp_port()), near)
            assert "nothing listens on that UDP port" in await near.end()

        self.whole(body)

    def test_no_sctp_port(self) -> None:
        async def body(lab: Lab) -> None:
            near = Recorder()
            listener = lab.carrier("app").listen(ANYWHERE, lambda peer: Recorder())
            lab.carrier("web").connect(listener.address._replace(port=9001), near)
            assert await near.end() == f"127.0.0.1:{listener.address.udp_port} refused the association"

        self.whole(body)

    def test_silence_times_out(self) -> None:
        async def body(lab: Lab) -> None:
            near = Recorder()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind(("127.0.0.1", 0))
                port = silent.getsockname()[1]
                lab.carrier("web", connect_timeout=0.2).connect(Address(("127.0.0.1",), 9000, port), near)
                assert await near.end() == f"127.0.0.1:{port} did not answer within 0.2 s"

        self.whole(body)

    def test_malformed_packets(self) -> None:
        async def body(lab: Lab) -> None:
            near, _far = await self.meet(lab, echo=True)
            port = self.listener.address.udp_port
            chosen = random.Random(1)
            web = lab.carriers[1]
            assert isinstance(web, UserspaceCarrier)
            before = web.counters()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for number in range(3000):
                    packet = bytearray(chosen.randbytes(chosen.choice((0, 1, 11, 12, 15, 16, 20, 40, 100, 1400))))
                    if number % 2 and len(packet) >= 16:  # right ports and checksum, nonsense after them
                        packet[0:4] = (5000).to_bytes(2) + (9000).to_bytes(2)
                        packet[12] = chosen.choice((0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 14, 64, 130, 192, 193))
                        packet[14:16] = chosen.choice((4, 8, 20, len(packet) - 12, 65535)).to_bytes(2)
                        packet[8:12] = bytes(4)
                        checksum = lib.carrier_crc32c(ffi.from_buffer(packet), len(packet), 0)
                        packet[8:12] = checksum.to_bytes(4, "little")
                    sender.sendto(packet, ("127.0.0.1", port))
                    if number % 100 == 0:
                        near.send([Message(0, b"still alive")])
                        expected = number // 100 + 1
                        await near.until(lambda expected=expected: near.received == expected)  # type: ignore[misc]
            after = web.counters()
            assert after["dropped_malformed"] > before["dropped_malformed"]
            assert after["dropped_checksum"] > before["dropped_checksum"]
            assert after["answered"] > before["answered"]

        self.whole(body)

    def test_damaged_packets_of_an_association(self) -> None:
        """A relay between the ends damages what it passes on, checksum made right again: nothing may crash."""

        async def body(lab: Lab) -> None:
            loop = asyncio.get_running_loop()
            chosen = random.Random(5)
            options: dict[str, Any] = {"connect_timeout": 1.0, "dead_after": 1.0, "rto_max": 0.2}
            listener = lab.carrier("app", **options).listen(ANYWHERE, lambda peer: Recorder(echo=True))
            relay = Relay(("127.0.0.1", listener.address.udp_port), chosen, damage=0.05)
            transport, _ = await loop.create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0))
            web = lab.carrier("web", **options)
            try:
                for _ in range(30):
                    near = Recorder()
                    web.connect(Address(("127.0.0.1",), 9000, transport.get_extra_info("sockname")[1]), near)
                    await near.until(lambda near=near: bool(near.association or near.down))  # type: ignore[misc]
                    if not near.down:
                        near.send([Message(n % 20, bytes(n * 50 + 1)) for n in range(40)])
                        await near.until(lambda near=near: bool(near.down or near.received >= 5))  # type: ignore[misc]
                    if not near.down:
                        near.up.abort("next")
            finally:
                transport.close()
                relay.close()
                await asyncio.sleep(0)

        self.whole(body)

    @pytest.mark.parametrize("interleaving", [True, False])
    def test_loss_and_lifetimes(self, interleaving: bool) -> None:
        """What must arrive does, in order; what may be abandoned arrives whole or not at all."""

        async def body(lab: Lab) -> None:
            loop = asyncio.get_running_loop()
            chosen = random.Random(7)
            far = Recorder()
            mtu = 32_768  # the longest messages take two packets, and the relay's socket holds a window
            options: dict[str, Any] = {"interleaving": interleaving, "rto_min": 0.02, "rto_max": 0.1, "mtu": mtu}
            listener = lab.carrier("app", **options).listen(ANYWHERE, lambda peer: far)
            relay = Relay(("127.0.0.1", listener.address.udp_port), chosen, loss=0.05)
            transport, _ = await loop.create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0))
            near = Recorder()
            try:
                port = transport.get_extra_info("sockname")[1]
                lab.carrier("web", **options).connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                sent: dict[bytes, Message] = {}
                for number in range(2000):
                    size = chosen.choice((8, 100, 1000, 3000, 40_000)) if number % 10 == 0 else 200
                    data = number.to_bytes(4) + chosen.randbytes(size)
                    lifetime = 0.005 if number % 3 == 0 else None
                    message = Message(number % 16, data, number, number % 5 == 0, lifetime)
                    in_order = not interleaving and len(data) > mtu
                    sent[data] = Message(message.stream, data, number, message.unordered and not in_order)
                    near.send([message])
                    if number % 50 == 0:
                        await near.until(lambda: near.unsent == 0)
                await near.until(lambda: near.unsent == 0)
                near.up.shutdown()
                assert await near.end() == ""
                await far.end()
            finally:
                transport.close()
                relay.close()
                await asyncio.sleep(0)
            assert len(set(far.messages)) == len(far.messages)
            assert all(sent[message.data] == message for message in far.messages)
            arrived = {message.ppid for message in far.messages}
            assert arrived >= {number for number in range(2000) if number % 3}
            last = [-1] * 16
            for message in far.messages:
                if not message.unordered:
                    assert message.ppid > last[message.stream]
                    last[message.stream] = message.ppid

        self.whole(body)

    def test_peers_without_an_association_are_bounded(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(userspace_stack, "UNCLAIMED_PEERS", 5)

        async def body(lab: Lab) -> None:
            near, _far = await self.meet(lab, echo=True)
            app = lab.carriers[0]
            assert isinstance(app, UserspaceCarrier)
            before = app.counters()
            init = packet(0, INIT)
            senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
            for sender in senders:
                sender.sendto(init, ("127.0.0.1", self.listener.address.udp_port))
            near.send([Message(0, b"x")])
            await near.until(lambda: near.received == 1)
            for sender in senders:
                sender.close()
            after = app.counters()
            assert after["peers"] == before["peers"] + 5
            assert after["refused"] == before["refused"] + 15
            assert "too many new peers" in caplog.text

        self.whole(body)

    def test_only_allowed_peers(self, caplog: pytest.LogCaptureFixture) -> None:
        async def body(lab: Lab) -> None:
            near = Recorder()
            app = lab.carrier("app", allowed_peers=("127.0.0.2/32", "fe80::/10"))
            listener = app.listen(ANYWHERE, lambda peer: Recorder())
            web = lab.carrier("web")
            web.connect(listener.address, near)
            udp_port = listener.address.udp_port
            assert await near.end() == f"127.0.0.1:{udp_port} refused the association: not in allowed_peers"
            assert f"127.0.0.1:9000/{udp_port}: association from 127.0.0.1:" in caplog.text
            assert "refused: not in allowed_peers" in caplog.text
            assert isinstance(app, UserspaceCarrier)
            assert app.counters()["refused"] > 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:  # nothing else of one is answered
                before = app.counters()["dropped_peer"]
                stranger.sendto(packet(1, b"\x0a\0\0\x04"), ("127.0.0.1", udp_port))
                async with asyncio.timeout(PATIENCE):
                    while app.counters()["dropped_peer"] == before:
                        await asyncio.sleep(0.001)
            allowed = UserspaceCarrier(CarrierOptions(), bind=("127.0.0.2", 0))
            lab.carriers.append(allowed)
            again = Recorder()
            allowed.connect(listener.address, again)
            await again.until(lambda: again.association is not None)

        self.whole(body)

    def test_refusals_do_not_fill_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        async def body(lab: Lab) -> None:
            app = lab.carrier("app", allowed_peers=("127.0.0.2/32",))
            listener = app.listen(ANYWHERE, lambda peer: Recorder())
            assert isinstance(app, UserspaceCarrier)
            before = app.counters()["refused"]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for number in range(100):
                    stranger.sendto(packet(0, INIT), ("127.0.0.1", listener.address.udp_port))
                    async with asyncio.timeout(PATIENCE):
                        while app.counters()["refused"] <= before + number:
                            await asyncio.sleep(0)
            assert len(caplog.records) == AT_ONCE
            listener.close()
            assert f"{100 - AT_ONCE} more like this within " in caplog.records[-1].getMessage()
            assert len(caplog.records) == AT_ONCE + 1

        self.whole(body)

    def test_inits_of_one_address_are_limited(self, caplog: pytest.LogCaptureFixture) -> None:
        """Not those from the loopback, where an INIT can have no other victim."""

        async def body(lab: Lab) -> None:
            near, _ = await self.meet(lab, echo=True)
            target = ("127.0.0.1", self.listener.address.udp_port)
            loop = asyncio.get_running_loop()

            async def refused(address: str, count: int) -> int:
                """How many of so many INITs were answered with an ABORT, and not with an INIT ACK."""
                aborts = 0
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                    sender.bind((address, 0))
                    for _ in range(count):
                        sender.sendto(packet(0, INIT), target)
                        answer = await loop.sock_recv(sender, 65536)
                        aborts += answer[12] == 6
                        assert answer[12] == 2 or len(answer) <= len(packet(0, INIT)), "nothing is amplified"
                return aborts

            assert await refused("127.0.0.77", 250) == 0
            assert await refused("127.0.0.77", 5000) > 1000
            assert "refused: too many attempts" in caplog.text
            assert await refused("127.0.0.1", 1000) == 0
            near.send([Message(0, b"still there")])
            await near.until(lambda: near.received == 1)

        self.whole(body)

    def test_cookies_without_an_association_are_limited_like_inits(self) -> None:
        """Else one address could take the slots of all strangers with packets that are no cookies."""

        async def body(lab: Lab) -> None:
            app = lab.carrier("app")
            listener = app.listen(ANYWHERE, lambda peer: Recorder())
            assert isinstance(app, UserspaceCarrier)
            before = app.counters()
            senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(300)]
            for number, sender in enumerate(senders, 1):
                sender.bind(("127.0.0.79", 0))
                sender.sendto(packet(7, b"\x0a\0\0\x08none"), ("127.0.0.1", listener.address.udp_port))
                async with asyncio.timeout(PATIENCE):
                    while app.counters()["received"] < before["received"] + number:
                        await asyncio.sleep(0)
            after = app.counters()
            for sender in senders:
                sender.close()
            assert after["refused"] > before["refused"]
            assert after["peers"] - before["peers"] + after["refused"] - before["refused"] == 300

        self.whole(body)

    def test_too_many_bytes_of_unfinished_messages(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab, send_buffer=16 << 20, receive_buffer=16 << 20)
            near.send([Message(1, bytes(MAX_PARTIAL + (1 << 20)))])
            assert f"more than {MAX_PARTIAL} bytes of unfinished messages" in await far.end()
            assert f"more than {MAX_PARTIAL} bytes of unfinished messages" in await near.end()
            assert far.received == 0

        self.whole(body)

    def test_a_listener_has_an_endpoint_at_each_address(self) -> None:
        async def body(lab: Lab) -> None:
            peers: list[str] = []

            def accept(peer: str) -> AssociationHandler:
                peers.append(peer)
                return Recorder(echo=True)

            both = Address(("127.0.0.1", "127.0.0.2"), 9000, 0)
            listener = lab.carrier("app").listen(both, accept)
            assert listener.address.hosts == both.hosts
            web = lab.carrier("web")
            for number, host in enumerate(both.hosts, 1):
                near = Recorder()
                web.connect(listener.address._replace(hosts=(host,)), near)
                await near.until(lambda near=near: near.association is not None)  # type: ignore[misc]
                near.send([Message(1, b"x")])
                await near.until(lambda near=near: near.received == 1)  # type: ignore[misc]
                assert len(peers) == number
            listener.close()
            late = Recorder()
            web.connect(listener.address._replace(hosts=("127.0.0.2",)), late)
            assert "refused" in await late.end()

        self.whole(body)

    def test_each_attempt_uses_the_next_of_several_addresses(self) -> None:
        async def body(lab: Lab) -> None:
            listener = lab.carrier("app").listen(ANYWHERE, lambda peer: Recorder())
            web = lab.carrier("web", connect_timeout=2.0)
            several = listener.address._replace(hosts=("127.0.0.9", "127.0.0.1"))
            first, second = Recorder(), Recorder()
            web.connect(several, first)
            assert "127.0.0.9" in await first.end()
            web.connect(several, second)
            await second.until(lambda: second.association is not None)

        self.whole(body)

    def test_a_udp_port_in_use_is_named(self) -> None:
        async def body(lab: Lab) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(("127.0.0.1", 0))
                port = other.getsockname()[1]
                with pytest.raises(CarrierError, match=f"UDP port {port} of 127.0.0.1, .* in use; .*9000/{port + 1}"):
                    lab.carrier("app").listen(Address(("127.0.0.1",), 9000, port), lambda peer: None)
            listener = lab.carrier("app").listen(ANYWHERE, lambda peer: None)
            with pytest.raises(CarrierError, match=r"already listens at SCTP port 9000; .*127.0.0.2,OTHER:9000"):
                lab.carrier("app").listen(Address(("127.0.0.2",), 9000, 0), lambda peer: None)
            listener.close()

        self.whole(body)

    def test_a_link_local_address_keeps_its_zone(self) -> None:
        async def body(lab: Lab) -> None:
            with pytest.raises(CarrierError, match=r"cannot connect to .*%no\.such\.zone"):
                lab.carrier("web").connect(Address(("fe80::1%no.such.zone",), 9000), Recorder())
            here = link_local()
            if here is None:
                pytest.skip("no link-local address here")
            far: list[str] = []

            def accept(peer: str) -> AssociationHandler:
                far.append(peer)
                return Recorder(echo=True)

            listener = lab.carrier("app").listen(Address((here,), 9000, 0), accept)
            near = Recorder()
            lab.carrier("web").connect(listener.address, near)
            await near.until(lambda: bool(near.association or near.down))
            assert near.up.peer == f"[{here}]:{listener.address.udp_port}"
            assert far[0].startswith(f"[{here}]:")

        self.whole(body)

    def test_an_association_that_ended_frees_its_memory(self) -> None:
        async def body(lab: Lab) -> None:
            far: list[Recorder] = []

            def accept(peer: str) -> AssociationHandler:
                far.append(Recorder())
                return far[-1]

            listener = lab.carrier("app").listen(ANYWHERE, accept)
            web = lab.carrier("web")

            async def once() -> None:
                near = Recorder()
                web.connect(listener.address, near)
                await near.until(lambda: near.association is not None)
                await far[0].until(lambda: far[0].association is not None)
                near.up.abort("gone")
                await near.end()
                await far[0].end()
                far.clear()

            await assert_nothing_stays(once)

        self.whole(body)

    def test_the_peers_text_is_made_harmless(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab)
            near.up.abort("\x1b[31mred\n" + "x" * 1000)
            reason = await far.end()
            assert reason.isprintable()
            assert "[31mred" in reason

        self.whole(body)

    def test_abort_within_a_call_back(self) -> None:
        class Leaving(Recorder):
            def messages_received(self, messages: Any) -> None:
                super().messages_received(messages)
                self.up.abort("enough")

        async def body(lab: Lab) -> None:
            near, far = Recorder(), Leaving()
            listener = lab.carrier("app").listen(ANYWHERE, lambda peer: far)
            lab.carrier("web").connect(listener.address, near)
            await near.until(lambda: near.association is not None)
            near.send([Message(0, b"x")] * 300)
            assert "enough" in await near.end()
            assert await far.end()

        self.whole(body)

    def test_options_out_of_bounds(self) -> None:
        async def body(lab: Lab) -> None:
            for bad in ({"mtu": 100}, {"outgoing_streams": 0}, {"rto_min": 5.0}, {"allowed_peers": ("nonsense",)}):
                with pytest.raises(CarrierError, match=next(iter(bad))):
                    UserspaceCarrier(CarrierOptions(**bad))  # type: ignore[arg-type]
            with pytest.raises(CarrierError, match="cannot connect"):
                lab.carrier("web").connect(Address(("no.address",), 9000), Recorder())
            with pytest.raises(CarrierError, match="cannot listen"):
                lab.carrier("app").listen(Address(("192.0.2.1",), 9000), lambda peer: None)

        self.whole(body)

    def test_one_event_loop_at_a_time(self) -> None:
        async def body(lab: Lab) -> None:
            lab.carrier("web")
            caught: list[CarrierError] = []

            async def other() -> None:
                try:
                    UserspaceCarrier(CarrierOptions())
                except CarrierError as error:
                    caught.append(error)

            thread = threading.Thread(target=lambda: asyncio.run(other()))
            thread.start()
            thread.join()
            assert "another event loop" in str(caught[0])

        self.whole(body)

    def test_the_timer_stops_when_nothing_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(userspace_stack, "LINGER", 0.02)

        async def body(lab: Lab) -> None:
            listener = lab.carrier("app").listen(ANYWHERE, lambda peer: Recorder())
            web = lab.carrier("web")
            near = Recorder()
            web.connect(listener.address, near)
            await near.until(lambda: near.association is not None)
            near.up.shutdown()
            assert await near.end() == ""
            stack = Stack.current
            assert stack is not None
            while stack._timer is not None:
                await asyncio.sleep(0.01)
            again = Recorder()
            web.connect(listener.address, again)
            assert stack._timer is not None
            await again.until(lambda: again.association is not None)

        self.whole(body)

    # -- two processes

    def test_a_peer_in_another_process(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web").connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                near.send([Message(number % 100, number.to_bytes(4) * 100) for number in range(5000)])
                await near.until(lambda: near.received == 5000)
                near.up.shutdown()
                assert await near.end() == ""
                process.terminate()

        self.contract.run(body)

    def test_a_peer_that_is_killed(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                # noticed by its port, long before anything would be by silence
                lab.carrier("web", dead_after=300).connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.kill()
                assert "nothing listens on that UDP port any more" in await near.end()

        self.contract.run(body)

    def test_a_peer_that_connected_and_is_killed(self) -> None:
        async def body(lab: Lab) -> None:
            far = Recorder()
            listener = lab.carrier("app", dead_after=300).listen(ANYWHERE, lambda peer: far)
            with application(connects=listener.address.udp_port) as (process, _):
                await far.until(lambda: far.association is not None)
                process.kill()
                assert "nothing listens on that UDP port any more" in await far.end()

        self.contract.run(body)

    def test_a_peer_that_restarted_says_so(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web", rto_max=0.5).connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.kill()
                process.wait()
                with application(port):
                    near.up.send([Message(0, b"to whom?")])
                    assert "aborted" in await near.end()

        self.contract.run(body)

    def test_a_peer_that_is_stopped_for_a_while(self) -> None:
        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web").connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.send_signal(signal.SIGSTOP)
                near.send([Message(number % 10, bytes(1000)) for number in range(100)])
                await timed_out(near, 2)
                process.send_signal(signal.SIGCONT)
                await near.until(lambda: near.received == 100)

        self.contract.run(body)

    @pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
    def test_a_peer_that_is_stopped_for_good(self, busy: bool) -> None:
        """Given up after `dead_after`, not before, whether there is something to send or not."""

        async def body(lab: Lab) -> None:
            with application() as (process, port):
                near = Recorder()
                lab.carrier("web", **silence(2)._asdict()).connect(Address(("127.0.0.1",), 9000, port), near)
                await near.until(lambda: near.association is not None)
                process.send_signal(signal.SIGSTOP)
                stopped = time.monotonic()
                if busy:
                    near.send([Message(number % 10, bytes(1000)) for number in range(100)])
                assert await near.end() == f"127.0.0.1:{port} does not answer any more: no packet for 2 s"
                assert time.monotonic() - stopped >= 1.9  # its last packet may have come a moment before

        self.contract.run(body)


async def timed_out(near: Recorder, times: int) -> None:
    """Wait until the retransmission timer has ended `times` times: each doubles it."""
    first = near.up.statistics().retransmission_timeout
    assert first
    async with asyncio.timeout(PATIENCE):
        while (near.up.statistics().retransmission_timeout or 0) < first * 2**times:
            await asyncio.sleep(0.01)


class Relay(asyncio.DatagramProtocol):
    """Passes packets on between one listener and many clients; damages, loses and doubles some."""

    def __init__(self, target: tuple[str, int], chosen: random.Random, damage: float = 0.0, loss: float = 0.0) -> None:
        self.target = target
        self.chosen = chosen
        self.damage = damage
        self.loss = loss
        self.ways: dict[Any, socket.socket] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if address not in self.ways:
            way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            way.connect(self.target)
            self.ways[address] = way
            asyncio.get_running_loop().add_reader(way, self._back, way, address)
        if data:
            self._send(self.ways[address].send, data)

    def _back(self, way: socket.socket, address: Any) -> None:
        try:
            data = way.recv(65536)
        except OSError:
            return
        self._send(lambda packet: self.transport.sendto(packet, address), data)

    def _send(self, send: Callable[[bytes], Any], data: bytes) -> None:
        packet = bytearray(data)
        if self.chosen.random() < self.damage and len(packet) > 16:
            for _ in range(self.chosen.randrange(1, 4)):
                packet[self.chosen.randrange(12, len(packet))] = self.chosen.randrange(256)
            packet[8:12] = bytes(4)
            packet[8:12] = lib.carrier_crc32c(ffi.from_buffer(packet), len(packet), 0).to_bytes(4, "little")
        fate = self.chosen.random()
        try:
            if fate >= self.loss:
                send(bytes(packet))
            if fate > 1 - self.loss:
                send(bytes(packet))
        except OSError:
            pass

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


@pytest.mark.parametrize("portable", [0, 1])
def test_crc32c(portable: int) -> None:
    """RFC 3720 appendix B.4 has these values."""
    for data, expected in (
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ):
        assert lib.carrier_crc32c(data, len(data), portable) == expected


@given(st.integers(0, 20_000), st.randoms(use_true_random=False))
def test_crc32c_is_the_same_by_table_and_by_processor(length: int, random: random.Random) -> None:
    """Long data goes through the processor in three parts side by side."""
    data = random.randbytes(length)
    assert lib.carrier_crc32c(data, length, 0) == lib.carrier_crc32c(data, length, 1)
