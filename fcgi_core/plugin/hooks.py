"""What a plugin declares, what its two halves can do (the host), and when they are called (the half)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from ..protocol.channels import Channel
from .traffic import Traffic
from .views import (
    AssociationInfo,
    FeedEntry,
    Outcome,
    OutputFigures,
    RequestInfo,
    ServiceFigures,
    TransportFigures,
)

API_VERSION = 1

Make = Callable[[bool], Iterable[tuple[bytes, int, AssociationInfo | None]]]
"""See `Host.gather`."""


class Gathering(Protocol):
    """Events that a half keeps until the loop gathers them, many at a time: returned by `Host.gather`. Any thread."""

    def ready(self) -> None:
        """Have `make` called soon. Call this when there are events again after there were none."""

    def lose(self, count: int) -> None:
        """Count events as dropped, for which the half had no room."""


class Stream(Protocol):
    """A stream that a half opened for a request: returned by `Host.open_stream`. Any thread."""

    def send(self, item: bytes, *, urgency: int = 6) -> None:
        """Queue an item, as `Host.send` does. Items of one stream keep their order, if the channel is ordered. They
        reach `feedback` as every item of the channel and request does."""


class Host(Protocol):
    """What a half can do. Methods may be called on any thread unless they say otherwise, and return at once; but while
    thousands of items wait for the loop, or the plugin has sent more than 20,000 within a second, `send` waits for a
    millisecond on any thread but the loop's, so that the loop goes first.

    log: the logger for messages to the operator of this process.
    name: the name of this process: that of the application, or ``web side``.
    """

    log: logging.Logger
    name: str

    def send(self, channel: str, item: bytes, *, request: RequestInfo | None = None, urgency: int = 6) -> None:
        """Queue an item for the other half. Losses are counted. Where there is too little room, the items with the
        highest `urgency` number are dropped first. Items of one plugin beyond 20,000 a second are dropped.

        On a channel of request scope the item goes on the stream of `request`. On one of association scope it goes to
        one process: that of `request` if given, else the one that accepts the channel for longest. If there is none
        yet, the item waits, within the channel's bound. Items of urgent channels with `ordered=False` take whichever
        association with the process is the quickest, at either scope.
        """

    def gather(self, channel: str, make: Make) -> Gathering:
        """Send thousands of events a second, many in one item: `make(crowded)` returns the items, each with its urgency
        and with the association that it is for, or None. It is called on the loop's thread, soon after `ready`, at most
        once in 5 ms.

        `crowded`: the channel's queue is so full that items may have to be dropped; make items of one urgency each
        then, so that the least urgent are dropped. The channel must be of association scope; declare it `counted`, so
        that its figures are right.
        """

    def broadcast(self, channel: str, item: bytes) -> None:
        """Queue an item on a channel of association scope for each process with which there is an association now."""

    def is_taken(self, channel: str) -> bool:
        """False while there are associations and no other side accepts this channel: it has not enabled the plugin, or
        with other options, or has set it aside. Items wait then, within the channel's bound, or are counted as dropped.
        `association_up` is called when that is over."""

    def open_channel(self, channel: Channel) -> None:
        """Open a channel in addition to those of `Plugin.channels`, named as those are. It carries items as soon as the
        other half has opened it too, declared alike except for its bounds; at association scope items wait for that,
        within the channel's bound. PluginError if it cannot be opened. Call it from a hook, or when the half is made.
        """

    def close_channel(self, name: str) -> None:
        """Close a channel that `open_channel` opened; what waits on it is still sent. PluginError if there is none.
        Call it from a hook."""

    def open_stream(self, channel: str, request: RequestInfo) -> Stream:
        """Open an additional SCTP stream for this request on a channel of request scope: items on it wait for nothing
        else that the request sends, and hold nothing else up. The stream ends with the request. PluginError for a
        channel of the other scope, or if the request has 16 additional streams on this one."""

    def associations(self) -> Sequence[AssociationInfo]:
        """Returns the associations that are up now."""

    def association_of(self, request: RequestInfo) -> AssociationInfo | None:
        """Returns the association that carries a request; None if there is none yet."""

    def find_requests(
        self, numbers: Iterable[int], association: AssociationInfo | None = None
    ) -> list[RequestInfo | None]:
        """Returns the requests with these numbers (`RequestInfo.reference`), in their order; None for a request that
        ended long ago, or never was. With `association`, on which the numbers came, also None for a request of another
        process, so that no application can speak for another. On the loop's thread only: call it from a hook."""

    def transport(self) -> TransportFigures:
        """Returns the state of associations and channels. On the loop's thread only: call it from a hook."""

    def service(self) -> ServiceFigures:
        """Returns whether this process takes requests, and on the web side the state of the applications and of the
        queue. On the loop's thread only, and not while the half is made: call it from a hook."""

    def traffic(self) -> Traffic:
        """Returns the figures of requests by virtual host, counted since the first call; always the same object. Call
        it when the half is made."""


class ApplicationHost(Host, Protocol):
    """The host of an application half."""


