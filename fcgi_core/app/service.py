"""The application side of the program: it listens for associations, runs an application on them, and stops in order.

The service does not know WSGI, ASGI or FastCGI servers; an `Application` does, and gets an `AppExchange` for each
request. All of this runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from .. import __version__
from ..hosting.discovery import EnabledPlugin
from ..hosting.driver import Driver
from ..hosting.supervisor import Supervisor
from ..plugin import ServiceFigures
from ..protocol.application import ApplicationConnection
from ..protocol.settings import Settings, new_instance
from ..sctp.carrier import Address, Carrier, Listener
from .admission import MAX_ASSOCIATIONS, MAX_ASSOCIATIONS_PER_ADDRESS, MAX_ASSOCIATIONS_PER_WEB_SIDE
from .associations import Associations
from .exchange import AppExchange, Shared
from .request_limit import RequestLimit

__all__ = ["AppService", "Application"]

log = logging.getLogger("fcgi_sctp.app")

DRAINED_WITHIN = 2.0
"""Seconds that a web side without a request here has to answer DRAIN: enough for a request that was under way, lost
packets included."""


class Application(Protocol):
    """What runs requests: WSGI, ASGI, a bridge."""

    async def start(self, service: AppService) -> None:
        """Get ready; an error ends the program."""

    def request(self, exchange: AppExchange) -> None:
        """Begin a request. Its PARAMS are there, and its body may still be coming. Must return at once."""

    async def stop(self) -> None:
        """End threads and the like; all requests have ended or been given up."""


class AppService:
    """Listens for associations and runs an application on them."""

    def __init__(
        self,
        application: Application,
        carrier: Carrier,
        addresses: Sequence[Address],
        *,
        plugins: Sequence[EnabledPlugin] = (),
        settings: Settings | None = None,
        remote_changes: bool = True,
        max_associations: int = MAX_ASSOCIATIONS,
        max_associations_per_address: int = MAX_ASSOCIATIONS_PER_ADDRESS,
        max_associations_per_web_side: int = MAX_ASSOCIATIONS_PER_WEB_SIDE,
        request_limit: float | None = None,
        is_replaced: bool = False,
    ) -> None:
        """`remote_changes`: whether web sides may change options of plugins. `request_limit`: seconds that a request
        may take, None: without end; `is_replaced`: see `RequestLimit`."""
        self.loop = asyncio.get_running_loop()
        self.application = application
        self.addresses: list[Address] = []
        """The addresses at which it listens."""
        self._carrier = carrier
        self._wanted = addresses
        self._settings = replace(
            settings or Settings(), instance=new_instance(), max_associations=max_associations_per_web_side
        )
        self.supervisor = Supervisor(
            plugins,
            self.loop,
            self.loop.call_soon_threadsafe,
            web=False,
            process_name=self._settings.name,
            service=self.figures,
        )
        self.shared = Shared(self.loop, self.supervisor)
        self._associations = Associations(
            self.shared,
            self._make_connection,
            remote_changes=remote_changes,
            most=max_associations,
            most_per_address=max_associations_per_address,
            most_per_web_side=max_associations_per_web_side,
        )
        self.limit: RequestLimit | None = None
        """Ends requests that take too long."""
        if request_limit is not None:
            self.limit = RequestLimit(self._associations.requests, request_limit, self.loop, is_replaced=is_replaced)
        self._listeners: list[Listener] = []
        self._stopping: asyncio.Event | None = None
        """Set when the associations have changed while the service stops."""

    @property
    def refused(self) -> int:
        """Associations that were refused."""
        return self._associations.refused

    def figures(self) -> ServiceFigures:
        """Returns the state of the service, for plugins."""
        obstacle = "" if self.addresses else "it does not listen for associations yet"
        if self._stopping is not None:
            obstacle = "it stops: no new requests are accepted"
        return ServiceFigures(__version__, self._carrier.name, obstacle)

    def _make_connection(self) -> ApplicationConnection:
        return ApplicationConnection(self._settings, channels=self.supervisor.channels)

    async def start(self) -> None:
        """Start the application, then listen. CarrierError, or what the application's start raises."""
        try:
            await self.application.start(self)
        except BaseException:
            self.supervisor.close()  # the log lines up to now go out, and why the application cannot start
            raise
        self._associations.on_request = self.application.request
        if self.limit is not None:
            self.limit.start()
        for address in self._wanted:
            listener = self._carrier.listen(address, self._accept)
            self._listeners.append(listener)
            self.addresses.append(listener.address)
            log.info("listening for associations at %s (%s SCTP)", listener.address, self._carrier.name)

    def _accept(self, peer: str) -> Driver[ApplicationConnection] | None:
        return self._associations.accept(peer) if self._stopping is None else None

    async def stop(self, grace: float = 10.0) -> None:
        """Run `finish`, then `close`."""
        await self.finish(grace)
        await self.close()

    async def finish(self, grace: float) -> None:
        """Accept no new requests, let running requests end within `grace` seconds, and stop the application. The
        associations stay up for what the application still logs."""
        changed = self._stopping = asyncio.Event()
        self.shared.on_change = changed.set
        for listener in self._listeners:
            listener.close()
        for association in self._associations:
            association.connection.drain()
            association.driver.wake()
        deadline = self.loop.time() + grace
        while (wait := min(self._holds_for(), deadline - self.loop.time())) > 0:
            changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await changed.wait()
            except TimeoutError:
                pass  # look again
        left = sum(len(one.connection.requests) for one in self._associations)
        if left:
            log.warning("%d requests still ran after %g s and are given up", left, grace)
        if self.limit is not None:
            self.limit.stop()
        await self.application.stop()

    async def close(self) -> None:
        """After `finish`: let plugins send their last items, then end the associations."""
        changed = self._stopping
        assert changed is not None
        self.supervisor.close()
        for association in self._associations:
            association.driver.shutdown()
        try:
            async with asyncio.timeout(2.0):
                while self._associations:
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass  # the peer is gone; closing the carrier aborts what is left
        self._carrier.close()
        self._associations.close()

    def _holds_for(self) -> float:
        """Return the seconds for which the associations hold up a stop, as far as is known now."""
        now = self.loop.time()
        longest = 0.0
        for one in self._associations:
            if one.connection.requests:
                one.idle_since = now
                longest = math.inf
            elif not one.connection.peer_draining:
                # a web side answers DRAIN with its own when none of its requests is left, those on their way included
                if one.connection.content_waiting or not one.idle_since:
                    one.idle_since = now
                longest = max(longest, one.idle_since + DRAINED_WITHIN - now)
        return longest
