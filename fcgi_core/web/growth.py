"""When further associations with a process of an application are made, which of them stays without requests, when they
end again, and which requests wait for them.

`pool` has the arithmetic. Here is what takes time: requests may wait for associations that are being made, one that
failed is not tried again at once, and those that are not needed come to rest before they end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ..hosting.links import is_swift
from ..hosting.load_watch import LONG_ROUND_TRIP
from ..protocol.channels import Channel
from ..sctp.carrier import Address
from .association import WebAssociation
from .pool import IDLE, MOST, QUIET_FROM, TRIPS, Answers, fitting, path, to_end, to_make, with_content, with_quiet

__all__ = ["HOLD", "LOOK", "Growing", "Growth"]

LOOK = 5.0
"""Seconds between looks at associations beyond the first: which are idle, which are missing."""
HOLD = 30.0
"""Seconds without a further association after one did not come up, or did not last for as long: it may be refused."""


class Growing(Protocol):
    """The back end to which the associations belong."""

    address: Address
    log: logging.Logger
    associations: list[WebAssociation]
    """Those that are up and take requests, the oldest first."""
    quiet: WebAssociation | None
    """The one that is up and takes none."""

    @property
    def making(self) -> int:
        """Associations that are being made."""

    @property
    def outstanding(self) -> int:
        """Requests under way."""

    @property
    def waiting(self) -> int:
        """Requests that wait for an application."""

    @property
    def instance(self) -> str:
        """Of the process; '' if it does not name itself, or there is no association."""

    @property
    def channels(self) -> list[Channel]:
        """The channels of all plugins here."""

    def room(self) -> int:
        """Return how many associations with content may be made of themselves in addition."""

    def make_another(self) -> None:
        """Make an association where the last one was reached."""

    def let_go(self, association: WebAssociation) -> None:
        """Give an association no further requests, and end it when it has none."""

    def use_quiet(self) -> None:
        """Give requests to the one that had none."""

    def end_left(self) -> bool:
        """End the associations that get no more requests and have none; return whether some are left, or being made."""

    def accepts_again(self) -> None:
        """Send on requests that waited."""


class Growth:
    """How many associations one process has at a time."""

    __deletable__ = ("_owner",)

    def __init__(self, owner: Growing, loop: asyncio.AbstractEventLoop, wanted: int | None) -> None:
        """`wanted`: associations that there are to be; None: as many as help."""
        self.answers = Answers()
        self.path_is_long = False
        """Whether the window may be what requests wait for."""
        self.fits: int | None = None
        """Requests that there are to be at most while associations are made on which the next are served sooner."""
        self._owner = owner
        self._loop = loop
        self._wanted = wanted
        self._most = MOST if wanted is None else wanted
        """Associations with content at most."""
        self._fits_handle: asyncio.TimerHandle | None = None
        self._waited = False
        """Requests have waited for as long as they may; some associations are still being made."""
        self._grows = False
        """Whether `_grow` will be called in this turn of the loop."""
        self._look_handle: asyncio.TimerHandle | None = None
        self._hold_until = 0.0
        """No further association is made before."""
        self._stopped = False

    def reach(self, is_loopback: bool) -> int:
        """Return how many associations there may be with a process there, to announce it. On the loopback one is
        enough."""
        if self._wanted is None:
            self._most = 1 if is_loopback else MOST
            return with_quiet(self._most, True)
        return self._most

    def came_up(self, association: WebAssociation) -> bool:
        """Begin to follow an association; return whether it is to be the one without requests: the last of those that
        were made, for content is waiting."""
        owner = self._owner
        settings = association.connection.peer_settings
        assert settings is not None
        if min(self._most, settings.max_associations) > 1 and settings.instance:
            association.watch_load(path([one.load for one in owner.associations]))
        if owner.quiet is not None or owner.making:
            return False
        up = len(owner.associations) + 1
        return with_content(up, self._may_be_quiet()) < up

    def changed(self) -> None:
        """Look again: associations came, went, or have more or less to do."""
        if self._stopped:
            return
        owner = self._owner
        if owner.associations:
            self.path_is_long = path([one.load for one in owner.associations]) >= LONG_ROUND_TRIP
            if not self._grows and self._missing() > 0:
                self._grows = True
                self._loop.call_soon(self._grow)  # not now: more requests may come in the same turn

    def has_room(self) -> bool:
        """Return whether one more request is to be sent now; False if it is served sooner by an association that is
        being made. Only for where `path_is_long`."""
        self.changed()
        if self._grows and self.fits is None:
            self.fit()
        return self.fits is None or self._owner.outstanding < self.fits

    def hold(self, seconds: float = HOLD) -> None:
        """Make no further association for a while."""
        self._hold_until = max(self._hold_until, self._loop.time() + seconds)

    def begin_again(self) -> None:
        """There is no association left: the next may have others beside it at once."""
        self._hold_until = 0.0

    def stop(self) -> None:
        self._stopped = True
        for handle in (self._fits_handle, self._look_handle):
            if handle is not None:
                handle.cancel()
        self._fits_handle = self._look_handle = None

    def close(self) -> None:
        """Forget the owner, so that both are free at once: it has stopped, and its associations are gone."""
        del self._owner

    def fit(self) -> None:
        """Let requests wait for associations that are being made if those serve them sooner, and at most for twice the
        time that this takes."""
        if self._stopped:
            return
        associations = self._owner.associations
        making = self._grows or self.content > len(associations)
        if self.path_is_long and making and associations and not self._waited:
            loads = [one.load for one in associations]
            self.fits = max(len(loads), fitting(loads, self.answers.size))
            if self._fits_handle is None:
                pause = 2 * TRIPS * max(load.round_trip for load in loads)
                self._fits_handle = self._loop.call_later(pause, self._fit_late)
            return
        self._waited = self._waited and making
        if self.fits is not None:
            self._fit_no_more()

    def _fit_late(self) -> None:
        self._waited = True
        self._fit_no_more()

    def _fit_no_more(self) -> None:
        if self._fits_handle is not None:
            self._fits_handle.cancel()
            self._fits_handle = None
        if self.fits is not None:
            self.fits = None
            self._owner.accepts_again()

    def _may_be_quiet(self) -> bool:
        """Return whether urgent items gain by an association without content. A number that was asked for is the
        number of those with content."""
        if self._wanted is not None:
            return False
        link = self._owner.associations[0].link if self._owner.associations else None
        return link is not None and any(is_swift(one) and link.carries(one) for one in self._owner.channels)

    @property
    def content(self) -> int:
        """How many associations with content there are, those included that are being made."""
        if self._stopped:
            return 0
        owner = self._owner
        up, making = len(owner.associations), owner.making
        if owner.quiet is not None or not making:
            return up + making
        return max(up, with_content(up + making, self._may_be_quiet()))

    def _missing(self) -> int:
        """Return how many associations are to be made now."""
        owner = self._owner
        associations = owner.associations
        if self._most <= 1 or not associations or self._stopped:
            return 0
        connection = associations[0].connection
        settings = connection.peer_settings
        assert settings is not None
        all_most = min(with_quiet(self._most, self._wanted is None), settings.max_associations)
        room = all_most - len(associations) - owner.making - (owner.quiet is not None)
        if room <= 0 or connection.peer_draining or not owner.instance or self._loop.time() < self._hold_until:
            return 0
        if self._wanted is not None:
            return room
        quiet = self._may_be_quiet()
        content = self.content
        loads = [one.load for one in associations]
        more = to_make(loads, content, owner.outstanding + owner.waiting, self.answers.size)
        more = min(more, with_content(all_most, quiet) - content, self._most - content)
        if more > 0:
            more = min(more, owner.room())
        content += max(more, 0)
        return min(room, with_quiet(content, quiet) - (all_most - room))

    def _grow(self) -> None:
        self._grows = False
        if self._stopped:
            return
        missing = self._missing()
        for _ in range(missing):
            self._owner.make_another()
        if missing > 0 and self._look_handle is None:
            self._look_handle = self._loop.call_later(LOOK, self._look)
        self.fit()

    def _look(self) -> None:
        """End associations that are not needed any more."""
        self._look_handle = None
        owner = self._owner
        now = self._loop.time()
        idle = []
        for one in owner.associations:
            if one.requests:
                one.used_at = now
            idle.append(now - one.used_at)
        if self._wanted is None:
            for place in reversed(to_end(idle)):
                one = owner.associations[place]
                owner.log.info("association %d with %s ends: no request for %g s", one.number, owner.address, IDLE)
                owner.let_go(one)
        if owner.quiet is not None:
            if len(owner.associations) < QUIET_FROM:
                number = owner.quiet.number
                owner.log.info("association %d with %s ends: it stayed free of requests", number, owner.address)
                owner.let_go(owner.quiet)
            elif not self._may_be_quiet():
                owner.use_quiet()
        left = owner.end_left()
        self.changed()
        if self._look_handle is None and (left or len(owner.associations) > 1 or self._wanted):
            self._look_handle = self._loop.call_later(LOOK, self._look)
