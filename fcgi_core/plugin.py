"""What a plugin author imports: API version 1.

A plugin is one object, found by an entry point of the group ``fcgi_sctp.plugins`` and enabled by its name under
``plugins:`` in the YAML file. It has a configuration model, the channels it needs, and two halves: one runs in the
application's process, one in the web side's. Hooks are called on the event loop's thread: they must return soon and
must not wait. A half implements the hooks it wants and leaves out the rest; what is left out costs nothing.

    class Hello(Plugin):
        name = "hello"
        class Options(Plugin.Options):
            greeting: str = "hello"
        def channels(self, options):
            return [Channel("hello", scope=Scope.REQUEST)]
        def application_half(self, host, options):
            return Greeter(host, options)

What an item means is the plugin's own affair: bytes go in on one side and come out on the other, whole, in the order
of the channel, with the request they belong to. Whatever reaches `feedback` was sent by the other side's half, but
treat it as remote text all the same.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from .channels import MAX_ITEM, Channel, Direction, Priority, Scope, WhenFull
from .errors import PluginError, StartAnew
from .folders import folder_problem
from .loggers import keep_enabled
from .memory_cost import memory_cost
from .records import values_of
from .sctp.carrier import AssociationStatistics
from .text import SECRETS, SEVERITIES, escape, escape_word, is_secret, may_have_secrets, severity_number
from .traffic import BOUNDS, OTHER, STATUS_CLASSES, Histogram, HostTraffic, Traffic, clean_host
from .turns import Turns
from .unix_socket import UnixSocket

__all__ = [
    "API_VERSION",
    "ApplicationHalf",
    "ApplicationHost",
    "AssociationFigures",
    "AssociationInfo",
    "AssociationStatistics",
    "BOUNDS",
    "Channel",
    "ChannelTotals",
    "Direction",
    "FeedEntries",
    "FeedEntry",
    "FromPeer",
    "Gathering",
    "Half",
    "Histogram",
    "Host",
    "HostTraffic",
    "MAX_ITEM",
    "OTHER",
    "OptionsByHost",
    "Outcome",
    "OutputFigures",
    "Plugin",
    "PluginError",
    "Priority",
    "RequestInfo",
    "SECRETS",
    "SEVERITIES",
    "STATUS_CLASSES",
    "Scope",
    "StartAnew",
    "Stream",
    "Traffic",
    "TransportFigures",
    "Turns",
    "UnixSocket",
    "WebHalf",
    "WebHost",
    "WhenFull",
    "bound_to_request",
    "clean_host",
    "current_request",
    "escape",
    "escape_word",
    "folder_problem",
    "is_secret",
    "keep_enabled",
    "may_have_secrets",
    "memory_cost",
    "severity_number",
    "values_of",
]

API_VERSION = 1


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


Make = Callable[[bool], Iterable[tuple[bytes, int, AssociationInfo | None]]]
"""See `Host.gather`."""


class Gathering(Protocol):
    """Events that a half keeps for the loop to fetch, many at a time: what `Host.gather` gives. Any thread."""

    def ready(self) -> None:
        """There is something, and was nothing before: `make` will be called soon."""

    def lose(self, count: int) -> None:
        """Count events as dropped that the half had no room for."""


class Stream(Protocol):
    """A stream that a half opened for a request: what `Host.open_stream` gives. Any thread."""

    def send(self, item: bytes, *, urgency: int = 6) -> None:
        """As `Host.send`; items of one stream keep their order, if the channel is ordered. They reach `feedback` as any
        item of the channel and request does."""


class Host(Protocol):
    """What a half can do. Every call may come from any thread and returns at once; but while thousands of items wait
    for the loop, or the plugin has sent more than 20,000 within a second, `send` lets it go first, for a millisecond,
    on any thread but the loop's."""

    log: logging.Logger
    """For messages to the operator of this process."""

    name: str
    """What this process is called: application, or web side."""

    def send(self, channel: str, item: bytes, *, request: RequestInfo | None = None, urgency: int = 6) -> None:
        """Queue an item for the other half. Losses are counted; those with the highest `urgency` number go first. What
        a plugin sends beyond 20,000 items a second is lost.

        On a channel of request scope `request` says whose stream. On one of association scope the item goes to one
        association: that of `request` if given, else the oldest that takes the channel; if there is none yet it waits,
        within the channel's bound.
        """

    def gather(self, channel: str, make: Make) -> Gathering:
        """For a half that has thousands of events a second, and makes items of many: `make(crowded)` gives the items,
        with the urgency of each, and the association that it is for or None. It is called on the loop's thread, soon
        after `ready`, once in 5 ms at most.

        `crowded`: the channel's queue is so full that something may have to be dropped; items of one urgency each are
        dropped more wisely then. On a channel of association scope; declare it `counted`, so that figures are right.
        """

    def broadcast(self, channel: str, item: bytes) -> None:
        """Queue an item on a channel of association scope for every association there is now."""

    def is_taken(self, channel: str) -> bool:
        """False while there are associations and none takes what is sent on this channel: the other side has not
        enabled the plugin, or with other options, or has set it aside. What is sent waits then, within the channel's
        bound, or is counted as dropped. `association_up` is called when that is over."""

    def open_channel(self, channel: Channel) -> None:
        """One more channel, beside those that `Plugin.channels` told, named as those are. It carries what is sent on it
        from when the other half has opened it too, declared alike but for its bounds; at association scope items wait
        for that, within the channel's bound. PluginError if it cannot be. From a hook, or when the half is made.
        """

    def close_channel(self, name: str) -> None:
        """Give up a channel that `open_channel` opened; what waits on it still goes. PluginError if there is none. From
        a hook."""

    def open_stream(self, channel: str, request: RequestInfo) -> Stream:
        """One more SCTP stream for this request on a channel of request scope: what is sent on it waits for nothing
        else that the request sends, nor holds that up. The request's end gives it back. PluginError for a channel of
        the other scope, or if the request has 16 more streams on this one."""

    def associations(self) -> Sequence[AssociationInfo]:
        """The associations that are up now."""

    def association_of(self, request: RequestInfo) -> AssociationInfo | None:
        """The association that carries a request; None if there is none yet."""

    def find_requests(
        self, numbers: Iterable[int], association: AssociationInfo | None = None
    ) -> list[RequestInfo | None]:
        """The requests that have these numbers (`RequestInfo.reference`), in their order; None for one that is long
        over, or that there never was. `association`, that on which the numbers came: None too for a request that is
        another process', so that no application can speak for another. For the loop's thread alone: from a hook."""

    def transport(self) -> TransportFigures:
        """How the associations and channels fare. For the loop's thread alone: from a hook."""

    def traffic(self) -> Traffic:
        """What went through this process since the first call, by virtual host; always the same object. Call it when
        the half is made: from then on requests are counted."""


