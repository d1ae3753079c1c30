"""Which application gets a request, and what happens when one fails. On the memory carrier, without sockets."""

from __future__ import annotations

import asyncio
import grp
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.hosting.byte_stream import KEEP_CONN
from fcgi_core.protocol.records import (
    RecordType,
    Role,
    begin_request,
    encode_pairs,
    record,
)
from fcgi_core.sctp import end_reasons
from fcgi_core.sctp.carrier import Address
from fcgi_core.sctp.endpoints import advertisement, shifted
from fcgi_core.sctp.memory import MemoryNetwork
from fcgi_core.web import late_stderr as late_stderr_module
from fcgi_core.web import service as service_module
from fcgi_core.web.balance import MAX_FAILURES
from fcgi_core.web.listeners import ListenError
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from tests.app.harness import LiveNetwork, until
from tests.web.harness import (
    PROBES,
    Application,
    Behaviour,
    answer,
    break_off,
    break_off_late,
    break_the_protocol,
    gateway_timeout,
    hang,
    is_over,
    late_stderr,
    overloaded,
    read_all,
    records,
    run,
    running,
    stdout,
)


@pytest.mark.parametrize("fails", [break_off, break_the_protocol])
def test_an_answer_that_breaks_off_before_it_began_is_asked_for_elsewhere(fails: Behaviour) -> None:
    async def body() -> None:
        async with running(fails, answer(b"the other")) as bench:
            for _ in range(2 * MAX_FAILURES):  # they take turns
                assert (await bench.ask()).endswith(b"the other")
            bad, _ = bench.service.upstreams
            assert bad.health.avoid_until > 0, "each counted against it"
            assert bench.applications[0].requests == MAX_FAILURES
            for _ in range(2):
                assert (await bench.ask()).endswith(b"the other")
            assert bench.applications[0].requests == MAX_FAILURES, "it is avoided now"

    run(body)


def test_an_unsafe_request_is_not_sent_twice() -> None:
    async def body() -> None:
        async with running(break_off, answer(b"the other")) as bench:
            assert b"502 Bad Gateway" in await bench.ask("POST", b"order")
            assert [one.requests for one in bench.applications] == [1, 0]

    run(body)


def test_an_answer_that_broke_off_later_is_cut() -> None:
    async def body() -> None:
        async with running(break_off_late, answer(b"the other")) as bench:
            wire = bench.begin()
            await until(lambda: wire.closing, "the connection is closed")
            assert stdout(wire).endswith(b"half")
            assert bench.applications[1].requests == 0
            assert bench.service.upstreams[0].health.failures == 1

    run(body)


def test_twice_is_enough() -> None:
    async def body() -> None:
        async with running(break_off, break_off, break_off) as bench:
            assert b"502 Bad Gateway" in await bench.ask()
            assert sum(one.requests for one in bench.applications) == 2

    run(body)


@pytest.mark.parametrize(
    ("reason", "seconds", "drains", "again"),
    [
        ("10.0.0.1:9000 aborted the association", 2, False, True),
        ("10.0.0.1:9000 aborted the association", 20, False, False),
        (end_reasons.silent("10.0.0.1:9000", 10), 20, False, True),
        ("10.0.0.1:9000 aborted the association", 20, True, True),
    ],
)
def test_a_request_that_was_long_in_a_process_that_was_killed_is_not_sent_again(
    reason: str, seconds: float, drains: bool, again: bool
) -> None:
    """It may have blocked it, until the parent of workers ended it."""

    async def body() -> None:
        async with running(hang, answer(b"the other")) as bench:
            wire = bench.begin()
            await until(lambda: bench.applications[0].requests == 1, "the first has it")
            (exchange,) = bench.service._active
            exchange.last_activity -= seconds
            association = bench.service.upstreams[0].up[0]
            association.connection.peer_draining = drains
            association.driver.abort(reason)
            await until(lambda: is_over(wire), "the end")
            assert stdout(wire).endswith(b"the other") is again
            assert stdout(wire).startswith(b"Status: 502") is not again

    run(body)


def test_gateway_errors_count_and_are_passed_on() -> None:
    """A bridge whose FastCGI server hangs answers 504; it may have begun the request, so no other gets it."""

    async def body() -> None:
        async with running(gateway_timeout, answer(b"the other")) as bench:
            answers = [await bench.ask() for _ in range(2 * MAX_FAILURES + 4)]
            assert sum(one.startswith(b"Status: 504") for one in answers) == MAX_FAILURES
            assert all(one.endswith(b"the other") for one in answers[-4:])

    run(body)


