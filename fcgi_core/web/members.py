"""The applications that one set of requests goes to: those that the configuration lists, less those that an operator
has drained. They change while requests run.

Each is a *member*: an upstream, and the upstreams of the workers that it reports. A member that is removed gets no
further requests, ends those that it has, and then its associations. One that is drained keeps its associations.
Requests are distributed over `in_use`, so that none of this costs a request anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..sctp.carrier import Address
from ..sctp.endpoints import advertised
from .upstream import Upstream

__all__ = ["BackEndOptions", "Drained", "Members"]

log = logging.getLogger("fcgi_sctp.web")

NAMED = 20
"""Addresses that an error message lists."""


class BackEndOptions(NamedTuple):
    """One application to connect to."""

    address: Address
    weight: float = 1.0
    associations: int | None = None
    """Associations with each of its processes; None: as many as help, see `pool`."""


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
        self, make: Make, loop: asyncio.AbstractEventLoop, ready: Callable[[], None], *, max_workers: int, grace: float
    ) -> None:
        """`ready` is called when requests that wait may be sent. Each member may have `max_workers` workers. `grace` is
        how many seconds requests may take to end whose member is removed."""
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
        self._drained: set[str] = set()
        """Addresses that get no requests until an operator says so, even if they leave and come back."""
        self._started = False
        self._stopped = False

    def start(self) -> None:
        """Connect to the members."""
        self._started = True
        for one in self.upstreams:
            one.start()

    def stop(self) -> list[Upstream]:
        """End all associations gracefully; return the upstreams whose end can be waited for."""
        self._stopped = True
        ending = [*self.upstreams, *self.leaving]
        for one in ending:
            one.stop()
        return ending

    @property
    def count(self) -> int:
        """How many members get requests; at least 1."""
        return max(1, sum(not one.drained for one in self._members.values()))

    def configure(self, connect: Sequence[BackEndOptions]) -> None:
        """Have these members from now on. Those that stay keep their associations and requests."""
        if self._stopped:
            return
        wanted: dict[str, BackEndOptions] = {}
        for option in connect:
            wanted.setdefault(str(option.address), option)
        for key, member in tuple(self._members.items()):
            if key not in wanted or wanted[key].associations != member.wanted:
                self._remove(key)
        for key, option in wanted.items():
            if key in self._members:
                for one in self._processes(self._members[key]):
                    one.weight = option.weight
            else:
                self._add(key, option)
        for member in self._members.values():
            if member.reported:  # a worker may have been a member itself until now
                self.workers_reported(member, member.reported)
        self._arrange()

    def _add(self, key: str, option: BackEndOptions) -> None:
        member = self._members[key] = self._make(option.address, option.weight, option.associations, None)
        member.drained = key in self._drained
        self.upstreams.append(member)
        if self._started:
            log.info("application %s is added", key)
            member.start()

    def _remove(self, key: str) -> None:
        member = self._members.pop(key)
        processes = self._processes(member)
        requests = sum(one.outstanding for one in processes)
        log.info("application %s is removed; its %d requests may take %g s to end", key, requests, self._grace)
        for one in processes:
            self.upstreams.remove(one)
            self.leaving.append(one)
            one.leave(self._grace)

    def _processes(self, member: Upstream) -> list[Upstream]:
        return [one for one in self.upstreams if one is member or one.origin is member]

    def _arrange(self) -> None:
        """Decide which upstreams requests go to."""
        self.in_use[:] = [one for one in self.upstreams if not one.drained]
        self._ready()

    # ---- drain by hand

    def drain(self, text: str) -> Drained:
        """Give the member with the address `text` no further requests until `undrain`, or until this process ends.
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
        member = self._members.get(key)
        processes = [] if member is None else self._processes(member)
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
        if key in self._members or key in self._drained:
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
        return "; ".join(f"{one.address}: {one.last_error}" for one in self.upstreams) or "none is configured"

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
        known = {one.address for one in self.upstreams}
        fresh = [address for address in addresses if address not in known]
        gone = [one for one in self.upstreams if one.origin is origin and one.address not in addresses]
        if fresh or gone:
            log.info("application %s has %d workers", origin.address, len(addresses))
        for address in fresh:
            worker = self._make(address, origin.weight, origin.wanted, origin)
            worker.drained = origin.drained
            self.upstreams.append(worker)
            worker.start_soon()
        for one in gone:
            self.upstreams.remove(one)
            self.leaving.append(one)
            one.stop()
        if fresh or gone:
            self._arrange()

    def upstream_changed(self) -> None:
        """An upstream came up, went down, or is in or out of the balance by its probes."""

    def ended(self, upstream: Upstream) -> None:
        """An upstream that was removed has no association any more."""
        if upstream in self.leaving:
            self.leaving.remove(upstream)
