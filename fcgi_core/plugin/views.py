"""What a hook sees: requests and how they ended, associations, the figures of channels, lines of the live feed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..sctp.carrier import AssociationStatistics


class RequestInfo(Protocol):
    """A request, as plugins see it: the same object in every hook of that request and half."""

    @property
    def identity(self) -> str:
        """Names the request in logs on both sides: PARAMS' REQUEST_ID if the web server passed it (nginx's
        $request_id), else made from the association and the request's id and generation."""

    @property
    def params(self) -> Mapping[str, str]:
        """The CGI variables, latin-1 text as in PEP 3333: SERVER_NAME, REQUEST_METHOD, …"""

    @property
    def server_name(self) -> str:
        """SERVER_NAME, the virtual host; '' if the web server did not pass it. Cheaper than `params`."""

    @property
    def raw_params(self) -> bytes:
        """The same as name-value pairs (FastCGI section 3.4), undecoded: for `values_of`, if a few of many are wanted,
        perhaps later."""

    @property
    def reference(self) -> tuple[AssociationInfo, int] | None:
        """The association that carries it, and a number by which `Host.find_requests` of the other side finds it, as
        long as it remembers it: so an item of association scope can say whose its events are. None if no application
        has taken it yet. The number is more than 0 and less than 2**56."""

    @property
    def plugin_data(self) -> dict[str, Any]:
        """A place for plugins' own values, by plugin name."""


@dataclass(frozen=True, slots=True)
class AssociationInfo:
    """An association, as plugins see it."""

    identity: int
    """Unique in this process."""
    peer: str
    """Address of the other side, for people."""
    peer_name: str
    """What the other side's SETTINGS call it."""
    peer_instance: str
    """Changes when the other side's process is started anew. The peer says so; `process` tells processes apart."""
    member: str = ""
    """What the peer cannot choose: on the web side, the address of the application as the configuration has it, which
    its workers share; on the application side, the web side's host."""

    @property
    def process(self) -> tuple[str, str]:
        """Names the process at the other end: nothing that another member says of itself has the same."""
        return (self.member, self.peer_instance)


class Outcome(NamedTuple):
    """How a request ended. Times are seconds. A tuple, for one is made for each request."""

    status: int
    """HTTP status of the response; 0 if there was none (aborted before, or output that is no CGI response)."""
    duration: float
    """From the first record of the request to its end."""
    first_byte: float | None
    """From the first record of the request to the first byte of the response."""
    bytes_in: int
    bytes_out: int
    aborted: bool = False
    """The client went away."""
    error: str = ""
    """Why the request failed, '' if it did not."""
    queued: float | None = None
    """From the first record of the request until work on it began: in the application, a thread took it; on the web
    side, it was sent on. None if that did not happen, or is not known."""


@dataclass(frozen=True, slots=True)
class ChannelTotals:
    """What a channel carried since the process began, on all associations."""

    name: str
    scope: str
    """``request`` or ``association``."""
    priority: str
    sent: int
    """Items; so are `received` and `dropped`."""
    sent_bytes: int
    received: int
    received_bytes: int
    dropped: int


@dataclass(frozen=True, slots=True)
class AssociationFigures:
    """How one association fares. Counters begin with it."""

    info: AssociationInfo
    requests: int
    """Under way."""
    streams: int
    """Outgoing ones."""
    streams_leased: int
    """Held by requests now."""
    shortages: Mapping[str, int]
    """How often streams were short, by what was done: ``asked`` for more, ``shared_feedback``, ``shared_content``."""
    feedback_waiting: int
    """Bytes of feedback that wait to be sent."""
    content_waiting: int
    """Bytes of content that wait here, before SCTP's own buffer."""
    statistics: AssociationStatistics
    """What SCTP tells."""


@dataclass(frozen=True, slots=True)
class OutputFigures:
    """How one place fares that a half writes to: a file, a server. Counters begin with the half."""

    name: str
    state: str
    """``idle``: nothing waits; ``writing``; ``stalled``: it neither takes what waits nor fails; ``failing``."""
    last_error: str
    """Why it fails, '' if it does not."""
    errors: int
    """Attempts to write that failed."""
    written: int
    """Events; so are `waiting`, `lost` and `cut`."""
    waiting: int
    waiting_bytes: int
    """Bytes of memory that these hold, about."""
    lost: int
    lost_bytes: int
    """Characters of their text."""
    cut: int
    """Events that were too long and were written shorter."""


@dataclass(frozen=True, slots=True)
class TransportFigures:
    """What the transport does."""

    associations: Sequence[AssociationFigures]
    """Those that are up."""
    channels: Sequence[ChannelTotals]
    """Of all plugins."""
    outputs: Sequence[tuple[str, OutputFigures]] = ()
    """What plugins write to, each with the name of its plugin."""
    disagreements: Mapping[str, int] = field(default_factory=dict)
    """By plugin: the associations whose two sides declare its channels in different ways."""


class FeedEntry(NamedTuple):
    """One line of the live feed, which `fcgi-sctp logs` follows. Text is as it came: who shows it escapes it.

    A tuple, because that is made in a third of the time of a frozen dataclass, and lines come many a second.
    """

    time: float
    """Seconds since the epoch, by the clock of who wrote it."""
    severity: int
    """0 emergency to 7 debug (RFC 5424 section 6.2.1)."""
    message: str
    server_name: str = ""
    application: str = ""
    """APP-NAME: what wrote it."""
    facility: int = 1
    process: str = ""
    """PROCID."""
    kind: str = ""
    """MSGID: logger name, `stderr`, …"""
    request: str = ""
    """Identity of the request, '' if there is none."""
    fields: Mapping[str, str] | None = None
    """Structured data, flat."""
    host: str = ""
    """HOSTNAME: the machine that it was written on."""


class FeedEntries(Sequence[FeedEntry]):
    """Many lines, each of which becomes a `FeedEntry` when somebody reads it: of thousands a second few are looked at.
    What `Host.publish_all` takes as it is."""

    __slots__ = ()

    @abstractmethod
    def entry(self, position: int) -> FeedEntry:
        """One of them, from 0."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Bytes of memory that they take, about, and not less: the feed and outputs keep as much as they may by it."""

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self.entry(one) for one in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return self.entry(position % len(self))
