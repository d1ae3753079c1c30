"""Which application gets a request, and what happens when one fails. On the memory carrier, without sockets."""

from __future__ import annotations

import asyncio
import functools
import grp
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.hosting.byte_stream import KEEP_CONN
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.plugin import ApplicationHalf, AssociationInfo, Host, Plugin, RequestInfo, WebHalf
from fcgi_core.protocol.channels import Channel, Direction, Priority
from fcgi_core.protocol.outbox import PPID
from fcgi_core.protocol.records import (
    ProtocolStatus,
    RecordType,
    Role,
    begin_request,
    encode_pairs,
    record,
    stream_records,
)
from fcgi_core.protocol.streams import FIRST_STREAM
from fcgi_core.sctp.carrier import Address, Message
from fcgi_core.sctp.endpoints import advertisement, shifted
from fcgi_core.sctp.memory import MemoryNetwork
from fcgi_core.web import late_stderr as late_stderr_module
from fcgi_core.web import service as service_module
from fcgi_core.web import waiting as waiting_module
from fcgi_core.web.balance import MAX_FAILURES
from fcgi_core.web.downstream import DownstreamConnection
from fcgi_core.web.exchange import NO_RECORD
from fcgi_core.web.feed import Feed
from fcgi_core.web.listeners import ListenError
from fcgi_core.web.probe import ProbeOptions
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from tests.app.harness import PATIENCE, LiveNetwork, until
from tests.byte_stream import Record, records_in
from tests.web.test_downstream import Wire

Behaviour = Callable[[AppExchange], None]
PROBE = "/healthz"


def answer(text: bytes) -> Behaviour:
    def give(exchange: AppExchange) -> None:
        exchange.send(b"Content-Type: text/plain\r\n\r\n" + text)
        exchange.end()

    return give


def break_off(exchange: AppExchange) -> None:
    """With nothing sent."""
    exchange.fail("on purpose")


def break_off_late(exchange: AppExchange) -> None:
    exchange.send(b"Content-Type: text/plain\r\n\r\nhalf")
    exchange.fail("on purpose")


def gateway_timeout(exchange: AppExchange) -> None:
    exchange.send(b"Status: 504 Gateway Timeout\r\n\r\n")
    exchange.end()


def break_the_protocol(exchange: AppExchange) -> None:
    """A record that only a web side sends."""
    request = exchange.request
    exchange.connection._outbox.add(request.lane, record(RecordType.STDIN, request.id, b"x", request.generation))
    exchange.link.driver.wake()
    exchange.on_abort = exchange.end


def overloaded(exchange: AppExchange) -> None:
    exchange.end(error="full", status=ProtocolStatus.OVERLOADED)


def read_all(exchange: AppExchange) -> None:
    """Answers with the number of bytes that its input had."""
    count = 0

    def read() -> None:
        nonlocal count
        count += len(exchange.take_body())
        if exchange.input_closed and not exchange.ended:
            answer(b"%d" % count)(exchange)

    exchange.on_input = read
    exchange.on_abort = exchange.end
    read()


def hang(exchange: AppExchange) -> None:
    exchange.on_abort = exchange.end


class Application:
    """Handles each request as `does` says, and probes as `on_probe` does."""

    def __init__(self, does: Behaviour) -> None:
        self.does = does
        self.on_probe: Behaviour = answer(b"well")
        self.requests = 0
        self.probes = 0

    async def start(self, service: AppService) -> None:
        pass

    def request(self, exchange: AppExchange) -> None:
        if exchange.params.get("REQUEST_URI") == PROBE:
            self.probes += 1
            self.on_probe(exchange)
        else:
            self.requests += 1
            self.does(exchange)

    async def stop(self) -> None:
        pass


