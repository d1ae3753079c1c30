"""How many associations with one process there are, and that one of them stays without requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.plugin import Plugin
from fcgi_core.protocol.channels import Channel, Priority
from fcgi_core.sctp.memory import MemoryAssociation
from fcgi_core.sctp.statistics import AssociationStatistics
from fcgi_core.web.association import WebAssociation
from fcgi_core.web.pool import IDLE, MOST, QUIET_FROM
from tests.hosting.processes import Hears, Lines, Sends
from tests.web.harness import answer, hang
from tests.web.test_associations import LONG, grown, lose
from tests.web.virtual_time import Stage, is_over, large_answer, on_virtual_time, running, stdout, until


def kernel_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have associations know the round trip as the kernel does: when the first message has been acknowledged."""
    known = MemoryAssociation.statistics

    def statistics(self: MemoryAssociation) -> AssociationStatistics:
        figures = known(self)
        acknowledged = (figures.packets_sent or 0) > (figures.unacknowledged or 0)
        return figures if acknowledged else replace(figures, round_trip=0.0)

    monkeypatch.setattr(MemoryAssociation, "statistics", statistics)


async def all_quiet(stage: Stage) -> WebAssociation:
    """Have as many associations as may be, one of which is quiet."""
    await grown(stage)
    await until(lambda: stage.upstream.quiet is not None, "one is quiet", 2)
    quiet = stage.upstream.quiet
    assert quiet is not None
    return quiet


async def is_lost(stage: Stage, association: WebAssociation) -> None:
    lose(association)
    await until(lambda: association.link is None, "the web side knows", 1)


