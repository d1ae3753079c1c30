"""The web side of the program: it accepts requests of the web server, whose site sends them to applications.

Here is what the process has once: carrier, plugins, live feed, listening sockets, associations' numbers, and its end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from math import inf
from types import MappingProxyType
from typing import Any, cast

from .. import __version__
from ..common.operator_log import LimitedLog
from ..hosting.discovery import EnabledPlugin
from ..hosting.supervisor import Supervisor
from ..hosting.switching import change_plugins, switches_off
from ..plugin import FeedEntry, ServiceFigures, SiteFigures
from ..protocol.settings import Settings, new_instance
from ..protocol.web import WebConnection
from ..sctp.carrier import Carrier
from .attempts import Away
from .downstream import Connections, DownstreamConnection
from .entrance import MAX_NAME, Entrance
from .exchange import WebExchange
from .faults import FaultFeed, about
from .feed import Feed
from .figures import application_figures
from .listeners import ListenError, Listeners
from .members import BackEndOptions, Drained, NameOptions
from .names import Names
from .options import WebOptions
from .pool import MOST
from .site import UNSERVED, Site, SiteSetup
from .upstream import Upstream

__all__ = ["BackEndOptions", "WebOptions", "WebService"]

log = logging.getLogger("fcgi_sctp.web")

SWEEP = 1.0
"""Seconds between looks for requests whose time is up."""
LOOK_FOR_UP = 0.02
"""Seconds between looks whether all applications are up, before a process takes over from another."""
MADE_AFTER = 3
"""Rounds of the event loop from when it accepts a connection to `connection_made`: three of asyncio, one of uvloop."""
AT_ONCE = 100
"""Connections that are closed or passed on in one turn of the event loop at the end."""
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
        sites: Mapping[str, SiteSetup] = MappingProxyType({}),
    ) -> None:
        """`listen` and `connect` are those of the site without a name, which is there if no other is, or if it has
        applications. `names` looks up the names in `connect`; none are used without it."""
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
        self._listeners = Listeners(mode=options.socket_mode, group=options.socket_group)
        self.away = Away()
        self._association = 0
        """The number of the newest association."""
        setups = dict(sites) if sites and not connect else {"": SiteSetup(connect, options, listen), **sites}
        self.sites = {name: Site(self, name, setup) for name, setup in setups.items()}
        """By name; '' is the only one, or the one for all requests that are for no other."""
        self._leaving: list[Site] = []
        """Sites that were removed, and have something to end."""
        self._of_past_sites = 0
        """Requests that ended in sites that are gone."""
        self._setups: Mapping[str, SiteSetup] = setups
        self._entrances: dict[str, Entrance] = {}
        """By listening address, where there may be several sites."""
        self.unknown_site = 0
        """Requests of no site."""
        self._log = LimitedLog(log, self._loop)
        if sites:
            for where in dict.fromkeys(where for setup in setups.values() for where in setup.listen):
                self._entrances[where] = Entrance(where, self._refuse)
            self._lead()
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None
        """Set while the service stops, when a request has ended or a connection is closed."""

    @property
    def upstreams(self) -> list[Upstream]:
        """Those of all sites."""
        return [one for site in self.sites.values() for one in site.upstreams]

    # ---- sites

    @property
    def all_sites(self) -> list[Site]:
        """Those of the configuration, and those that were removed and have something to end."""
        return [*self.sites.values(), *self._leaving]

    def configure(self, setups: Mapping[str, SiteSetup]) -> list[str]:
        """Have these sites from now on, each with these applications and names; those that stay keep the rest of their
        options. Return the sites that would need a socket which this process has not, or leave one unused: it opens
        none, and closes none."""
        if self._idle is not None:
            return []
        before, known = self._setups, set(self._entrances)
        left = [name for name, setup in setups.items() if name not in before and not known.issuperset(setup.listen)]
        setups = {
            name: setup._replace(listen=before[name].listen) if name in before else setup
            for name, setup in setups.items()
            if name not in left
        }
        unused = known.difference(*(setup.listen for setup in setups.values()))
        gone = [name for name in before if name not in setups]
        left += (name for name in gone if unused.intersection(before[name].listen))
        for name in gone:
            site = self.sites.pop(name)
            site.log.info("site %s is removed; its %d requests may end", name, site.in_flight)
            site.members.configure(())
            self._leaving.append(site)
        for name, setup in setups.items():
            if name in self.sites:
                self.sites[name].members.configure(setup.connect, setup.options.subset)
                continue
            site = self.sites[name] = Site(self, name, setup)
            site.log.info("site %s is added", name)
            site.members.start()
        self._setups = setups
        self._lead()
        return left

    def _lead(self) -> None:
        """Let each entrance know its sites."""
        for where, entrance in self._entrances.items():
            here = {name: setup for name, setup in self._setups.items() if where in setup.listen}
            names = ((one, name) for name, setup in here.items() for one in setup.server_names or ("",))
            entrance.lead_to({one.lower(): self.sites[name] for one, name in names})

    def _refuse(self, exchange: WebExchange, where: str) -> None:
        """Answer a request of no site."""
        name = exchange.server_name[:MAX_NAME]
        text = "answered 421: no site at %s has the SERVER_NAME %r; add it to a site in web.sites"
        self._log.log(logging.WARNING, text, where, name, extra=about(exchange))
        why = f"no site has the SERVER_NAME {name!r}"
        self.unknown_site += 1
        exchange.fail(HTTPStatus.MISDIRECTED_REQUEST, why)
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(error=why))

    def drain(self, address: str, site: str | None = None, *, undo: bool = False) -> dict[str, Drained]:
        """Give an application no further requests until `undo`: in each site that has it, or in that one. Return what
        became of it, by site. ValueError."""
        if site is not None and site not in self.sites:
            raise ValueError(f"no site {site!r} is known; known are: {', '.join(filter(None, self.sites))}")
        done: dict[str, Drained] = {}
        problem = None
        for name, one in self.sites.items():
            if site is None or name == site:
                try:
                    done[name] = one.members.undrain(address) if undo else one.members.drain(address)
                except ValueError as error:
                    problem = problem or error
        if not done and problem is not None:
            raise problem
        return done

    # ---- the process

    def state(self) -> dict[str, Any]:
        """Return what the process that takes the place of this one is to know, as plain values for JSON."""
        sites = {name: site.members.state() for name, site in self.sites.items()}
        names = [state.pop("names") for state in sites.values()]  # all sites have the same
        return {
            "names": names[0] if names else [],
            "sites": sites,
            "reached": [name for name, state in sites.items() if state.pop("reached")],
        }

    def take_over(self, state: Mapping[str, Any]) -> None:
        """Know what the `state` of the process before this one says, see `Members`."""
        for name, one in state.get("sites", {}).items():
            if name in self.sites:
                self.sites[name].members.take_over({**one, "names": state.get("names", ())})

    async def start(self, connect_within: float = 0.0, *, must_reach: Collection[str] = ()) -> None:
        """Start to connect, then to listen, after the applications are up or `connect_within` seconds. ListenError;
        also if a site of `must_reach` reaches none."""
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
        for name, site in self.sites.items():
            if name in must_reach and (why := site.members.absent(inf)):
                # the feed's socket stays as it is: another process has it too
                which = f" of site {name}" if name else ""
                raise ListenError(
                    f"no application{which} can be reached, and the process that serves now reaches some: {why}"
                )
        try:
            for where in self._entrances or self._listen:
                await self._listeners.open(where, self._made_at(where))
        except ListenError:
            self._listeners.close()
            self._close_feed()
            raise
        self._sweep()

    async def serve(self, connection: socket.socket) -> None:
        """Serve a web server's connection that the process before this one passes on."""
        where = self._listeners.find(connection)
        make = cast(Callable[[], asyncio.Protocol], self._made_at(where))
        await self._loop.connect_accepted_socket(make, connection)

    def _made_at(self, where: str) -> Callable[[], DownstreamConnection]:
        """Return what makes the connections at a listening address."""
        dispatcher = self._entrances.get(where) or self.sites[""]
        return lambda: DownstreamConnection(dispatcher, self._connections)

    async def stop(self, grace: float = 10.0, pass_on: Callable[[int], None] | None = None) -> None:
        """Accept no new connections, let requests end within `grace` seconds, then close everything. `pass_on` takes
        the descriptor of each connection without requests, for the process that comes after this one."""
        self._connections.pass_on = pass_on
        self._listeners.close()
        for _ in range(MADE_AFTER):
            await asyncio.sleep(0)
        for number, connection in enumerate(self._connections, 1):
            connection.stop()
            if not number % AT_ONCE:
                await asyncio.sleep(0)  # what is passed on needs a second descriptor until it is closed here
        self._idle = asyncio.Event()
        for site in self.all_sites:
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
        upstreams = [one for site in self.all_sites for one in site.members.stop()]
        try:
            async with asyncio.timeout(SHUTDOWN_WITHIN):
                for upstream in upstreams:
                    await upstream.stopped.wait()
        except TimeoutError:
            pass  # the peer is gone; closing the carrier aborts the association
        self.carrier.close()
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        self._log.close()
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
        return sum(site.in_flight for site in self.all_sites)

    @property
    def waiting(self) -> int:
        """Requests that wait for an application."""
        return sum(site.waiting for site in self.all_sites)

    @property
    def requests_ended(self) -> int:
        return self._of_past_sites + self.unknown_site + sum(site.requests_ended for site in self.all_sites)

    @property
    def stderr_left_out(self) -> int:
        """Bytes of STDERR that web servers did not read."""
        return self._connections.stderr_left_out

    def figures(self) -> ServiceFigures:
        """Returns the state of the service, for plugins."""
        now = self._loop.time()
        sites = [self._figures_of(site, now) for site in self.sites.values()]
        applications = [one for site in sites for one in site.applications]
        unserved = {reason: sum(site.unserved[reason] for site in sites) for reason in UNSERVED}
        obstacles = [site.obstacle for site in sites]
        return ServiceFigures(
            __version__,
            self.carrier.name,
            self._obstacle() or (obstacles[0] if all(obstacles) else ""),
            applications,
            sum(site.waiting for site in sites),
            sum(site.waiting_bytes for site in sites),
            {**unserved, "unknown_site": self.unknown_site} if self._entrances else unserved,
            sites if self._entrances else (),
        )

    def _figures_of(self, site: Site, now: float) -> SiteFigures:
        applications = application_figures(site.upstreams, now)
        configured = sum(one.origin is None for one in site.upstreams)
        obstacle = "" if any(one.up for one in applications) else f"no application is up, of {configured}"
        return SiteFigures(site.name, obstacle, applications, site.waiting, site.waiting_bytes, dict(site.unserved))

    def _obstacle(self) -> str:
        if self._idle is not None:
            return "it stops: no new requests are accepted"
        if not self._listeners.are_open:
            return "it does not listen for the web server"
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
        leaving = (one for site in self.all_sites for one in site.members.leaving)
        if not any(one.member == member for one in (*self.upstreams, *leaving)):
            self._instances.pop(member, None)

    def _sweep(self) -> None:
        self._sweep_handle = self._loop.call_later(SWEEP, self._sweep)
        self._connections.refuse_late()
        now = self._loop.time()
        for site in self.all_sites:
            site.sweep(now)
        for site in [one for one in self._leaving if one.is_over()]:
            self._leaving.remove(site)
            self._of_past_sites += site.requests_ended

    def _close_feed(self) -> None:
        if self._faults is not None:
            log.removeHandler(self._faults)
        if self._feed is not None:
            self._feed.close()

    def _publish_all(self, entries: Iterable[FeedEntry]) -> None:
        if self._feed is not None:
            self._feed.publish_all(entries)
