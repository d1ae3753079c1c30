"""Which application gets a request, and what happens when one fails. On the memory carrier, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fcgi_core.app.service import AppExchange, AppService
from fcgi_core.channels import Channel, Direction, Priority
from fcgi_core.discovery import load_plugins
from fcgi_core.outbox import PPID
from fcgi_core.plugin import ApplicationHalf, AssociationInfo, Host, Plugin, RequestInfo, WebHalf
from fcgi_core.records import (
    KEEP_CONN,
    ProtocolStatus,
    Record,
    RecordReader,
    RecordType,
    Role,
    begin_request,
    encode_pairs,
    record,
    stream_records,
)
from fcgi_core.sctp.carrier import Address, Message
from fcgi_core.sctp.memory import MemoryNetwork
from fcgi_core.streams import FIRST_STREAM
from fcgi_core.web import upstream as upstream_module
from fcgi_core.web.balance import MAX_FAILURES
from fcgi_core.web.downstream import NO_RECORD, DownstreamConnection
from fcgi_core.web.probe import ProbeOptions
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from tests.app.harness import PATIENCE, LiveNetwork, until
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


def hang(exchange: AppExchange) -> None:
    exchange.on_abort = exchange.end


class Application:
    """Does with each request what it is told; probes are apart."""

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


class Bench:
    """A web side and its applications."""

    def __init__(self, service: WebService, applications: list[Application]) -> None:
        self.service = service
        self.applications = applications

    def states(self) -> list[str]:
        return [one.state for one in self.service.upstreams]

    def begin(self, method: str = "GET", body: bytes = b"") -> Wire:
        """A web server's request, on a connection of its own."""
        wire = Wire()
        connection = DownstreamConnection(self.service, self.service._connections)
        connection.connection_made(wire)
        params = {"REQUEST_METHOD": method, "REQUEST_URI": "/", "SERVER_NAME": "shop.example"}
        sent = begin_request(1, Role.RESPONDER, KEEP_CONN)
        sent += b"".join(stream_records(RecordType.PARAMS, 1, encode_pairs(params)))
        sent += record(RecordType.PARAMS, 1)
        if body:
            sent += record(RecordType.STDIN, 1, body)
        connection.data_received(sent + record(RecordType.STDIN, 1))
        return wire

    async def ask(self, method: str = "GET", body: bytes = b"") -> bytes:
        """STDOUT of the answer."""
        wire = self.begin(method, body)
        await until(lambda: is_over(wire), "the answer")
        return stdout(wire)


def records(wire: Wire) -> list[Record]:
    return RecordReader().feed(wire.written.removesuffix(NO_RECORD) if wire.closing else wire.written)


def is_over(wire: Wire) -> bool:
    return bool(wire.closing) or RecordType.END_REQUEST in [kind for kind, _, _ in records(wire)]


def stdout(wire: Wire) -> bytes:
    return b"".join(content for kind, _, content in records(wire) if kind == RecordType.STDOUT)


@asynccontextmanager
async def running(*does: Behaviour, **options: Any) -> AsyncIterator[Bench]:
    network = LiveNetwork()
    addresses = [Address((f"10.0.0.{number}",), 9000) for number in range(1, len(does) + 1)]
    applications = [Application(one) for one in does]
    services = []
    for address, application in zip(addresses, applications, strict=True):
        services.append(AppService(application, network.carrier(), [address]))
        await services[-1].start()
    web = WebService(
        network.carrier(), [], [BackEndOptions(one) for one in addresses], options=WebOptions(slow_start=0, **options)
    )
    await web.start()
    bench = Bench(web, applications)
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


def test_what_may_not_be_made_twice_is_not() -> None:
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
    """A bridge whose FastCGI server hangs answers 504; it may have begun the request, so nobody else is asked."""

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
    monkeypatch.setattr(upstream_module, "STDERR_WITHIN", 60.0)

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


def test_it_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "STDERR_WITHIN", 0.02)

    async def body() -> None:
        async with running(late_stderr(b"lost", comes=False)) as bench:
            assert (await bench.ask()).endswith(b"said")
            assert bench.service.in_flight == 0

    run(body)


@pytest.mark.parametrize("goes", ["client", "association"])
def test_who_goes_meanwhile(monkeypatch: pytest.MonkeyPatch, goes: str) -> None:
    monkeypatch.setattr(upstream_module, "STDERR_WITHIN", 60.0)

    async def body() -> None:
        async with running(late_stderr(b"lost", comes=False)) as bench:
            wire = bench.begin()
            await until(lambda: stdout(wire), "all but the end has come")
            (upstream,) = bench.service.upstreams
            await until(lambda: upstream._ending, "it waits")
            if goes == "client":
                (connection,) = bench.service._connections
                connection.connection_lost(None)
                assert bench.service.requests_ended == 1
            upstream.driver.abort("on purpose")
            await until(lambda: not upstream._ending, "nothing waits any more")
            assert (bench.service.in_flight, bench.service.requests_ended) == (0, 1)
            await until(lambda: is_over(wire) or goes == "client", "the answer was whole")

    run(body)


def test_one_that_is_refused_again_and_again_waits_for_queue_timeout_and_no_longer() -> None:
    """A bridge before a FastCGI server that is full answers OVERLOADED."""

    def refuse(exchange: AppExchange) -> None:
        exchange.end(error="full", status=ProtocolStatus.OVERLOADED)

    async def body() -> None:
        async with running(refuse, queue_timeout=0.3) as bench:
            answered = await bench.ask("POST", b"order")
            assert answered.startswith(b"Status: 503")
            assert b"Retry-After: 1" in answered
            assert bench.applications[0].requests > 1, "it was tried again meanwhile"
            assert (bench.service.in_flight, bench.service.waiting) == (0, 0)

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
            assert [(await bench.ask())[-4:] for _ in range(4)].count(b"back") == 2, "they take turns"

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


@pytest.mark.parametrize("steps", range(4))
def test_one_that_is_stopped_while_it_connects_leaves_no_association(steps: int) -> None:
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
        stopped: list[bool] = []
        upstream.stop(lambda: stopped.append(True))
        network.run_until(100)
        assert stopped == [True]
        assert not application._associations
        assert upstream.link is None
        network.run()

    run(body)
