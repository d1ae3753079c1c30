"""What an association held is free when it is gone, without the garbage collector: on both sides, whatever ended it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.hosting.discovery import EnabledPlugin, load_plugins
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.plugin import ApplicationHalf, Plugin
from fcgi_core.protocol.channels import Channel, Direction
from fcgi_core.protocol.outbox import PPID
from fcgi_core.protocol.records import RecordType, Role, begin_request, encode_pairs, record
from fcgi_core.protocol.settings import Settings
from fcgi_core.sctp.carrier import Address, Association, Message
from fcgi_core.sctp.endpoints import advertisement
from fcgi_core.web.downstream import DownstreamConnection
from fcgi_core.web.probe import ProbeOptions
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from tests.app.harness import ADDRESS, LiveNetwork, Web, settle, until
from tests.garbage import assert_nothing_stays
from tests.web.harness import PROBE, Application, answer, hang
from tests.web.web_server import Wire

BEGIN = begin_request(1, Role.RESPONDER, 0)


class Stranger:
    """A web side that says what it is made to."""

    def __init__(self, *messages: Message) -> None:
        self._messages = messages
        self.association: Association | None = None
        self.down = asyncio.Event()

    def association_up(self, association: Association) -> None:
        self.association = association
        association.send(self._messages)

    def messages_received(self, messages: Sequence[Message]) -> None:
        pass

    def writable(self) -> None:
        pass

    def streams_changed(self) -> None:
        pass

    def association_down(self, reason: str) -> None:
        self.association = None
        self.down.set()


class Client:
    """A web server's connection with one POST."""

    def __init__(self, web: WebService) -> None:
        self._wire = Wire()
        self._connection = DownstreamConnection(web.sites[""], web._connections)
        self._connection.connection_made(self._wire)
        params = encode_pairs({"REQUEST_METHOD": "POST", "REQUEST_URI": "/", "SERVER_NAME": "shop.example"})
        sent = record(RecordType.PARAMS, 1, params) + record(RecordType.PARAMS, 1) + record(RecordType.STDIN, 1)
        self._connection.data_received(BEGIN + sent)

    @property
    def written(self) -> bytes:
        return self._wire.written

    def go(self) -> None:
        self._connection.connection_lost(None)


SETTINGS = Message(1, record(RecordType.SETTINGS, 0, Settings(instance="w").encode()), PPID)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([Message(2, bytes(16_000), PPID)] * 3, id="messages before SETTINGS"),
        pytest.param([SETTINGS, Message(2, BEGIN + record(RecordType.PARAMS, 1, bytes(9000)), PPID)], id="PARAMS"),
        pytest.param([SETTINGS, Message(2, BEGIN, PPID), Message(2, b"no record", PPID)], id="no records"),
        pytest.param([SETTINGS, Message(1, record(RecordType.STDIN, 0), PPID)], id="no control record"),
    ],
)
def test_what_an_application_held_of_a_web_side_that_went_away(messages: list[Message]) -> None:
    async def body() -> None:
        network = LiveNetwork()
        service = AppService(Application(hang), network.carrier(), [ADDRESS])
        await service.start()
        carrier = network.carrier()

        async def once() -> None:
            stranger = Stranger(*messages)
            carrier.connect(ADDRESS, stranger)
            await settle()
            if stranger.association is not None:
                stranger.association.abort("gone")
            await stranger.down.wait()
            await until(lambda: not service._associations, "the association ends")
            await settle()

        await assert_nothing_stays(once)
        await service.stop(0)

    asyncio.run(body())


def test_a_request_that_outlives_its_association() -> None:
    async def body() -> None:
        network = LiveNetwork()
        begun: list[AppExchange] = []

        def keep(exchange: AppExchange) -> None:
            exchange.stderr(b"a line that is never sent")
            exchange.send(bytes(1 << 20))  # more than the window
            begun.append(exchange)

        service = AppService(Application(keep), network.carrier(), [ADDRESS])
        await service.start()
        carrier = network.carrier()

        async def once() -> None:
            web = Web()
            carrier.connect(ADDRESS, web.driver)
            await web.ready.wait()
            web.call(hold=True)
            await until(lambda: begun, "the request")
            assert web.driver.association is not None
            web.driver.association.abort("gone")
            await until(lambda: not service._associations and web.down is not None, "the association ends")
            exchange = begun.pop()
            assert not exchange.connection.requests[exchange.request.key].held
            exchange.end()
            assert not exchange.connection.requests
            await settle()

        await assert_nothing_stays(once)
        await service.stop(0)

    asyncio.run(body())


