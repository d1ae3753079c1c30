"""What the tests of the protocol core share: a connection alone, and two joined by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from fcgi_core.errors import RemoteProtocolError
from fcgi_core.hosting.driver import Driver
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.channels import Channel, Direction, Priority, Scope
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.events import (
    ConnectionFailed,
    Event,
)
from fcgi_core.protocol.outbox import PPID
from fcgi_core.protocol.records import (
    HEADER,
    HEADER_SIZE,
    RecordType,
    encode_pairs,
    record,
)
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.streams import CONTROL_STREAM, Policy
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import Message

C = TypeVar("C", bound=Connection)
E = TypeVar("E", bound=Event)

ROOM = 1 << 30
"""Room enough for everything at once."""


class Cut(NamedTuple):
    """A record as it stood in a message."""

    type: int
    id: int
    generation: int
    content: bytes


def cut(*messages: Message) -> list[Cut]:
    """The records of messages, checked to be whole."""
    records = []
    for message in messages:
        position = 0
        while position < len(message.data):
            version, kind, request_id, length, padding, generation = HEADER.unpack_from(message.data, position)
            assert (version, padding) == (1, 0)
            start = position + HEADER_SIZE
            position = start + length
            assert position <= len(message.data)
            records.append(Cut(kind, request_id, generation, message.data[start:position]))
    return records


def control(kind: int, content: bytes = b"", request_id: int = 0) -> Message:
    return Message(CONTROL_STREAM, record(kind, request_id, content), PPID)


def settings_message(settings: Settings) -> Message:
    return control(RecordType.SETTINGS, settings.encode())


def message(kind: int, request_id: int, content: bytes = b"", generation: int = 0, stream: int = 2) -> Message:
    return Message(stream, record(kind, request_id, content, generation), PPID)


def together(*messages: Message) -> Message:
    """The records of several messages in one, on the first one's stream."""
    first = messages[0]
    return Message(first.stream, b"".join(each.data for each in messages), first.ppid, first.unordered, first.lifetime)


def of(events: list[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def one(events: list[Event], kind: type[E]) -> E:
    (event,) = of(events, kind)
    return event


C = TypeVar("C", bound=Connection)


def ready(made: C, peer: Settings | None = None, streams: int = 64) -> C:
    """A connection that is open and has its peer's SETTINGS; its own have been taken."""
    made.open(streams, 0.0)
    peer_channels = tuple(channel.name for channel in made.feedback.outgoing)
    made.receive([settings_message(peer or Settings(accepts=peer_channels))], 0.0)
    assert [each.type for each in cut(*made.take(ROOM))] == [RecordType.SETTINGS]
    return made


class Pair:
    """A web side and an application side; `run` carries everything over, in order, until nothing moves."""

    def __init__(
        self,
        web: Settings | None = None,
        app: Settings | None = None,
        *,
        channels: tuple[Channel, ...] = (),
        policy: Policy | None = None,
        streams: int = 64,
        settle: bool = True,
        **named: Any,
    ) -> None:
        self.web = WebConnection(web, channels=channels, **named)
        self.app = ApplicationConnection(app, channels=channels, **named)
        self.web.pool.policy = self.app.pool.policy = policy
        self.now = 0.0
        self.web.open(streams, 0.0)
        self.app.open(streams, 0.0)
        self.web_events: list[Event] = []
        self.app_events: list[Event] = []
        if settle:
            self.run()
            self.web_events.clear()
            self.app_events.clear()

    def run(self) -> None:
        """Events gather in `web_events` and `app_events`."""
        moving = True
        while moving:
            to_app, to_web = self.web.take(ROOM), self.app.take(ROOM)
            moving = bool(to_app or to_web)
            self.app_events += self.app.receive(to_app, self.now)
            self.web_events += self.web.receive(to_web, self.now)

    def take_web(self) -> list[Event]:
        events, self.web_events = self.web_events, []
        return events

    def take_app(self) -> list[Event]:
        events, self.app_events = self.app_events, []
        return events


class NoLoop:
    """A loop on which nothing ever comes due."""

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Any:
        return self.call_at(0.0, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Any:
        return None


def idle(connection: C) -> Driver[C]:
    """What a Link needs of a driver. It has no association, for `Pair.run` moves the messages."""
    return Driver(connection, NoLoop(), on_events=lambda events: None, on_down=lambda reason: None)


CHANNELS = tuple(
    channel
    for direction in Direction
    for name in [direction.value.removeprefix("to-")]
    for channel in (
        Channel(f"{name}.request", Scope.REQUEST, direction),
        Channel(f"{name}.association", Scope.ASSOCIATION, direction, Priority.URGENT),
        Channel(f"{name}.loose", Scope.ASSOCIATION, direction, ordered=False, lifetime=3.0),
    )
)
PARAMS = encode_pairs({"SERVER_NAME": "example.org"})


def way(connection: Connection) -> str:
    """The beginning of the names of the channels that a connection sends on."""
    return "application" if isinstance(connection, WebConnection) else "web"


def other_way(connection: Connection) -> str:
    return "web" if isinstance(connection, WebConnection) else "application"


def peer_of(connection: Connection, **named: Any) -> Settings:
    sent = tuple(channel.describe() for channel in CHANNELS if channel.name.startswith(other_way(connection)))
    return Settings(channels=sent, accepts=tuple(channel.name for channel in connection.feedback.outgoing), **named)


def failure(connection: Connection, *messages: Message) -> RemoteProtocolError:
    """The error that ends the association when these messages come; it is told to both sides, once."""
    events = connection.receive(messages, 0.0)
    assert isinstance(events[-1], ConnectionFailed)
    error = one(events, ConnectionFailed).error
    assert connection.failed
    assert error.request_key is None
    (told,) = cut(*connection.take(ROOM))
    assert told.type == RecordType.ERROR
    assert told.content.decode() == str(error)[:1024]
    assert connection.receive([control(RecordType.DRAIN)], 0.0) == []
    assert connection.timer() is None
    return error
