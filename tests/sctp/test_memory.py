"""The memory carrier: what it promises to those who test with it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fcgi_core.sctp.carrier import Address, Association, AssociationHandler, CarrierError, CarrierOptions, Message
from fcgi_core.sctp.memory import WINDOW, MemoryAssociation, MemoryNetwork

ADDRESS = Address(("10.0.0.1",), 9000)


class Recorder:
    """A handler that records its calls with their times."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.association: Association | None = None
        self.events: list[str] = []
        self.messages: list[Message] = []
        self.times: list[float] = []
        self.reasons: list[str] = []

    @property
    def memory(self) -> MemoryAssociation:
        assert isinstance(self.association, MemoryAssociation)
        return self.association

    def association_up(self, association: Association) -> None:
        self.association = association
        self.events.append("up")

    def messages_received(self, messages: Sequence[Message]) -> None:
        assert messages
        self.messages += messages
        self.times += [self.network.now] * len(messages)

    def writable(self) -> None:
        self.events.append("writable")

    def streams_changed(self) -> None:
        self.events.append("streams")

    def association_down(self, reason: str) -> None:
        self.events.append("down")
        self.reasons.append(reason)


def pair(network: MemoryNetwork, options: CarrierOptions | None = None) -> tuple[Recorder, Recorder]:
    """Two handlers whose association is up: client and server."""
    client, server = Recorder(network), Recorder(network)
    network.carrier(options).listen(ADDRESS, lambda peer: server)
    network.carrier(options).connect(ADDRESS, client)
    network.run()
    assert client.events == server.events == ["up"]
    return client, server


def test_the_handshake_takes_two_round_trips_and_calls_back_later() -> None:
    network = MemoryNetwork(delay=0.01)
    client, server = Recorder(network), Recorder(network)
    network.carrier().listen(ADDRESS, lambda peer: server)
    network.carrier().connect(ADDRESS, client)
    assert client.events == []
    network.run_until(0.039)
    assert (client.events, server.events) == ([], ["up"])
    network.run_until(0.04)
    assert client.events == ["up"]
    assert network.now == 0.04


def test_streams_are_what_both_sides_allow() -> None:
    network = MemoryNetwork()
    client, server = Recorder(network), Recorder(network)
    network.carrier(CarrierOptions(incoming_streams=20, outgoing_streams=300)).listen(ADDRESS, lambda peer: server)
    network.carrier(CarrierOptions(incoming_streams=40, outgoing_streams=50)).connect(ADDRESS, client)
    network.run()
    assert (client.memory.outgoing_streams, client.memory.incoming_streams) == (20, 40)
    assert (server.memory.outgoing_streams, server.memory.incoming_streams) == (40, 20)


def test_each_stream_is_in_order_and_streams_overtake_each_other() -> None:
    client, server = pair(MemoryNetwork(seed=3, delay=0.01, loss=0.2, jitter=0.005))
    sent = [Message(number % 5, b"%d" % number, 7) for number in range(200)]
    assert client.memory.send(sent) == 200
    client.network.run()
    for stream in range(5):
        assert [m for m in server.messages if m.stream == stream] == [m for m in sent if m.stream == stream]
    assert server.messages != sent


def test_a_loss_holds_up_its_own_stream_only() -> None:
    network = MemoryNetwork(delay=0.01, loss=0.1, retransmission=1.0, seed=1)
    client, server = pair(network)
    start = network.now
    client.memory.send([Message(number % 20, b"%d" % number) for number in range(100)])
    network.run()
    late = {m.stream for m, when in zip(server.messages, server.times, strict=True) if when > start + 0.5}
    assert 0 < len(late) < 20
    assert client.memory.statistics().retransmissions


def test_unordered_messages_overtake() -> None:
    client, server = pair(MemoryNetwork(seed=2, delay=0.01, loss=0.3))
    client.memory.send([Message(0, b"%d" % number, unordered=True) for number in range(50)])
    client.network.run()
    arrived = [int(message.data) for message in server.messages]
    assert sorted(arrived) == list(range(50))
    assert arrived != list(range(50))


def test_a_lifetime_ends() -> None:
    client, server = pair(MemoryNetwork(seed=2, loss=0.5, retransmission=1.0))
    client.memory.send([Message(0, b"%d" % number, lifetime=0.5) for number in range(100)])
    client.network.run()
    assert 0 < len(server.messages) < 100
    assert len(client.memory.abandoned) + len(server.messages) == 100
    assert all(message.lifetime is None for message in server.messages)
    assert client.memory.statistics().queued == 0


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        client, server = pair(MemoryNetwork(seed=9, delay=0.01, loss=0.1, jitter=0.01))
        client.memory.send([Message(number % 3, b"%d" % number) for number in range(100)])
        client.network.run()
        runs.append((server.messages, server.times))
    assert runs[0] == runs[1]


