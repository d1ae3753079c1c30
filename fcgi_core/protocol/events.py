"""What a connection tells its user: one value for each thing that happened, in order. Nobody changes one.

`request` is the handle that the user also sends with; it carries `context`, a place for the user's own object.

Those of which every request has one are plain classes and the others frozen dataclasses: to make one of these costs a
quarter of a microsecond (compiled; 0.03 for a plain class), which was a tenth of what a short request costs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import RemoteProtocolError
from .records import ProtocolStatus
from .request import Request
from .settings import Settings

__all__ = [
    "Event",
    "PeerReady",
    "PeerChanged",
    "RequestReceived",
    "InputReceived",
    "InputClosed",
    "RequestAborted",
    "OutputReceived",
    "StderrReceived",
    "RequestEnded",
    "RequestFailed",
    "Writable",
    "FeedbackReceived",
    "ItemsAcknowledged",
    "ConfigReceived",
    "ConfigAnswered",
    "PeerDraining",
    "PeerError",
    "RecordRefused",
    "ConnectionFailed",
]


class _Value:
    """Compared and shown by the attributes that `__match_args__` names."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def _values(self) -> list[object]:
        return [getattr(self, name) for name in self.__match_args__]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, _Value) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(self.__match_args__, self._values(), strict=True))
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, slots=True)
class PeerReady:
    """The peer's SETTINGS have come: requests and feedback may be sent."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """The peer has changed the channels that it sends on or takes, or has taken notice of ours."""


class RequestReceived(_Value):
    """Application side: a request whose PARAMS are whole (`request.params`)."""

    __match_args__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class InputReceived(_Value):
    """Application side: part of STDIN, or of DATA. Say `consumed` when it was passed on."""

    __match_args__ = ("request", "data", "is_data")

    def __init__(self, request: Request, data: bytes, is_data: bool = False) -> None:
        self.request = request
        self.data = data
        self.is_data = is_data
        """True for FCGI_DATA, a filter's second stream."""


class InputClosed(_Value):
    """Application side: STDIN ended (a filter: STDIN, then once more for DATA; an authorizer has neither)."""

    __match_args__ = ("request", "is_data")

    def __init__(self, request: Request, is_data: bool = False) -> None:
        self.request = request
        self.is_data = is_data


@dataclass(frozen=True, slots=True)
class RequestAborted:
    """Application side: nobody waits for the answer any more. END_REQUEST is still to be sent (section 5.4)."""

    request: Request


class OutputReceived(_Value):
    """Web side: part of STDOUT. Say `consumed` when it was passed on."""

    __match_args__ = ("request", "data")

    def __init__(self, request: Request, data: bytes) -> None:
        self.request = request
        self.data = data


@dataclass(frozen=True, slots=True)
class StderrReceived:
    """Web side: part of STDERR; may come after RequestEnded."""

    request: Request
    data: bytes


class RequestEnded(_Value):
    """Web side: END_REQUEST. The request is over toward the web server; feedback of it may follow."""

    __match_args__ = ("request", "app_status", "status", "stderr")

    def __init__(self, request: Request, app_status: int, status: ProtocolStatus, stderr: int = 0) -> None:
        self.request = request
        self.app_status = app_status
        self.status = status
        self.stderr = stderr
        """Bytes of STDERR that the application sent for it, modulo 2**24. `request.stderr_bytes` are those that have
        come; the others are on their way."""


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The peer broke the protocol in this request, not in the association. No event of its body comes after this.

    Web side: it is over. Application side: END_REQUEST is still to be sent, as after `RequestAborted`, unless it was
    sent already or there was no `RequestReceived` (`request.context` is None then).
    """

    request: Request
    error: RemoteProtocolError


@dataclass(frozen=True, slots=True)
class Writable:
    """All that was given for sending has been taken up by the window: more may be given."""

    request: Request


@dataclass(frozen=True, slots=True)
class FeedbackReceived:
    """An item of a channel. `request` is None at association scope, and for a request long forgotten."""

    channel: str
    request: Request | None
    data: bytes


@dataclass(frozen=True, slots=True)
class ItemsAcknowledged:
    """The peer has taken over all items that it was sent on the channel, up to the one of this number."""

    channel: str
    number: int


@dataclass(frozen=True, slots=True)
class ConfigReceived:
    """The peer changes dynamic configuration; answer with `answer_config`."""

    number: int
    pairs: dict[str, str]


@dataclass(frozen=True, slots=True)
class ConfigAnswered:
    """The peer's answer to `send_config`: name -> '' for taken, else the reason why not."""

    number: int
    results: dict[str, str]


@dataclass(frozen=True, slots=True)
class PeerDraining:
    """The peer takes no new requests; those that run are finished."""


@dataclass(frozen=True, slots=True)
class PeerError:
    """The peer says why it is about to abort the association."""

    text: str


@dataclass(frozen=True, slots=True)
class RecordRefused:
    """A record that belongs to no request known here was left out; for the log."""

    error: RemoteProtocolError


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The peer broke the protocol for all: flush what waits (an ERROR record), then abort the association."""

    error: RemoteProtocolError


Event = (
    PeerReady
    | PeerChanged
    | RequestReceived
    | InputReceived
    | InputClosed
    | RequestAborted
    | OutputReceived
    | StderrReceived
    | RequestEnded
    | RequestFailed
    | Writable
    | FeedbackReceived
    | ItemsAcknowledged
    | ConfigReceived
    | ConfigAnswered
    | PeerDraining
    | PeerError
    | RecordRefused
    | ConnectionFailed
)
