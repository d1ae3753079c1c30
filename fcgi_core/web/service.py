"""The web side of the program: it accepts requests of the web server, whose site sends them to applications.

Here is what the process has once: carrier, plugins, live feed, listening sockets, associations' numbers, and its end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

from .. import __version__
from ..hosting.discovery import EnabledPlugin
from ..hosting.supervisor import Supervisor
from ..hosting.switching import change_plugins, switches_off
from ..plugin import FeedEntry, ServiceFigures
from ..protocol.settings import Settings, new_instance
from ..protocol.web import WebConnection
from ..sctp.carrier import Carrier
from .downstream import Connections, DownstreamConnection
from .faults import FaultFeed
from .feed import Feed
from .figures import application_figures
from .listeners import ListenError, Listeners
from .members import BackEndOptions, NameOptions
from .names import Names
from .options import WebOptions
from .pool import MOST
from .site import UNSERVED, Site
from .upstream import Upstream

__all__ = ["BackEndOptions", "WebOptions", "WebService"]

log = logging.getLogger("fcgi_sctp.web")

SWEEP = 1.0
"""Seconds between looks for requests whose time is up."""
LOOK_FOR_UP = 0.02
"""Seconds between looks whether all applications are up, before a process takes over from another."""
LAST_WORD = 0.5
"""Seconds that applications have at the end to report that they send no more to plugins: a few round trips."""
SHUTDOWN_WITHIN = 2.0
"""Seconds that associations have at the end to shut down; then they are aborted."""


class WebService:
    """Listens for a web server and keeps associations with applications."""

    def __init__(
        self,
        carrier: Carrier,
        listen: Sequence[str],
        connect: Sequence[BackEndOptions | NameOptions],
        *,
        plugins: Sequence[EnabledPlugin] = (),
        settings: Settings | None = None,
        feed: Feed | None = None,
        names: Names | None = None,
        options: WebOptions | None = None,
    ) -> None:
        """`names` looks up the names in `connect`; none are used without it."""
        self._loop = asyncio.get_running_loop()
        self.options = options = options or WebOptions()
        self.carrier = carrier
        self._listen = listen
        self.settings = settings or Settings()
        self._instances: dict[str, str] = {}
        """By member: what this process is called there, so that no application can pose as this one to another."""
        self.names = names
        self._feed = feed
        self._faults: FaultFeed | None = None
        self.supervisor = Supervisor(
            plugins,
            self._loop,
            self._loop.call_soon_threadsafe,
            web=True,
            process_name=self.settings.name,
            publish_all=self._publish_all,
            service=self.figures,
        )
        self._connections = Connections()
        self._listeners = Listeners(self._downstream, mode=options.socket_mode, group=options.socket_group)
        self._association = 0
        """The number of the newest association."""
        self.sites = {"": Site(self, connect, options)}
        """By name; the one without a name is that of a configuration without sites."""
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None
        """Set while the service stops, when a request has ended or a connection is closed."""

    def _downstream(self) -> DownstreamConnection:
        return DownstreamConnection(self.sites[""], self._connections)

    @property
    def upstreams(self) -> list[Upstream]:
        """Those of all sites."""
        return [one for site in self.sites.values() for one in site.upstreams]

    async def start(self, connect_within: float = 0.0) -> None:
        """Start to connect, then to listen, after the applications are up or `connect_within` seconds. ListenError."""
        if self._feed is not None:
            try:
                await self._feed.start()
            except OSError as error:
                why = f"cannot offer the live feed at {self._feed.path}: {getattr(error, 'strerror', None) or error}"
                if self.options.needs_feed:
                    raise ListenError(why) from error
                log.warning("%s; going on without it", why)
                self._feed = None
        if self._feed is not None:
            self._faults = FaultFeed(self._feed.publish, self._loop)
            log.addHandler(self._faults)
        for site in self.sites.values():
            site.members.start()
        until = self._loop.time() + connect_within
        while self._loop.time() < until and not all(site.members.is_complete for site in self.sites.values()):
            await asyncio.sleep(LOOK_FOR_UP)
        try:
            for where in self._listen:
                await self._listeners.open(where)
        except ListenError:
            self._listeners.close()
            self._close_feed()
            raise
        self._sweep()

    async def serve(self, connection: socket.socket) -> None:
        """Serve a web server's connection that the process before this one passes on."""
        make = cast(Callable[[], asyncio.Protocol], self._downstream)
        await self._loop.connect_accepted_socket(make, connection)

    async def stop(self, grace: float = 10.0, pass_on: Callable[[int], None] | None = None) -> None:
        """Accept no new connections, let requests end within `grace` seconds, then close everything. `pass_on` takes
        the descriptor of each connection without requests, for the process that comes after this one."""
        self._connections.pass_on = pass_on
        self._listeners.close()
        for connection in self._connections:
            connection.stop()
        self._idle = asyncio.Event()
        for site in self.sites.values():
            site.idle = self._idle
        self._connections.on_closed = self._idle.set
        try:
            async with asyncio.timeout(grace):
                # until the last answers have been written, too
                while self.in_flight or self.waiting or self._connections.are_closing():
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            if left := self.in_flight + self.waiting:
                log.warning("%d requests had not ended after %g s and are given up", left, grace)
        silent = asyncio.Event()
        self.supervisor.take_no_more(silent.set)
        try:
            async with asyncio.timeout(LAST_WORD):
                await silent.wait()
        except TimeoutError:
            pass  # items that still come are counted as dropped
        self.supervisor.close()  # while associations still carry the last items of plugins
        upstreams = [one for site in self.sites.values() for one in site.members.stop()]
        try:
            async with asyncio.timeout(SHUTDOWN_WITHIN):
                for upstream in upstreams:
                    await upstream.stopped.wait()
        except TimeoutError:
            pass  # the peer is gone; closing the carrier aborts the association
        self.carrier.close()
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        for connection in self._connections:
            connection.abort()
        self._close_feed()

    async def change(self, changes: dict[str, str]) -> dict[str, dict[str, str]]:
        """Change options of plugins here and in all applications. Return for "web" and for the address of each
        application the result of each change by its name: '', or the reason why it was refused."""
        applications_first = switches_off(changes)
        results = {} if applications_first else {"web": change_plugins(self.supervisor, changes)}
        upstreams = self.upstreams
        answers = await asyncio.gather(*(upstream.change(changes) for upstream in upstreams))
        if applications_first:
            results["web"] = change_plugins(self.supervisor, changes)
        return results | {str(upstream.address): answer for upstream, answer in zip(upstreams, answers, strict=True)}

    @property
    def in_flight(self) -> int:
        """Requests that applications handle."""
        return sum(site.in_flight for site in self.sites.values())

    @property
    def waiting(self) -> int:
        """Requests that wait for an application."""
        return sum(site.waiting for site in self.sites.values())

    @property
    def requests_ended(self) -> int:
        return sum(site.requests_ended for site in self.sites.values())

    @property
    def stderr_left_out(self) -> int:
        """Bytes of STDERR that web servers did not read."""
        return self._connections.stderr_left_out

    def figures(self) -> ServiceFigures:
        """Returns the state of the service, for plugins."""
        now = self._loop.time()
        sites = self.sites.values()
        applications = [one for site in sites for one in application_figures(site.upstreams, now)]
        return ServiceFigures(
            __version__,
            self.carrier.name,
            self._obstacle(any(one.up for one in applications)),
            applications,
            self.waiting,
            sum(site.waiting_bytes for site in sites),
            {reason: sum(site.unserved[reason] for site in sites) for reason in UNSERVED},
        )

    def _obstacle(self, any_up: bool) -> str:
        if self._idle is not None:
            return "it stops: no new requests are accepted"
        if not self._listeners.are_open:
            return "it does not listen for the web server"
        if not any_up:
            return f"no application is up, of {sum(one.origin is None for one in self.upstreams)}"
        return ""

    # ---- Process, for the sites

    def make_connection(self, member: str, most: int, given_up: tuple[int, ...]) -> WebConnection:
        self._association += 1
        instance = self._instances.setdefault(member, new_instance())
        settings = replace(
            self.settings,
            instance=instance,
            association=self._association,
            max_associations=most,
            given_up=given_up,
        )
        return WebConnection(settings, channels=self.supervisor.channels)

    def room_for(self, upstream: Upstream) -> int:
        member = upstream.member
        return MOST - sum(one.growth.content for one in self.upstreams if one.member == member)

    def upstream_ended(self, upstream: Upstream) -> None:
        member = upstream.member
        leaving = (one for site in self.sites.values() for one in site.members.leaving)
        if not any(one.member == member for one in (*self.upstreams, *leaving)):
            self._instances.pop(member, None)

    def _sweep(self) -> None:
        self._sweep_handle = self._loop.call_later(SWEEP, self._sweep)
        self._connections.refuse_late()
        now = self._loop.time()
        for site in self.sites.values():
            site.sweep(now)

    def _close_feed(self) -> None:
        if self._faults is not None:
            log.removeHandler(self._faults)
        if self._feed is not None:
            self._feed.close()

    def _publish_all(self, entries: Iterable[FeedEntry]) -> None:
        if self._feed is not None:
            self._feed.publish_all(entries)
