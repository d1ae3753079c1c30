from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from fcgi_metrics import endpoint as module
from fcgi_metrics.endpoint import MAX_CONNECTIONS, MAX_HEAD, OPENMETRICS, PLAIN, Endpoint

from fcgi_core.plugin import ServiceFigures, SiteFigures


class Page:
    """Stands for who makes pages."""

    def __init__(self) -> None:
        self.made: list[tuple[str, bool]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None
        self.content = b"the page\n"
        self.service = ServiceFigures()

    async def render(self, accept: str, zipped: bool) -> tuple[bytes, str]:
        self.made.append((accept, zipped))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        page = self.content
        return (gzip.compress(page) if zipped else page), accept


@asynccontextmanager
async def serving(where: str = "127.0.0.1:0") -> AsyncIterator[tuple[Endpoint, Page]]:
    page = Page()
    endpoint = Endpoint(where, page.render, lambda: page.service)
    try:
        yield endpoint, page
    finally:
        endpoint.close()
        await asyncio.sleep(0)


async def talk(endpoint: Endpoint, request: bytes) -> bytes:
    """The answer, b'' if the connection is closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionResetError):
        await writer.wait_closed()


def get(target: str = "/metrics", *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def run(test: Callable[[], object]) -> None:
    asyncio.run(test(), debug=False)  # type: ignore[arg-type]


def test_get() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            answer = await talk(endpoint, get())
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Type: text/plain; version=0.0.4" in head
            assert b"Connection: close" in head
            assert body == b"the page\n"
            assert page.made == [(PLAIN, False)]

    run(check)


def test_requests_as_prometheus_sends_them() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            answer = await talk(endpoint, get("/metrics?x=1", accept, "Accept-Encoding: gzip"))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"Content-Encoding: gzip" in head
            assert gzip.decompress(body) == b"the page\n"
            assert page.made == [(OPENMETRICS, True)]

    run(check)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), b"404 Not Found"),
        (get("/metricsx"), b"404 Not Found"),
        (get(method="POST"), b"405 Method Not Allowed"),
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics SMTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_HEAD, b"431 Request Header Fields Too Large"),
    ],
)
def test_other_requests(request_: bytes, status: bytes) -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            assert (await talk(endpoint, request_)).startswith(b"HTTP/1.1 " + status)
            assert page.made == []

    run(check)


def test_head() -> None:
    async def check() -> None:
        async with serving() as (endpoint, _):
            answer = await talk(endpoint, get(method="HEAD"))
            assert b"Content-Length: 9\r\n" in answer
            assert answer.endswith(b"\r\n\r\n")

    run(check)


def test_clients_that_come_together_get_one_page() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            page.go.clear()
            clients = [asyncio.create_task(talk(endpoint, get())) for _ in range(10)]
            while len(endpoint._connections) < 10 or not page.made:
                await asyncio.sleep(0)
            page.go.set()
            answers = await asyncio.gather(*clients)
            assert all(answer.endswith(b"the page\n") for answer in answers)
            assert len(page.made) == 1
            assert (await talk(endpoint, get())).endswith(b"the page\n")
            assert len(page.made) == 2

    run(check)


Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(endpoint: Endpoint, say: bytes = b"") -> list[Pair]:
    """As many connections as there may be, which have said `say`."""
    clients = [await asyncio.open_connection("127.0.0.1", endpoint.port) for _ in range(MAX_CONNECTIONS)]
    for _, writer in clients:
        writer.write(say)
    while len(endpoint._connections) < MAX_CONNECTIONS or not all(one.asked for one in endpoint._connections if say):
        await asyncio.sleep(0)
    return clients


def test_the_oldest_that_says_nothing_makes_room() -> None:
    async def check() -> None:
        async with serving() as (endpoint, _):
            clients = await connect(endpoint)
            for _ in range(3):
                assert b"the page" in await talk(endpoint, get())
            with suppress(ConnectionResetError):
                assert await clients[0][0].read() == b""
            clients[-1][1].write(get())
            assert b"the page" in await clients[-1][0].read()
            for _, writer in clients:
                await end(writer)

    run(check)


def test_the_oldest_that_does_not_read_makes_room_where_all_have_asked() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            page.content = bytes(8 << 20)
            clients = await connect(endpoint, get())
            while not all(one.answered for one in endpoint._connections):
                await asyncio.sleep(0)
            page.content = b"the page"
            assert b"the page" in await talk(endpoint, get())
            for _, writer in clients:
                writer.transport.abort()

    run(check)


def test_a_client_that_waits_for_its_page_stays() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            page.go.clear()
            clients = await connect(endpoint, get())
            assert await talk(endpoint, get()) == b""
            assert len(endpoint._connections) == MAX_CONNECTIONS
            page.go.set()
            for reader, writer in clients:
                assert b"the page" in await reader.read()
                await end(writer)

    run(check)


def test_who_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)

    async def check() -> None:
        async with serving() as (endpoint, _):
            assert await talk(endpoint, b"GET") == b""

    run(check)


def test_a_page_that_fails() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            page.error = RuntimeError("bug")
            assert (await talk(endpoint, get())).startswith(b"HTTP/1.1 500 ")

    run(check)


def test_close_while_a_page_is_made() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            page.go.clear()
            client = asyncio.create_task(talk(endpoint, get()))
            while not page.made:
                await asyncio.sleep(0)
            endpoint.close()
            assert await client == b""

    run(check)


def test_unix_socket(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "metrics.sock"
        async with serving(f"unix:{path}"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(get())
            assert (await reader.read()).endswith(b"the page\n")
            await end(writer)
        assert not path.exists()

    run(check)


def test_an_address_in_use() -> None:
    async def check() -> None:
        async with serving() as (endpoint, page):
            with pytest.raises(OSError, match=rf"cannot listen at 127.0.0.1:{endpoint.port}: Address already in use"):
                Endpoint(f"127.0.0.1:{endpoint.port}", page.render)

    run(check)


def test_a_host_that_is_none() -> None:
    async def check() -> None:
        with pytest.raises(OSError, match="cannot be found"):
            Endpoint("no-such-host.invalid:1", Page().render)

    run(check)


def test_a_process_is_alive_and_it_is_ready_when_it_takes_requests() -> None:
    async def test() -> None:
        async with serving() as (endpoint, page):
            for path, word in (("/healthz", b"alive"), ("/ready", b"ready")):
                answer = await talk(endpoint, get(path))
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert answer.endswith(b"\r\n\r\n" + word + b"\n")
            page.service = ServiceFigures(obstacle="no application is up, of 2")
            assert (await talk(endpoint, get("/healthz"))).startswith(b"HTTP/1.1 200 OK\r\n")
            answer = await talk(endpoint, get("/ready"))
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert answer.endswith(b"\r\n\r\nnot ready: no application is up, of 2\n")
            assert (await talk(endpoint, get("/ready", method="HEAD"))).endswith(b"\r\n\r\n")
            assert page.made == []

    run(test)


def test_one_site_that_is_not_ready_takes_nothing_from_the_others() -> None:
    async def test() -> None:
        async with serving() as (endpoint, page):
            shop = SiteFigures("shop", "", (), 0, 0, {})
            blog = SiteFigures("blog", "no application is up, of 1", (), 0, 0, {})
            page.service = ServiceFigures(sites=[shop, blog])
            for path, status, text in (
                ("/ready", b"200 OK", b"ready\nsite blog: no application is up, of 1\n"),
                ("/ready?site=shop", b"200 OK", b"ready\n"),
                ("/ready?site=blog", b"503 Service Unavailable", b"not ready: no application is up, of 1\n"),
                ("/ready?site=x", b"503 Service Unavailable", b"not ready: there is no such site\n"),
            ):
                answer = await talk(endpoint, get(path))
                assert answer.startswith(b"HTTP/1.1 " + status)
                assert answer.endswith(b"\r\n\r\n" + text)

    run(test)


def test_without_a_page_several_processes_share_a_port() -> None:
    async def test() -> None:
        one = Endpoint("127.0.0.1:0", None, shared=True)
        other = Endpoint(f"127.0.0.1:{one.port}", None, shared=True)
        try:
            assert (await talk(one, get("/ready"))).startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Here are /healthz and /ready." in await talk(one, get("/metrics"))
        finally:
            one.close()
            other.close()
            await asyncio.sleep(0)

    run(test)