class WebHost(Host, Protocol):
    """The host of a web half."""

    def publish(self, entry: FeedEntry) -> None:
        """Add a line to the live feed."""

    def publish_all(self, entries: Iterable[FeedEntry]) -> None:
        """Add lines to the live feed. If there is no feed, `entries` is not read. `FeedEntries` cost least."""


class Half:
    """Hooks of both halves. Inherit `ApplicationHalf` or `WebHalf`.

    An exception from a hook is logged and counted. A hook that takes longer than the configuration's `hook_limit` is
    ended by a HookTimeout, where that interrupts only the plugin's own code, and its plugin is set aside.
    """

    def association_up(self, association: AssociationInfo) -> None:
        """The other side is up and has named the channels that it accepts. Called again when it accepts channels of
        this plugin that it did not accept before: its half was switched on, or opened a channel."""

    def association_down(self, association: AssociationInfo, reason: str) -> None:
        """The association has ended; `reason` is for people."""

    def request_begin(self, request: RequestInfo) -> None:
        """A request has come; on the web side, an application has been found for it. Called again if the request is
        sent to another application."""

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        """The request has ended; its feedback may still be sent and received. On the web side also called for a request
        that was refused before `request_begin`."""

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        """The other half sent an item. `request` is None at association scope, if the request ended long ago, and in
        the application for an item that overtook its request on another stream."""

    def commit(self) -> Future[None] | None:
        """Store for good what `feedback` received until now on acknowledged channels; called at most every 50 ms.

        Return None if that is done: the items are acknowledged, and the other side forgets them. If it takes longer, as
        on a disk, return a future instead of waiting, and set its result, on any thread, when it is done; there may be
        several at once. If this raises, or the future has an exception, nothing is acknowledged now.
        """
        return None

    def reopen(self) -> None:
        """Open the files that the half writes to again: a log rotation has moved them, and sent SIGUSR1."""

    def configure(self, options: Any, server_name: str | None = None) -> None:
        """The options changed while running, for one virtual host if named; they are checked already. Also called when
        the half is made, for each host that has its own options, by its name in lower case; `OptionsByHost` keeps them.
        Raise ValueError to refuse them, StartAnew to have the half closed and another one made with them. If a half has
        no such hook it is closed and another one made when options change, and it has no options by host."""

    def tick(self) -> None:
        """Called about once a second."""

    def output_figures(self) -> Sequence[OutputFigures]:
        """Returns the state of the places that this half writes to, for `status`, `plugins list` and the metrics."""
        return ()

    def close(self) -> None:
        """End; nothing is called after this."""


class ApplicationHalf(Half):
    """The half in the application's process."""

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        """The application wrote to wsgi.errors, or a FastCGI server to STDERR: whole or partial lines.

        Return True if this plugin handles it, so that it is not sent as FCGI_STDERR. Called on any thread.
        """
        return False


class WebHalf(Half):
    """The half in the process next to the web server."""

    def stderr(self, request: RequestInfo, data: bytes) -> None:
        """FCGI_STDERR of a request arrived; the request may have ended."""


MAY_BE_SET_BY_PEER = "may be set by peer"
"""What `FromPeer` marks an option with."""
_T = TypeVar("_T")
FromPeer = Annotated[_T, MAY_BE_SET_BY_PEER]
"""See `Plugin`."""


class Plugin:
    """The base of a plugin. The entry point names a class derived from it, or an instance of one.

    name: the name of the entry point, and of the plugin in the configuration.
    version: shown by `fcgi-sctp plugins list`.
    api_version: leave it as it is.
    switched_by_peer: whether a web side may switch the plugin off and on in applications, as it may change a `FromPeer`
        option.

    ``failures: FromPeer[int] = 5`` declares an option that a web side may change in its applications, when `fcgi-sctp
    set` on its host asks it to. Use it for options that do no harm at their worst; never for a path, an address, or an
    expression. All other options are changed in the application's file, or by `fcgi-sctp set` on its host.
    """

    class Options(BaseModel):
        """The options under ``plugins: NAME:``. Give every field a default and a description."""

        model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str]
    version: ClassVar[str] = "0"
    api_version: ClassVar[int] = API_VERSION
    switched_by_peer: ClassVar[bool] = False

    def channels(self, options: Any) -> Sequence[Channel]:
        """Returns the channels that this plugin needs with these options; the same on both sides."""
        return ()

    def missing(self, options: Any, web: bool) -> Sequence[str]:
        """Returns what one side needs with these options and this machine does not have: one sentence each, beginning
        with the option's name. `fcgi-sctp check` shows them. Start nothing, and write no file."""
        return ()

    def application_half(self, host: ApplicationHost, options: Any) -> ApplicationHalf | None:
        """Make the half for an application's process; None if there is none. OSError or ValueError if it cannot run."""
        return None

    def web_half(self, host: WebHost, options: Any) -> WebHalf | None:
        """Make the half for the web side; None if there is none. OSError or ValueError if it cannot run."""
        return None