@pytest.mark.parametrize("associations", [None, MOST])
def test_a_round_trip_that_is_known_late_is_no_short_one(
    associations: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_statistics(monkeypatch)

    async def body() -> None:
        async with running(large_answer(LONG), associations=associations) as stage:
            if associations is not None:
                await until(lambda: len(stage.numbers) == MOST, "all are there", 1)
            answers = stage.ask(2 * MOST)
            await until(lambda: len(stage.numbers) == MOST, "there are as many as may be", 3)
            assert all(one.requests for one in stage.upstream.associations) is (associations is not None)
            answers += stage.ask(MOST)
            assert all(one.requests for one in stage.upstream.associations)
            await until(lambda: all(map(is_over, answers)), "all are answered")
            assert {len(stdout(wire)) for wire in answers} == {LONG + 28}

    on_virtual_time(body)


def test_a_path_that_becomes_longer_is_noticed() -> None:
    async def body() -> None:
        async with running(large_answer(LONG), delay=0.001) as stage:
            loop = asyncio.get_running_loop()
            for delay, count, seconds in ((0.001, 1, 5), (0.05, MOST, 180)):
                stage.network.delay = delay
                end = loop.time() + seconds
                while loop.time() < end and len(stage.numbers) < MOST:
                    answers = stage.ask(2 * MOST)
                    while not all(map(is_over, answers)):
                        await asyncio.sleep(0.01)
                assert len(stage.numbers) == count

    on_virtual_time(body)


def test_one_of_many_associations_gets_no_requests() -> None:
    async def body() -> None:
        async with running(large_answer(LONG), plugin=Lines()) as stage:
            quiet = await all_quiet(stage)
            assert len(stage.numbers) == MOST
            assert quiet.number == max(one.info.identity for one in stage.service.supervisor.links) == MOST + 1
            await until(lambda: len(stage.app.supervisor.links) == MOST + 1, "the application has them all", 1)
            answers = stage.ask(10 * MOST)
            await asyncio.sleep(1)
            assert quiet.requests == 0
            assert all(one.requests for one in stage.upstream.associations)
            (half,) = stage.app.supervisor.halves
            (hears,) = stage.service.supervisor.halves
            assert isinstance(half, Sends)
            assert isinstance(hears, Hears)
            for _ in range(20):
                half.host.send("lines.urgent", b"alert")
                await asyncio.sleep(0.01)
            await until(lambda: len(hears.heard) == 20, "all came", 1)
            assert {identity for _, _, _, identity in hears.heard} == {quiet.number}
            await until(lambda: all(map(is_over, answers)), "all are answered")
            assert stage.app.refused == 0

    on_virtual_time(body)


def test_the_quiet_one_stays_while_others_carry_content_and_ends_with_them() -> None:
    async def body() -> None:
        async with running(large_answer(LONG // 5), plugin=Lines()) as stage:
            quiet = await all_quiet(stage)
            loop = asyncio.get_running_loop()
            end = loop.time() + 3 * IDLE
            while loop.time() < end:
                stage.ask(2 * MOST)
                await asyncio.sleep(2)
                assert stage.upstream.quiet is quiet
            await until(lambda: stage.numbers == [1], "the others come to rest", 2 * IDLE)
            await until(lambda: len(stage.service.supervisor.links) == 1, "and the quiet one with them", 1)
            await until(lambda: len(stage.app.supervisor.links) == 1, "the application has no more", 1)

    on_virtual_time(body)


def test_the_fourth_is_quiet_and_stays_so_when_others_come() -> None:
    async def body() -> None:
        async with running(hang, plugin=Lines()) as stage:
            upstream = stage.upstream
            quiets = []
            for count in range(2, MOST + 2):
                if len(upstream.up) + upstream.making < count:
                    upstream.make_another()
                await until(lambda count=count: len(upstream.up) >= count, "it is up", 2)  # type: ignore[misc]
                quiets.append(None if upstream.quiet is None else upstream.quiet.number)
                assert len(upstream.associations) == (count if upstream.quiet is None else count - 1)
            assert quiets == [None] * (QUIET_FROM - 1) + [QUIET_FROM + 1] * (MOST - QUIET_FROM + 1)

    on_virtual_time(body)


def test_those_that_are_made_together_have_content_before_one_is_quiet() -> None:
    async def body() -> None:
        async with running(large_answer(LONG), plugin=Lines()) as stage:
            stage.ask(MOST + 5)
            await until(lambda: stage.upstream.making >= QUIET_FROM, "several are made at once", 3)
            while stage.upstream.making:
                assert stage.upstream.quiet is None
                await asyncio.sleep(0.001)
            assert stage.upstream.quiet is not None

    on_virtual_time(body)


def test_the_quiet_one_takes_requests_where_too_few_others_are_left() -> None:
    async def body() -> None:
        async with running(large_answer(LONG // 5), plugin=Lines()) as stage:
            quiet = await all_quiet(stage)
            for count in range(MOST - 1, QUIET_FROM - 1, -1):
                await is_lost(stage, stage.upstream.associations[0])
                assert (len(stage.numbers), stage.upstream.quiet) == (count, quiet)
            await is_lost(stage, stage.upstream.associations[0])
            assert (len(stage.numbers), stage.upstream.quiet) == (QUIET_FROM, None)
            for _ in range(QUIET_FROM - 1):
                await is_lost(stage, stage.upstream.associations[0])
            assert (stage.numbers, stage.upstream.state) == ([quiet.number], "up")
            (wire,) = stage.ask()
            await until(lambda: is_over(wire), "it is answered")

    on_virtual_time(body)


def test_a_quiet_one_that_is_lost_is_made_again() -> None:
    async def body() -> None:
        async with running(large_answer(LONG // 5), plugin=Lines()) as stage:
            quiet = await all_quiet(stage)
            await is_lost(stage, quiet)
            assert (len(stage.numbers), stage.upstream.quiet) == (MOST, None)
            stage.application.does = hang
            stage.ask(2 * MOST)
            await until(lambda: stage.upstream.quiet is not None, "there is another", 2 * IDLE)
            assert stage.numbers == list(range(1, MOST + 1))

    on_virtual_time(body)


class Slow(Plugin):
    """No channel of it is urgent."""

    name = "lines"

    def channels(self, options: Any) -> Sequence[Channel]:
        return (Channel("lines"), Channel("lines.urgent", priority=Priority.URGENT))

    web_half = Lines.web_half
    application_half = Lines.application_half


@pytest.mark.parametrize("why", ["no plugin", "no urgent channel without order", "the application has no plugin"])
def test_without_urgent_items_that_may_take_any_association_none_is_quiet(why: str) -> None:
    async def body() -> None:
        plugin = None if why == "no plugin" else Slow() if "order" in why else Lines()
        app = {"plugins": ()} if "application" in why else None
        async with running(large_answer(LONG), plugin=plugin, app=app) as stage:
            await grown(stage)
            await asyncio.sleep(5)
            assert (stage.upstream.quiet, stage.service._association) == (None, MOST)

    on_virtual_time(body)


@pytest.mark.parametrize(("most", "content", "quiet"), [(MOST, MOST - 1, True), (QUIET_FROM, QUIET_FROM, False)])
def test_where_the_application_accepts_fewer_the_quiet_one_is_among_them(most: int, content: int, quiet: bool) -> None:
    async def body() -> None:
        app = {"max_associations_per_web_side": most}
        async with running(large_answer(LONG // 5), plugin=Lines(), app=app) as stage:
            answers = stage.ask(2 * MOST)
            await until(lambda: len(stage.upstream.up) == most, "there are as many as may be", 10)
            await until(lambda: all(map(is_over, answers)), "all are answered")
            assert (len(stage.numbers), stage.upstream.quiet is not None) == (content, quiet)
            assert stage.app.refused == 0

    on_virtual_time(body)


def test_a_number_that_was_asked_for_is_that_of_associations_with_content() -> None:
    async def body() -> None:
        async with running(answer(b"short"), plugin=Lines(), associations=5) as stage:
            await until(lambda: len(stage.numbers) == 5, "there are five", 2)
            await asyncio.sleep(20)
            assert (stage.upstream.quiet, stage.service._association) == (None, 5)

    on_virtual_time(body)


def test_an_alert_that_another_association_carries_names_its_request() -> None:
    exchanges: list[AppExchange] = []

    def busy(exchange: AppExchange) -> None:
        exchanges.append(exchange)
        exchange.on_abort = exchange.end
        exchange.send(bytes(LONG // 10))

    async def body() -> None:
        async with running(busy, plugin=Lines(), associations=3) as stage:
            await until(lambda: len(stage.numbers) == 3, "there are three", 2)
            stage.ask()
            await until(lambda: exchanges, "it has begun", 1)
            (half,) = stage.app.supervisor.halves
            (hears,) = stage.service.supervisor.halves
            assert isinstance(half, Sends)
            assert isinstance(hears, Hears)
            half.host.send("lines.alert", b"alert", request=exchanges[0], urgency=1)
            await until(lambda: hears.heard, "the alert has come", 1)
            ((_, _, request, identity),) = hears.heard
            assert identity != exchanges[0].link.info.identity
            assert request is not None
            assert request.params["SERVER_NAME"] == "shop.example"

    on_virtual_time(body)