def test_the_end_of_an_answer_waits_for_its_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_stderr_module, "STDERR_WITHIN", 60.0)

    async def body() -> None:
        async with running(late_stderr(b"a line")) as bench:
            wire = bench.begin()
            await until(lambda: stdout(wire), "the answer goes on at once")
            assert not is_over(wire)
            await until(lambda: is_over(wire), "and its end with its STDERR")
            assert [kind for kind, _, _ in records(wire)] == [
                RecordType.STDOUT,
                RecordType.STDERR,
                RecordType.STDOUT,
                RecordType.END_REQUEST,
            ]
            assert (bench.service.in_flight, bench.service.requests_ended) == (0, 1)

    run(body)


def test_an_answer_waits_for_its_stderr_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_stderr_module, "STDERR_WITHIN", 0.02)

    async def body() -> None:
        async with running(late_stderr(b"lost", comes=False)) as bench:
            assert (await bench.ask()).endswith(b"said")
            assert bench.service.in_flight == 0

    run(body)


@pytest.mark.parametrize("goes", ["client", "association"])
def test_the_client_or_the_association_goes_while_stderr_is_late(monkeypatch: pytest.MonkeyPatch, goes: str) -> None:
    monkeypatch.setattr(late_stderr_module, "STDERR_WITHIN", 60.0)

    async def body() -> None:
        async with running(late_stderr(b"lost", comes=False)) as bench:
            wire = bench.begin()
            await until(lambda: stdout(wire), "all but the end has come")
            (upstream,) = bench.service.upstreams
            await until(lambda: upstream.associations[0].late_stderr.ends, "it waits")
            if goes == "client":
                (connection,) = bench.service._connections
                connection.connection_lost(None)
                assert bench.service.requests_ended == 1
            association = upstream.associations[0]
            association.driver.abort("on purpose")
            await until(lambda: not association.late_stderr.ends, "nothing waits any more")
            assert (bench.service.in_flight, bench.service.requests_ended) == (0, 1)
            await until(lambda: is_over(wire) or goes == "client", "the answer was whole")

    run(body)


def test_an_application_that_hangs_gets_nothing_until_it_answers_again() -> None:
    async def body() -> None:
        async with running(hang, answer(b"the other"), probes=PROBES) as bench:
            sick = bench.applications[0]
            sick.on_probe = hang
            await until(lambda: bench.states() == ["out", "up"], "probes find out")
            for _ in range(10):
                assert (await bench.ask()).endswith(b"the other")
            assert sick.requests == 0
            assert bench.service.upstreams[0].capacity == 0
            assert bench.service.upstreams[0].last_error.startswith("probes: no answer within")
            sick.on_probe, sick.does = answer(b"well"), answer(b"back")
            await until(lambda: bench.states() == ["up", "up"], "probes find that, too")
            # in turns, but for a request that comes while one of them has a probe to answer
            served: set[bytes] = set()
            for _ in range(100):
                served.add((await bench.ask())[-4:])
                if len(served) == 2:
                    break
            assert served == {b"back", b"ther"}, "both get requests again"

    run(body)


def test_the_only_application_hangs() -> None:
    """Requests wait for it to come back; those that come when it has been away for long are answered at once."""

    async def body() -> None:
        async with running(answer(b"alone"), probes=PROBES, queue_timeout=0.5) as bench:
            (application,) = bench.applications
            application.on_probe = break_off
            await until(lambda: bench.states() == ["out"], "probes find out")
            waiting = bench.begin()
            assert bench.service.waiting == 1
            application.on_probe = answer(b"well")
            await until(lambda: is_over(waiting), "it is answered")
            assert stdout(waiting).endswith(b"alone")
            application.on_probe = gateway_timeout
            await until(lambda: bench.states() == ["out"], "probes find out again")
            bench.service.upstreams[0].last_up -= 1
            assert b"502 Bad Gateway" in await bench.ask()
            assert bench.service.upstreams[0].last_error == "probes: status 504"

    run(body)


def test_an_application_that_is_overloaded_is_not_ill() -> None:
    """To give it nothing at all would make it worse for the clients."""

    async def body() -> None:
        async with running(answer(b"x"), answer(b"y"), probes=PROBES) as bench:
            busy, other = bench.applications
            busy.on_probe = overloaded
            seen = busy.probes
            await until(lambda: busy.probes >= seen + 3 * PROBES.fall, "some probes")
            assert bench.states() == ["up", "up"]
            other.on_probe = break_off
            await until(lambda: bench.states() == ["up", "out"], "that is another matter")

    run(body)


