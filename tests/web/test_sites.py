"""Several sites in one web side: each request goes to its own, and what happens in one is nothing to another."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.service import AppService
from fcgi_core.plugin import FeedEntry
from fcgi_core.sctp.carrier import Address
from fcgi_core.web.entrance import MAX_NAME, Entrance
from fcgi_core.web.faults import FaultFeed
from fcgi_core.web.members import BackEndOptions
from fcgi_core.web.options import SiteOptions
from fcgi_core.web.service import WebOptions, WebService
from fcgi_core.web.site import SiteSetup
from tests.app.harness import LiveNetwork, until
from tests.web.harness import Application, Behaviour, WebServer, answer, hang, is_over, run, stdout
from tests.web.web_server import Wire

HERE = "unix:here"
FIRST = Address(("10.0.0.1",), 9000)


def setup(
    number: int, *names: str, listen: Sequence[str] = (HERE,), options: SiteOptions | None = None, **limits: Any
) -> SiteSetup:
    """A site whose application is the one of that number."""
    connect = [BackEndOptions(Address((f"10.0.0.{number}",), 9000))] if number else []
    return SiteSetup(connect, options or SiteOptions(slow_start=0, **limits), listen, names)


class Sites:
    """A web side with sites, and applications 1, 2, …."""

    def __init__(self, service: WebService, applications: list[AppService]) -> None:
        self.service = service
        self.applications = applications

    def begin(self, server_name: str, where: str = HERE) -> Wire:
        return WebServer(self.service, self.service._entrances[where]).begin(SERVER_NAME=server_name).wire

    async def ask(self, server_name: str, where: str = HERE) -> bytes:
        wire = self.begin(server_name, where)
        await until(lambda: is_over(wire), "the answer")
        return stdout(wire).rpartition(b"\r\n\r\n")[2] if stdout(wire)[:7] != b"Status:" else stdout(wire)[8:11]


@asynccontextmanager
async def running(*does: Behaviour, default: int = 0, **setups: SiteSetup) -> AsyncIterator[Sites]:
    network = LiveNetwork()
    applications = []
    for number, one in enumerate(does, 1):
        applications.append(AppService(Application(one), network.carrier(), [Address((f"10.0.0.{number}",), 9000)]))
        await applications[-1].start()
    connect = setup(default).connect
    web = WebService(network.carrier(), [HERE], connect, options=WebOptions(slow_start=0), sites=setups)
    for site in web.sites.values():  # without sockets
        site.members.start()
    web._sweep()
    await until(lambda: all(one.state == "up" for one in web.upstreams), "all are up")
    try:
        yield Sites(web, applications)
    finally:
        await web.stop(0)
        for application in applications:
            await application.stop(0)


def test_requests_go_to_their_site_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        shop = setup(1, "shop.example", "*.Shop.example")
        async with running(
            answer(b"1"), answer(b"2"), answer(b"3"), shop=shop, api=setup(2, "api.shop.example")
        ) as all_:
            for name, number in (
                ("shop.example", b"1"),
                ("SHOP.example", b"1"),
                ("www.shop.example", b"1"),
                ("a.b.shop.example", b"1"),
                ("*.shop.example", b"1"),
                ("api.shop.example", b"2"),
                ("v2.api.shop.example", b"1"),
            ):
                assert await all_.ask(name) == number, name
            strange = [
                "",
                "example",
                "myshop.example",
                ".shop.examplex",
                "." * MAX_NAME,
                "a." * MAX_NAME + "shop.example",
            ]
            for name in strange:
                assert await all_.ask(name) == b"421", name
            assert all_.service.unknown_site == len(strange)
            assert all_.service.requests_ended == 7 + len(strange)

    run(body)
    lines = [one for one in caplog.messages if "has the SERVER_NAME" in one]
    assert lines[0] == "answered 421: no site at unix:here has the SERVER_NAME ''; add it to a site in web.sites"
    assert len(lines) == 6
    assert lines[-1].startswith("1 more like this"), "their number is limited"


def test_the_site_without_a_name_gets_the_rest() -> None:
    async def body() -> None:
        async with running(answer(b"1"), answer(b"2"), default=2, shop=setup(1, "shop.example")) as all_:
            assert await all_.ask("shop.example") == b"1"
            assert await all_.ask("other.example") == b"2"
        there = setup(2, listen=["unix:there"])
        async with running(answer(b"1"), answer(b"2"), shop=setup(1, "shop.example"), blog=there) as all_:
            assert await all_.ask("shop.example", "unix:there") == b"2", "by its socket alone"
            assert await all_.ask("other.example") == b"421"

    run(body)


def test_a_site_whose_application_hangs_and_whose_queue_is_full_is_nothing_to_the_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fcgi_sctp.web")

    async def body() -> None:
        sick = setup(1, "sick.example", queue_length=0, request_timeout=0.01)
        gone = setup(9, "gone.example", queue_timeout=0.0)
        async with running(hang, answer(b"well"), sick=sick, well=setup(2, "well.example")) as all_:
            service = all_.service
            service.configure({**service._setups, "gone": gone})
            hung = all_.begin("sick.example")
            await until(lambda: service.sites["sick"].in_flight == 1, "it hangs")
            service.sites["sick"].members.drain("10.0.0.1:9000")
            assert await all_.ask("sick.example") == b"503"
            assert await all_.ask("gone.example") == b"502"
            assert await all_.ask("well.example") == b"well"
            await until(lambda: is_over(hung), "its time is up")
            figures = {one.name: one for one in service.figures().sites}
            assert figures["sick"].unserved["queue_full"] == figures["sick"].unserved["request_timeout"] == 1
            assert figures["gone"].unserved["unreachable"] == 1
            assert not any(figures["well"].unserved.values())
            assert [one.obstacle for one in figures.values()] == [
                "no application is up, of 1",
                "",
                "no application is up, of 1",
            ]
            assert service.figures().unserved["queue_full"] == 1

    run(body)
    said = {(one.name, one.getMessage()) for one in caplog.records}
    assert ("fcgi_sctp.web.sick", "answered 503: too many requests wait for an application") in said
    assert ("fcgi_sctp.web.gone", "site gone is added") in said
    assert any(name == "fcgi_sctp.web.gone" and text.startswith("no association with") for name, text in said)
    assert any(name == "fcgi_sctp.web.well" and text.endswith("is up") for name, text in said)


def test_it_is_not_ready_when_no_site_is(tmp_path: Path) -> None:
    async def body() -> None:
        one, two = f"unix:{tmp_path}/1", f"unix:{tmp_path}/2"
        sites = {"a": setup(1, listen=[one]), "b": setup(2, listen=[two])}
        web = WebService(LiveNetwork().carrier(), [], [], sites=sites)
        await web.start()
        assert web.figures().obstacle == "no application is up, of 1"
        await web.stop(0)
        assert web.figures().obstacle == "it stops: no new requests are accepted"

    run(body)


def test_sites_come_and_go_while_requests_run() -> None:
    async def body() -> None:
        shop, blog = setup(1, "shop.example"), setup(2, "blog.example")
        async with running(answer(b"1"), hang, answer(b"3"), shop=shop, blog=blog) as all_:
            service = all_.service
            kept = service.upstreams[0]
            begun = all_.begin("blog.example")
            await until(lambda: service.sites["blog"].in_flight == 1, "it has begun")
            news = setup(3, "news.example", "blog.example")
            assert service.configure({"shop": setup(1, "shop.example", "store.example"), "news": news}) == []
            assert await all_.ask("store.example") == b"1"
            assert await all_.ask("blog.example") == b"3"
            assert service.upstreams[0] is kept
            assert service.in_flight == 1, "of the site that was removed"
            assert [one.name for one in service.all_sites] == ["shop", "news", "blog"]
            (exchange,) = service.all_sites[-1]._active
            exchange.downstream.connection_lost(None)  # type: ignore[attr-defined]
            assert not is_over(begun)
            await until(service.all_sites[-1].is_over, "it ends")
            service._sweep_handle.cancel()  # type: ignore[union-attr]
            ended = service.requests_ended
            service._sweep()
            assert [one.name for one in service.all_sites] == ["shop", "news"]
            assert service.requests_ended == ended
            # a socket takes another process
            elsewhere = setup(3, listen=["unix:there"])
            assert service.configure({"shop": elsewhere, "news": news, "more": elsewhere}) == ["more"]
            assert await all_.ask("other.example") == b"3", "it is where it was, with another application and no name"
            assert service.configure({}) == ["shop", "news"], "its socket is without a site"
            assert await all_.ask("other.example") == b"421"
            assert service.configure({"news": news}) == [], "and then it has one again"
            await service.stop(0)
            assert service.configure({"shop": shop}) == []

    run(body)


def test_one_application_in_two_sites_is_one_to_which_this_is_one_web_side() -> None:
    async def body() -> None:
        async with running(answer(b"1"), a=setup(1, "a.example"), b=setup(1, "b.example")) as all_:
            assert [await all_.ask(name) for name in ("a.example", "b.example")] == [b"1", b"1"]
            first, second = (one.driver.connection.settings for one in all_.service.upstreams)
            assert (first.instance, first.association) != (second.instance, second.association)
            assert first.instance == second.instance
            done = all_.service.drain(str(FIRST))
            assert {name: one.left for name, one in done.items()} == {"a": 0, "b": 0}
            assert list(all_.service.drain(str(FIRST), "b", undo=True)) == ["b"]
            assert [one.state for one in all_.service.upstreams] == ["drained", "up"]
            with pytest.raises(ValueError, match="no site 'x' is known; known are: a, b"):
                all_.service.drain(str(FIRST), "x")
            with pytest.raises(ValueError, match=r"no application '10\.0\.0\.5:9000' is known"):
                all_.service.drain("10.0.0.5:9000")

    run(body)


def test_a_connection_that_is_passed_on_belongs_to_its_socket(tmp_path: Path) -> None:
    async def body() -> None:
        paths = [str(tmp_path / name) for name in ("1", "2")]
        sites = {path[-1]: setup(int(path[-1]), listen=[f"unix:{path}"]) for path in paths}
        web = WebService(LiveNetwork().carrier(), [], [], sites=sites)
        await web.start()
        for path in paths:
            with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
                listening.bind(f"{path}.before")
                listening.listen()
                client.connect(f"{path}.before")
                accepted = listening.accept()[0]
            assert web._listeners.find(accepted) == f"unix:{paths[0]}", "it is of no socket here"
            accepted.close()
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                before = set(web._connections)
                await asyncio.get_running_loop().sock_connect(client, path)
                await until(lambda: set(web._connections) - before, "it is accepted")  # noqa: B023
                (connection,) = set(web._connections) - before
                sock = connection._transport.get_extra_info("socket")
                assert web._listeners.find(sock) == f"unix:{path}"
                assert isinstance(connection.dispatcher, Entrance)
                assert connection.dispatcher._where == f"unix:{path}"
        await web.stop(0)

    run(body)


def test_the_feed_says_of_which_site_a_fault_is() -> None:
    async def body() -> None:
        entries: list[FeedEntry] = []
        faults = FaultFeed(entries.append, asyncio.get_running_loop())
        log = logging.getLogger("fcgi_sctp.web")
        log.addHandler(faults)
        try:
            log.getChild("shop").warning("one")
            log.warning("two")
        finally:
            log.removeHandler(faults)
        assert [(one.message, one.fields) for one in entries] == [("one", {"site": "shop"}), ("two", None)]

    run(body)
