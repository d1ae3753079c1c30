"""What a hook sees: requests and how they ended, associations, the figures of channels, lines of the live feed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..sctp.statistics import AssociationStatistics


class RequestInfo(Protocol):
    """A request, as plugins see it: the same object in every hook of that request and half."""

    @property
    def identity(self) -> str:
        """The name of the request in logs on both sides: PARAMS' REQUEST_ID if the web server passed it (nginx's
        $request_id), else made from the association and the request's id and generation."""

    @property
    def params(self) -> Mapping[str, str]:
        """The CGI variables, latin-1 text as in PEP 3333: SERVER_NAME, REQUEST_METHOD, …"""

    @property
    def server_name(self) -> str:
        """SERVER_NAME, the virtual host; '' if the web server did not pass it. Cheaper than `params`."""

    @property
    def raw_params(self) -> bytes:
        """The CGI variables as name-value pairs (FastCGI section 3.4), undecoded. With `values_of` a plugin reads a few
        of many, perhaps later."""

    @property
    def reference(self) -> tuple[AssociationInfo, int] | None:
        """The association that carries the request, and the number by which `Host.find_requests` of the other side
        finds it while it remembers it: so an item of association scope can name the request of each of its events. None
        if no application has accepted the request yet. The number is more than 0 and less than 2**56."""

    @property
    def plugin_data(self) -> dict[str, Any]:
        """A place for plugins' own values, by plugin name."""


@dataclass(frozen=True, slots=True)
class AssociationInfo:
    """An association, as plugins see it. There may be several with one process.

    identity: unique in this process.
    peer: the address of the other side, for people.
    peer_name: the name of the other side in its SETTINGS.
    peer_instance: changes when the process of the other side is started again. The peer chooses it, so use `process` to
        tell processes apart.
    member: what the peer cannot choose. On the web side, the address of the application in the configuration, which its
        workers share; on the application side, the web side's host.
    """

    identity: int
    peer: str
    peer_name: str
    peer_instance: str
    member: str = ""

    @property
    def process(self) -> tuple[str, str]:
        """Identifies the process of the other side: no process of another member can have the same."""
        return (self.member, self.peer_instance)


class Outcome(NamedTuple):
    """How a request ended. Times are seconds.

    status: the HTTP status of the response; 0 if there was none (aborted before, or the output is not a CGI response).
    duration: from the first record of the request to its end.
    first_byte: from the first record of the request to the first byte of the response; None if there was none.
    bytes_in: bytes of the request's body.
    bytes_out: bytes of the response, its head included.
    aborted: whether the client closed its connection before the end.
    error: why the request failed; '' if it did not.
    queued: from the first record of the request until work on it began: on the application side, when a thread started
        it; on the web side, when it was sent to an application. None if that did not happen, or is not known.
    """

    # a tuple, because one is made for each request
    status: int
    duration: float
    first_byte: float | None
    bytes_in: int
    bytes_out: int
    aborted: bool = False
    error: str = ""
    queued: float | None = None


@dataclass(frozen=True, slots=True)
class ChannelTotals:
    """What a channel carried since the process began, on all associations.

    scope: ``request`` or ``association``.
    priority: the priority's name in lower case.
    sent, received, dropped: events, which are items unless the channel is declared `counted`.
    sent_bytes, received_bytes: bytes of their items.
    """

    name: str
    scope: str
    priority: str
    sent: int
    sent_bytes: int
    received: int
    received_bytes: int
    dropped: int


@dataclass(frozen=True, slots=True)
class AssociationFigures:
    """The state of one association. Counters begin with it.

    requests: the requests that it carries now.
    streams: outgoing streams.
    streams_leased: outgoing streams that requests hold now.
    shortages: how often there were too few streams, by the remedy: ``asked`` for more, ``shared_feedback``,
        ``shared_content``.
    feedback_waiting: bytes of feedback that wait to be sent.
    content_waiting: bytes of content that wait here, before SCTP's own buffer.
    statistics: the figures of SCTP.
    """

    info: AssociationInfo
    requests: int
    streams: int
    streams_leased: int
    shortages: Mapping[str, int]
    feedback_waiting: int
    content_waiting: int
    statistics: AssociationStatistics


