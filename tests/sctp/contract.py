"""The contract of carriers (fcgi_core/sctp/carrier.py), as tests that the test module of each carrier inherits.

    class TestMine(CarrierContract):
        def make(self, side, options):
            return MyCarrier(options)

A carrier is made inside a running loop; each test has a new loop. `web` connects, `app` listens.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeVar

import pytest

from fcgi_core.sctp.carrier import (
    Address,
    Association,
    AssociationHandler,
    Carrier,
    CarrierError,
    CarrierOptions,
    Message,
)

T = TypeVar("T")

PATIENCE = float(os.environ.get("FCGI_SCTP_PATIENCE", "60"))
"""Seconds after which a wait fails; generous, not a measure of speed."""

_ports = itertools.count(random.SystemRandom().randrange(20000, 30000))


def by_stream(message: Message) -> tuple[int, bytes]:
    """A key to sort messages by."""
    return message.stream, message.data


class Recorder:
    """A handler that records its calls, and can be waited on. With `echo` it sends every message back."""

    def __init__(self, *, echo: bool = False, keep: bool = True) -> None:
        self.association: Association | None = None
        self.messages: list[Message] = []
        self.received = 0
        self.down: list[str] = []
        self.writable_calls = 0
        self.stream_changes = 0
        self._echo = echo
        self._keep = keep
        self._unsent: list[Message] = []
        self._changed = asyncio.Event()

    @property
    def up(self) -> Association:
        assert self.association is not None
        return self.association

    def association_up(self, association: Association) -> None:
        assert self.association is None
        self.association = association
        self._changed.set()

    def messages_received(self, messages: Sequence[Message]) -> None:
        assert self.association is not None, "messages before association_up"
        assert not self.down, "messages after association_down"
        assert messages
        self.received += len(messages)
        if self._keep:
            self.messages += messages
        if self._echo:
            self.send(messages)
        self._changed.set()

    def writable(self) -> None:
        assert not self.down
        self.writable_calls += 1
        self._flush()
        self._changed.set()

    def streams_changed(self) -> None:
        self.stream_changes += 1
        self._changed.set()

    def association_down(self, reason: str) -> None:
        self.down.append(reason)
        assert len(self.down) == 1, self.down
        self._changed.set()

    def send(self, messages: Sequence[Message]) -> None:
        """Send as the core does: the rest follows when the association is writable."""
        self._unsent += messages
        self._flush()

    def _flush(self) -> None:
        while self._unsent and self.up.room() > 0:
            taken = self.up.send(self._unsent[:64])
            if not taken:
                break
            del self._unsent[:taken]

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` is true; fail after PATIENCE."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"waited in vain: {self.received} messages, down {self.down}, {len(self._unsent)} unsent, "
                f"streams changed {self.stream_changes} times; {self.association and self.association.statistics()}"
            ) from None

    async def end(self) -> str:
        await self.until(lambda: bool(self.down))
        return self.down[0]


class Lab:
    """Two carriers, for the length of a test."""

    def __init__(self, contract: CarrierContract) -> None:
        self.contract = contract
        self.carriers: list[Carrier] = []

    def carrier(self, side: str, **options: Any) -> Carrier:
        carrier = self.contract.make(side, CarrierOptions(**{**self.contract.options, **options}))
        self.carriers.append(carrier)
        return carrier

    async def pair(
        self, *, web: dict[str, Any] | None = None, app: dict[str, Any] | None = None, echo: bool = False, **both: Any
    ) -> tuple[Recorder, Recorder]:
        """An association: the handlers of its two ends, both up."""
        address = self.contract.address()
        near, far = Recorder(), Recorder(echo=echo)
        self.listening = self.carrier("app", **{**both, **(app or {})}).listen(address, lambda peer: far)
        self.carrier("web", **{**both, **(web or {})}).connect(address, near)
        await near.until(lambda: bool(near.association or near.down))
        assert not near.down, near.down
        await far.until(lambda: far.association is not None)
        return near, far

    def close(self) -> None:
        for carrier in self.carriers:
            carrier.close()


class CarrierContract:
    """Inherit, and define `make`."""

    options: ClassVar[dict[str, Any]] = {}
    """Options that this carrier's tests have everywhere."""
    interleaving = True
    """Whether the carrier has I-DATA."""

    def make(self, side: str, options: CarrierOptions) -> Carrier:
        raise NotImplementedError

    def address(self) -> Address:
        """The address of the application side, with a port that no test has used."""
        return Address(("127.0.0.1",), next(_ports))

    def run(self, body: Callable[[Lab], Awaitable[T]]) -> T:
        async def whole() -> T:
            lab = Lab(self)
            errors: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
            try:
                result = await body(lab)
                await asyncio.sleep(0)
            finally:
                lab.close()
            assert not errors, errors
            return result

        return asyncio.run(whole())

    # -- messages -------------------------------------------------------------------------------------------------

    def test_echo_on_every_stream(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair(echo=True, outgoing_streams=64)
            assert near.up.outgoing_streams == near.up.incoming_streams == 64
            sent = [Message(stream, b"message on %d" % stream, 1000 + stream) for stream in range(64)]
            near.send(sent)
            await near.until(lambda: near.received == 64)
            assert sorted(near.messages, key=by_stream) == sent
            assert sorted(far.messages, key=by_stream) == sent
            assert near.up.peer
            assert far.up.peer

        self.run(body)

    def test_many_messages_arrive_whole_and_in_order(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            chosen = random.Random(1)
            count = 20_000
            expected: dict[int, list[bytes]] = {}
            for number in range(count):
                stream = chosen.randrange(200)
                data = number.to_bytes(4, "big") + chosen.randbytes(chosen.choice((1, 60, 200, 1000, 3000)))
                expected.setdefault(stream, []).append(hashlib.sha256(data).digest())
                near.send([Message(stream, data)])
                if number % 500 == 0:
                    await asyncio.sleep(0)
            await far.until(lambda: far.received == count)
            got: dict[int, list[bytes]] = {}
            for message in far.messages:
                got.setdefault(message.stream, []).append(hashlib.sha256(message.data).digest())
            assert got == expected

        self.run(body)

    def test_long_messages_of_several_streams(self) -> None:
        async def body(lab: Lab) -> None:
            near, _ = await lab.pair(echo=True)
            sent = [Message(stream, bytes([stream]) * (200_000 + stream), stream) for stream in range(1, 9)]
            near.send(sent)
            await near.until(lambda: near.received == len(sent))
            assert sorted(near.messages, key=by_stream) == sent

        self.run(body)

    def test_short_and_long_messages_in_one_call_keep_their_order(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            lengths = (10, 20, 5000, 4095, 4096, 4097, 1, 2, 9000, 8000, 3)
            sent = [Message(2, bytes([number]) * length, number) for number, length in enumerate(lengths)]
            near.send(sent)
            await far.until(lambda: far.received == len(sent))
            assert far.messages == sent

        self.run(body)

    def test_unordered(self) -> None:
        async def body(lab: Lab) -> None:
            near, _ = await lab.pair(echo=True)
            sent = [Message(3, b"unordered %d" % number, 7, unordered=True) for number in range(10)]
            near.send(sent)
            await near.until(lambda: near.received == 10)
            assert sorted(near.messages, key=by_stream) == sent

        self.run(body)

    def test_more_than_there_is_room_for(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            whole = 16 << 20
            near.send([Message(1 + number % 7, bytes(16384)) for number in range(whole >> 14)])
            assert near.unsent > 0, "a carrier keeps SCTP's queue short"
            await far.until(lambda: far.received == whole >> 14)
            assert sum(len(message.data) for message in far.messages) == whole
            assert near.writable_calls > 0
            await near.until(lambda: near.up.room() > 0)

        self.run(body)

    def test_writable_is_called_for_urgent_messages_too(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            sent = 0
            while near.up.room(urgent=True) > 0 and sent < 10_000:
                taken = near.up.send([Message(2, bytes(16384))] * 8, urgent=True)
                sent += taken
                if taken < 8:
                    break
            await near.until(lambda: near.writable_calls > 0)
            await far.until(lambda: far.received == sent)

        self.run(body)

    def test_urgent_messages_are_accepted_when_there_is_no_room_for_others(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            bulk = [Message(1, bytes(16384))] * 1000
            sent = near.up.send(bulk)
            assert sent < len(bulk)
            assert near.up.send(bulk[:1]) == 0
            assert near.up.room() == 0
            urgent = 0
            while near.up.room(urgent=True) > 0 and urgent < 500:  # Linux may have it acknowledged meanwhile
                taken = near.up.send([Message(2, bytes(100))], urgent=True)
                if not taken:
                    break
                urgent += taken
            assert urgent > 10
            await far.until(lambda: far.received == sent + urgent)
            assert sum(message.stream == 2 for message in far.messages) == urgent
            await near.until(lambda: near.up.room() > 0)

        self.run(body)

    def test_many_small_messages_at_once(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            near.send([Message(1, b"x")] * 20_000)
            await far.until(lambda: far.received == 20_000)

        self.run(body)

    def test_a_message_with_a_long_lifetime_arrives(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            near.send([Message(1, b"soon stale", 1, lifetime=30.0), Message(1, b"kept", 1)])
            await far.until(lambda: far.received == 2)
            assert far.messages == [Message(1, b"soon stale", 1), Message(1, b"kept", 1)]

        self.run(body)

    @pytest.mark.parametrize(
        "message", [Message(1, b""), Message(9999, b"x"), Message(-1, b"x"), Message(1, bytes(40 << 20))]
    )
    def test_what_can_never_be_sent(self, message: Message) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            with pytest.raises(ValueError):
                near.up.send([message])
            near.up.send([Message(1, b"fine")])
            await far.until(lambda: far.received == 1)

        self.run(body)

    # -- streams --------------------------------------------------------------------------------------------------

    def test_the_peer_grants_fewer_streams(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair(
                web={"outgoing_streams": 100, "incoming_streams": 50},
                app={"outgoing_streams": 80, "incoming_streams": 10},
            )
            assert (near.up.outgoing_streams, near.up.incoming_streams) == (10, 50)
            assert (far.up.outgoing_streams, far.up.incoming_streams) == (50, 10)
            near.send([Message(9, b"last stream")])
            await far.until(lambda: far.received == 1)
            with pytest.raises(ValueError):
                near.up.send([Message(10, b"beyond")])

        self.run(body)

    def test_add_streams(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair(outgoing_streams=8)
            for first, second, count in ((near, far, 24), (far, near, 56)):
                assert first.up.add_streams(count)
                await first.until(lambda first=first, count=count: first.up.outgoing_streams == 8 + count)  # type: ignore[misc]
                await second.until(lambda second=second, count=count: second.up.incoming_streams == 8 + count)  # type: ignore[misc]
                assert first.stream_changes
                assert second.stream_changes
                first.up.set_priority(8 + count - 1, 3)
                first.send([Message(8 + count - 1, b"new")])
                await second.until(lambda second=second: second.received == 1)  # type: ignore[misc]
                assert second.messages[0].stream == 8 + count - 1
            assert not near.up.add_streams(70_000)

        self.run(body)

    # -- beginnings and ends --------------------------------------------------------------------------------------

    def test_shutdown_delivers_what_was_sent(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            sent = near.up.send([Message(1, bytes(500)) for _ in range(20)])
            near.up.shutdown()
            assert await far.end() == ""
            assert far.received == sent == 20
            assert await near.end() == ""

        self.run(body)

    def test_abort_is_reported_once_on_both_sides(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            near.up.abort("no more")
            assert not near.down, "association_down comes on a later turn"
            near.up.abort()
            assert await near.end()
            reason = await far.end()
            assert "no more" in reason, reason
            for end in (near.up, far.up):
                assert end.room() == 0
                assert end.send([Message(1, b"x")]) == 0
                assert not end.add_streams(1)
                end.set_priority(1, 1)
                end.shutdown()
                end.abort()
                end.statistics()
            await asyncio.sleep(0.05)

        self.run(body)

    def test_nothing_listens(self) -> None:
        async def body(lab: Lab) -> None:
            near = Recorder()
            lab.carrier("web", connect_timeout=1.0).connect(self.address(), near)
            assert not near.down
            assert await near.end()
            assert near.association is None

        self.run(body)

    def test_abort_before_it_is_up(self) -> None:
        async def body(lab: Lab) -> None:
            near = Recorder()
            association = lab.carrier("web").connect(self.address(), near)
            assert association.room() == 0
            association.abort("changed my mind")
            assert await near.end()
            assert near.association is None

        self.run(body)

    def test_refused(self) -> None:
        async def body(lab: Lab) -> None:
            near = Recorder()
            asked: list[str] = []

            def accept(peer: str) -> AssociationHandler | None:
                asked.append(peer)
                return None

            address = self.address()
            lab.carrier("app").listen(address, accept)
            lab.carrier("web").connect(address, near)
            assert await near.end()
            assert len(asked) == 1

        self.run(body)

    def test_associations_are_limited(self) -> None:
        async def body(lab: Lab) -> None:
            address = self.address()
            far: list[Recorder] = []

            def accept(peer: str) -> AssociationHandler | None:
                far.append(Recorder())
                return far[-1]

            lab.carrier("app", max_associations=2).listen(address, accept)
            web = lab.carrier("web", connect_timeout=2.0)
            near = [Recorder() for _ in range(2)]
            for one in near:
                web.connect(address, one)
                await one.until(lambda one=one: one.association is not None)  # type: ignore[misc]
            third = Recorder()
            web.connect(address, third)
            assert await third.end()
            assert len(far) == 2

        self.run(body)

    def test_a_listener_that_closed(self) -> None:
        async def body(lab: Lab) -> None:
            near, _ = await lab.pair(echo=True, connect_timeout=1.0)
            address = lab.listening.address
            lab.listening.close()
            lab.listening.close()
            late = Recorder()
            lab.carriers[1].connect(address, late)
            assert await late.end()
            near.send([Message(1, b"still here")])
            await near.until(lambda: near.received == 1)

        self.run(body)

    def test_an_address_in_use(self) -> None:
        async def body(lab: Lab) -> None:
            address = self.address()
            lab.carrier("app").listen(address, lambda peer: None)
            with pytest.raises(CarrierError, match=str(address.port)):
                lab.carrier("app").listen(address, lambda peer: None)

        self.run(body)

    def test_nothing_is_called_after_close(self) -> None:
        async def body(lab: Lab) -> None:
            near, far = await lab.pair()
            near.send([Message(1, b"x")] * 10)
            lab.carriers[1].close()
            before = (near.received, near.writable_calls)
            assert await far.end()
            await asyncio.sleep(0.05)
            assert (near.received, near.writable_calls) == before
            assert not near.down
            lab.carriers[1].close()

        self.run(body)

    def test_a_handler_that_fails_costs_its_association_only(self) -> None:
        class Bad(Recorder):
            def messages_received(self, messages: Any) -> None:
                raise KeyError("oops")

        async def body() -> None:
            lab = Lab(self)
            errors: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
            far: list[Recorder] = [Bad(), Recorder(echo=True)]
            address = self.address()
            lab.carrier("app").listen(address, lambda peer: far.pop(0))
            first, second = Recorder(), Recorder()
            web = lab.carrier("web")
            for one in (first, second):
                web.connect(address, one)
                await one.until(lambda one=one: one.association is not None)  # type: ignore[misc]
                one.send([Message(1, b"x")])
            assert "internal error" in await first.end()
            await second.until(lambda: second.received == 1)
            assert isinstance(errors[0]["exception"], KeyError)
            lab.close()

        asyncio.run(body())

    def test_statistics(self) -> None:
        async def body(lab: Lab) -> None:
            near, _ = await lab.pair(echo=True)
            near.send([Message(1, bytes(1000))] * 50)
            await near.until(lambda: near.received == 50)
            seen = near.up.statistics()
            assert seen.interleaving is self.interleaving
            assert seen.congestion_window
            assert seen.peer_receive_window
            assert seen.retransmission_timeout
            assert seen.packets_sent
            assert seen.packets_received
            assert seen.queued >= 0
            assert [state for _, state in seen.paths] == ["active"] * len(seen.paths)
            assert seen.paths

        self.run(body)

    def test_uvloop(self) -> None:
        uvloop = pytest.importorskip("uvloop")

        async def body() -> None:
            lab = Lab(self)
            try:
                near, far = await lab.pair(echo=True)
                near.send([Message(number % 50, bytes(2000)) for number in range(2000)])
                await near.until(lambda: near.received == 2000)
                near.up.shutdown()
                assert await near.end() == ""
                assert await far.end() == ""
            finally:
                lab.close()

        if sys.version_info >= (3, 12):
            asyncio.run(body(), loop_factory=uvloop.new_event_loop)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(body())
