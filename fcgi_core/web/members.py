"""The applications that one set of requests goes to: those that the configuration lists and that its names stand for,
less those that an operator has drained. They change while requests run.

Each is a *member*: an upstream, and the upstreams of the workers that it reports. A member that is removed gets no
further requests, ends those that it has, and then its associations. One that is drained keeps its associations. Of
several ranks (priorities of SRV records) the lowest gets all requests as long as one member of it is there. Requests
are distributed over `in_use`, so that none of this costs a request anything.

Requests need not go from each of many web sides to each of many applications: `subsets` says which ones each takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..sctp.carrier import Address
from ..sctp.endpoints import advertised
from .names import Names, Watched
from .subsets import WebSide
from .upstream import Upstream

__all__ = ["BackEndOptions", "Drained", "Members", "NameOptions"]

log = logging.getLogger("fcgi_sctp.web")

AWAY = 10.0
"""Seconds after which a member of a subset that is away is replaced with the next one, until it is back."""
NAMED = 20
"""Addresses that an error message lists."""


class BackEndOptions(NamedTuple):
    """One application to connect to."""

    address: Address
    weight: float = 1.0
    associations: int | None = None
    """Associations with each of its processes; None: as many as help, see `pool`."""
    rank: int = 0
    """It gets requests while all members of lower ranks are away."""


class NameOptions(NamedTuple):
    """All applications that a name of the DNS stands for."""

    name: Watched
    udp_port: int
    port: int = 0
    """Where the DNS does not say it."""
    weight: float = 1.0
    """Of each application; by SRV records on average."""
    associations: int | None = None


class Drained(NamedTuple):
    """What became of a member that an operator has drained, or that gets requests again."""

    address: str
    in_flight: int
    """Requests that it has."""
    left: int
    """Members that get requests."""


Make = Callable[[Address, float, int | None, Upstream | None], Upstream]
"""Makes an upstream: with an address, a weight, how many associations, and for a worker the upstream that reported
it."""


class Members:
    """A set of applications. Everything runs on the event loop's thread."""

    def __init__(
        self,
        make: Make,
        loop: asyncio.AbstractEventLoop,
        ready: Callable[[], None],
        names: Names | None,
        *,
        identity: str,
        max_workers: int,
        grace: float,
    ) -> None:
        """`ready` is called when requests that wait may be sent. `names` looks up names; None: none are used.
        `identity` tells this set of members from those of other web sides; '' where there is no other. Each member may
        have `max_workers` workers. `grace` is how many seconds requests may take to end whose member is removed."""
        self.upstreams: list[Upstream] = []
        """Members and their workers, those that are drained among them."""
        self.in_use: list[Upstream] = []
        """Those of them that requests go to. The list stays the same object."""
        self.leaving: list[Upstream] = []
        """Those that were removed and still have associations."""
        self._make = make
        self._loop = loop
        self._ready = ready
        self._max_workers = max_workers
        self._grace = grace
        self._members: dict[str, Upstream] = {}
        """By address."""
        self._connect: Sequence[BackEndOptions | NameOptions] = ()
        self._kept: dict[str, BackEndOptions] = {}
        """Members of before `configure`, which stay until all of `_awaited` have been found."""
        self._awaited: set[Watched] = set()
        self._subset: int | None = None
        self._web_side = WebSide(identity) if identity else None
        self._candidates: list[list[tuple[str, BackEndOptions]]] = []
        """By rank, the members that there could be, those first that are taken first."""
        self._turns: dict[str, float] = {}
        """When the turn of each comes for the first time: from 1 for the first to 0."""
        self._names = names
        self._empty_since = loop.time()
        """When there was a member last."""
        self._rank = 0
        """Of those that get requests now."""
        self._ranks = 1
        """How many different ranks there are."""
        self._drained: set[str] = set()
        """Addresses that get no requests until an operator says so, even if they leave and come back."""
        self._started = False
        self._stopped = False

    def start(self) -> None:
        """Connect to the members."""
        self._started = True
        for one in self.upstreams:
            one.start()
        for watched in _watched(self._connect):
            self._watch(watched)
        self._update()  # of some names there is an answer already

    def stop(self) -> list[Upstream]:
        """End all associations gracefully; return the upstreams whose end can be waited for."""
        self._stopped = True
        for watched in _watched(self._connect) if self._started else ():
            self._forget(watched)
        ending = [*self.upstreams, *self.leaving]
        for one in ending:
            one.stop()
        return ending

    @property
    def count(self) -> int:
        """How many members get requests; at least 1."""
        return max(1, sum(not one.drained for one in self._members.values()))

    @property
    def is_complete(self) -> bool:
        """Whether all members of the configuration are known and up."""
        known = self._names is None or all(self._names.found(one) for one in _watched(self._connect))
        return known and all(one.drained or one.reached for one in self.upstreams)

    def state(self) -> dict[str, Any]:
        """Return what the process that takes the place of this one is to know, as plain values for JSON."""
        return {
            "drained": sorted(self._drained),
            "names": [] if self._names is None else self._names.answers(),
            "reached": sum(one.reached for one in self.upstreams),
        }

    def take_over(self, state: Mapping[str, Any]) -> None:
        """Know what the `state` of the process before this one says: an operator's drains stay, and the last good
        answers of the DNS."""
        if self._names is not None and not self._started:
            self._names.know(state.get("names", ()))
        for key in state.get("drained", ()):
            self._drained.add(key)
            self._set_drained(key)

    def configure(self, connect: Sequence[BackEndOptions | NameOptions], subset: int | None = None) -> None:
        """Have these members from now on, or so many of each rank. Those that stay keep their associations and
        requests. A name that is new may be wrong, or the DNS away: until it has been found all of before stay too."""
        if self._stopped:
            return
        self._subset = subset
        before, after = set(_watched(self._connect)), set(_watched(connect))
        if self._started:
            self._awaited = after - (before - self._awaited)
            self._kept = self._kept | self._named() if self._awaited else {}
        self._connect = connect
        if self._started:
            for watched in after - before:
                self._watch(watched)
            for watched in before - after:
                self._forget(watched)
            if after and self._names is not None:
                self._names.look_again()
        self._update()
        if self._kept.keys() - self._named().keys():
            text = "applications that web.connect does not name any more stay until %s can be looked up"
            log.info(text, ", ".join(sorted(one.name for one in self._awaited)))

    def _watch(self, watched: Watched) -> None:
        assert self._names is not None
        self._names.watch(watched, self._update)

    def _forget(self, watched: Watched) -> None:
        assert self._names is not None
        self._names.forget(watched, self._update)

    def _named(self) -> dict[str, BackEndOptions]:
        """Return the members that `connect` stands for, by address. One that is named twice is as it is named first."""
        wanted: dict[str, BackEndOptions] = {}
        for entry in self._connect:
            if isinstance(entry, BackEndOptions):
                wanted.setdefault(str(entry.address), entry)
            elif self._started and self._names is not None:
                for one in self._names.found(entry.name):
                    address = Address((one.host,), one.port or entry.port, entry.udp_port)
                    option = BackEndOptions(address, entry.weight * one.weight, entry.associations, one.rank)
                    wanted.setdefault(str(address), option)
        return wanted

    def _update(self) -> None:
        """Find out which members there could be, and have those that there should be."""
        if self._kept and self._names is not None and all(map(self._names.found, self._awaited)):
            self._kept = {}
        candidates = self._kept | self._named()
        ranks: dict[int, list[tuple[str, BackEndOptions]]] = {}
        for key, option in candidates.items():
            ranks.setdefault(option.rank, []).append((key, option))
        self._candidates = list(ranks.values())
        if self._web_side is not None:
            for rank in self._candidates:
                keys = self._web_side.order([key for key, _ in rank], self._subset or 1)
                self._turns.update((key, 1 - place / len(keys)) for place, key in enumerate(keys))
                if self._subset is not None:
                    rank[:] = ((key, candidates[key]) for key in keys)
        self._turns = {key: self._turns.get(key, 0.0) for key in candidates}
        self._have(self._taken())

    def _taken(self) -> dict[str, BackEndOptions]:
        """Return those of the members that there could be which this web side takes."""
        if self._subset is None:
            return dict(one for rank in self._candidates for one in rank)
        taken: dict[str, BackEndOptions] = {}
        soonest = self._loop.time() - AWAY
        for rank in self._candidates:
            missing, places = self._subset, 2 * self._subset
            for key, option in rank:
                member = self._members.get(key)
                if key in self._drained:  # another one takes its place, but it is kept where it is
                    if member is not None:
                        taken[key] = option
                elif missing and places:
                    taken[key] = option
                    places -= 1
                    missing -= member is None or member.state == "up" or member.last_up > soonest
        return taken

    def look(self) -> None:
        """Replace members of a subset that have been away for long; take them again when they are back."""
        if self._subset is not None and not self._stopped:
            taken = self._taken()
            if taken.keys() != self._members.keys():
                self._have(taken)

    def _have(self, wanted: dict[str, BackEndOptions]) -> None:
        """Add, change and remove members."""
        if self._members:
            self._empty_since = self._loop.time()
        gone = [
            key
            for key, member in self._members.items()
            if key not in wanted or wanted[key].associations != member.wanted
        ]
        if gone:
            self._remove(gone)
        for one in self.upstreams:
            one.weight, one.rank = wanted[one.member].weight, wanted[one.member].rank
        for key, option in wanted.items():
            if key not in self._members:
                self._add(key, option)
        if gone:  # a worker may have been a member itself until now
            known = {one.address for one in self.upstreams}
            for member in self._members.values():
                self._add_workers(member, advertised(member.address, member.reported, self._max_workers)[0], known)
        self._arrange()

    def _add(self, key: str, option: BackEndOptions) -> None:
        member = self._members[key] = self._make(option.address, option.weight, option.associations, None)
        member.drained, member.rank = key in self._drained, option.rank
        self._begin_somewhere(member)
        self.upstreams.append(member)
        if self._started:
            log.info("application %s is added%s", key, "; it is drained by hand, as before" if member.drained else "")
            member.start()

    def _begin_somewhere(self, upstream: Upstream) -> None:
        """Let the turn of an upstream come where it does not come on other web sides."""
        if self._web_side is not None:
            turn = self._turns.get(upstream.member, 0.0)
            among_workers = self._web_side.chance(str(upstream.address)) / len(self._turns or "1")
            upstream.health.credit = (turn + among_workers) * upstream.weight

    def _remove(self, keys: Iterable[str]) -> None:
        requests = dict.fromkeys(keys, 0)
        leaving = [one for one in self.upstreams if one.member in requests]
        self.upstreams[:] = [one for one in self.upstreams if one.member not in requests]
        self.leaving += leaving
        for one in leaving:
            requests[one.member] += one.outstanding
        for key, count in requests.items():
            del self._members[key]
            log.info("application %s is removed; its %d requests may take %g s to end", key, count, self._grace)
        for one in leaving:
            one.leave(self._grace)

    def _arrange(self) -> None:
        """Decide which upstreams requests go to."""
        usable = [one for one in self.upstreams if not one.drained]
        ranks = {one.rank for one in usable}
        self._ranks = len(ranks)
        if self._ranks > 1:
            rank = min({one.rank for one in usable if one.state == "up"} or ranks)
            usable = [one for one in usable if one.rank == rank]
            if rank != self._rank:
                better = "of a better priority is there" if rank > self._rank else "with it is there again"
                level = logging.WARNING if rank > self._rank else logging.INFO
                text = "requests go to the %d. priority of applications: %s"
                log.log(level, text, rank + 1, f"{'none' if rank > self._rank else 'one'} {better}")
                self._rank = rank
        self.in_use[:] = usable
        self._ready()

    # ---- drain by hand

    def drain(self, text: str) -> Drained:
        """Give the member with the address `text` no further requests until `undrain`, or until the web side ends.
        ValueError."""
        key = self._key(text)
        if key not in self._drained:
            self._drained.add(key)
            log.info("application %s is drained by hand: it gets no new requests", key)
        return self._set_drained(key)

    def undrain(self, text: str) -> Drained:
        """Give the member requests again. ValueError."""
        key = self._key(text)
        if key in self._drained:
            self._drained.remove(key)
            log.info("application %s gets requests again, by hand", key)
        return self._set_drained(key)

    def _set_drained(self, key: str) -> Drained:
        self._have(self._taken())
        processes = [one for one in self.upstreams if one.member == key]
        for one in processes:
            one.drained = key in self._drained
        self._arrange()
        left = sum(not one.drained for one in self._members.values())
        if not left:
            log.warning("all applications are drained by hand: requests wait, and get 503 if none is undrained in time")
        return Drained(key, sum(one.outstanding for one in processes), left)

    def _key(self, text: str) -> str:
        """Return the address of a member as it is kept. ValueError."""
        key = str(Address.parse(text))
        if key in self._members or key in self._drained or any(key in dict(rank) for rank in self._candidates):
            return key
        for one in self.upstreams:
            if str(one.address) == key:
                raise ValueError(f"{key} is a worker of the application {one.member}: name that one")
        known = list(self._members)
        more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
        raise ValueError(f"no application {text!r} is known; known are: {', '.join(known[:NAMED]) or 'none'}{more}")

    # ---- what the service asks

    def absent(self, since: float) -> str:
        """Return why no member can be reached if none has been there since the time `since`; '' otherwise."""
        for one in self.upstreams:
            if one.drained or one.state == "up" or one.last_up >= since:
                return ""
        if not self.upstreams and self._empty_since >= since:
            return ""
        names = ((one.name, self._names.problem(one)) for one in _watched(self._connect) if self._names is not None)
        reasons = [f"{name}: {problem}" for name, problem in names if problem]
        reasons += (f"{one.address}: {one.last_error or 'no answer yet'}" for one in self.upstreams[:NAMED])
        if len(self.upstreams) > NAMED:
            reasons.append(f"and {len(self.upstreams) - NAMED} more")
        return "; ".join(reasons) or "none is known"

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        """Return the upstream of another member whose association is with the process of this instance."""
        for one in self.upstreams:
            if one.instance == instance and one.member != upstream.member:
                return one
        return None

    def workers_reported(self, origin: Upstream, others: Mapping[str, str]) -> None:
        """Have the workers that `others` of the SETTINGS of a member report."""
        if origin.state == "leaving":
            return
        origin.reported = others
        addresses, problem = advertised(origin.address, others, self._max_workers)
        if problem != origin.workers_problem:
            origin.workers_problem = problem
            if problem:
                log.warning("application %s reports workers that are ignored: %s", origin.address, problem)
        gone = [one for one in self.upstreams if one.origin is origin and one.address not in addresses]
        fresh = self._add_workers(origin, addresses, {one.address for one in self.upstreams})
        if fresh or gone:
            log.info("application %s has %d workers", origin.address, len(addresses))
        for one in gone:
            self.upstreams.remove(one)
            self.leaving.append(one)
            one.stop()
        if fresh or gone:
            self._arrange()

    def _add_workers(self, origin: Upstream, addresses: Sequence[Address], known: set[Address]) -> bool:
        """Add the workers of a member whose addresses are not `known`, and return whether there is one."""
        fresh = [address for address in addresses if address not in known]
        for address in fresh:
            worker = self._make(address, origin.weight, origin.wanted, origin)
            worker.drained, worker.rank = origin.drained, origin.rank
            self._begin_somewhere(worker)
            self.upstreams.append(worker)
            worker.start_soon()
        known.update(fresh)
        return bool(fresh)

    def upstream_changed(self) -> None:
        """An upstream came up, went down, or is in or out of the balance by its probes."""
        if self._ranks > 1:
            self._arrange()

    def ended(self, upstream: Upstream) -> None:
        """An upstream that was removed has no association any more."""
        if upstream in self.leaving:
            self.leaving.remove(upstream)


def _watched(connect: Sequence[BackEndOptions | NameOptions]) -> Iterator[Watched]:
    """Yield each name once."""
    return iter(dict.fromkeys(one.name for one in connect if isinstance(one, NameOptions)))
