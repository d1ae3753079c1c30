"""Hooks: what a plugin declares, what its two halves may do (the host) and what they are asked (the half)."""

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
    TransportFigures,
)

API_VERSION = 1


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