class WebServer:
    """A web server's connection."""

    def __init__(self, service: WebService) -> None:
        self.wire = Wire()
        self.connection = DownstreamConnection(service, service._connections)
        self.connection.connection_made(self.wire)

    def begin(self, method: str = "GET", body: bytes = b"", **params: str) -> WebServer:
        """A whole request."""
        return self.begin_to_send(method, **params).send(body).close_input()

    def begin_to_send(self, method: str = "POST", **params: str) -> WebServer:
        """A request without its input."""
        params = {"REQUEST_METHOD": method, "REQUEST_URI": "/", "SERVER_NAME": "shop.example", **params}
        sent = begin_request(1, Role.RESPONDER, KEEP_CONN)
        sent += b"".join(stream_records(RecordType.PARAMS, 1, encode_pairs(params)))
        self._sent = sent + record(RecordType.PARAMS, 1)
        return self

    def send(self, body: bytes) -> WebServer:
        """Part of its input; all that is sent in one turn comes at once."""
        self._sent += b"".join(stream_records(RecordType.STDIN, 1, body))
        return self

    def close_input(self) -> WebServer:
        self._sent += record(RecordType.STDIN, 1)
        return self.flush()

    def flush(self) -> WebServer:
        sent, self._sent = self._sent, b""
        self.connection.data_received(sent)
        return self

    def answer(self) -> bytes:
        """STDOUT of the answer that has come since the last call."""
        said = stdout(self.wire)
        self.wire.written = b""
        return said


class Bench:
    """A web side and its applications."""

    def __init__(self, service: WebService, applications: list[Application], app_services: list[AppService]) -> None:
        self.service = service
        self.applications = applications
        self.app_services = app_services

    def states(self) -> list[str]:
        return [one.state for one in self.service.upstreams]

    def connect(self) -> WebServer:
        return WebServer(self.service)

    def begin(self, method: str = "GET", body: bytes = b"") -> Wire:
        """A web server's request, on a connection of its own."""
        return self.connect().begin(method, body).wire

    async def ask(self, method: str = "GET", body: bytes = b"") -> bytes:
        """STDOUT of the answer."""
        wire = self.begin(method, body)
        await until(lambda: is_over(wire), "the answer")
        return stdout(wire)


def records(wire: Wire) -> list[Record]:
    return records_in(wire.written.removesuffix(NO_RECORD) if wire.closing else wire.written)


def is_over(wire: Wire) -> bool:
    return bool(wire.closing) or RecordType.END_REQUEST in [kind for kind, _, _ in records(wire)]


def stdout(wire: Wire) -> bytes:
    return b"".join(content for kind, _, content in records(wire) if kind == RecordType.STDOUT)


@asynccontextmanager
async def running(*does: Behaviour, feed: Feed | None = None, **options: Any) -> AsyncIterator[Bench]:
    network = LiveNetwork()
    addresses = [Address((f"10.0.0.{number}",), 9000) for number in range(1, len(does) + 1)]
    applications = [Application(one) for one in does]
    services = []
    for address, application in zip(addresses, applications, strict=True):
        services.append(AppService(application, network.carrier(), [address]))
        await services[-1].start()
    web = WebService(
        network.carrier(),
        [],
        [BackEndOptions(one) for one in addresses],
        feed=feed,
        options=WebOptions(slow_start=0, **options),
    )
    await web.start()
    bench = Bench(web, applications, services)
    await until(lambda: bench.states() == ["up"] * len(does), "all are up")
    try:
        yield bench
    finally:
        await web.stop(0)
        for service in services:
            await service.stop(0)


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(body())  # type: ignore[arg-type]


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


def test_gateway_errors_count_and_are_passed_on() -> None:
    """A bridge whose FastCGI server hangs answers 504; it may have begun the request, so no other gets it."""

    async def body() -> None:
        async with running(gateway_timeout, answer(b"the other")) as bench:
            answers = [await bench.ask() for _ in range(2 * MAX_FAILURES + 4)]
            assert sum(one.startswith(b"Status: 504") for one in answers) == MAX_FAILURES
            assert all(one.endswith(b"the other") for one in answers[-4:])

    run(body)


def late_stderr(text: bytes, *, comes: bool = True) -> Behaviour:
    """An answer whose END_REQUEST overtakes its STDERR, as it does when a packet is lost."""

    def give(exchange: AppExchange) -> None:
        request, connection, driver = exchange.request, exchange.connection, exchange.link.driver
        exchange.send(b"Content-Type: text/plain\r\n\r\nsaid")
        request.stderr_bytes = len(text)
        exchange.end()
        late = record(RecordType.STDERR, request.id, text, request.generation)

        def send() -> None:
            connection._outbox.post(Priority.CONTENT, Message(FIRST_STREAM, late, PPID))
            driver.wake()

        if comes:
            asyncio.get_running_loop().call_later(0.05, send)

    return give


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


PROBES = ProbeOptions(PROBE, interval=0.02, timeout=0.02, rise=2, fall=2)


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


# ---- the end


