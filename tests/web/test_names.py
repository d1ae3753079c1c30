"""Names of the DNS as applications, with a DNS that a test changes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

import pytest

from fcgi_core.app.service import AppService
from fcgi_core.sctp.carrier import Address
from fcgi_core.web.members import BackEndOptions, NameOptions
from fcgi_core.web.names import (
    LAST_RETRY,
    LEAST_TTL,
    MOST_FOUND,
    MOST_TTL,
    Answer,
    Family,
    Found,
    Names,
    Service,
    Watched,
)
from fcgi_core.web.service import WebOptions, WebService
from tests.app.harness import LiveNetwork, until
from tests.web.harness import Application, Bench, answer, is_over, run
from tests.web.virtual_time import on_virtual_time

SHOP = Watched("dns", "shop.internal")
SRV = Watched("srv", "_fcgi-sctp._udp.shop.internal")


class Dns:
    """Hosts and SRV records, each with the TTL; an OSError in the place of an answer is raised."""

    def __init__(self, **hosts: Sequence[str] | OSError) -> None:
        self.hosts: dict[tuple[str, str], Sequence[str] | OSError] = {
            ("shop.internal" if name == "shop" else f"{name}.", "A"): addresses for name, addresses in hosts.items()
        }
        self.records: list[Service] | OSError = []
        self.ttl = 60.0
        self.asked = 0

    async def addresses(self, name: str, family: Family) -> Answer:
        self.asked += 1
        said = self.hosts.get((name, family), ())
        if isinstance(said, OSError):
            raise said
        return Answer(tuple(said), self.ttl if said else 5.0)

    async def services(self, name: str) -> tuple[Sequence[Service], float]:
        self.asked += 1
        if isinstance(self.records, OSError):
            raise self.records
        return self.records, self.ttl

    def fail(self, why: str = "no server answers") -> None:
        self.hosts[SHOP.name, "A"] = self.hosts[SHOP.name, "AAAA"] = OSError(why)


class Follower:
    """Follows a name."""

    def __init__(self, dns: Dns, what: Watched = SHOP) -> None:
        self.names = Names(dns, asyncio.get_running_loop())
        self.what = what
        self.changes = 0
        self.names.watch(what, self.changed)

    def changed(self) -> None:
        self.changes += 1

    @property
    def found(self) -> tuple[Found, ...]:
        return self.names.found(self.what)

    @property
    def hosts(self) -> list[str]:
        return [one.host for one in self.found]


def test_all_addresses_of_both_families_are_found_and_looked_up_by_their_ttl() -> None:
    async def body() -> None:
        dns = Dns(shop=["10.0.0.2", "10.0.0.1"])
        dns.hosts[SHOP.name, "AAAA"] = ["2001:db8::1"]
        follower = Follower(dns)
        await asyncio.sleep(1)
        assert follower.hosts == ["10.0.0.1", "10.0.0.2", "2001:db8::1"]
        dns.hosts[SHOP.name, "A"] = ["10.0.0.1", "10.0.0.2"]
        dns.hosts[SHOP.name, "AAAA"] = ()
        await asyncio.sleep(57)
        assert dns.asked == 2
        await asyncio.sleep(4)
        assert dns.asked == 4
        assert follower.hosts == ["10.0.0.1", "10.0.0.2"]
        assert follower.changes == 2
        await asyncio.sleep(60)
        assert (dns.asked, follower.changes) == (6, 2), "another order is no change"
        follower.names.close()

    on_virtual_time(body)


@pytest.mark.parametrize(("ttl", "every"), [(0, LEAST_TTL), (0.2, LEAST_TTL), (20, 20), (86400, MOST_TTL)])
def test_a_ttl_is_kept_within_bounds(ttl: float, every: float) -> None:
    async def body() -> None:
        dns = Dns(shop=["10.0.0.1"])
        dns.ttl = ttl
        follower = Follower(dns)
        await asyncio.sleep(10.5 * every)
        assert dns.asked == 2 * 11
        follower.names.close()

    on_virtual_time(body)


def test_the_last_good_answer_stays_when_the_dns_fails(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fcgi_sctp.web")

    async def body() -> None:
        dns = Dns(shop=["10.0.0.1", "10.0.0.2"])
        follower = Follower(dns)
        await asyncio.sleep(1)
        for last in (OSError("no server answers"), ()):  # an answer without an address is no better
            dns.hosts[SHOP.name, "A"] = dns.hosts[SHOP.name, "AAAA"] = last
            await asyncio.sleep(3600)
            assert follower.hosts == ["10.0.0.1", "10.0.0.2"]
            asked = dns.asked
            await asyncio.sleep(10 * LAST_RETRY)
            assert 18 <= dns.asked - asked <= 22
            dns.hosts[SHOP.name, "A"], dns.hosts[SHOP.name, "AAAA"] = ["10.0.0.1", "10.0.0.2"], ()
            await asyncio.sleep(LAST_RETRY)
            assert follower.names.problem(SHOP) == ""
        assert follower.changes == 1
        follower.names.close()

    on_virtual_time(body)
    first, well, second, again = caplog.messages
    stay = "the 2 applications of its last answer stay"
    assert first == f"cannot look up shop.internal: no server answers; {stay}"
    assert second == f"cannot look up shop.internal: it has no address; {stay}"
    assert well.startswith("shop.internal can be looked up again after ")
    assert again.startswith("shop.internal can be looked up again after ")


def test_a_name_that_was_never_found(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        dns = Dns()
        follower = Follower(dns)
        await asyncio.sleep(100)
        assert not follower.found
        assert caplog.messages == ["cannot look up shop.internal: it has no address; trying again"]
        dns.hosts[SHOP.name, "A"] = ["10.0.0.1"]
        await asyncio.sleep(LAST_RETRY)
        assert follower.hosts == ["10.0.0.1"]
        follower.names.close()

    on_virtual_time(body)


def test_one_family_fails_and_the_other_does_not() -> None:
    async def body() -> None:
        dns = Dns(shop=["10.0.0.1"])
        dns.hosts[SHOP.name, "AAAA"] = ["2001:db8::1"]
        follower = Follower(dns)
        await asyncio.sleep(1)
        dns.hosts[SHOP.name, "AAAA"] = OSError("no answer")
        dns.hosts[SHOP.name, "A"] = ["10.0.0.2"]
        for _ in range(3):
            follower.names.look_again()
            await asyncio.sleep(1)
            assert follower.hosts == ["10.0.0.2", "2001:db8::1"]
        assert follower.names.problem(SHOP) == ""
        follower.names.close()

    on_virtual_time(body)


def test_a_bug_in_the_resolver_is_a_failure_too(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        dns = Dns(shop=["10.0.0.1"])
        dns.hosts[SHOP.name, "AAAA"] = 3  # type: ignore[assignment]
        follower = Follower(dns)
        await asyncio.sleep(1)
        assert not follower.found
        dns.hosts[SHOP.name, "AAAA"] = ()
        await asyncio.sleep(LAST_RETRY)
        assert follower.hosts == ["10.0.0.1"]
        follower.names.close()

    on_virtual_time(body)
    assert "looking up shop.internal failed" in caplog.text


def test_a_name_has_so_many_applications_at_most(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        follower = Follower(Dns(shop=[f"10.0.{one >> 8}.{one & 255}" for one in range(2000)]))
        await asyncio.sleep(1000)
        assert len(follower.found) == MOST_FOUND
        follower.names.close()

    on_virtual_time(body)
    assert caplog.messages == [f"shop.internal stands for 2000 applications; {MOST_FOUND} of them are used"]


def test_srv_records_have_ports_ranks_and_shares() -> None:
    async def body() -> None:
        dns = Dns(a=["10.0.0.1"], b=["10.0.0.2"], c=["10.0.0.3"], d=["10.0.0.4"])
        dns.records = [
            Service(20, 0, 9000, "c."),
            Service(20, 0, 9001, "d."),
            Service(10, 30, 9000, "a."),
            Service(10, 10, 9002, "b."),
            Service(30, 0, 9000, "a."),
            Service(30, 1, 9000, "b."),
            Service(10, 5, 1, "."),
            Service(10, 5, 0, "a."),
        ]
        follower = Follower(dns, SRV)
        await asyncio.sleep(1)
        first, second, third, fourth, *last = follower.found
        assert (second, first) == (Found("10.0.0.1", 9000, 0, 1.5), Found("10.0.0.2", 9002, 0, 0.5))
        assert (third, fourth) == (Found("10.0.0.3", 9000, 1, 1), Found("10.0.0.4", 9001, 1, 1))
        assert [(one.rank, round(one.weight, 2)) for one in last] == [(2, 0.02), (2, 1.98)]
        before = follower.found
        dns.hosts["a.", "A"] = dns.hosts["a.", "AAAA"] = OSError("no answer")
        dns.hosts["b.", "A"] = ()
        dns.records = [*dns.records[:-2], Service(10, 10, 9009, "e.")]
        follower.names.look_again()
        await asyncio.sleep(1)
        assert {one.host for one in follower.found} == {"10.0.0.1", "10.0.0.3", "10.0.0.4"}, (
            "a stays, which cannot be looked up; b and e have no address"
        )
        for broken in (OSError("no answer"), [], [Service(1, 1, 1, "e.")], [Service(1, 1, 1, "a.")]):
            dns.records = broken
            follower.names.look_again()
            await asyncio.sleep(1)
            assert follower.names.problem(SRV)
            assert len(follower.found) == 4
            dns.hosts.pop(("a.", "A"), None)
            dns.hosts.pop(("a.", "AAAA"), None)
        assert before != follower.found
        follower.names.close()

    on_virtual_time(body)


def test_targets_whose_addresses_come_with_their_records_are_not_asked_for() -> None:
    async def body() -> None:
        dns = Dns()
        dns.records = [Service(1, 1, 9000, f"{one}.", (f"10.0.0.{one}", f"2001:db8::{one}")) for one in (1, 2)]
        follower = Follower(dns, SRV)
        await asyncio.sleep(1)
        assert dns.asked == 1
        assert follower.hosts == ["10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2"]
        dns.records = [Service(1, 1, 9000, "1."), dns.records[1]]
        dns.hosts["1.", "A"] = dns.hosts["1.", "AAAA"] = OSError("no answer")
        follower.names.look_again()
        await asyncio.sleep(1)
        assert (dns.asked, follower.changes) == (4, 1), "its last addresses stay"
        follower.names.close()

    on_virtual_time(body)


@pytest.mark.parametrize(("along", "every"), [(True, 10), (False, 110)])
def test_a_name_of_many_is_looked_up_less_often(along: bool, every: float) -> None:
    async def body() -> None:
        targets = [f"t{one}" for one in range(1000)]
        hosts = {target: [f"10.0.{one >> 8}.{one & 255}"] for one, target in enumerate(targets)}
        dns = Dns() if along else Dns(**hosts)
        dns.ttl = 0.0
        dns.records = [Service(1, 1, 9000, f"{one}.", tuple(hosts[one]) if along else ()) for one in targets]
        follower = Follower(dns, SRV)
        await asyncio.sleep(10.5 * every)
        assert dns.asked == 11 * (1 if along else 2001)
        assert len(follower.found) == 1000
        follower.names.close()

    on_virtual_time(body)


def test_a_name_is_looked_up_once_for_all_who_want_it() -> None:
    async def body() -> None:
        dns = Dns(shop=["10.0.0.1"])
        follower = Follower(dns)
        other: list[int] = []

        def changed() -> None:
            other.append(1)

        follower.names.watch(SHOP, changed)
        await asyncio.sleep(1)
        assert (dns.asked, follower.changes, len(other)) == (2, 1, 1)
        follower.names.forget(SHOP, changed)
        dns.hosts[SHOP.name, "A"] = ["10.0.0.2"]
        await asyncio.sleep(61)
        assert (dns.asked, follower.changes, len(other)) == (4, 2, 1)
        follower.names.forget(SHOP, follower.changed)
        await asyncio.sleep(1000)
        assert dns.asked == 4

    on_virtual_time(body)


# ---- with applications


class Site:
    """Applications 1 to `count`, and a web side that finds them by name."""

    def __init__(self, count: int) -> None:
        self.network = LiveNetwork()
        self.applications = [Application(answer(b"%d" % number)) for number in range(1, count + 1)]
        self.services = [
            AppService(one, self.network.carrier(), [Address((f"10.0.0.{number}",), 9000)])
            for number, one in enumerate(self.applications, 1)
        ]

    async def web(self, dns: Dns, *connect: BackEndOptions | NameOptions, queue_timeout: float = 10.0) -> Bench:
        for service in self.services:
            await service.start()
        names = Names(dns, asyncio.get_running_loop())
        options = WebOptions(slow_start=0, queue_timeout=queue_timeout)
        web = WebService(self.network.carrier(), [], connect, names=names, options=options)
        await web.start()
        self.names = names
        return Bench(web, self.applications, self.services)

    async def stop(self, bench: Bench) -> None:
        await bench.service.stop(0)
        for service in self.services:
            await service.stop(0)


def up(bench: Bench) -> list[str]:
    return [one.address.hosts[0] for one in bench.service.upstreams if one.state == "up"]


def test_members_follow_a_name() -> None:
    async def body() -> None:
        dns = Dns(shop=["10.0.0.1", "10.0.0.2"])
        site = Site(3)
        bench = await site.web(dns, NameOptions(SHOP, 9899, 9000, weight=2.0))
        waits = bench.begin()
        await until(lambda: up(bench) == ["10.0.0.1", "10.0.0.2"], "both are up")
        assert [one.weight for one in bench.service.upstreams] == [2.0, 2.0]
        assert {(await bench.ask())[-1:] for _ in range(4)} == {b"1", b"2"}
        first = bench.service.upstreams[0]
        dns.hosts[SHOP.name, "A"] = ["10.0.0.1", "10.0.0.3"]
        site.names.look_again()
        await until(lambda: up(bench) == ["10.0.0.1", "10.0.0.3"], "3 is up")
        assert bench.service.upstreams[0] is first
        dns.fail()
        bench.service.members.configure([NameOptions(SHOP, 9899, 9000), NameOptions(SRV, 9899)])
        await until(lambda: site.names.problem(SHOP) != "", "it is looked up at once")
        assert up(bench) == ["10.0.0.1", "10.0.0.3"]
        bench.service.members.drain("10.0.0.3:9000")
        assert {(await bench.ask())[-1:] for _ in range(4)} == {b"1"}
        bench.service.members.configure([BackEndOptions(Address(("10.0.0.1",), 9000))])
        assert bench.service.upstreams == [first], "the same address by itself is the same member"
        assert not site.names._watches
        assert is_over(waits), "it waited for the first answer"
        await site.stop(bench)

    run(body)


def test_the_next_priority_is_used_while_the_first_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fcgi_sctp.web")

    async def body() -> None:
        dns = Dns(a=["10.0.0.1"], b=["10.0.0.2"], c=["10.0.0.3"])
        dns.records = [Service(1, 1, 9000, "a."), Service(1, 1, 9000, "b."), Service(2, 1, 9000, "c.")]
        site = Site(3)
        bench = await site.web(dns, NameOptions(SRV, 9899))
        await until(lambda: len(up(bench)) == 3, "all are up")
        assert {(await bench.ask())[-1:] for _ in range(6)} == {b"1", b"2"}
        await site.services[0].stop(0)
        await until(lambda: len(up(bench)) == 2, "1 is down")
        assert {(await bench.ask())[-1:] for _ in range(4)} == {b"2"}
        bench.service.members.drain("10.0.0.2:9000")
        assert {(await bench.ask())[-1:] for _ in range(4)} == {b"3"}
        bench.service.members.undrain("10.0.0.2:9000")
        assert {(await bench.ask())[-1:] for _ in range(4)} == {b"2"}
        await site.stop(bench)

    run(body)
    assert "requests go to the 2. priority of applications: none of a better priority is there" in caplog.messages
    assert "requests go to the 1. priority of applications: one with it is there again" in caplog.messages


def test_without_any_address_requests_wait_and_then_say_why(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        dns = Dns(shop=OSError("no server answers"))
        site = Site(1)
        bench = await site.web(dns, NameOptions(SHOP, 9899, 9000))
        waits = bench.begin()
        assert bench.service.waiting == 1
        dns.hosts[SHOP.name, "A"] = ["10.0.0.1"]
        site.names.look_again()
        await until(lambda: up(bench), "it is up")
        await until(lambda: not bench.service.waiting, "it was sent")
        await until(lambda: is_over(waits), "it is answered")
        await site.stop(bench)
        site = Site(0)
        bench = await site.web(Dns(shop=OSError("no server answers")), NameOptions(SHOP, 9899, 9000), queue_timeout=-1)
        await until(lambda: site.names.problem(SHOP), "it failed")
        assert b"502" in await bench.ask()
        assert "no application can be reached (shop.internal: no server answers)" in caplog.text
        await site.stop(bench)

    run(body)


def test_what_was_there_stays_until_a_new_name_is_found(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fcgi_sctp.web")

    async def body() -> None:
        dns = Dns(a=["10.0.0.3"])
        site = Site(3)
        addresses = [BackEndOptions(Address((f"10.0.0.{number}",), 9000)) for number in (1, 2)]
        bench = await site.web(dns, *addresses)
        await until(lambda: up(bench) == ["10.0.0.1", "10.0.0.2"], "both are up")
        before = list(bench.service.upstreams)
        members = bench.service.members
        named = NameOptions(SHOP, 9899, 9000, weight=2.0)
        for _ in range(2):  # it is read again, and the name still is not found
            members.configure([named])
            await until(lambda: site.names.problem(SHOP), "the look-up has failed")
            assert bench.service.upstreams == before
        members.configure([named, addresses[0]])
        assert bench.service.upstreams == before
        dns.hosts[SHOP.name, "A"] = ["10.0.0.2"]
        members.configure([named])
        await until(lambda: len(bench.service.upstreams) == 1, "it is found")
        assert bench.service.upstreams == before[1:], "what is named again has kept its associations"
        assert before[1].weight == 2.0
        dns.records = [Service(1, 1, 9000, "a.")]
        members.configure([NameOptions(SRV, 9899)])
        assert bench.service.upstreams == before[1:]
        await until(lambda: up(bench) == ["10.0.0.3"], "another name")
        members.configure([NameOptions(Watched("dns", "wrong.internal"), 9899, 9000)])
        await asyncio.sleep(0)
        members.configure([addresses[0]])
        await until(lambda: up(bench) == ["10.0.0.1"], "without a new name nothing is waited for")
        await site.stop(bench)

    run(body)
    told = "applications that web.connect does not name any more stay until shop.internal can be looked up"
    assert told in caplog.messages


def test_the_answers_of_the_process_before_are_known_while_the_dns_is_away() -> None:
    async def body() -> None:
        site = Site(2)
        dns = Dns(shop=["10.0.0.1", "10.0.0.2"])
        bench = await site.web(dns, NameOptions(SHOP, 9899, 9000))
        await until(lambda: len(up(bench)) == 2, "both are up")
        state = json.loads(json.dumps(bench.service.members.state()))
        names = Names(Dns(shop=OSError("no server answers")), asyncio.get_running_loop())
        web = WebService(site.network.carrier(), [], [NameOptions(SHOP, 9899, 9000)], names=names)
        web.members.take_over(state)
        await web.start(10.0)
        assert web.members.is_complete
        assert [one.state for one in web.upstreams] == ["up", "up"]
        await web.stop(0)
        await site.stop(bench)

    run(body)


def test_so_many_answers_are_passed_on_at_most() -> None:
    async def body() -> None:
        follower = Follower(Dns(shop=[f"10.0.{one >> 8}.{one & 255}" for one in range(MOST_FOUND)]))
        more = Watched("dns", "a.")
        follower.names._resolver.hosts["a.", "A"] = ["10.1.0.1"]  # type: ignore[attr-defined]
        follower.names.watch(more, follower.changed)
        await asyncio.sleep(1)
        assert [name for _, name, _ in follower.names.answers()] == [SHOP.name]
        follower.names.close()

    on_virtual_time(body)
