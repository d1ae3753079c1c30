"""The bridge in front of servers with few children, each of which has one connection at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fcgi_core.app.fastcgi import pool as pool_module
from tests.app.fastcgi_server import Served, answering, bridge, fastcgi_server, with_children
from tests.app.harness import Web, run, serving, until


@pytest.mark.parametrize(("children", "clients"), [(1, 1), (1, 5), (2, 5), (2, 20)])
def test_more_connections_than_the_server_has_children(path: Path, kept: None, children: int, clients: int) -> None:
    """No request waits on a new connection while an idle one of ours has the child that could serve it."""

    async def test() -> None:
        async def client(web: Web) -> None:
            for _ in range(3):
                assert (await web.get())[1] == b"GET 0"
                assert (await web.post("/", b"x"))[1] == b"POST 1"
                assert (await web.get())[1] == b"GET 0"

        async with fastcgi_server(path, with_children(children, answering)), serving(bridge(path)) as web:
            await asyncio.gather(*(client(web) for _ in range(clients)))

    asyncio.run(test())


@run
async def test_two_bridges_before_one_child(path: Path) -> None:
    """Also while one of them has always another request."""
    over = asyncio.Event()

    async def load(web: Web) -> int:
        served = 0
        while not over.is_set():
            assert (await web.get())[1] == b"GET 0"
            served += 1
        return served

    async with (
        fastcgi_server(path, with_children(1, answering)),
        serving(bridge(path)) as one,
        serving(bridge(path)) as other,
    ):
        for _ in range(3):
            assert (await one.get())[1] == b"GET 0"
            assert (await other.get())[1] == b"GET 0"
            assert (await other.post("/", b"x"))[1] == b"POST 1"
        loads = [asyncio.create_task(load(one)) for _ in range(3)]
        for _ in range(3):
            assert (await other.get())[1] == b"GET 0"
        over.set()
        assert min(await asyncio.gather(*loads)) > 0


class Held:
    """A server that answers with its connection's number, those of a query only when they are let go."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Event] = {}

    async def serve(self, connection: Served) -> None:
        while await connection.request_comes():
            name = connection.params["QUERY_STRING"]
            if name:
                await self.waiting.setdefault(name, asyncio.Event()).wait()
            connection.answer(str(connection.number).encode())

    async def has(self, name: str) -> None:
        await until(lambda: name in self.waiting, f"request {name} comes")

    def let_go(self, name: str) -> None:
        self.waiting[name].set()


@run
async def test_connections_are_kept_while_others_wait_if_there_are_more_children(path: Path, kept: None) -> None:
    held = Held()
    async with fastcgi_server(path, held.serve) as connections, serving(running := bridge(path)) as web:
        first = web.call(QUERY_STRING="a")
        await held.has("a")
        assert await web.get() == ("Content-Type: text/plain", b"1")
        assert running.pool.idle == 0  # the first could be waiting for just this child
        held.let_go("a")
        assert (await first.over())[1] == b"0"
        second = web.call(QUERY_STRING="b")  # on the same connection
        await held.has("b")
        assert (await web.get())[1] == b"2"  # another child
        assert running.pool.idle == 1
        held.let_go("b")
        assert (await second.over())[1] == b"0"
        assert running.pool.idle == 2
        third = web.call({"REQUEST_METHOD": "POST", "QUERY_STRING": "c"})  # ends them, and has a new one
        await held.has("c")
        assert (await web.get())[1] == b"4"
        assert running.pool.idle == 1  # for there are two children
        assert (await web.get())[1] == b"4"
        held.let_go("c")
        assert (await third.over())[1] == b"3"
        assert len(connections) == 5


@run
async def test_connections_are_kept_while_requests_wait_here(path: Path, kept: None) -> None:
    held = Held()
    running = bridge(path, connections=2)
    async with fastcgi_server(path, held.serve) as connections, serving(running) as web:
        calls = []
        for name in "abcd":
            calls.append(web.call(QUERY_STRING=name))
            if name in "ab":
                await held.has(name)
        await until(lambda: len(running.pool.queue) == 2, "two wait")
        for name, following in ("ac", "bd"):
            held.let_go(name)
            await held.has(following)
        held.let_go("c")
        held.let_go("d")
        assert [(await call.over())[1] for call in calls] == [b"0", b"1", b"0", b"1"]
        assert len(connections) == 2


@run
async def test_children_that_others_have_now_are_not_counted_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "KEEP", 1000.0)
    held = Held()
    async with fastcgi_server(path, held.serve), serving(running := bridge(path)) as web:
        await web.get()
        first = web.call(QUERY_STRING="a")
        await held.has("a")
        await web.get()
        held.let_go("a")
        await first.over()
        assert running.pool.idle == 2
        second = web.call({"REQUEST_METHOD": "POST", "QUERY_STRING": "b"})
        await held.has("b")
        monkeypatch.setattr(pool_module, "KEEP", 0.1)
        waits = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > waits + 0.1, "it has waited for long")
        await web.get()
        assert running.pool.idle == 0
        held.let_go("b")
        await second.over()
