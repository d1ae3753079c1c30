"""Several associations between two processes, where one of the two is hostile or broken: the other pays a bounded
price, and nobody else pays any. On the memory carrier and a virtual clock."""

from __future__ import annotations

import asyncio
import logging
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.plugin import Plugin, RequestInfo, WebHalf, WebHost
from fcgi_core.protocol.records import RecordType
from fcgi_core.protocol.settings import Settings
from fcgi_core.sctp.carrier import Address, CarrierError
from fcgi_core.sctp.memory import MemoryAssociation, MemoryCarrier
from fcgi_core.web.association import WebAssociation
from fcgi_core.web.pool import MOST
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from tests.adversary.lab import End
from tests.protocol.helpers import control
from tests.web.harness import Application, WebServer, answer, hang, late_stderr
from tests.web.virtual_time import (
    ADDRESS,
    LoopNetwork,
    is_over,
    large_answer,
    on_virtual_time,
    running,
    stdout,
    until,
)

OTHER = Address(("10.0.0.2",), 9000)
HUGE = (1 << 64) - 1
CHANCES = (50, 15, 5, 5, 5, 5, 15)
"""Of what happens next, percent."""


def load(waiting: int, window: int, microseconds: int) -> bytes:
    return struct.pack(">QQQ", waiting, window, microseconds)


# ---- a hostile web side


@asynccontextmanager
async def attacked_app(most: int = 2) -> AsyncIterator[tuple[AppService, Callable[..., Awaitable[End]]]]:
    """An application, and a function that makes an association of a web side that says what it is told to."""
    network = LoopNetwork(delay=0.01)
    app = AppService(Application(hang), network.carrier(), [ADDRESS], max_associations_per_web_side=most)
    await app.start()

    async def connect(**named: object) -> End:
        end = End()
        network.carrier().connect(ADDRESS, end)
        await end.until(lambda: end.association is not None)
        if named:
            end.settle(**{"instance": "x", "max_associations": 6, **named})  # type: ignore[arg-type]
        return end

    try:
        yield app, connect
    finally:
        await app.stop(0)


def begun(app: AppService) -> int:
    """Requests that its application has got."""
    assert isinstance(app.application, Application)
    return app.application.requests


def test_what_comes_with_the_settings_of_an_association_too_many_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    """A request in the same packet was begun on an association that had been refused: an AssertionError."""

    async def body() -> None:
        async with attacked_app() as (app, connect):
            ends = [await connect(association=number) for number in (1, 2)]
            await asyncio.sleep(1)
            third = await connect(association=3)
            third.request()
            third.item(b"an item")
            third.tell(
                control(RecordType.ACK, bytes(16)), control(RecordType.DRAIN), control(RecordType.LOAD, bytes(24))
            )
            await asyncio.sleep(1)
            assert "as many as FCGI_SCTP_MAX_ASSOCS" in third.down[0]
            assert (begun(app), app.refused) == (0, 1)
            ends[0].request()
            await until(lambda: begun(app) == 1, "the others go on")

    on_virtual_time(body)
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text


def test_one_that_gives_up_all_numbers_ends_its_own_associations_alone() -> None:
    async def body() -> None:
        async with attacked_app(4) as (app, connect):
            good = [await connect(instance="good", association=number) for number in (1, 2)]
            mine = [await connect(association=number) for number in (1, 2)]
            last = await connect(association=3, given_up=tuple(range(16)))
            await asyncio.sleep(1)
            assert [bool(end.down) for end in (*good, *mine, last)] == [False, False, True, True, False]
            assert len(app.supervisor.links) == 3

    on_virtual_time(body)


@pytest.mark.parametrize("most", ["0", "-1", "65536", "1e3", "", "9" * 30])
def test_numbers_that_are_none_end_the_association(most: str) -> None:
    async def body() -> None:
        async with attacked_app() as (_app, connect):
            good = await connect(association=1)
            bad = await connect()
            bad.settle(Settings(instance="bad", others={"FCGI_SCTP_MAX_ASSOCS": most}))
            await bad.until(lambda: bool(bad.down))
            assert "FCGI_SCTP_MAX_ASSOCS" in bad.down[0]
            assert not good.down

    on_virtual_time(body)