class ApplicationHost(Host, Protocol):
    """The host of an application half."""


class WebHost(Host, Protocol):
    """The host of a web half."""

    def publish(self, entry: FeedEntry) -> None:
        """Add a line to the live feed."""

    def publish_all(self, entries: Iterable[FeedEntry]) -> None:
        """Add lines to the live feed; where there is none, `entries` is not even looked at. `FeedEntries` cost
        least."""


class Half:
    """Hooks of both halves. Inherit `ApplicationHalf` or `WebHalf`.

    What is raised is logged and counted. A hook that takes longer than the configuration's `hook_limit` is ended by a
    HookTimeout, where that tears nothing but the plugin's own code, and its plugin is set aside.
    """

    def association_up(self, association: AssociationInfo) -> None:
        """The other side is there and has said what it takes. Called again when it takes channels of this plugin that
        it did not take before: its half was switched on, or opened one."""

    def association_down(self, association: AssociationInfo, reason: str) -> None:
        """It is gone."""

    def request_begin(self, request: RequestInfo) -> None:
        """A request has come; on the web side, an application has been found for it. Called again if another takes it
        over."""

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        """The request is over; feedback of it may still come or go. On the web side also for a request that was refused
        before `request_begin`."""

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        """The other half sent this. `request` is None at association scope, for one long over, and toward the
        application for an item that overtook its request, being on another stream."""

    def commit(self) -> Future[None] | None:
        """Take over for good what `feedback` brought until now on acknowledged channels; called at most every 50 ms.

        None: that is done, and it is acknowledged: the other side forgets it. If it takes longer, as on a disk, return
        a future instead of waiting, and set its result, on any thread, when it is done; there may be several at once.
        If this raises, or the future has an exception, nothing is acknowledged now.
        """
        return None

    def reopen(self) -> None:
        """SIGUSR1: open anew the files that are written to; something has moved them away."""

    def configure(self, options: Any, server_name: str | None = None) -> None:
        """The options changed while running, for one virtual host if named; they are checked already. Called too, when
        the half is made, for each host that has options of its own, by its name in lower case; `OptionsByHost` keeps
        them. Raise ValueError to refuse them, StartAnew to be closed while another half is made with them. A half
        without this hook is closed and another one made when options change, and takes none of one host."""

    def tick(self) -> None:
        """Called about once a second."""

    def output_figures(self) -> Sequence[OutputFigures]:
        """How the places fare that this half writes to: shown by `fcgi-sctp status`, `plugins list` and the metrics."""
        return ()

    def close(self) -> None:
        """The last call."""