def test_the_web_side_of_an_association_that_was_lost() -> None:
    """A request inside it, one that is answered, probes, and the application comes back."""

    async def body() -> None:
        network = LiveNetwork()
        application = Application(answer(b"hello"))
        service = AppService(application, network.carrier(), [ADDRESS])
        await service.start()
        options = WebOptions(slow_start=0, probes=ProbeOptions(PROBE, interval=0.1, timeout=0.1))
        web = WebService(network.carrier(), [], [BackEndOptions(ADDRESS)], options=options)
        await web.start()

        async def once() -> None:
            await until(lambda: web.upstreams[0].state == "up", "it is up")
            application.does = answer(b"hello")
            client = Client(web)
            await until(lambda: b"hello" in client.written, "the answer")
            client.go()
            application.does = hang
            client = Client(web)
            await until(lambda: web.in_flight, "the request is under way")
            (association,) = service._associations
            association.driver.abort("on purpose")
            await until(lambda: b"502" in client.written, "the answer")
            client.go()
            await until(lambda: web.upstreams[0].state == "up", "it is up again")
            await settle()

        await assert_nothing_stays(once)
        await web.stop(0)
        await service.stop(0)

    asyncio.run(body())


def test_an_upstream_that_is_given_up() -> None:
    async def body() -> None:
        network = LiveNetwork()
        first, second = Address(("10.0.0.1",), 9000, 9900), Address(("10.0.0.1",), 9001, 9901)
        services = [AppService(Application(hang), network.carrier(), [address]) for address in (first, second)]
        for service in services:
            await service.start()
        options = WebOptions(probes=ProbeOptions(PROBE))
        web = WebService(network.carrier(), [], [BackEndOptions(first)], options=options)
        await web.start()
        origin = web.upstreams[0]
        await until(lambda: origin.state == "up", "it is up")

        async def once() -> None:
            web.sites[""].workers_reported(origin, advertisement(first, 2))
            await until(lambda: [one.state for one in web.upstreams] == ["up", "up"], "the worker is up")
            web.sites[""].workers_reported(origin, {})
            await until(lambda: not services[1]._associations, "the worker is given up")
            await settle()

        await assert_nothing_stays(once)
        await web.stop(0)
        for service in services:
            await service.stop(0)

    asyncio.run(body())


BACK = Channel("given.back", direction=Direction.TO_WEB)


class _Half(ApplicationHalf):
    def __init__(self, host: Any) -> None:
        self._host = host
        self._gathering = host.gather("given.back", self._make)

    def _make(self, crowded: bool) -> list[Any]:
        return []

    def request_begin(self, request: Any) -> None:
        pass

    def tick(self) -> None:
        pass


class _Plugin(Plugin):
    name = "given"

    def channels(self, options: Any) -> Sequence[Channel]:
        return (BACK,)

    def application_half(self, host: Any, options: Any) -> ApplicationHalf:
        return _Half(host)


def test_the_half_of_a_plugin_that_is_switched_off() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        plugin = _Plugin()
        one = EnabledPlugin(plugin, plugin.Options(), (BACK,), {}, {}, on=False)
        supervisor = Supervisor([one], loop, loop.call_soon_threadsafe, web=False)

        async def once() -> None:
            supervisor.start(EnabledPlugin(plugin, Plugin.Options(), (BACK,), {}, {}))
            entry = supervisor.running("given")
            assert entry is not None
            supervisor.stop(entry)
            del entry
            await settle()

        await assert_nothing_stays(once)
        supervisor.close()

    asyncio.run(body())


def test_both_sides_with_the_plugins_of_the_program() -> None:
    """Associations that are lost with lines and figures on their way; then the plugins are switched off and on."""
    plugins: dict[str, dict[str, Any]] = {"syslog": {}, "metrics": {"listen": "127.0.0.1:0"}}

    def talk(exchange: AppExchange) -> None:
        logging.getLogger("shop").warning("a line of %s", exchange.identity)
        exchange.stderr(b"and one of STDERR\n")
        answer(b"hello")(exchange)

    async def body() -> None:
        network = LiveNetwork()
        application = Application(talk)
        service = AppService(application, network.carrier(), [ADDRESS], plugins=load_plugins(plugins))
        await service.start()
        web = WebService(
            network.carrier(),
            [],
            [BackEndOptions(ADDRESS)],
            plugins=load_plugins(plugins),
            options=WebOptions(slow_start=0),
        )
        await web.start()

        async def lose() -> None:
            await until(lambda: web.upstreams[0].state == "up", "it is up")
            client = Client(web)
            await until(lambda: b"hello" in client.written, "the answer")
            client.go()
            (association,) = service._associations
            association.driver.abort("on purpose")
            del association
            await until(lambda: web.upstreams[0].state == "down", "it is down")
            await until(lambda: web.upstreams[0].state == "up", "it is up again")
            await settle()

        async def switch(supervisor: Supervisor) -> None:
            for name in plugins:
                entry = supervisor.running(name)
                assert entry is not None
                one = entry.enabled
                supervisor.stop(entry)
                del entry
                supervisor.start(one)
            await settle()

        await assert_nothing_stays(lose)
        for supervisor in (service.supervisor, web.supervisor):
            await assert_nothing_stays(lambda supervisor=supervisor: switch(supervisor))  # type: ignore[misc]
        await web.stop(0)
        await service.stop(0)

    asyncio.run(body())
