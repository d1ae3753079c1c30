"""Which applications a name of the DNS stands for, asked again when the answer is no longer valid.

All names of a process are looked up here, whichever sets of members use them, and never while a request waits for it.
The last good answer stays when the DNS fails: what it named may well be there still, and if not, its associations say
so. An answer without any address counts as a failure, so that a mistake in a zone ends no site.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

__all__ = ["Answer", "Found", "Names", "Resolver", "Service", "Watched"]

log = logging.getLogger("fcgi_sctp.web")

LEAST_TTL = 1.0
"""Seconds between two look-ups of a name at least, whatever its TTL is."""
MOST_TTL = 300.0
"""Seconds between two look-ups at most: a change is seen after five minutes, whatever TTL it replaces."""
FIRST_RETRY = 1.0
"""Seconds from a look-up that failed to the next one; doubled each time, up to LAST_RETRY."""
LAST_RETRY = 30.0
MOST_FOUND = 1024
"""Applications of one name; further ones are left out."""
AT_ONCE = 16
"""Questions under way for the targets of one name."""
FOUND_PAUSE, ASKED_PAUSE = 0.01, 0.1
"""Seconds to the next look-up at least for each application that was found, and for each target that had to be asked
for: reading a record takes some 40 to 100 us of the event loop, and a question 1 ms. So it is 1 % of a core at most."""
NO_SHARE = 0.01
"""Weight of a SRV record with weight 0 next to others: RFC 2782 wants it chosen rarely."""

Family = Literal["A", "AAAA"]
FAMILIES: tuple[Family, ...] = ("A", "AAAA")


class Answer(NamedTuple):
    """What the DNS says of a name; without addresses if there are none, or no such name."""

    hosts: tuple[str, ...]
    ttl: float
    """Seconds for which it holds."""


class Service(NamedTuple):
    """A SRV record, RFC 2782."""

    priority: int
    weight: int
    port: int
    target: str
    hosts: tuple[str, ...] = ()
    """The target's addresses, if the server sent them along; then it is not asked for them."""


class Resolver(Protocol):
    """Asks the DNS. OSError if it gives no answer."""

    async def addresses(self, name: str, family: Family) -> Answer:
        """Return the addresses of a host."""

    async def services(self, name: str) -> tuple[Sequence[Service], float]:
        """Return the SRV records of a name, none if there are none, and the TTL of all that was sent."""


class Watched(NamedTuple):
    """A name that is looked up again and again."""

    kind: Literal["dns", "srv"]
    """Whether all addresses of a host are meant, or its SRV records."""
    name: str


class Found(NamedTuple):
    """An application that a name stands for."""

    host: str
    """Its IP address."""
    port: int
    """Of its SRV record; 0 where there is none."""
    rank: int = 0
    """0 for the records with the lowest priority of the name, 1 for the next ones."""
    weight: float = 1.0
    """Its share; 1 on average of those with its rank."""


class Names:
    """Looks up the names of a process."""

    def __init__(self, resolver: Resolver, loop: asyncio.AbstractEventLoop) -> None:
        self._resolver = resolver
        self._loop = loop
        self._watches: dict[Watched, _Watch] = {}
        self._known: dict[Watched, tuple[Found, ...]] = {}
        """What names stood for in the process before this one."""

    def watch(self, what: Watched, changed: Callable[[], None]) -> None:
        """Look up a name from now on. `changed` is called when `found` has changed."""
        watch = self._watches.get(what)
        if watch is None:
            watch = self._watches[what] = _Watch(what, self._resolver, self._loop, self._known.pop(what, ()))
        watch.told.append(changed)

    def forget(self, what: Watched, changed: Callable[[], None]) -> None:
        """Call `changed` no more, and do not look up the name any more if nobody else wants it."""
        watch = self._watches[what]
        watch.told.remove(changed)
        if not watch.told:
            watch.task.cancel()
            del self._watches[what]

    def found(self, what: Watched) -> tuple[Found, ...]:
        """Return what a name that is watched stands for, by its last good answer; nothing before the first."""
        return self._watches[what].found

    def problem(self, what: Watched) -> str:
        """Return why the last look-up failed; '' if it did not."""
        return self._watches[what].problem

    def answers(self) -> Sequence[tuple[str, str, tuple[Found, ...]]]:
        """Return the kind of each name, the name, and what it stands for by its last good answer: of the first names
        that stand for MOST_FOUND applications together."""
        answers, left = [], MOST_FOUND
        for what, watch in self._watches.items():
            if 0 < len(watch.found) <= left:
                left -= len(watch.found)
                answers.append((*what, watch.found))
        return answers

    def know(self, answers: Iterable[tuple[str, str, Iterable[tuple[str, int, int, float]]]]) -> None:
        """Begin with these answers of another process when their names are watched."""
        for kind, name, found in answers:
            self._known[Watched("srv" if kind == "srv" else "dns", name)] = tuple(Found(*one) for one in found)

    def look_again(self) -> None:
        """Look up all names now."""
        for watch in self._watches.values():
            watch.due.set()

    def close(self) -> None:
        for watch in self._watches.values():
            watch.task.cancel()


