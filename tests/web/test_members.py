"""The applications of a web side come, go and are drained while requests run."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.sctp.carrier import Address
from fcgi_core.sctp.endpoints import advertisement, shifted
from fcgi_core.web.balance import _in_turn
from fcgi_core.web.members import AWAY
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from fcgi_core.web.subsets import WebSide
from tests.app.harness import LiveNetwork, until
from tests.web.harness import Behaviour, Bench, answer, hang, is_over, run, running, stdout

pytestmark = pytest.mark.usefixtures("info")


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fcgi_sctp.web")


def address(number: int) -> Address:
    return Address((f"10.0.0.{number}",), 9000)


def name(number: int) -> str:
    return f"10.0.0.{number}:9000"


def have(bench: Bench, *numbers: int, weight: float = 1.0) -> None:
    bench.service.members.configure([BackEndOptions(address(one), weight) for one in numbers])


def released(event: asyncio.Event, text: bytes) -> Behaviour:
    """Answers when the event is set."""
    tasks: list[asyncio.Task[None]] = []

    def give(exchange: AppExchange) -> None:
        async def later() -> None:
            await event.wait()
            answer(text)(exchange)

        tasks.append(asyncio.get_running_loop().create_task(later()))

    return give


# ---- configure


def test_a_member_that_is_added_is_used(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(answer(b"1"), answer(b"2")) as bench:
            have(bench, 1)
            await until(lambda: not bench.service.members.leaving, "2 is gone")
            assert bench.states() == ["up"]
            assert bench.service.max_requests == bench.service._settings.max_requests
            first = bench.service.upstreams[0]
            numbers = [one.number for one in first.associations]
            have(bench, 1, 2)
            await until(lambda: bench.states() == ["up", "up"], "2 is up again")
            assert bench.service.max_requests == 2 * bench.service._settings.max_requests
            assert bench.service.upstreams[0] is first
            assert [one.number for one in first.associations] == numbers, "what stays keeps its associations"
            assert {(await bench.ask())[-1:] for _ in range(4)} == {b"1", b"2"}

    run(body)
    assert f"application {name(2)} is removed; its 0 requests may take 10 s to end" in caplog.messages
    assert f"application {name(2)} is added" in caplog.messages


def test_a_member_that_is_removed_ends_its_requests_and_gets_no_more() -> None:
    async def body() -> None:
        event = asyncio.Event()
        async with running(released(event, b"1"), answer(b"2")) as bench:
            begun = [bench.begin("POST") for _ in range(2)]
            await until(lambda: bench.applications[0].requests == 1, "1 has a request")
            have(bench, 2)
            (leaving,) = bench.service.members.leaving
            assert (leaving.state, leaving.outstanding) == ("leaving", 1)
            assert {(await bench.ask())[-1:] for _ in range(4)} == {b"2"}
            assert leaving.state == "leaving"
            event.set()
            await until(lambda: all(is_over(one) for one in begun), "both are answered")
            assert sorted(stdout(one)[-1:] for one in begun) == [b"1", b"2"]
            await until(lambda: not bench.service.members.leaving, "1 is gone")
            await until(lambda: not bench.app_services[0]._associations, "its associations are gone")
            assert list(bench.service._instances) == [name(2)]

    run(body)


def test_requests_of_a_removed_member_are_given_up_after_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(hang, answer(b"2"), grace=0.05) as bench:
            begun = [bench.begin("POST") for _ in range(2)]
            await until(lambda: bench.applications[0].requests == 1, "1 has a request")
            have(bench, 2)
            await until(lambda: all(is_over(one) for one in begun), "both are answered")
            assert any(b"502" in stdout(one) for one in begun)
            await until(lambda: not bench.service.members.leaving, "1 is gone")

    run(body)
    text = f"1 requests to {name(1)} had not ended 0.05 s after its removal and are given up"
    assert text in caplog.messages


def test_a_weight_changes_in_place() -> None:
    async def body() -> None:
        async with running(answer(b"1"), answer(b"2")) as bench:
            before = list(bench.service.upstreams)
            bench.service.members.configure([BackEndOptions(address(1), 3.0), BackEndOptions(address(2), 1.0)])
            assert bench.service.upstreams == before
            said = [(await bench.ask())[-1:] for _ in range(8)]
            assert (said.count(b"1"), said.count(b"2")) == (6, 2)

    run(body)


def test_another_number_of_associations_replaces_them() -> None:
    async def body() -> None:
        async with running(answer(b"1")) as bench:
            bench.service.members.configure([BackEndOptions(address(1), associations=2)])
            await until(lambda: bench.states() == ["up"], "it is up again")
            await until(lambda: len(bench.service.upstreams[0].up) == 2, "it has two associations")
            await until(lambda: not bench.service.members.leaving, "the one before is gone")
            assert await bench.ask() == b"Content-Type: text/plain\r\n\r\n1"

    run(body)


def test_a_member_that_leaves_and_comes_back_at_once_is_there_twice_until_its_requests_have_ended() -> None:
    async def body() -> None:
        event = asyncio.Event()
        async with running(released(event, b"1")) as bench:
            begun = [bench.begin("POST")]
            await until(lambda: bench.applications[0].requests == 1, "it has a request")
            for number in (2, 3):
                have(bench)
                begun.append(bench.begin("POST"))
                assert bench.service.waiting == 1
                have(bench, 1)
                await until(lambda number=number: bench.applications[0].requests == number, "the next one has one")  # type: ignore[misc]
            assert bench.states() == ["up"]
            assert [one.state for one in bench.service.members.leaving] == ["leaving"] * 2
            event.set()
            await until(lambda: all(is_over(one) for one in begun), "all are answered")
            assert [stdout(one)[-1:] for one in begun] == [b"1"] * 3
            await until(lambda: not bench.service.members.leaving, "those before are gone")
            assert bench.states() == ["up"]

    run(body)


def test_an_address_twice_is_one_member() -> None:
    async def body() -> None:
        async with running(answer(b"1")) as bench:
            have(bench, 1, 1)
            assert bench.states() == ["up"]

    run(body)


def test_workers_come_and_go_with_their_member() -> None:
    base = address(1)

    async def body() -> None:
        web = WebService(
            LiveNetwork().carrier(),
            [],
            [BackEndOptions(base), BackEndOptions(shifted(base, 1))],
            options=WebOptions(slow_start=0),
        )
        await web.start()
        web.workers_reported(web.upstreams[0], advertisement(base, 3))
        web.members.configure([BackEndOptions(base, 5.0)])

        def workers() -> list[tuple[int, float]]:
            return [(one.address.port, one.weight) for one in web.upstreams]

        assert sorted(workers()) == [(9000, 5.0), (9001, 5.0), (9002, 5.0)], "9001 was a member itself"
        web.members.drain(str(base))
        web.workers_reported(web.upstreams[0], advertisement(base, 4))
        assert [one.state for one in web.upstreams] == ["drained"] * 4
        web.members.configure([])
        assert not web.upstreams
        assert not web.members.in_use
        await web.stop(0)
        web.members.configure([BackEndOptions(base)])
        assert not web.upstreams, "it has stopped"

    run(body)


# ---- drain


def test_a_drained_member_ends_its_requests_and_gets_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        event = asyncio.Event()
        async with running(released(event, b"1"), answer(b"2")) as bench:
            begun = [bench.begin("POST") for _ in range(2)]
            await until(lambda: bench.applications[0].requests == 1, "1 has a request")
            assert bench.service.members.drain(name(1)) == (name(1), 1, 1)
            assert bench.states() == ["drained", "up"]
            assert {(await bench.ask())[-1:] for _ in range(4)} == {b"2"}
            have(bench, 2, 1)
            assert bench.states() == ["drained", "up"], "it is the same member"
            event.set()
            await until(lambda: all(is_over(one) for one in begun), "both are answered")
            have(bench, 2)
            assert bench.states() == ["up"]
            have(bench, 1, 2)
            await until(lambda: bench.service.upstreams[1].associations, "it is back")
            assert bench.states() == ["up", "drained"], "it left and came back"
            assert bench.service.max_requests == bench.service._settings.max_requests
            assert bench.service.members.undrain(f" {name(1)}") == (name(1), 0, 2)
            assert {(await bench.ask())[-1:] for _ in range(4)} == {b"1", b"2"}

    run(body)
    assert f"application {name(1)} is drained by hand: it gets no new requests" in caplog.messages
    assert f"application {name(1)} is added; it is drained by hand, as before" in caplog.messages
    assert f"application {name(1)} gets requests again, by hand" in caplog.messages


def test_the_last_member_may_be_drained(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(answer(b"1"), queue_timeout=0.0) as bench:
            assert bench.service.members.drain(name(1)).left == 0
            waits = bench.begin()
            assert bench.service.waiting == 1
            await until(lambda: is_over(waits), "it is answered")
            assert stdout(waits).startswith(b"Status: 503")
            bench.service.options = WebOptions()
            bench.service.members.undrain(name(1))
            assert (await bench.ask())[-1:] == b"1"

    run(body)
    assert any(one.startswith("all applications are drained by hand") for one in caplog.messages)


def test_a_request_that_waits_goes_on_when_its_member_is_undrained() -> None:
    async def body() -> None:
        async with running(answer(b"1")) as bench:
            bench.service.members.drain(name(1))
            waits = bench.begin()
            assert bench.service.waiting == 1
            bench.service.members.undrain(name(1))
            await until(lambda: is_over(waits), "it is answered")
            assert stdout(waits)[-1:] == b"1"

    run(body)


def test_a_drained_member_that_is_started_again_stays_drained() -> None:
    async def body() -> None:
        async with running(answer(b"1"), answer(b"2")) as bench:
            bench.service.members.drain(name(1))
            upstream = bench.service.upstreams[0]
            upstream.driver.abort("on purpose")
            await until(lambda: not upstream.associations, "it is away")
            await until(lambda: upstream.associations, "it is back")
            assert bench.states() == ["drained", "up"]
            assert {(await bench.ask())[-1:] for _ in range(4)} == {b"2"}

    run(body)


def test_which_addresses_can_be_drained() -> None:
    async def body() -> None:
        base = address(1)
        web = WebService(LiveNetwork().carrier(), [], [BackEndOptions(base), BackEndOptions(address(2))])
        web.workers_reported(web.upstreams[0], advertisement(base, 2))
        for wrong, told in (
            ("10.0.0.9:9000", "no application '10.0.0.9:9000' is known; known are: 10.0.0.1:9000, 10.0.0.2:9000"),
            ("10.0.0.1:9001/9900", "10.0.0.1:9001/9900 is a worker of the application 10.0.0.1:9000: name that one"),
            ("shop", "invalid SCTP address 'shop': use HOST:PORT"),
        ):
            with pytest.raises(ValueError, match=told):
                web.members.drain(wrong)
        web.members.configure([BackEndOptions(address(one)) for one in range(1, 31)])
        with pytest.raises(ValueError, match=r"10\.0\.0\.20:9000 and 10 more"):
            web.members.undrain("a:1")
        await web.stop(0)

    run(body)


def test_what_a_process_knows_is_known_to_the_one_that_takes_its_place() -> None:
    async def body() -> None:
        async with running(answer(b"1"), answer(b"2")) as bench:
            bench.service.members.drain(name(1))
            state = json.loads(json.dumps(bench.service.members.state()))
            bench.service.members.undrain(name(1))
            assert state == {"drained": [name(1)], "names": [], "reached": 2}
            bench.service.members.take_over(state)
            assert bench.states() == ["drained", "up"]
            assert bench.service.members.is_complete, "whether a drained one is up makes no difference"
            assert {(await bench.ask())[-1:] for _ in range(4)} == {b"2"}
            await bench.app_services[1].stop(0)
            await until(lambda: bench.states() == ["drained", "down"], "2 is down")
            assert not bench.service.members.is_complete

    run(body)


def test_the_reason_why_none_is_reached_names_a_few() -> None:
    async def body() -> None:
        web = WebService(LiveNetwork().carrier(), [], [BackEndOptions(address(one)) for one in range(1, 101)])
        why = web.members.absent(asyncio.get_running_loop().time() + 1)
        assert "10.0.0.20:9000: " in why
        assert "10.0.0.21:9000" not in why
        assert why.endswith("; and 80 more")
        await web.stop(0)

    run(body)


# ---- several web sides


class Fleet:
    """Web sides that are not connected."""

    def __init__(self, count: int, applications: int, subset: int | None = None, identity: str = "web{}") -> None:
        connect = [BackEndOptions(address(number)) for number in range(1, applications + 1)]
        self.sides = [
            WebService(LiveNetwork().carrier(), [], connect, options=WebOptions(subset=subset, identity=one))
            for one in (identity.format(number) for number in range(1, count + 1))
        ]
        self.used = Counter({str(one.address): 0 for one in connect})
        """How many web sides use each application."""
        for side in self.sides:
            self.used.update(str(one.address) for one in side.upstreams)

    def choices(self, requests: int) -> Counter[str]:
        """How often each application is chosen where each web side sends so many requests, one after the other."""
        chosen = Counter(dict.fromkeys(self.used, 0))
        for side in self.sides:
            for _ in range(requests):
                chosen[str(_in_turn(side.upstreams, 0.0).address)] += 1
        return chosen


@pytest.mark.parametrize(("applications", "requests"), [(3, 1), (3, 5), (5, 1), (5, 3), (10, 4), (20, 10)])
def test_web_sides_that_start_together_begin_with_different_applications(applications: int, requests: int) -> None:
    async def body() -> None:
        chosen = Fleet(10, applications).choices(requests)
        assert max(chosen.values()) <= 2 * 10 * requests / applications, chosen
        every = Fleet(10, applications, identity="the same").choices(1)
        assert max(every.values()) == 10, "it is the identity that makes the difference"

    run(body)


@pytest.mark.parametrize("applications", [3, 5, 10, 20])
def test_names_without_a_number_leave_the_first_requests_to_chance_and_no_more(applications: int) -> None:
    async def body() -> None:
        chance = random.Random(1)
        for _ in range(20):
            identity = f"web-{{}}-{chance.randbytes(4).hex()}x"
            requests = chance.randint((applications + 1) // 2, 3 * applications)
            chosen = Fleet(10, applications, identity=identity).choices(requests)
            assert max(chosen.values()) <= 2 * 10 * requests / applications, (identity, requests, chosen)

    run(body)


def test_each_web_side_takes_its_own_subset_and_keeps_it() -> None:
    async def body() -> None:
        fleet = Fleet(40, 20, subset=8)
        assert [len(side.upstreams) for side in fleet.sides] == [8] * 40
        assert set(fleet.used.values()) == {40 * 8 // 20}
        assert fleet.used == Fleet(40, 20, subset=8).used
        more = Fleet(40, 21, subset=8)
        for number, (before, after) in enumerate(zip(fleet.sides, more.sides, strict=True)):
            changes = 2 + number * 8 // 20
            kept = {one.address for one in before.upstreams} & {one.address for one in after.upstreams}
            assert len(kept) >= 8 - changes, "one that is added changes little"

    run(body)


def test_web_sides_whose_names_have_no_number_take_their_own_order() -> None:
    keys = [name(number) for number in range(1, 101)]
    for before in (WebSide("shop-7f9c-x"), WebSide("vm83920 unix:/a")):
        after = before.order([*keys, name(101)], 20)[:20]
        assert len({*before.order(keys, 20)[:20]} & {*after}) >= 19
    assert WebSide("a /1").order(keys, 20) != WebSide("a /2").order(keys, 20)
    assert WebSide("a1 /1").order(keys, 20) != WebSide("a1 /2").order(keys, 20)
    assert WebSide("17").order([], 1) == []
    assert sorted(WebSide("17").order(keys, 30)) == sorted(keys)


def test_a_member_of_a_subset_that_is_away_is_replaced_until_it_is_back() -> None:
    async def body() -> None:
        async with running(*[answer(b"%d" % number) for number in range(6)]) as bench:
            members = bench.service.members
            connect = [BackEndOptions(address(number)) for number in range(1, 7)]
            members.configure(connect, 2)
            await until(lambda: bench.states() == ["up", "up"], "two are used")
            first, second = bench.service.upstreams
            assert {(await bench.ask())[-1:] for _ in range(4)} == {b"0", b"1"}
            await bench.app_services[0].stop(0)
            await until(lambda: first.state == "down", "one is down")
            members.look()
            assert bench.service.upstreams == [first, second], "for a moment"
            first.last_up -= AWAY
            members.look()
            await until(lambda: bench.states() == ["down", "up", "up"], "it is replaced")
            third = bench.service.upstreams[2]
            second.last_up = third.last_up = 0.0
            kept = second.associations, third.associations
            second.associations = third.associations = []
            members.look()
            members.look()
            assert len(bench.service.upstreams) == 4, "twice as many at most"
            second.associations, third.associations = kept
            first.last_up = asyncio.get_running_loop().time()
            members.look()
            assert bench.service.upstreams == [first, second]

    run(body)


def test_another_one_takes_the_place_of_one_that_is_drained() -> None:
    async def body() -> None:
        async with running(*[answer(b"%d" % number) for number in range(3)]) as bench:
            members = bench.service.members
            members.configure([BackEndOptions(address(number)) for number in (1, 2, 3)], 1)
            assert members.drain(name(1)) == (name(1), 0, 1)
            await until(lambda: bench.states() == ["drained", "up"], "the next one is up")
            assert members.drain(name(3)).left == 1, "it is not one of them, and will not be"
            assert members.undrain(name(1)) == (name(1), 0, 1)
            assert bench.states() == ["up"]
            members.configure([BackEndOptions(address(number)) for number in (1, 2, 3)])
            await until(lambda: bench.states() == ["up", "up", "drained"], "all are used")

    run(body)
