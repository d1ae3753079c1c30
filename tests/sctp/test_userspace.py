"""The userspace carrier: the carriers' contract, and what only this one promises: messages, packets, checksums."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier
from fcgi_core.sctp.userspace.stack import Stack
from tests.sctp.contract import Lab, Recorder, by_stream
from tests.sctp.userspace import ANYWHERE, Contract, Relay, UserspaceTests, free_udp_port, lib


class TestContract(Contract):
    """The contract itself."""


class TestUserspace(UserspaceTests):
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

    @contextlib.asynccontextmanager
    async def through(
        self, lab: Lab, delay: float = 0.0, **options: Any
    ) -> AsyncIterator[tuple[Recorder, Recorder, Relay]]:
        """A pair with a relay between; the far end echoes."""
        near, far = Recorder(), Recorder(echo=True)
        listener = lab.carrier("app", **options).listen(ANYWHERE, lambda peer: far)
        relay = Relay(("127.0.0.1", listener.address.udp_port), random.Random(1), delay=delay)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        try:
            lab.carrier("web", **options).connect(Address(("127.0.0.1",), 9000, port), near)
            await near.until(lambda: near.association is not None)
            yield near, far, relay
        finally:
            transport.close()
            relay.close()
            await asyncio.sleep(0)

    def test_a_lost_packet_leaves_room_for_others(self) -> None:
        """What came after it counts as arrived, though the library still holds it."""

        async def body(lab: Lab) -> None:
            async with self.through(lab, mtu=1400) as (near, far, relay):
                relay.withholds = True
                near.send([Message(1, b"lost")])
                near.send([Message(2, bytes(1000))] * 80)  # many windows
                await far.until(lambda: far.received == 80)
                assert near.up.statistics().queued >= 79_000
                relay.withholds = False
                await far.until(lambda: far.received == 81)

        self.whole(body)

    def test_what_came_after_a_lost_packet_is_bounded(self) -> None:
        async def body(lab: Lab) -> None:
            async with self.through(lab, mtu=1400, send_buffer=1 << 16) as (near, far, relay):
                relay.withholds = True
                near.send([Message(1, b"lost")])
                near.send([Message(2, bytes(1000))] * 80)
                await far.until(lambda: far.received > 60)
                assert near.unsent > 0
                assert near.up.statistics().queued <= (1 << 16) + 1000
                relay.withholds = False
                await far.until(lambda: far.received == 81)

        self.whole(body)

    def test_a_time_out_comes_well_after_the_round_trip(self) -> None:
        """However even the round trips are."""

        async def body(lab: Lab) -> None:
            async with self.through(lab, mtu=1400, delay=0.04, rto_min=0.9) as (near, _, _):
                for number in range(1, 9):
                    near.send([Message(2, b"ping")])
                    await near.until(lambda number=number: near.received == number)  # type: ignore[misc]
                known = near.up.statistics()
                assert known.retransmission_timeout is not None
                assert known.retransmission_timeout >= 0.96

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

    @contextlib.asynccontextmanager
    async def one_pair_of_udp_ports(
        self, lab: Lab, count: int, **options: Any
    ) -> AsyncIterator[tuple[list[Recorder], list[Recorder], Relay]]:
        """Associations that differ by their SCTP ports only, with a relay between; the far ends echo."""
        near, far = [Recorder() for _ in range(count)], [Recorder(echo=True) for _ in range(count)]
        accepted: list[str] = []

        def accept(peer: str) -> AssociationHandler:
            accepted.append(peer)
            return far[len(accepted) - 1]

        listener = lab.carrier("app", **options).listen(ANYWHERE, accept)
        relay = Relay(("127.0.0.1", listener.address.udp_port), random.Random(1))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: relay, local_addr=("127.0.0.1", 0)
        )
        web = UserspaceCarrier(CarrierOptions(**options), bind=("127.0.0.1", free_udp_port()))
        lab.carriers.append(web)
        try:
            for one in near:
                web.connect(Address(("127.0.0.1",), 9000, transport.get_extra_info("sockname")[1]), one)
                await one.until(lambda one=one: one.association is not None)  # type: ignore[misc]
            await far[-1].until(lambda: far[-1].association is not None)
            assert len(set(accepted)) == 1
            yield near, far, relay
        finally:
            transport.close()
            relay.close()
            await asyncio.sleep(0)

    def test_one_pair_of_udp_ports_for_all(self) -> None:
        async def body(lab: Lab) -> None:
            async with self.one_pair_of_udp_ports(lab, 3) as (near, _, _):
                for one in near:
                    one.send([Message(0, b"x")])
                    await one.until(lambda one=one: one.received == 1)  # type: ignore[misc]

        self.whole(body)

    def test_a_busy_association_does_not_hide_that_another_is_silent(self) -> None:
        async def body(lab: Lab) -> None:
            async with self.one_pair_of_udp_ports(lab, 2, dead_after=2.0) as (near, far, relay):
                relay.silent = relay.ports[0]
                while not near[0].down or not far[0].down:
                    count = near[1].received
                    near[1].send([Message(2, b"ping")])
                    await near[1].until(lambda count=count: near[1].received > count)  # type: ignore[misc]
                    await asyncio.sleep(0.05)
                assert not near[1].down
                assert not far[1].down

        self.whole(body)

    def test_a_lost_packet_leaves_room_beside_other_associations(self) -> None:
        async def body(lab: Lab) -> None:
            async with self.one_pair_of_udp_ports(lab, 3, mtu=1400) as (near, far, relay):
                relay.withholds = True
                near[1].send([Message(1, b"lost")])
                near[1].send([Message(2, bytes(1000))] * 80)  # many windows
                await far[1].until(lambda: far[1].received == 80)
                relay.withholds = False
                await far[1].until(lambda: far[1].received == 81)

        self.whole(body)

    # -- at rest

    def test_ticks_are_rare_at_rest_and_frequent_as_soon_as_something_is_sent(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await self.meet(lab)
            stack = Stack.current
            assert stack is not None
            while lib.carrier_timers() < 100:
                await asyncio.sleep(0.05)
            resting = stack._timer
            near.send([Message(1, b"something")])
            assert stack._timer is not resting
            assert lib.carrier_timers() == 10
            await far.until(lambda: far.received == 1)

        self.whole(body)

    def test_heartbeats_do_not_keep_ticks_frequent(self) -> None:
        async def body(lab: Lab) -> None:
            near, _ = await self.meet(lab, dead_after=0.4)
            while lib.carrier_timers() < 100:
                await asyncio.sleep(0.05)
            before = near.up.statistics().packets_received or 0
            while (near.up.statistics().packets_received or 0) < before + 4:
                assert lib.carrier_timers() == 100
                await asyncio.sleep(0.05)

        self.whole(body)

    def test_associations_with_one_address_share_a_probe(self) -> None:
        async def body(lab: Lab) -> None:
            listener = lab.carrier("app").listen(ANYWHERE, lambda peer: Recorder())
            web = lab.carrier("web")
            nears = [Recorder() for _ in range(5)]
            for near in nears:
                web.connect(listener.address, near)
            for near in nears:
                await near.until(lambda near=near: near.association is not None)  # type: ignore[misc]
            stack = Stack.current
            assert stack is not None
            (watch,) = stack.ports.all.values()
            assert len(watch.users) == 5
            nears[0].up.abort()
            assert len(watch.users) == 4
            for near in nears[1:]:
                near.up.abort()
            assert not stack.ports.all

        self.whole(body)


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