class Says(ApplicationHalf):
    def __init__(self, host: Host) -> None:
        self.host = host
        self.heard: list[bytes] = []

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        self.heard.append(item)


class Hears(WebHalf):
    def __init__(self, host: Host) -> None:
        self.host = host
        self.on_close: Callable[[], None] = lambda: None
        self.heard: list[bytes] = []

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        self.heard.append(item)

    def close(self) -> None:
        self.on_close()
        self.host.send("talk.back", b"the last word")


class Talk(Plugin):
    name = "talk"
    says: Says
    hears: Hears

    def channels(self, options: Any) -> list[Channel]:
        return [Channel("talk"), Channel("talk.back", direction=Direction.TO_APPLICATION)]

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        self.says = Says(host)
        return self.says

    def web_half(self, host: Host, options: Any) -> WebHalf:
        self.hears = Hears(host)
        return self.hears


async def talking(network: LiveNetwork, plugin: Talk) -> tuple[AppService, WebService]:
    address = Address(("10.0.0.1",), 9000)
    plugins = load_plugins({"talk": {}}, lambda name: plugin)
    application = AppService(Application(hang), network.carrier(), [address], plugins=plugins)
    await application.start()
    web = WebService(network.carrier(), [], [BackEndOptions(address)], plugins=plugins)
    await web.start()
    return application, web


def test_plugins_have_the_last_word_and_hear_what_is_under_way() -> None:
    async def body() -> None:
        plugin = Talk()
        application, web = await talking(LiveNetwork(), plugin)
        await until(lambda: web.upstreams[0].state == "up", "it is up")
        for number in range(50):
            plugin.says.host.send("talk", b"%d" % number)
        await asyncio.sleep(0)  # it is sent, and has not arrived
        await web.stop(0)
        assert plugin.hears.heard == [b"%d" % number for number in range(50)]
        assert plugin.says.heard == [b"the last word"]
        plugin.says.host.send("talk", b"waits for another web side")
        await asyncio.sleep(0)
        (figures,) = [one for one in application.supervisor.transport().channels if one.name == "talk"]
        assert (figures.sent, figures.dropped) == (50, 0)
        await application.stop(0)

    run(body)


def test_an_application_that_does_not_answer_holds_up_the_end_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fcgi_core.web.service.LAST_WORD", 0.01)

    async def body() -> None:
        network = LiveNetwork()
        plugin = Talk()
        application, web = await talking(network, plugin)
        await until(lambda: web.upstreams[0].state == "up", "it is up")
        network.stands_still = True

        def goes_on() -> None:
            network.stands_still = False
            network.call_at(network.now, lambda: None)

        plugin.hears.on_close = goes_on
        async with asyncio.timeout(PATIENCE):
            await web.stop(0)
        assert not network.stands_still
        await application.stop(0)

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
            assert bench.service._waiting.size == 0
            application.on_probe = break_off
            await until(lambda: bench.states() == ["out"], "it takes nothing")
            slow = bench.connect().begin_to_send().flush()
            for _ in range(50):
                slow.send(b"x").flush()
            assert bench.service._waiting.size > 50 * 100
            bench.begin("POST", bytes(100_000))
            assert bench.service.waiting == 2

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


# ---- who goes early, and stopping


def part_of(length: int, sent: bytes) -> Behaviour:
    """An answer without an end, which its client may have before it is ended."""

    def give(exchange: AppExchange) -> None:
        exchange.send(b"Content-Length: %d\r\n\r\n" % length + sent)
        exchange.on_abort = functools.partial(exchange.end, error="the client went away")

    return give


@pytest.mark.parametrize(("sent", "aborted"), [(b"whole", 0), (b"who", 1)])
def test_a_web_server_that_closes_when_it_has_all(sent: bytes, aborted: int) -> None:
    """nginx closes as soon as it has Content-Length bytes, and does not wait for END_REQUEST."""

    async def body() -> None:
        async with running(part_of(5, sent)) as bench:
            ours, theirs = [one.supervisor.follow_traffic() for one in (bench.service, *bench.app_services)]
            server = bench.connect().begin()
            await until(lambda: stdout(server.wire), "the answer")
            server.connection.connection_lost(None)
            await until(lambda: sum(theirs.hosts()["shop.example"].statuses), "the application hears of it")
            for traffic in (ours, theirs):
                figures = traffic.hosts()["shop.example"]
                assert (figures.aborted, figures.failed) == (aborted, 0)

    run(body)