def test_numbers_given_up_that_are_none_are_ignored() -> None:
    async def body() -> None:
        async with attacked_app() as (_app, connect):
            first = await connect(association=1)
            odd = await connect()
            odd.settle(
                Settings(
                    instance="x",
                    association=2,
                    max_associations=6,
                    others={"FCGI_SCTP_GIVEN_UP": ",-1,\u00b2,1e9," + "9" * 4000 + "," + "7," * 1000},
                )
            )
            await asyncio.sleep(1)
            assert not first.down
            assert not odd.down

    on_virtual_time(body)


def test_instances_that_change_are_bounded_by_the_address() -> None:
    async def body() -> None:
        async with attacked_app(16) as (app, connect):
            ends = [await connect(instance=f"i{number}", association=number) for number in range(64)]
            await asyncio.sleep(1)
            with pytest.raises(AssertionError, match="not wanted"):
                await connect(instance="one more", association=64)
            assert len(app.supervisor.links) == 64
            for end in ends:
                end.tell(*(control(RecordType.LOAD, load(number, HUGE, 0)) for number in range(100)))
            await asyncio.sleep(1)
            for end in ends:
                if end.association is not None and not end.down:
                    end.up.shutdown()
            await until(lambda: not app.supervisor.links, "all are gone")
            assert not app._associations._by_web_side

    on_virtual_time(body)


# ---- a hostile application


class Hostile:
    """An application that accepts what comes, and does `greets` with each association, by its place."""

    def __init__(self, network: LoopNetwork, address: Address, greets: Callable[[int, End], None]) -> None:
        self.ends: list[End] = []
        self._greets = greets
        network.carrier().listen(address, self._accept)

    def _accept(self, peer: str) -> End:
        end = _Greeting(len(self.ends), self._greets)
        self.ends.append(end)
        return end


class _Greeting(End):
    def __init__(self, place: int, greets: Callable[[int, End], None]) -> None:
        super().__init__()
        self._place = place
        self._greets = greets

    def association_up(self, association: object) -> None:
        super().association_up(association)  # type: ignore[arg-type]
        self._greets(self._place, self)


def settle(end: End, instance: str = "hostile", **named: object) -> None:
    end.settle(**{"instance": instance, "max_associations": 16, **named})  # type: ignore[arg-type]


@asynccontextmanager
async def beside(
    greets: Callable[[int, End], None], *, good: bool = True, associations: int | None = None
) -> AsyncIterator[tuple[WebService, Hostile]]:
    """A web side with a hostile application and, after it, a good one."""
    network = LoopNetwork(delay=0.05)
    hostile = Hostile(network, ADDRESS, greets)
    back_ends = [BackEndOptions(ADDRESS, associations=associations)] + [BackEndOptions(OTHER)] * good
    web = WebService(network.carrier(), [], back_ends, options=WebOptions(slow_start=0))
    app = AppService(Application(answer(b"good")), network.carrier(), [OTHER])
    await app.start()
    await web.start()
    await until(lambda: all(one.state == "up" for one in web.upstreams), "all are up")
    try:
        yield web, hostile
    finally:
        await web.stop(0)
        await app.stop(0)


def ask(web: WebService, count: int, method: str = "GET") -> list[object]:
    return [WebServer(web).begin(method).wire for _ in range(count)]