@dataclass(frozen=True, slots=True)
class OutputFigures:
    """The state of one place that a half writes to: a file, a server. Counters begin with the half.

    state: ``idle`` (nothing waits), ``writing``, ``stalled`` (it neither accepts what waits nor fails) or ``failing``.
    last_error: why it fails; '' if it does not.
    errors: attempts to write that failed.
    written, waiting, lost: events.
    waiting_bytes: bytes of memory that the waiting events hold, about.
    lost_bytes: characters in the text of lost events.
    cut: events that were too long and were written shorter.
    """

    name: str
    state: str
    last_error: str
    errors: int
    written: int
    waiting: int
    waiting_bytes: int
    lost: int
    lost_bytes: int
    cut: int


@dataclass(frozen=True, slots=True)
class TransportFigures:
    """The state of the transport.

    associations: the associations that are up.
    channels: the channels of all plugins.
    outputs: the places that plugins write to, each with the name of its plugin.
    disagreements: by plugin, the number of processes of the other side that declare its channels in a different way.
    requests_over_limit: on the application side, requests that were ended because they took longer than
        `app.request_limit`, since the process began.
    """

    associations: Sequence[AssociationFigures]
    channels: Sequence[ChannelTotals]
    outputs: Sequence[tuple[str, OutputFigures]] = ()
    disagreements: Mapping[str, int] = field(default_factory=dict)
    requests_over_limit: int = 0


@dataclass(frozen=True, slots=True)
class ApplicationFigures:
    """The state of one application of the web side's configuration, with its workers. Counters begin with the web side.

    address: as it was configured.
    states: the number of its processes in each state that occurs: ``up``; ``avoided``, after failures in a row;
        ``draining``; ``drained``, by hand; ``out`` of the balance, by its probes; ``down``, without an association.
    requests: requests that were sent to it.
    in_flight: requests that it handles.
    capacity: how many more it would accept now.
    avoided, out, lost: how often one of its processes began to be avoided, failed its probes, lost its last
        association.
    """

    address: str
    states: Mapping[str, int]
    requests: int
    in_flight: int
    capacity: int
    avoided: int
    out: int
    lost: int

    @property
    def up(self) -> bool:
        """Whether it gets requests: one of its processes is up, or avoided only as long as there is another."""
        return bool(self.states.get("up") or self.states.get("avoided"))


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """The state of this process as a service.

    version, carrier: of this program, and which SCTP it uses.
    obstacle: why it takes no requests, a sentence without its full stop; '' if it takes them.

    On the web side only:

    applications: each application of the configuration, also those that are away.
    waiting, waiting_bytes: requests that wait for an application, and the memory of what they have sent, about.
    unserved: requests that the web side answered itself, by reason: ``queue_full`` and ``queue_timeout`` (503),
        ``unreachable`` (502, no application has been there for long), ``request_timeout`` (504).
    """

    version: str = ""
    carrier: str = ""
    obstacle: str = ""
    applications: Sequence[ApplicationFigures] = ()
    waiting: int = 0
    waiting_bytes: int = 0
    unserved: Mapping[str, int] = field(default_factory=dict)


class FeedEntry(NamedTuple):
    """One line of the live feed, which `fcgi-sctp logs` follows. Text is stored as it came: the viewer escapes it.

    time: seconds since the epoch, by the clock of the machine that wrote the line.
    severity: 0 emergency to 7 debug (RFC 5424 section 6.2.1).
    application: APP-NAME, the program that wrote it.
    process: PROCID.
    kind: MSGID: the name of the logger, `stderr`, …
    request: the identity of the request; '' if there is none.
    fields: structured data, flat.
    host: HOSTNAME, the machine that wrote it.
    """

    # a tuple, because it is made in a third of the time of a frozen dataclass, and there are many a second
    time: float
    severity: int
    message: str
    server_name: str = ""
    application: str = ""
    facility: int = 1
    process: str = ""
    kind: str = ""
    request: str = ""
    fields: Mapping[str, str] | None = None
    host: str = ""


class FeedEntries(Sequence[FeedEntry]):
    """Many lines, each of which becomes a `FeedEntry` when it is read: of thousands a second few are looked at.
    `Host.publish_all` keeps such an object as it is."""

    __slots__ = ()

    @abstractmethod
    def entry(self, position: int) -> FeedEntry:
        """The line at a position, from 0."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Bytes of memory that the lines take; not less, and about as much. The bounds of the feed and of outputs count
        these."""

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self.entry(one) for one in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return self.entry(position % len(self))