class ApplicationHalf(Half):
    """The half in the application's process."""

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        """The application wrote to wsgi.errors, or a FastCGI server to STDERR: whole or partial lines.

        True if this plugin takes it, so that it is not sent as FCGI_STDERR any more. Called on any thread.
        """
        return False


class WebHalf(Half):
    """The half beside the web server."""

    def stderr(self, request: RequestInfo, data: bytes) -> None:
        """FCGI_STDERR of a request arrived; it may be over already."""


class _MayBeSetByPeer:
    """Marks an option, as `FromPeer`."""


MAY_BE_SET_BY_PEER = _MayBeSetByPeer()
_T = TypeVar("_T")
FromPeer = Annotated[_T, MAY_BE_SET_BY_PEER]
"""The type of an option that a web side may change in its applications, when `fcgi-sctp set` on its host asks it to:
``failures: FromPeer[int] = 5``. For what does no harm at its worst; never for a path, an address, or an expression. All
other options are changed in the application's own file, or by `fcgi-sctp set` on its host."""


class Plugin:
    """What the entry point names: a class derived from this, or an instance of one."""

    class Options(BaseModel):
        """The options under ``plugins: NAME:``. Give every field a default and a description."""

        model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str]
    version: ClassVar[str] = "0"
    api_version: ClassVar[int] = API_VERSION
    switched_by_peer: ClassVar[bool] = False
    """Whether a web side may switch the plugin off and on in applications, as it may change a `FromPeer` option."""

    def channels(self, options: Any) -> Sequence[Channel]:
        """The channels that this plugin needs with these options; the same on both sides."""
        return ()

    def missing(self, options: Any, web: bool) -> Sequence[str]:
        """What one side needs with these options, and this machine does not have: one sentence each that begins with
        the option's name. `fcgi-sctp check` shows them; nothing is started, and no file is written."""
        return ()

    def application_half(self, host: ApplicationHost, options: Any) -> ApplicationHalf | None:
        """The half for an application's process; None if the plugin has none. OSError, ValueError: it cannot run."""
        return None

    def web_half(self, host: WebHost, options: Any) -> WebHalf | None:
        """The half for the web side; None if the plugin has none. OSError, ValueError: it cannot run."""
        return None


class OptionsByHost:
    """The options of a plugin, and of the virtual hosts that have some of their own: for a half to look up."""

    __slots__ = ("_common", "_hosts")

    def __init__(self, options: Any) -> None:
        """`options` are those that the half was made with."""
        self._common = options
        self._hosts: dict[str, Any] = {}

    def __getitem__(self, server_name: str) -> Any:
        """What holds for this virtual host, in letters of any case; '' for what belongs to none."""
        return self._hosts.get(server_name.lower(), self._common) if self._hosts else self._common

    def change(self, options: Any, server_name: str | None = None) -> None:
        """What `configure` was called with."""
        if server_name is None:
            self._common = options
        elif options == self._common:
            self._hosts.pop(server_name.lower(), None)
        else:
            self._hosts[server_name.lower()] = options

    def values(self) -> list[Any]:
        """All of them."""
        return [self._common, *self._hosts.values()]


_current: ContextVar[RequestInfo | None] = ContextVar("fcgi_sctp_request", default=None)


def current_request() -> RequestInfo | None:
    """The request that the calling thread or task works for; None outside of one."""
    return _current.get()


class bound_to_request:
    """A context: work for `request` while inside, so that what the application logs is bound to it.

    A class, for each request enters it, and `contextlib.contextmanager` takes three times as long.
    """

    __slots__ = ("_request", "_token")

    def __init__(self, request: RequestInfo | None) -> None:
        self._request = request
        self._token: Token[RequestInfo | None]

    def __enter__(self) -> None:
        self._token = _current.set(self._request)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