def test_a_web_server_that_closes_before_the_stderr_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_stderr_module, "STDERR_WITHIN", 60.0)

    async def body() -> None:
        async with running(late_stderr(b"lost", comes=False)) as bench:
            traffic = bench.service.supervisor.follow_traffic()
            server = bench.connect().begin()
            await until(lambda: bench.service.upstreams[0].associations[0].late_stderr.ends, "all but the end has come")
            server.connection.connection_lost(None)
            assert traffic.hosts()["shop.example"].aborted == 0
            server = bench.connect()
            bench.applications[0].does = hang
            server.begin().connection.connection_lost(None)
            assert traffic.hosts()["shop.example"].aborted == 1

    run(body)


@pytest.mark.parametrize("leaves", ["late", "client"])
def test_stopping_does_not_wait_for_requests_that_have_left_the_queue(
    monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    monkeypatch.setattr(service_module, "SWEEP", 0.01)

    async def body() -> None:
        async with running(answer(b"x"), probes=PROBES, queue_timeout=0.2 if leaves == "late" else 60) as bench:
            bench.applications[0].on_probe = break_off
            await until(lambda: bench.states() == ["out"], "it takes nothing")
            server = bench.connect().begin()
            assert bench.service.waiting == 1
            stopping = asyncio.create_task(bench.service.stop(600))
            await asyncio.sleep(0)
            if leaves == "client":
                server.connection.connection_lost(None)
            else:
                await until(lambda: server.wire.closing, "it is refused")
                assert b"Status: 503" in server.answer()
                server.connection.connection_lost(None)
            await until(stopping.done, "the service has stopped")

    run(body)


def test_stopping_waits_until_the_last_answer_has_gone() -> None:
    """It is all with the socket, and a slow client has still to take it."""

    async def body() -> None:
        async with running(answer(b"x" * 100)) as bench:
            server = bench.connect().begin()
            await until(lambda: is_over(server.wire), "the answer")
            stopping = asyncio.create_task(bench.service.stop(600))
            await until(lambda: server.wire.closing, "the connection is to be closed")
            for _ in range(20):
                await asyncio.sleep(0)
            assert (server.wire.closing, stopping.done()) == ("closed", False)
            server.connection.connection_lost(None)  # when it has gone
            await until(stopping.done, "the service has stopped")

    run(body)


# ---- faults in the live feed


def told(feed: Feed, said: str) -> dict[str, Any] | None:
    """The first entry of a feed that says so."""
    entries = [json.loads(feed.line(number)) for number in range(feed.first, feed.next)]
    return next((entry for entry in entries if said in entry["message"]), None)


def test_faults_of_requests_are_in_the_live_feed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(service_module, "SWEEP", 0.01)

    async def body() -> None:
        feed = Feed(tmp_path / "feed.sock")
        async with running(break_off, feed=feed, request_timeout=0.05) as bench:
            (application,) = bench.applications
            assert b"502" in await bench.ask()
            assert told(feed, "the answer broke off; answered 502") is not None
            application.does = break_the_protocol
            await bench.ask()
            assert told(feed, "does not accept") is not None
            application.does = hang
            assert b"504" in await bench.ask()
            entry = told(feed, "answered 504")
            assert entry is not None
            assert (entry["severity"], entry["server_name"], entry["application"]) == (3, "shop.example", "fcgi-sctp")
            assert entry["request"] in entry["message"]

    run(body)


def test_an_application_that_is_down_is_in_the_live_feed(tmp_path: Path) -> None:
    async def body() -> None:
        feed = Feed(tmp_path / "feed.sock")
        async with running(hang, feed=feed) as bench:
            wire = bench.begin("POST", b"x")
            await until(lambda: bench.applications[0].requests, "it has come")
            bench.service.upstreams[0].driver.abort("on purpose")
            await until(lambda: is_over(wire), "it is given up")
            entry = told(feed, "is down: ")
            assert entry is not None
            assert entry["message"].endswith("on purpose; requests lost: 1")
            assert entry["severity"] == 4
            thread = threading.Thread(target=service_module.log.warning, args=("from a thread",))
            thread.start()
            await until(lambda: told(feed, "from a thread"), "any thread may log")
            thread.join()
        service_module.log.warning("afterwards")
        assert told(feed, "afterwards") is None

    run(body)
