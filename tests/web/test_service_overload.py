"""Applications that refuse requests, and the bounds of requests that wait."""

from __future__ import annotations

import asyncio

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.web import waiting as waiting_module
from tests.app.harness import until
from tests.web.harness import (
    PROBES,
    answer,
    break_off,
    is_over,
    overloaded,
    read_all,
    run,
    running,
    stdout,
)


def test_one_that_is_refused_again_and_again_waits_for_queue_timeout_and_no_longer() -> None:
    """A bridge before a FastCGI server that is full answers OVERLOADED."""

    async def body() -> None:
        async with running(overloaded, queue_timeout=0.3) as bench:
            answered = await bench.ask("POST", b"order")
            assert answered.startswith(b"Status: 503")
            assert b"Retry-After: 1" in answered
            assert bench.applications[0].requests > 1, "it was tried again meanwhile"
            assert (bench.service.in_flight, bench.service.waiting) == (0, 0)

    run(body)


def test_so_many_requests_wait_for_an_application_and_the_next_is_refused_at_once() -> None:
    async def body() -> None:
        async with running(overloaded, queue_timeout=60, queue_length=3) as bench:
            waiting = [bench.begin() for _ in range(3)]
            await until(lambda: bench.service.waiting == 3, "they wait")
            answered = await bench.ask()
            assert answered.startswith(b"Status: 503")
            assert bench.service.waiting == 3
            assert not any(is_over(wire) for wire in waiting)

    run(body)


# ---- overload


def test_the_only_application_is_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer soon, and not thousands of tries until then."""
    monkeypatch.setattr(waiting_module, "OVERLOADED_FOR", 0.3)

    async def body() -> None:
        async with running(overloaded, queue_timeout=60) as bench:
            wires = [bench.begin("POST", b"order") for _ in range(50)]
            await until(lambda: all(map(is_over, wires)), "all are answered")
            assert all(b"Status: 503" in stdout(wire) for wire in wires)
            assert 2 * 50 <= bench.applications[0].requests <= 12 * 50
            assert (bench.service.in_flight, bench.service.waiting) == (0, 0)

    run(body)


@pytest.mark.parametrize(
    ("ends", "why"), [(True, "the application is ending"), (False, "the application is overloaded")]
)
def test_the_web_server_s_log_says_why_an_upload_was_refused(ends: bool, why: str) -> None:
    """Its body is not kept, so it cannot be sent again."""

    async def body() -> None:
        async with running(overloaded) as bench:
            if ends:
                (link,) = bench.app_services[0].supervisor.links
                link.driver.connection.drain()  # it crosses the request
                link.driver.wake()
            upload = bench.connect().begin_to_send().send(b"the first part").flush()
            await until(lambda: is_over(upload.wire), "the answer")
            assert why in upload.wire.written.decode("latin-1")
            assert upload.answer().startswith(b"Status: 503")
            assert bench.applications[0].requests == (0 if ends else 1)

    run(body)


def test_an_application_that_is_overloaded_gets_the_next_request_when_it_has_room() -> None:
    """One at a time, so that each that ends is followed by the next, and few are refused."""

    async def body() -> None:
        at_work: list[AppExchange] = []

        def one_at_a_time(exchange: AppExchange) -> None:
            if at_work:
                overloaded(exchange)
                return
            at_work.append(exchange)

            def done() -> None:
                at_work.clear()
                answer(b"done")(exchange)

            asyncio.get_running_loop().call_soon(done)

        async with running(one_at_a_time, queue_timeout=60) as bench:
            wires = [bench.begin("POST", b"order") for _ in range(30)]
            await until(lambda: all(map(is_over, wires)), "all are answered")
            assert all(stdout(wire).endswith(b"done") for wire in wires)
            assert bench.applications[0].requests < 30 * 6

    run(body)


def test_another_application_takes_what_one_refuses() -> None:
    async def body() -> None:
        async with running(overloaded, answer(b"the other"), queue_timeout=60) as bench:
            for _ in range(10):
                assert (await bench.ask("POST", b"order")).endswith(b"the other")

    run(body)


def test_what_waits_has_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_WAITING_BYTES", 300_000)

    async def body() -> None:
        async with running(read_all, probes=PROBES) as bench:
            (application,) = bench.applications
            application.on_probe = break_off
            await until(lambda: bench.states() == ["out"], "it takes nothing")
            servers = [bench.connect().begin("POST", bytes(100_000)) for _ in range(5)]
            assert bench.service.waiting == 3
            await until(lambda: is_over(servers[-1].wire), "the last is refused")
            assert [b"Status: 503" in server.answer() for server in servers] == [False] * 3 + [True] * 2
            servers[0].connection.connection_lost(None)
            application.on_probe = answer(b"well")
            await until(lambda: all(is_over(server.wire) for server in servers[1:3]), "the answers")
            assert bench.site._waiting.size == 0
            application.on_probe = break_off
            await until(lambda: bench.states() == ["out"], "it takes nothing")
            slow = bench.connect().begin_to_send().flush()
            for _ in range(50):
                slow.send(b"x").flush()
            assert bench.site._waiting.size > 50 * 100
            bench.begin("POST", bytes(100_000))
            assert bench.service.waiting == 2

    run(body)
