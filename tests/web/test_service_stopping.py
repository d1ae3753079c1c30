"""How the web side stops, with plugins that have more to say, requests under way and clients that go early."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.plugin import ApplicationHalf, AssociationInfo, Host, Plugin, RequestInfo, WebHalf
from fcgi_core.protocol.channels import Channel, Direction
from fcgi_core.sctp.carrier import Address
from fcgi_core.web import late_stderr as late_stderr_module
from fcgi_core.web import service as service_module
from fcgi_core.web.service import BackEndOptions, WebService
from tests.app.harness import PATIENCE, LiveNetwork, until
from tests.web.harness import (
    PROBES,
    Application,
    Behaviour,
    answer,
    break_off,
    hang,
    is_over,
    late_stderr,
    run,
    running,
    stdout,
)
from tests.web.web_server import request

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


@pytest.mark.parametrize("rounds", range(2, 6))
def test_a_connection_that_is_being_accepted_is_served(tmp_path: Path, rounds: int) -> None:
    """The event loop takes some rounds from the system's call to `connection_made`."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with running(answer(b"x"), listen=[f"unix:{tmp_path}/web"]) as bench:
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect(f"{tmp_path}/web")
                for _ in range(rounds):
                    await asyncio.sleep(0)
                stopping = asyncio.create_task(bench.service.stop(600))
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not stopping.done(), "the first request is on its way"
                await loop.sock_sendall(client, request())
                answered = b""
                while part := await loop.sock_recv(client, 1000):
                    answered += part
                assert b"x" in answered
                await until(stopping.done, "the service has stopped")

    run(body)