def test_the_send_buffer_is_bounded_and_writable_says_when_it_has_room() -> None:
    client, server = pair(MemoryNetwork())
    messages = [Message(1, bytes(1024))] * 200
    taken = client.memory.send(messages)
    assert taken == WINDOW // 1024
    assert client.memory.room() == 0
    assert client.memory.send(messages) == 0
    client.network.run()
    assert len(server.messages) == taken
    assert client.events == ["up", "writable"]
    assert client.memory.room() == WINDOW


@pytest.mark.parametrize(
    "message", [Message(0, b""), Message(256, b"x"), Message(0, bytes((1 << 20) + 1))], ids=["empty", "stream", "large"]
)
def test_what_can_never_be_sent_raises(message: Message) -> None:
    client, _server = pair(MemoryNetwork())
    with pytest.raises(ValueError, match=r"message has|no stream"):
        client.memory.send([message])


def test_add_streams() -> None:
    client, server = pair(MemoryNetwork(), CarrierOptions(outgoing_streams=10, incoming_streams=15))
    assert client.memory.add_streams(5)
    assert client.memory.outgoing_streams == 10
    client.network.run()
    assert client.memory.outgoing_streams == server.memory.incoming_streams == 15
    assert client.events == server.events == ["up", "streams"]
    assert client.memory.add_streams(1)
    client.network.run()
    assert client.memory.outgoing_streams == 15
    assert client.events == ["up", "streams", "streams"]
    assert not client.memory.add_streams(0)


def test_shutdown_delivers_everything_of_both_sides() -> None:
    client, server = pair(MemoryNetwork(seed=4, loss=0.3))
    client.memory.send([Message(0, b"%d" % number) for number in range(50)])
    server.memory.send([Message(0, b"%d" % number) for number in range(50)])
    client.memory.shutdown()
    assert client.memory.send([Message(0, b"late")]) == 0
    client.network.run()
    assert len(server.messages) == len(client.messages) == 50
    assert client.reasons == server.reasons == [""]


def test_abort_says_why_to_both_and_only_later() -> None:
    client, server = pair(MemoryNetwork())
    client.memory.abort("tired")
    client.memory.abort("again")
    assert client.events == ["up"]
    client.network.run()
    assert client.reasons == ["aborted by this side: tired"]
    assert server.reasons == [f"{server.memory.peer} aborted the association: tired"]
    assert client.memory.room() == 0
    assert client.memory.send([Message(0, b"x")]) == 0


def test_a_lost_association_is_noticed_by_both() -> None:
    client, server = pair(MemoryNetwork())
    client.memory.send([Message(0, b"x")])
    client.memory.lose("The cable was cut.")
    client.network.run()
    assert client.reasons == server.reasons == ["The cable was cut."]
    assert server.messages == []


def test_priorities_are_noted() -> None:
    client, _server = pair(MemoryNetwork())
    client.memory.set_priority(3, 1)
    assert client.memory.priorities == {3: 1}


def test_connections_that_fail() -> None:
    network = MemoryNetwork()
    refused, silent, unwanted = Recorder(network), Recorder(network), Recorder(network)
    network.unreachable.add("10.0.0.9")
    listener = network.carrier().listen(ADDRESS, lambda peer: None)
    carrier = network.carrier()
    carrier.connect(Address(("10.0.0.2",), 9000), refused)
    carrier.connect(Address(("10.0.0.9",), 9000), silent)
    carrier.connect(ADDRESS, unwanted)
    network.run()
    assert refused.reasons == ["10.0.0.2:9000 refused the association"]
    assert silent.reasons == ["10.0.0.9:9000 did not answer within 5 s"]
    assert unwanted.reasons == ["10.0.0.1:9000 aborted the association: not wanted"]
    with pytest.raises(CarrierError, match="in use"):
        carrier.listen(ADDRESS, lambda peer: None)
    listener.close()
    carrier.listen(ADDRESS, lambda peer: None)


def test_a_closed_carrier_calls_no_hooks() -> None:
    network = MemoryNetwork()
    accepted: list[AssociationHandler] = []

    def accept(peer: str) -> AssociationHandler:
        accepted.append(Recorder(network))
        return accepted[-1]

    server, client = network.carrier(), network.carrier()
    server.listen(ADDRESS, accept)
    recorder = Recorder(network)
    client.connect(ADDRESS, recorder)
    network.run()
    client.close()
    client.close()
    network.run()
    assert recorder.events == ["up"]
    assert isinstance(accepted[0], Recorder)
    assert accepted[0].reasons == [f"{accepted[0].memory.peer} aborted the association: closing"]


def test_an_endless_conversation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_core.sctp.memory.EVENTS", 100)
    network = MemoryNetwork()

    def again() -> None:
        network.call_at(network.now, again)

    again()
    with pytest.raises(RuntimeError, match="more than 100 events"):
        network.run()


def test_a_network_has_sensible_figures() -> None:
    with pytest.raises(ValueError, match="loss"):
        MemoryNetwork(loss=1)
