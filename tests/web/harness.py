"""A web side with its applications on the memory carrier, and web servers that ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.hosting.byte_stream import KEEP_CONN
from fcgi_core.protocol.channels import Priority
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
from fcgi_core.web.downstream import Dispatcher, DownstreamConnection
from fcgi_core.web.exchange import NO_RECORD
from fcgi_core.web.feed import Feed
from fcgi_core.web.probe import ProbeOptions
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from fcgi_core.web.site import Site
from tests.app.harness import LiveNetwork, until
from tests.byte_stream import Record, records_in
from tests.web.web_server import Wire

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

    def __init__(self, service: WebService, dispatcher: Dispatcher | None = None) -> None:
        self.wire = Wire()
        self.connection = DownstreamConnection(dispatcher or service.sites[""], service._connections)
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

    @property
    def site(self) -> Site:
        """The only one."""
        return self.service.sites[""]

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
async def running(
    *does: Behaviour, feed: Feed | None = None, listen: Sequence[str] = (), **options: Any
) -> AsyncIterator[Bench]:
    network = LiveNetwork()
    addresses = [Address((f"10.0.0.{number}",), 9000) for number in range(1, len(does) + 1)]
    applications = [Application(one) for one in does]
    services = []
    for address, application in zip(addresses, applications, strict=True):
        services.append(AppService(application, network.carrier(), [address]))
        await services[-1].start()
    web = WebService(
        network.carrier(),
        listen,
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


PROBES = ProbeOptions(PROBE, interval=0.02, timeout=0.02, rise=2, fall=2)