class _Watch:
    """One name."""

    def __init__(
        self, what: Watched, resolver: Resolver, loop: asyncio.AbstractEventLoop, known: tuple[Found, ...]
    ) -> None:
        self.found = known
        self.problem = ""
        self.told: list[Callable[[], None]] = []
        self.due = asyncio.Event()
        self._what = what
        self._resolver = resolver
        self._loop = loop
        self._good: dict[tuple[str, Family], tuple[str, ...]] = {}
        """The last good answer for each host."""
        self._asked = 0
        """Targets of its SRV records that had to be asked for."""
        self._failed_since = 0.0
        self.task = loop.create_task(self._run())

    async def _run(self) -> None:
        retry = FIRST_RETRY
        while True:
            self.due.clear()
            try:
                found, ttl = await self._look_up()
            except Exception as error:
                if not isinstance(error, OSError):
                    log.exception("looking up %s failed", self._what.name)
                self._failed(str(error))
                pause, retry = retry, min(2 * retry, LAST_RETRY)
            else:
                self._succeeded(tuple(found))
                least = max(LEAST_TTL, FOUND_PAUSE * len(found) + ASKED_PAUSE * self._asked)
                pause, retry = min(max(ttl, least), MOST_TTL), FIRST_RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.due.wait()

    def _failed(self, why: str) -> None:
        if not self.problem:
            self._failed_since = self._loop.time()
            what = f"the {len(self.found)} applications of its last answer stay" if self.found else "trying again"
            log.warning("cannot look up %s: %s; %s", self._what.name, why, what)
        self.problem = why

    def _succeeded(self, found: tuple[Found, ...]) -> None:
        if self.problem:
            after = self._loop.time() - self._failed_since
            log.info("%s can be looked up again after %.0f s", self._what.name, after)
            self.problem = ""
        if len(found) > MOST_FOUND:
            if len(self.found) < MOST_FOUND:
                text = "%s stands for %d applications; %d of them are used"
                log.warning(text, self._what.name, len(found), MOST_FOUND)
            found = found[:MOST_FOUND]
        if found != self.found:
            self.found = found
            for changed in tuple(self.told):
                changed()

    async def _look_up(self) -> tuple[list[Found], float]:
        """Return what the name stands for, in a fixed order, and for how many seconds that holds. OSError."""
        before, self._good = self._good, {}
        try:
            if self._what.kind == "srv":
                return await self._services(before)
            hosts, ttl = await self._addresses(self._what.name, before)
            if not hosts:
                raise OSError("it has no address")
            return [Found(host, 0) for host in sorted(hosts)], ttl
        except OSError:
            self._good = before
            raise

    async def _services(self, before: dict[tuple[str, Family], tuple[str, ...]]) -> tuple[list[Found], float]:
        services, ttl = await self._resolver.services(self._what.name)
        usable = (one for one in services if one.port and one.target.rstrip("."))
        services = sorted(usable)[: 2 * MOST_FOUND]
        if not services:
            raise OSError("it has no SRV record")
        places = asyncio.Semaphore(AT_ONCE)

        async def addresses(target: str) -> tuple[tuple[str, ...], float] | OSError:
            async with places:
                try:
                    return await self._addresses(target, before)
                except OSError as error:
                    known = [host for family in FAMILIES for host in self._good[target, family]]
                    return (tuple(known), LAST_RETRY) if known else error

        answers: dict[str, tuple[tuple[str, ...], float] | OSError] = {}
        for one in services:
            if one.hosts:
                answers[one.target] = one.hosts, ttl
                for family in FAMILIES:
                    self._good[one.target, family] = tuple(
                        host for host in one.hosts if (":" in host) == (family == "AAAA")
                    )
        targets = list(dict.fromkeys(one.target for one in services if not one.hosts))
        self._asked = len(targets)
        answers.update(zip(targets, await asyncio.gather(*map(addresses, targets)), strict=True))
        weighed: list[tuple[Service, str]] = []
        problem = OSError(f"its target {services[0].target} has no address")
        for service in services:
            answer = answers[service.target]
            if isinstance(answer, OSError):
                problem, ttl = answer, min(ttl, LAST_RETRY)
                continue
            hosts, valid = answer
            ttl = min(ttl, valid)
            weighed += ((service, host) for host in sorted(hosts))
        if not weighed:
            raise problem
        return _shares(weighed), ttl

    async def _addresses(
        self, host: str, before: dict[tuple[str, Family], tuple[str, ...]]
    ) -> tuple[tuple[str, ...], float]:
        """Return the addresses of a host of both families; where only one can be looked up, the other's last ones."""
        answers = await asyncio.gather(
            *(self._resolver.addresses(host, family) for family in FAMILIES), return_exceptions=True
        )
        hosts: list[str] = []
        ttl = MOST_TTL
        negative = MOST_TTL
        problem: BaseException | None = None
        for family, answer in zip(FAMILIES, answers, strict=True):
            if not isinstance(answer, BaseException):
                self._good[host, family] = answer.hosts
                hosts += answer.hosts
                if answer.hosts:
                    ttl = min(ttl, answer.ttl)
                negative = min(negative, answer.ttl)
                continue
            if not isinstance(answer, OSError):
                raise answer
            problem = problem or answer
            known = self._good[host, family] = before.get((host, family), ())
            hosts += known
            ttl = min(ttl, LAST_RETRY)
        if problem is not None and (not hosts or all(isinstance(one, OSError) for one in answers)):
            raise problem
        return tuple(hosts), ttl if hosts else negative


def _shares(found: Sequence[tuple[Service, str]]) -> list[Found]:
    """Return the applications with ranks for priorities, and weights whose mean is 1 within each."""
    made = []
    for rank, priority in enumerate(sorted({service.priority for service, _ in found})):
        same = [(service, host) for service, host in found if service.priority == priority]
        weights = [service.weight for service, _ in same]
        least = min((weight for weight in weights if weight), default=1)
        shares = [weight or (least * NO_SHARE if any(weights) else 1) for weight in weights]
        mean = sum(shares) / len(shares)
        made += [
            Found(host, service.port, rank, share / mean) for (service, host), share in zip(same, shares, strict=True)
        ]
    return made