def test_probes_are_no_requests_of_the_service() -> None:
    async def body() -> None:
        async with running(answer(b"x"), probes=PROBES) as bench:
            await until(lambda: bench.applications[0].probes >= 5, "some probes")
            assert bench.service.requests_ended == 0
            assert bench.service.in_flight == 0
            assert bench.service.upstreams[0].requests == 0

    run(body)


def test_a_probe_whose_answer_breaks_the_protocol() -> None:
    async def body() -> None:
        async with running(answer(b"x"), probes=PROBES) as bench:
            bench.applications[0].on_probe = break_the_protocol
            await until(lambda: bench.states() == ["out"], "it counts")

    run(body)


def test_who_may_connect_to_the_socket(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name

    async def mode(path: Path, **options: Any) -> int:
        web = WebService(LiveNetwork().carrier(), [f"unix:{path}"], [], options=WebOptions(**options))
        await web.start()
        found = stat.S_IMODE(path.stat().st_mode)
        await web.stop(0)
        return found

    async def body() -> None:
        assert await mode(tmp_path / "a.sock") == 0o666
        assert await mode(tmp_path / "b.sock", socket_mode=0o660, socket_group=group) == 0o660
        with pytest.raises(ListenError, match=r"b\.sock: there is no group 'no-such'"):
            await mode(tmp_path / "b.sock", socket_group="no-such")

    run(body)


def test_workers_are_those_that_the_configured_application_tells_of_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = Address(("10.0.0.1",), 9000, 9900)

    async def body() -> None:
        network = LiveNetwork()
        second = BackEndOptions(shifted(base, 1))
        web = WebService(
            network.carrier(), [], [BackEndOptions(base), second], options=WebOptions(slow_start=0, max_workers=3)
        )
        await web.start()
        first = web.upstreams[0]

        def ports() -> list[int]:
            return [one.address.port for one in web.upstreams]

        web.workers_reported(first, advertisement(base, 5))
        assert ports() == [9000, 9001, 9002], "9001 is configured itself"
        assert "it has 5 workers and 3 are used: raise web.max_workers" in caplog.text
        caplog.clear()
        web.workers_reported(first, advertisement(base, 5))
        assert ports() == [9000, 9001, 9002]
        assert not caplog.text, "it was said before"
        web.workers_reported(first, {})
        assert ports() == [9000, 9001], "it has one process now"
        await web.stop(0)

    run(body)


@pytest.mark.parametrize("steps", range(4))
def test_an_upstream_that_is_stopped_while_it_connects_leaves_no_association(steps: int) -> None:
    """Nothing waits for it any more, and the application need not keep it."""

    async def body() -> None:
        network = MemoryNetwork(delay=1.0)
        address = Address(("10.0.0.1",), 9000)
        application = AppService(Application(hang), network.carrier(), [address])
        await application.start()
        web = WebService(network.carrier(), [], [BackEndOptions(address)])
        (upstream,) = web.upstreams
        upstream.start()
        network.run_until(steps)
        upstream.stop()
        network.run_until(100)
        assert upstream.stopped.is_set()
        assert not application._associations
        assert upstream.link is None
        network.run()

    run(body)


# ---- a kept connection


@pytest.mark.parametrize("size", [10_000, 280_000, 600_000])
@pytest.mark.parametrize("closed", [True, False])
def test_an_answer_that_does_not_wait_for_the_input(size: int, closed: bool) -> None:
    """Whether all of the body has been read when it comes or not: the next request on the connection is read."""

    async def body() -> None:
        async with running(answer(b"no")) as bench:
            server = bench.connect()
            for _ in range(3):
                server.begin_to_send().flush()
                for start in range(0, size, 64_000):
                    server.send(bytes(min(64_000, size - start))).flush()
                    if not server.wire.reading:
                        break
                if closed:
                    server.close_input()
                await until(lambda: is_over(server.wire), "the answer")
                assert server.wire.reading
                assert server.answer().endswith(b"no")
                server.begin()
                await until(lambda: is_over(server.wire), "the next answer")
                server.answer()

    run(body)


def test_a_body_that_nobody_reads_stops_its_connection_only_until_it_is_whole() -> None:
    """All of it has been read then; a multiplexing web server's other requests go on."""

    async def body() -> None:
        async with running(hang) as bench:
            server = bench.connect()
            server.begin_to_send().send(bytes(300_000)).flush()
            assert not server.wire.reading
            server.close_input()
            assert server.wire.reading
            assert bench.service.in_flight == 1

    run(body)


def test_a_waiting_request_is_not_read_on_for_ever() -> None:
    """Its records count, too; and once an application has it, it is read on."""

    async def body() -> None:
        async with running(read_all, probes=PROBES) as bench:
            (application,) = bench.applications
            application.on_probe = break_off
            await until(lambda: bench.states() == ["out"], "it takes nothing")
            server, small = bench.connect(), bench.connect()
            server.begin_to_send().send(bytes(100_000)).flush()
            assert server.wire.reading, "what came with its PARAMS is there"
            server.send(b"x").flush()
            assert not server.wire.reading
            small.begin_to_send().flush()
            for _ in range(1000):
                small.send(b"x")
            small.flush()
            assert not small.wire.reading
            application.on_probe = answer(b"well")
            await until(lambda: server.wire.reading and small.wire.reading, "they are read on")
            server.close_input()
            small.close_input()
            await until(lambda: is_over(server.wire) and is_over(small.wire), "the answers")
            assert (server.answer()[-6:], small.answer()[-6:]) == (b"100001", b"\r\n1000")

    run(body)


# ---- time


def test_a_slow_upload_is_not_the_applications_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a slow reader; nginx counts from the end of the request, too."""
    monkeypatch.setattr(service_module, "SWEEP", 0.01)

    async def body() -> None:
        async with running(read_all, request_timeout=0.05) as bench:
            server, closed, hung = bench.connect(), bench.connect(), bench.connect()
            server.begin_to_send().send(b"begun").flush()
            closed.begin_to_send(CONTENT_LENGTH="5").send(b"whole").flush()  # but for the record that closes it
            await until(lambda: bench.applications[0].requests == 2, "they have begun")
            bench.applications[0].does = hang
            hung.begin("POST", b"whole")
            await until(lambda: is_over(closed.wire) and is_over(hung.wire), "the application says nothing")
            assert b"Status: 504" in closed.answer()
            assert b"Status: 504" in hung.answer()
            assert not is_over(server.wire), "it is older than these"
            server.send(b", and ended").close_input()
            await until(lambda: is_over(server.wire), "the answer")
            assert server.answer().endswith(b"\r\n16")

    run(body)


def test_an_application_that_reads_slowly_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the credit that it grants, if by nothing else."""
    monkeypatch.setattr(service_module, "SWEEP", 0.01)

    async def body() -> None:
        async with running(hang) as bench:
            slow, hung = bench.connect().begin("PUT", b"x"), bench.connect().begin("POST", b"x")
            exchanges = {one.params["REQUEST_METHOD"]: one for one in bench.service._active}
            exchanges["PUT"].request.credited_at = asyncio.get_running_loop().time()
            for one in exchanges.values():
                one.last_activity -= 1000
            await until(lambda: is_over(hung.wire), "nothing was heard of it")
            assert not is_over(slow.wire)
            exchanges["PUT"].request.credited_at -= 1000
            await until(lambda: is_over(slow.wire), "nor of this one, now")

    run(body)


def test_answers_that_break_off_take_along_what_else_their_connection_has() -> None:
    """Each of a multiplexing web server's requests is counted once, in one batch or many."""

    def cut(exchange: AppExchange) -> None:
        exchange.send(b"Content-Type: text/plain\r\n\r\nhalf")
        waiting.append(exchange)
        if len(waiting) == 3:
            for one in waiting:
                one.fail("on purpose")

    waiting: list[AppExchange] = []

    async def body() -> None:
        async with running(cut) as bench:
            server = bench.connect()
            for number in (1, 2, 3):
                sent = begin_request(number, Role.RESPONDER, KEEP_CONN)
                sent += record(RecordType.PARAMS, number, encode_pairs({"REQUEST_METHOD": "GET"}))
                sent += record(RecordType.PARAMS, number) + record(RecordType.STDIN, number)
                server.connection.data_received(sent)
            await until(lambda: server.wire.closing, "it is closed")
            await until(lambda: not bench.service.in_flight, "all is over")
            assert bench.service.requests_ended == 3
            assert bench.service.upstreams[0].outstanding == 0

    run(body)
