"""Several associations with one process of an application: when they are made and ended, and what their loss costs."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace

import pytest

from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.settings import Settings
from fcgi_core.sctp.memory import MemoryAssociation
from fcgi_core.web.association import WebAssociation
from fcgi_core.web.pool import IDLE, MOST
from tests.web.harness import answer, hang
from tests.web.virtual_time import Stage, is_over, large_answer, on_virtual_time, running, stdout, until

LONG = 1_000_000
SHORT = 1000


def lose(association: WebAssociation) -> None:
    """The network fails; both sides notice."""
    ours = association.driver.association
    assert isinstance(ours, MemoryAssociation)
    ours.lose("cut")


def vanish(association: WebAssociation) -> None:
    """The web side gives it up; the application does not notice."""
    ours = association.driver.association
    assert isinstance(ours, MemoryAssociation)
    ours.end("no answer for 10 s", soon=True)


async def grown(stage: Stage) -> None:
    """Have as many associations as may be, made at once: more requests would be known to need some at their begin."""
    stage.application.does = large_answer(LONG // 5)
    answers = stage.ask(MOST + 5)
    await until(lambda: len(stage.numbers) == MOST, "there are as many as may be", 10)
    await until(lambda: all(map(is_over, answers)), "all are answered")


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_associations_are_made_while_content_waits_for_the_window(loss: float) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with running(large_answer(LONG), loss=loss) as stage:
            assert stage.numbers == [1]
            began = loop.time()
            answers = stage.ask(2 * MOST)
            await until(lambda: len(stage.numbers) == MOST, "there are as many as may be", 3)
            assert loop.time() - began < 20 * 2 * stage.network.delay
            later = stage.ask(MOST)
            await until(lambda: all(map(is_over, answers + later)), "all are answered")
            assert {len(stdout(wire)) for wire in answers + later} == {LONG + 28}
            assert stage.upstream.requests == 3 * MOST
            assert len(stage.service.supervisor.links) == MOST

    on_virtual_time(body)


@pytest.mark.parametrize(
    ("delay", "size", "count"),
    [(0.001, LONG, 30), (0.05, SHORT, 30), (0.05, 3_000_000, 1)],
    ids=["a short path", "nothing waits", "one long answer"],
)
def test_one_association_stays_one_where_more_would_not_help(delay: float, size: int, count: int) -> None:
    async def body() -> None:
        async with running(large_answer(size), delay=delay) as stage:
            for _ in range(64 if size == SHORT else 0):
                (wire,) = stage.ask()  # the web side learns how much an answer brings
                await until(functools.partial(is_over, wire), "it is answered")
            answers = stage.ask(count)
            await until(lambda: all(map(is_over, answers)), "all are answered")
            assert stage.service.supervisor.links[0].info.identity == stage.service._association == 1

    on_virtual_time(body)


def test_requests_go_where_they_are_served_soonest() -> None:
    async def body() -> None:
        async with running(large_answer(LONG)) as stage:
            stage.ask(2 * MOST)
            await until(lambda: len(stage.numbers) == MOST, "there are as many as may be", 10)
            before = [one.requests for one in stage.upstream.associations]
            stage.ask(MOST - 1)
            after = [one.requests for one in stage.upstream.associations]
            # all wait on the first ones; the newest have nothing yet
            assert after[-1] > before[-1]
            assert after[0] == before[0] == max(before)

    on_virtual_time(body)


def test_associations_without_a_request_are_ended_and_the_first_stays() -> None:
    async def body() -> None:
        async with running(large_answer(LONG)) as stage:
            await grown(stage)
            await asyncio.sleep(IDLE / 2)
            assert len(stage.numbers) == MOST
            await until(lambda: stage.numbers == [1], "one is left", 2 * IDLE)
            await until(lambda: len(stage.service.supervisor.links) == 1, "the others have ended", 1)
            await until(lambda: len(stage.app.supervisor.links) == 1, "the application has no more", 1)
            assert stage.upstream.state == "up"
            (wire,) = stage.ask()
            await until(lambda: is_over(wire), "it is answered")

    on_virtual_time(body)


def test_few_requests_leave_the_other_associations_alone_so_that_they_end() -> None:
    async def body() -> None:
        async with running(large_answer(LONG)) as stage:
            await grown(stage)
            stage.application.does = answer(b"short")
            for _ in range(int(2 * IDLE)):
                stage.ask()
                await asyncio.sleep(1)
            assert stage.numbers == [1]

    on_virtual_time(body)


def test_a_number_of_associations_is_kept() -> None:
    async def body() -> None:
        async with running(answer(b"short"), associations=3) as stage:
            await until(lambda: len(stage.numbers) == 3, "there are three", 2)
            await asyncio.sleep(2 * IDLE)
            assert len(stage.numbers) == 3
            await asyncio.sleep(2 * IDLE)
            lose(stage.upstream.associations[0])
            await until(lambda: stage.numbers == [2, 3], "one is lost")
            assert stage.upstream.state == "up"
            await until(lambda: stage.numbers == [2, 3, 4], "there are three again", 20)

    on_virtual_time(body)


def test_a_lost_association_costs_its_own_requests_and_those_may_go_to_the_others() -> None:
    async def body() -> None:
        async with running(hang, associations=3) as stage:
            await until(lambda: len(stage.numbers) == 3, "there are three", 2)
            gets = stage.ask(6)
            (post,) = stage.ask(1, "POST")
            await until(lambda: stage.application.requests == 7, "all have come")
            (on_post,) = (one for one in stage.upstream.associations if one.requests and is_post(one))
            stage.application.does = answer(b"again")
            requests = on_post.requests
            lose(on_post)
            await until(lambda: is_over(post), "it is given up")
            assert stdout(post).startswith(b"Status: 502")
            await until(lambda: sum(map(is_over, gets)) == requests - 1, "the others are answered")
            assert all(stdout(wire).endswith(b"again") for wire in gets if is_over(wire))
            assert stage.upstream.state == "up"
            assert stage.upstream.health.failures == 0

    on_virtual_time(body)


def is_post(one: WebAssociation) -> bool:
    return any(request.context.params["REQUEST_METHOD"] == "POST" for request in one.connection.requests.values())


def test_without_any_association_the_application_is_down_and_comes_back() -> None:
    async def body() -> None:
        async with running(answer(b"short"), associations=3) as stage:
            await until(lambda: len(stage.numbers) == 3, "there are three", 2)
            for one in stage.upstream.associations:
                lose(one)
            await until(lambda: stage.upstream.state == "down", "it is down")
            wires = stage.ask(2)
            await until(lambda: len(stage.numbers) == 3, "there are three again", 5)
            await until(lambda: all(map(is_over, wires)), "what waited is answered")

    on_virtual_time(body)


def test_the_application_accepts_so_many_requests_on_all_associations_together() -> None:
    async def body() -> None:
        async with running(hang, associations=3, app={"settings": Settings(max_requests=5)}) as stage:
            await until(lambda: len(stage.numbers) == 3, "there are three", 2)
            assert stage.upstream.capacity == 5
            stage.ask(8)
            await until(lambda: stage.application.requests == 5, "five have come")
            await asyncio.sleep(1)
            assert (stage.application.requests, stage.upstream.outstanding, stage.service.waiting) == (5, 5, 3)
            # even if the web side does not keep to it
            connection = stage.upstream.associations[1].connection
            assert connection.peer_settings is not None
            connection.peer_settings = replace(connection.peer_settings, max_requests=9)
            connection.begin_request(b"\x01\x01ab", body=b"").context = None
            connection.close()
            await asyncio.sleep(1)
            assert stage.application.requests == 5

    on_virtual_time(body)


def test_an_application_that_stops_loses_no_request_of_any_association() -> None:
    async def body() -> None:
        async with running(large_answer(LONG // 5)) as stage:
            answers = stage.ask(2 * MOST)
            await until(lambda: len(stage.numbers) == MOST, "there are as many as may be", 10)
            answers += stage.ask(MOST)
            await until(lambda: stage.application.requests == 3 * MOST, "all have come")
            stopping = asyncio.ensure_future(stage.app.stop(60))
            await until(lambda: stage.upstream.capacity == 0, "it takes no more")
            answers += stage.ask(2)
            await asyncio.sleep(0)
            await until(lambda: sum(map(is_over, answers)) >= 3 * MOST or stopping.done(), "they are answered")
            assert sum(map(is_over, answers)) == 3 * MOST
            assert {len(stdout(wire)) for wire in answers[: 3 * MOST]} == {LONG // 5 + 28}
            await stage.start_application()
            await until(lambda: all(map(is_over, answers)), "what waited is answered")
            assert {len(stdout(wire)) for wire in answers} == {LONG // 5 + 28}

    on_virtual_time(body)


@pytest.mark.parametrize("how", ["the application accepts one", "the application is old", "the web side wants one"])
def test_with_one_association_the_wire_is_as_it_was(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        most = 1 if how == "the application accepts one" else 16
        wanted = 1 if how == "the web side wants one" else None
        async with running(
            large_answer(LONG), associations=wanted, app={"max_associations_per_web_side": most}
        ) as stage:
            if how == "the application is old":
                settings = stage.upstream.associations[0].connection.peer_settings
                assert settings is not None
                stage.upstream.associations[0].connection.peer_settings = replace(settings, max_associations=1)
            answers = stage.ask(2 * MOST)
            await until(lambda: all(map(is_over, answers)), "all are answered")
            assert stage.numbers == [1]
            assert stage.service._association == 1
            (link,) = stage.app.supervisor.links
            assert (link.driver.watch is None) is (how != "the application is old")

    on_virtual_time(body)


def test_another_process_behind_the_address_is_the_back_end_from_then_on() -> None:
    async def body() -> None:
        async with running(hang, associations=2) as stage:
            await until(lambda: len(stage.numbers) == 2, "there are two", 2)
            old = stage.app
            wires = stage.ask(4)
            await until(lambda: stage.application.requests == 4, "all have come")
            for listener in old._listeners:
                listener.close()  # as a process that is being replaced
            await stage.start_application()
            lose(stage.upstream.associations[1])
            stage.application.does = answer(b"new")
            await until(lambda: stage.upstream.instance == stage.app._settings.instance, "the new one is there", 60)
            await until(lambda: len(stage.numbers) == 2, "there are two again", 60)
            new = stage.ask(4)
            await until(lambda: all(map(is_over, new)), "the new one answers")
            assert not any(link.connection.requests for link in stage.app.supervisor.links)
            # what the old one had begun ends there
            (link,) = old.supervisor.links
            for request in tuple(link.connection.requests.values()):
                request.context.send(b"\r\nold")
                request.context.end()
            await until(lambda: all(map(is_over, wires)), "the old one has answered")
            await until(lambda: not old.supervisor.links, "its association has ended")
            await old.stop(0)

    on_virtual_time(body)


def test_an_association_that_only_the_web_side_has_given_up_makes_room() -> None:
    async def body() -> None:
        async with running(hang, associations=2, app={"max_associations_per_web_side": 2}) as stage:
            await until(lambda: len(stage.numbers) == 2, "there are two", 2)
            await until(lambda: len(stage.app.supervisor.links) == 2, "the application has two", 1)
            vanish(stage.upstream.associations[0])
            await until(lambda: stage.numbers == [2], "it is lost")
            assert len(stage.app.supervisor.links) == 2
            await until(lambda: stage.numbers == [2, 3], "there are two again", 60)
            await until(lambda: len(stage.app.supervisor.links) != 3, "the application has ended the other", 1)
            await until(lambda: len(stage.app.supervisor.links) == 2, "the application has two")
            assert stage.app.refused == 0

    on_virtual_time(body)


def test_more_associations_than_were_announced_are_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with running(answer(b"short"), associations=4, app={"max_associations_per_web_side": 2}) as stage:
            await until(lambda: len(stage.numbers) == 2, "there are two", 2)
            await asyncio.sleep(10)
            assert (len(stage.numbers), stage.app.refused) == (2, 0)
            for one in stage.upstream.associations:
                settings = one.connection.peer_settings
                assert settings is not None
                one.connection.peer_settings = replace(settings, max_associations=4)
            stage.upstream.growth.changed()
            await until(lambda: stage.app.refused, "one is refused")
            await until(lambda: len(stage.numbers) == 2, "the two are left")
            (wire,) = stage.ask()
            await until(lambda: is_over(wire), "it is answered")
            made = stage.service._association
            await asyncio.sleep(20)
            assert stage.service._association == made

    on_virtual_time(body)


def test_a_web_side_that_restarts_begins_with_one() -> None:
    async def body() -> None:
        async with running(large_answer(LONG)) as stage:
            await grown(stage)
            await stage.service.stop(1)
            await until(lambda: not stage.app.supervisor.links, "the application has none", 5)
            assert not stage.app._associations._by_web_side

    on_virtual_time(body)


def test_uploads_that_wait_have_associations_made_too() -> None:
    async def body() -> None:
        async with running(hang) as stage:
            wires = [stage.upload(LONG) for _ in range(6)]
            await until(lambda: len(stage.numbers) > 2, "there are more", 10)
            assert all(not is_over(wire) for wire in wires)
            assert isinstance(stage.upstream.associations[0].connection, Connection)

    on_virtual_time(body)
