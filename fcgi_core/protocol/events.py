"""What a connection reports to its user: one immutable value for each thing that happened, in order.

`request` is the handle that the user also sends with; its `context` is a place for the user's own object.

Events of which every request has one are plain classes and the others frozen dataclasses, because making a frozen
dataclass takes eight times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import RemoteProtocolError
from .records import ProtocolStatus
from .request import Request
from .settings import Settings


class Event:
    """Compared and shown by the attributes that `__match_args__` names."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def _values(self) -> list[object]:
        return [getattr(self, name) for name in self.__match_args__]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Event) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(self.__match_args__, self._values(), strict=True))
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, slots=True)
class PeerReady(Event):
    """The peer's SETTINGS have arrived: requests and feedback may be sent."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class PeerChanged(Event):
    """The peer has changed the channels that it sends on or accepts, or has seen this side's change."""


class RequestReceived(Event):
    """Application side: a request has begun, and its PARAMS are complete (`request.params`)."""

    __match_args__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class InputReceived(Event):
    """Application side: part of STDIN, or of DATA. Call `consumed` when it was passed on."""

    __match_args__ = ("request", "data", "is_data")

    def __init__(self, request: Request, data: bytes, is_data: bool = False) -> None:
        self.request = request
        self.data = data
        self.is_data = is_data
        """True for FCGI_DATA, a filter's second stream."""


class InputClosed(Event):
    """Application side: STDIN ended (a filter: STDIN, then DATA; an authorizer has neither)."""

    __match_args__ = ("request", "is_data")

    def __init__(self, request: Request, is_data: bool = False) -> None:
        self.request = request
        self.is_data = is_data


@dataclass(frozen=True, slots=True)
class RequestAborted(Event):
    """Application side: the client has gone. END_REQUEST is still to be sent (section 5.4)."""

    request: Request


class OutputReceived(Event):
    """Web side: part of STDOUT. Call `consumed` when it was passed on."""

    __match_args__ = ("request", "data")

    def __init__(self, request: Request, data: bytes) -> None:
        self.request = request
        self.data = data


@dataclass(frozen=True, slots=True)
class StderrReceived(Event):
    """Web side: part of STDERR, which may arrive after RequestEnded."""

    request: Request
    data: bytes


class RequestEnded(Event):
    """Web side: END_REQUEST. The response is complete; feedback of the request may follow."""

    __match_args__ = ("request", "app_status", "status", "stderr")

    def __init__(self, request: Request, app_status: int, status: ProtocolStatus, stderr: int = 0) -> None:
        self.request = request
        self.app_status = app_status
        self.status = status
        self.stderr = stderr
        """Bytes of STDERR that the application sent, modulo 2**24; `request.stderr_bytes` of them have arrived."""


@dataclass(frozen=True, slots=True)
class RequestFailed(Event):
    """The peer broke the protocol in this request; the association lives. No event of its body follows.

    Web side: the request is over. Application side: END_REQUEST is still to be sent, as after `RequestAborted`, unless
    it was sent before or there was no `RequestReceived` (`request.context` is None then).
    """

    request: Request
    error: RemoteProtocolError


@dataclass(frozen=True, slots=True)
class Writable(Event):
    """Everything queued for the request fits its window now: more may be queued."""

    request: Request


@dataclass(frozen=True, slots=True)
class FeedbackReceived(Event):
    """An item of a channel. `request` is None if it has none, or one that is forgotten, or that another association
    carries: then `number` is its number (docs/protocol.md)."""

    channel: str
    request: Request | None
    data: bytes
    number: int = 0


@dataclass(frozen=True, slots=True)
class ItemsAcknowledged(Event):
    """The peer has acknowledged the items of the channel from `first` to `number`; all before, if `first` is 0."""

    channel: str
    number: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class ConfigReceived(Event):
    """The peer changes options while both run; answer with `answer_config`."""

    number: int
    pairs: dict[str, str]


@dataclass(frozen=True, slots=True)
class ConfigAnswered(Event):
    """The peer's answer to `send_config`: by name, '' for an accepted option, else the reason against it."""

    number: int
    results: dict[str, str]


@dataclass(frozen=True, slots=True)
class PeerDraining(Event):
    """The peer accepts no new requests and finishes those under way."""


@dataclass(frozen=True, slots=True)
class PeerLoad(Event):
    """Web side: what waits at the application for the association's congestion window, bytes; the window, bytes; the
    smoothed round trip, seconds."""

    waiting: int
    window: int
    round_trip: float


@dataclass(frozen=True, slots=True)
class PeerError(Event):
    """The peer says why it is going to abort the association."""

    text: str


@dataclass(frozen=True, slots=True)
class RecordRefused(Event):
    """A record that belongs to no known request or channel was ignored; for the log."""

    error: RemoteProtocolError


@dataclass(frozen=True, slots=True)
class ConnectionFailed(Event):
    """The peer broke the protocol for the association: send what waits (an ERROR record), then abort."""

    error: RemoteProtocolError