@pytest.mark.parametrize(
    "figures",
    [(HUGE, 0, 0), (HUGE, HUGE, HUGE), (HUGE, 1, HUGE), (0, 0, 0), (0, HUGE, 1), (1, 0, HUGE)],
    ids=lambda figures: "-".join(f"{one:x}" for one in figures),
)
def test_absurd_loads_cost_others_nothing(figures: tuple[int, int, int], caplog: pytest.LogCaptureFixture) -> None:
    """Flipping each millisecond, on each association."""

    async def body() -> None:
        async with beside(lambda place, end: settle(end)) as (web, hostile):
            asked = ask(web, 20)
            for turn in range(2000):
                for end in hostile.ends:
                    if not end.down:
                        end.tell(control(RecordType.LOAD, load(*(figures if turn % 2 else (0, 0, 0)))))
                await asyncio.sleep(0.001)
            assert web.upstreams[0].growth.content <= MOST
            assert len(hostile.ends) <= MOST
            assert sum(map(is_over, asked)) >= 10, "the good application's"  # type: ignore[arg-type]
            # those that wait for associations do so for a bounded time, and then go to the good one
            before = web.upstreams[1].requests
            asked = ask(web, 50)
            await asyncio.sleep(12)
            assert web.waiting == 0
            assert web.upstreams[1].requests > before

    on_virtual_time(body)
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text


def never_settles(place: int, end: End) -> None:
    if not place:
        settle(end)


def refuses(place: int, end: End) -> None:
    if place:
        end.up.abort("no more")
    else:
        settle(end)


def is_another(place: int, end: End) -> None:
    settle(end, f"instance {place}")


