"""The userspace carrier, and what goes wrong: no answer, hostile packets, loss, bounds, wrong options."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from typing import Any

import pytest

from fcgi_core.common.operator_log import AT_ONCE
from fcgi_core.sctp.carrier import (
    Address,
    AssociationHandler,
    CarrierError,
    CarrierOptions,
    Message,
)
from fcgi_core.sctp.reassembly import MAX_PARTIAL
from fcgi_core.sctp.userspace import stack as userspace_stack
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier
from fcgi_core.sctp.userspace.stack import Stack
from tests.garbage import assert_nothing_stays
from tests.sctp.contract import PATIENCE, Lab, Recorder
from tests.sctp.raw_peer import SACK, RawPeer, padding
from tests.sctp.userspace import (
    ANYWHERE,
    INIT,
    Relay,
    UserspaceTests,
    ffi,
    free_udp_port,
    lib,
    link_local,
    packet,
)


class TestFaults(UserspaceTests):
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

    @pytest.mark.parametrize("interleaving", [True, False])
    def test_small_chunks_at_the_end_of_large_packets_wait_whole(self, interleaving: bool) -> None:
        """The carrier adds a chunk to such packets."""

        async def body(lab: Lab) -> None:
            far = Recorder()
            listener = lab.carrier("app", interleaving=interleaving).listen(ANYWHERE, lambda peer: far)
            payloads = [bytes((number,)) * (800, 20, 30_000, 10, 1)[number % 5] for number in range(121)]
            async with RawPeer(listener.address.udp_port, interleaving=interleaving) as peer:
                chunks = [peer.data(number, payload, number) for number, payload in enumerate(payloads)]
                await peer.flood([padding(8), *chunks[at : at + 5]] for at in range(1, 121, 5))
                assert far.received == 0
                peer.send(chunks[0])
                await far.until(lambda: far.received == 121)
            assert [message.data for message in far.messages] == payloads
            await far.end()

        self.whole(body)

    @pytest.mark.parametrize("interleaving", [True, False])
    def test_a_window_that_is_full_behind_a_gap_opens_again(self, interleaving: bool) -> None:
        """The chunk that is missing is taken without a window, and what comes again is acknowledged again."""

        async def body(lab: Lab) -> None:
            far = Recorder()
            carrier = lab.carrier("app", interleaving=interleaving, receive_buffer=1 << 16)
            listener = carrier.listen(ANYWHERE, lambda peer: far)
            async with RawPeer(listener.address.udp_port, interleaving=interleaving) as peer:
                chunks = [peer.data(tsn, bytes(1000), tsn) for tsn in range(100)]
                peer.send(chunks[0])
                await peer.flood([chunks[tsn]] for tsn in range(2, 100))
                peer.send(chunks[0])
                sack = await peer.comes(SACK)
                assert sack[4:12] == bytes(8), "up to the first chunk, and no window"
                taken = 1 + int.from_bytes(sack[18:20])
                assert taken < 100
                peer.send(chunks[1])
                await far.until(lambda: far.received == taken)
                await peer.flood([chunks[tsn]] for tsn in range(taken, 100))
                await far.until(lambda: far.received == 100)
            await far.end()

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
