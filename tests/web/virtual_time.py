"""Both services on a memory network with delay, a window and loss, on an asyncio loop whose clock jumps to what is due
next: a minute takes as long as what happens in it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.plugin import Plugin
from fcgi_core.protocol.settings import Settings
from fcgi_core.sctp.carrier import Address
from fcgi_core.sctp.memory import MemoryNetwork
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService
from fcgi_core.web.upstream import Upstream
from tests.web.harness import Application, WebServer, is_over, stdout

__all__ = ["ADDRESS", "Stage", "running", "on_virtual_time"]

ADDRESS = Address(("10.0.0.1",), 9000)


class _Selector(selectors.SelectSelector):
    """Waits in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everything waits for ever"
        self.waited += timeout
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.waited


class LoopNetwork(MemoryNetwork):
    """On the clock of the running loop."""

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(**options)

    @property
    def now(self) -> float:
        return self._loop.time()

    @now.setter
    def now(self, value: float) -> None:
        pass

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        super().call_at(when, function)
        self._loop.call_at(max(when, self.now), self._due)

    def _due(self) -> None:
        self._run(self.now + 1e-6)  # timers are called a moment early


def on_virtual_time(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(body())


def large_answer(size: int) -> Callable[[AppExchange], None]:
    """Sends `size` bytes as fast as they are taken."""

    def give(exchange: AppExchange) -> None:
        left = size

        def more() -> None:
            nonlocal left
            while left and exchange.request.writable and not exchange.ended:
                part = min(left, 65536)
                left -= part
                exchange.send(bytes(part))
            if not left and not exchange.ended:
                exchange.end()

        exchange.send(b"Content-Type: text/plain\r\n\r\n")
        exchange.on_writable = more
        exchange.on_abort = exchange.end
        more()

    return give


class Stage:
    """A web side and an application."""

    def __init__(self, network: LoopNetwork, service: WebService, application: Application) -> None:
        self.network = network
        self.service = service
        self.application = application
        self.app: AppService

    @property
    def upstream(self) -> Upstream:
        return self.service.upstreams[0]

    @property
    def numbers(self) -> list[int]:
        """The associations that take requests."""
        return [one.number for one in self.upstream.associations]

    async def start_application(self, **options: Any) -> AppService:
        self.app = AppService(self.application, self.network.carrier(), [ADDRESS], **options)
        await self.app.start()
        return self.app

    def ask(self, count: int = 1, method: str = "GET") -> list[Any]:
        return [WebServer(self.service).begin(method).wire for _ in range(count)]

    def upload(self, size: int) -> Any:
        """Begin a request with so much input."""
        return WebServer(self.service).begin("POST", bytes(size)).wire


async def until(ready: Callable[[], Any], what: str, within: float = 300.0) -> None:
    """Let time pass until `ready()`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not ready():
        assert loop.time() < end, f"{what}: not within {within:g} s"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    does: Callable[[AppExchange], None],
    *,
    associations: int | None = None,
    delay: float = 0.05,
    window: int = 32768,
    loss: float = 0.0,
    app: dict[str, Any] | None = None,
    settings: Settings | None = None,
    plugin: Plugin | None = None,
) -> AsyncIterator[Stage]:
    network = LoopNetwork(delay=delay, window=window, loss=loss)
    plugins = () if plugin is None else load_plugins({plugin.name: {}}, lambda name: plugin)
    web = WebService(
        network.carrier(),
        [],
        [BackEndOptions(ADDRESS, associations=associations)],
        plugins=plugins,
        settings=settings,
        options=WebOptions(slow_start=0),
    )
    stage = Stage(network, web, Application(does))
    await stage.start_application(**{"plugins": plugins, **(app or {})})
    await web.start()
    await until(lambda: stage.upstream.state == "up", "it is up")
    try:
        yield stage
    finally:
        await web.stop(1)
        await stage.app.stop(1)


__all__ += ["is_over", "large_answer", "stdout", "until"]