@pytest.mark.parametrize(("greets", "most"), [(never_settles, 3 * MOST), (refuses, 3 * MOST), (is_another, 6 * MOST)])
def test_further_associations_that_come_to_nothing_are_few(
    greets: Callable[[int, End], None], most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """They are refused, get no SETTINGS, or are another process each time. A minute brings few attempts and few lines,
    and requests are served meanwhile."""
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with beside(greets, good=False, associations=MOST) as (web, hostile):
            for _ in range(600):
                for end in hostile.ends:
                    for begun in end.records(RecordType.BEGIN_REQUEST):
                        if not end.down:
                            end.answer(begun.id, begun.generation)
                    end.messages.clear()
                ask(web, 1)
                await asyncio.sleep(0.1)
            assert len(hostile.ends) <= most
            await asyncio.sleep(1)
            assert web.waiting == 0

    on_virtual_time(body)
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text
    assert len(caplog.records) < 10 * most


def test_a_web_side_is_called_otherwise_by_each_application() -> None:
    """On one host an application could pose as the web side to the next one, end its associations and get the alerts
    that were meant for it."""

    async def body() -> None:
        instances: list[str] = []
        async with beside(lambda place, end: settle(end)) as (web, _hostile):
            for upstream in web.upstreams:
                instances += [one.connection.settings.instance for one in upstream.associations]
        assert len(set(instances)) == 2
        assert {len(one) for one in instances} == {32}

    on_virtual_time(body)


def test_an_old_application_is_not_asked_for_more() -> None:
    async def body() -> None:
        async with beside(lambda place, end: end.settle(Settings(instance="old")), good=False, associations=MOST) as (
            web,
            hostile,
        ):
            end = hostile.ends[0]
            ask(web, 50)
            end.tell(control(RecordType.LOAD, load(HUGE, 1, 10_000_000)))  # which it does not know
            await asyncio.sleep(60)
            assert len(hostile.ends) == 1

    on_virtual_time(body)


# ---- accidents


def test_an_application_that_drains_gets_no_request_on_its_other_associations() -> None:
    """DRAIN had come on one of three; an upload was begun on the next one, refused there, and answered 503."""

    async def body() -> None:
        async with running(hang, associations=3) as stage:
            await until(lambda: len(stage.numbers) == 3, "there are three", 2)
            stage.ask(1)
            await until(lambda: stage.application.requests == 1, "it has come")
            (busy,) = (one for one in stage.upstream.associations if one.requests)
            for link in stage.app.supervisor.links:
                connection = link.connection
                if connection.requests:
                    connection.drain()
                    link.driver.wake()
                else:
                    connection.draining = True  # its DRAIN is lost, and sent again later
            await until(lambda: busy.connection.peer_draining, "the first DRAIN comes")
            upload = WebServer(stage.service).begin_to_send("POST").send(b"a part").flush().wire
            await asyncio.sleep(2)
            assert stdout(upload) == b""
            assert stage.service.waiting == 1

    on_virtual_time(body)


@pytest.mark.parametrize("tenths", range(10))
def test_an_application_that_stops_while_associations_are_made_stops_at_once(tenths: int) -> None:
    """A LOAD that was queued when the last DRAIN came held up the stop for the whole grace, 30 s."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with running(large_answer(200_000)) as stage:
            answers = stage.ask(12)
            await asyncio.sleep(tenths / 20)
            began = loop.time()
            await stage.app.stop(30)
            assert loop.time() - began < 10
            await stage.start_application()
            await until(lambda: all(map(is_over, answers)), "all are answered")
            assert {len(stdout(wire)) for wire in answers} == {200_028}

    on_virtual_time(body)


@pytest.mark.parametrize("tenths", range(10))
def test_a_web_side_that_stops_while_associations_are_made_leaves_none(
    tenths: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with running(large_answer(200_000)) as stage:
            stage.ask(12)
            await asyncio.sleep(tenths / 20)
            await stage.service.stop(0)
            await until(lambda: not len(stage.app._associations), "the application has none", 1)
            assert stage.numbers == []

    on_virtual_time(body)
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text


def test_stderr_that_waits_at_the_application_is_not_lost_with_its_association() -> None:
    """400 of 600 kB were lost when the association was ended with its last request."""

    said: list[int] = []

    class Reads(WebHalf):
        def stderr(self, request: RequestInfo, data: bytes) -> bool:
            said.append(len(data))
            return False

    class Reader(Plugin):
        name = "reader"

        def web_half(self, host: WebHost, options: Any) -> WebHalf:
            return Reads()

    async def body() -> None:
        async with running(hang, associations=2, window=2000, plugin=Reader()) as stage:
            await until(lambda: len(stage.numbers) == 2, "there are two", 2)

            def does(exchange: object) -> None:
                exchange.send(b"\r\nhello")  # type: ignore[attr-defined]
                exchange.stderr(bytes(600_000))  # type: ignore[attr-defined]
                asyncio.get_running_loop().call_later(1, exchange.end)  # type: ignore[attr-defined]

            stage.application.does = does
            (wire,) = stage.ask()
            await asyncio.sleep(0.5)
            (left,) = (one for one in stage.upstream.associations if one.requests)
            stage.upstream.let_go(left)
            await until(lambda: left.driver.association is None, "it has ended", 20)
            assert is_over(wire)
            assert sum(said) == 600_000

    on_virtual_time(body)


def test_an_application_that_keeps_associations_that_were_left_loses_them() -> None:
    async def body() -> None:
        async with beside(lambda place, end: settle(end), good=False, associations=2) as (web, hostile):
            (upstream,) = web.upstreams
            await until(lambda: len(upstream.associations) == 2, "there are two")
            left = upstream.associations[1]
            upstream.let_go(left)
            await hostile.ends[1].comes(RecordType.DRAIN)
            await until(lambda: left.driver.association is None, "it is ended", 60)
            assert upstream.state == "up"

    on_virtual_time(body)


def test_a_carrier_without_room_for_more_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when file descriptors have run out."""

    async def body() -> None:
        async with running(large_answer(200_000)) as stage:
            asked = 0

            def connect(*about: object) -> None:
                nonlocal asked
                asked += 1
                raise CarrierError("too many open files")

            with monkeypatch.context() as patch:
                patch.setattr(MemoryCarrier, "connect", connect)
                answers = stage.ask(2 * MOST)
                await until(lambda: all(map(is_over, answers)), "all are answered")
                assert 0 < asked <= 2 * MOST
            assert stage.numbers == [1]
            answers = stage.ask(2 * MOST)
            await asyncio.sleep(31)
            answers += stage.ask(2 * MOST)
            await until(lambda: len(stage.numbers) > 1, "there is room again")
            await until(lambda: all(map(is_over, answers)), "all are answered")

    on_virtual_time(body)


def test_associations_that_are_lost_together_while_stderr_is_late_take_no_waiting_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A request of the first waited again when the second was lost. An end on that, released because its STDERR would
    not come, began the request there: an AssertionError, and the application counted as up for ever, without an
    association."""

    async def body() -> None:
        async with running(late_stderr(b"late", comes=False), associations=2) as stage:
            await until(lambda: len(stage.numbers) == 2, "they are up", 2)
            first, second = stage.upstream.associations
            (ended,) = stage.ask()
            await until(lambda: first.late_stderr.ends, "its end waits for STDERR")
            stage.application.does = hang
            (running_there,) = stage.ask()
            assert first.requests == 1
            stage.application.does = answer(b"again")
            (unsent,) = stage.ask()
            assert second.requests == 1
            for one in (second, first):
                lost = one.driver.association
                assert isinstance(lost, MemoryAssociation)
                lost.lose("cut")
            await until(lambda: all(map(is_over, (ended, running_there, unsent))), "all are over")
            assert stdout(unsent).endswith(b"again")
            assert stdout(running_there).endswith(b"again")
            assert stage.upstream.outstanding == 0
            assert first not in stage.upstream.associations

    on_virtual_time(body)
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text


@pytest.mark.parametrize("seed", range(100, 106))
def test_whatever_is_lost_left_and_restarted_every_request_is_answered(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def body() -> None:
        chance = random.Random(seed)

        def does(exchange: AppExchange) -> None:
            if chance.random() < 0.6:
                large_answer(chance.choice((1000, 200_000, 500_000)))(exchange)
            else:
                exchange.stderr(bytes(chance.choice((10, 100_000))))
                answer(b"short")(exchange)

        def cut(one: WebAssociation, both_notice: bool) -> None:
            ours = one.driver.association
            if isinstance(ours, MemoryAssociation):
                if both_notice:
                    ours.lose("cut")
                else:
                    ours.end("cut", soon=True)

        wanted, delay, loss = chance.choice((None, 3, 6)), chance.choice((0.002, 0.05)), chance.choice((0.0, 0.05))
        async with running(does, associations=wanted, delay=delay, loss=loss) as stage:
            asked = []
            replaced = []
            for _ in range(60):
                upstream = stage.upstream
                everyone = [*upstream.associations, *upstream._others]
                match chance.choices(("ask", "lose one", "lose all", "restart", "replace", "leave", "rest"), CHANCES)[
                    0
                ]:
                    case "ask":
                        asked += [*stage.ask(chance.choice((1, 3, 12))), stage.upload(300_000)]
                    case "lose one" if everyone:
                        cut(chance.choice(everyone), chance.random() < 0.5)
                    case "lose all":
                        for one in everyone:
                            cut(one, True)
                    case "restart":
                        await stage.app.stop(chance.choice((0, 1, 20)))
                        await stage.start_application()
                    case "replace":
                        for listener in stage.app._listeners:
                            listener.close()
                        replaced.append(stage.app)
                        await stage.start_application()
                    case "leave" if len(upstream.associations) > 1:
                        upstream.let_go(upstream.associations[-1])
                    case "rest":
                        await asyncio.sleep(chance.choice((0.01, 1, 35)))
                await asyncio.sleep(chance.random() * 0.3)
            await asyncio.sleep(150)
            assert all(map(is_over, asked))
            assert (stage.upstream.state, stage.upstream.outstanding, stage.service.in_flight) == ("up", 0, 0)
            assert not [one for one in stage.upstream._others if one.leaving]
            for app in replaced:
                await app.stop(0)

    on_virtual_time(body)
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text
