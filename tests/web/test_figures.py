"""What the web side tells plugins of its applications, its queue, and whether it takes requests."""

from __future__ import annotations

from pathlib import Path

from fcgi_core.plugin import ServiceFigures
from tests.app.harness import until
from tests.web.harness import PROBES, answer, break_off, gateway_timeout, hang, overloaded, run, running


def test_each_application_of_the_configuration_is_there_also_one_that_is_away(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(answer(b"1"), answer(b"2"), listen=[f"unix:{tmp_path}/web"], queue_timeout=0) as bench:
            for _ in range(4):
                await bench.ask()
            figures = bench.service.figures()
            assert (figures.carrier, figures.obstacle, figures.waiting) == ("memory", "", 0)
            assert [(one.address, one.states, one.requests, one.lost) for one in figures.applications] == [
                ("10.0.0.1:9000", {"up": 1}, 2, 0),
                ("10.0.0.2:9000", {"up": 1}, 2, 0),
            ]
            await bench.app_services[1].stop(0)
            await until(lambda: bench.states() == ["up", "down"], "the second is away")
            first, second = bench.service.figures().applications
            assert (first.up, second.up, second.states, second.lost) == (True, False, {"down": 1}, 1)
            assert bench.service.figures().obstacle == ""
            bench.site.members.drain("10.0.0.1:9000")
            drained = bench.service.figures()
            assert (drained.applications[0].states, drained.applications[0].up) == ({"drained": 1}, False)
            assert drained.obstacle == "no application is up, of 2"
            bench.site.members.undrain("10.0.0.1:9000")
            await bench.app_services[0].stop(0)
            await until(lambda: bench.states() == ["down", "down"], "both are away")
            assert bench.service.figures().obstacle == "no application is up, of 2"
            assert (await bench.ask()).startswith(b"Status: 502")
            assert bench.service.figures().unserved["unreachable"] == 1
            await bench.service.stop(0)
            assert bench.service.figures().obstacle == "it stops: no new requests are accepted"

    run(body)


def test_without_a_listener_it_takes_no_requests() -> None:
    async def body() -> None:
        async with running(answer(b"1")) as bench:
            assert bench.service.figures().obstacle == "it does not listen for the web server"

    run(body)


def test_an_application_that_fails_is_avoided_and_one_without_good_probes_is_out() -> None:
    async def body() -> None:
        async with running(gateway_timeout, gateway_timeout, probes=PROBES) as bench:
            for _ in range(6):
                await bench.ask()
            figures = bench.service.figures()
            assert [(one.states, one.avoided, one.up) for one in figures.applications] == [
                ({"avoided": 1}, 1, True)
            ] * 2
            bench.applications[0].on_probe = break_off
            await until(lambda: bench.states() == ["out", "up"], "its probes fail")
            first, _ = bench.service.figures().applications
            assert (first.states, first.out, first.up, first.capacity) == ({"out": 1}, 1, False, 0)

    run(body)


def test_an_application_that_drains() -> None:
    async def body() -> None:
        async with running(hang) as bench:
            bench.begin()
            await until(lambda: bench.applications[0].requests == 1, "it has the request")
            association = next(iter(bench.app_services[0]._associations))
            association.connection.drain()
            association.driver.wake()
            await until(lambda: bench.service.figures().applications[0].states == {"draining": 1}, "DRAIN has come")
            (one,) = bench.service.figures().applications
            assert (one.up, one.in_flight, one.capacity) == (False, 1, 0)

    run(body)


def test_requests_that_wait_and_those_that_are_answered_without_an_application() -> None:
    async def body() -> None:
        async with running(overloaded, queue_timeout=60, queue_length=1) as bench:
            bench.begin("POST", bytes(1000))
            await until(lambda: bench.service.waiting == 1, "it waits")
            assert bench.service.figures().waiting_bytes > 1000
            assert (await bench.ask()).startswith(b"Status: 503")
            assert bench.service.figures().unserved["queue_full"] == 1
        async with running(overloaded, queue_timeout=0) as bench:
            assert (await bench.ask()).startswith(b"Status: 503")
            assert bench.service.figures().unserved["queue_timeout"] == 1
        async with running(hang, request_timeout=0.1) as bench:
            assert (await bench.ask()).startswith(b"Status: 504")
            assert bench.service.figures().unserved["request_timeout"] == 1

    run(body)


def test_an_application_side_takes_requests_until_it_stops() -> None:
    async def body() -> None:
        async with running(answer(b"1")) as bench:
            (service,) = bench.app_services
            assert service.figures() == ServiceFigures(service.figures().version, "memory", "")
            await service.finish(0)
            assert service.figures().obstacle == "it stops: no new requests are accepted"

    run(body)
