"""An application service under test: a web side speaks to it through the memory carrier, on asyncio's own loop.

The memory network's clock jumps to whatever comes next, so that nothing waits in real time.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fcgi_core.app.service import Application, AppService
from fcgi_core.hosting.driver import Driver
from fcgi_core.protocol.events import Event, OutputReceived, PeerReady, RequestEnded, RequestFailed, StderrReceived
from fcgi_core.protocol.records import ProtocolStatus, RecordType, Role, encode_pairs
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import Address
from fcgi_core.sctp.memory import MemoryNetwork

ADDRESS = Address(("127.0.0.1",), 9000)
PATIENCE = 10.0
"""Seconds that anything may take which should take a moment."""

PARAMS = {
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/",
    "SCRIPT_NAME": "/",
    "QUERY_STRING": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "shop.example",
    "SERVER_PORT": "80",
    "HTTP_HOST": "shop.example",
}


async def until(ready: Callable[[], Any], what: str) -> None:
    """Turn the loop until `ready()`; AssertionError naming `what` if it takes too long."""
    async with asyncio.timeout(PATIENCE):
        try:
            while not ready():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            raise AssertionError(f"{what}: not within {PATIENCE:g} s") from None


async def settle(turns: int = 30) -> None:
    """Let everything happen that can happen now."""
    for _ in range(turns):
        await asyncio.sleep(0)


class LiveNetwork(MemoryNetwork):
    """Runs by itself, in the turns of asyncio's loop."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self.stands_still = False
        """Nothing happens on it."""

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        super().call_at(when, function)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self.stands_still:
            self.run()


class Call:
    """A request that the web side made, and what came of it."""

    def __init__(self, web: Web, params: dict[str, str], body: bytes | None, role: Role, hold: bool) -> None:
        self._out = bytearray()
        self.err = b""
        self.end: RequestEnded | RequestFailed | None = None
        self.hold = hold
        """Grant no credit for what comes."""
        self._web = web
        self._over = asyncio.Event()
        self.request = web.connection.begin_request(encode_pairs(params), role=role, body=body)
        self.request.context = self
        web.driver.wake()

    def send(self, data: bytes, *, last: bool = False, is_data: bool = False) -> None:
        self._web.connection.send_input(self.request, data, is_data=is_data)
        if last:
            self._web.connection.end_input(self.request, is_data=is_data)
        self._web.driver.wake()

    def abort(self) -> None:
        self._web.connection.abort(self.request)
        self._web.driver.wake()

    def release(self) -> None:
        """Grant credit for all that came, and for what will."""
        self.hold = False
        self._web.connection.consumed(self.request, len(self.out))
        self._web.driver.wake()

    def happened(self, event: Event) -> None:
        match event:
            case OutputReceived():
                self._out += event.data
                if not self.hold:
                    self._web.connection.consumed(self.request, len(event.data))
                    self._web.driver.wake()
            case StderrReceived():
                self.err += event.data
            case RequestEnded() | RequestFailed():
                self.end = event
                self._over.set()

    async def over(self) -> tuple[str, bytes]:
        """(head, body) of the whole answer."""
        async with asyncio.timeout(PATIENCE):
            await self._over.wait()
        assert isinstance(self.end, RequestEnded), self.end
        return self.answer

    @property
    def out(self) -> bytes:
        """STDOUT up to now."""
        return bytes(self._out)

    @property
    def answer(self) -> tuple[str, bytes]:
        head, _, body = self.out.partition(b"\r\n\r\n")
        return head.decode("latin-1"), body

    @property
    def status(self) -> ProtocolStatus:
        assert isinstance(self.end, RequestEnded), self.end
        return self.end.status


class Web:
    """The web side of one association."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.connection = WebConnection(settings)
        self.driver = Driver(
            self.connection, asyncio.get_running_loop(), on_events=self._happened, on_down=self._went_down
        )
        self.ready = asyncio.Event()
        self.down: str | None = None

    def _happened(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, PeerReady):
                self.ready.set()
            elif isinstance(request := getattr(event, "request", None), type(None)):
                pass
            else:
                request.context.happened(event)

    def _went_down(self, reason: str) -> None:
        self.down = reason

    def call(
        self,
        params: dict[str, str] | None = None,
        body: bytes | None = b"",
        *,
        role: Role = Role.RESPONDER,
        hold: bool = False,
        **more: str,
    ) -> Call:
        """Begin a request; `body` None: it follows. Of `more`, names are those of headers or PARAMS."""
        return Call(self, {**PARAMS, **(params or {}), **more}, body, role, hold)

    async def get(self, path: str = "/", **more: str) -> tuple[str, bytes]:
        uri, _, query = path.partition("?")
        about = {"REQUEST_URI": path, "SCRIPT_NAME": uri, "QUERY_STRING": query}
        return await self.call({**about, **more}).over()

    async def post(self, path: str, body: bytes, **more: str) -> tuple[str, bytes]:
        about = {"REQUEST_METHOD": "POST", "REQUEST_URI": path, "SCRIPT_NAME": path, "CONTENT_LENGTH": str(len(body))}
        return await self.call({**about, **more}, body).over()


@asynccontextmanager
async def serving(
    application: Application, *, settings: Settings | None = None, grace: float = PATIENCE, **named: Any
) -> AsyncIterator[Web]:
    """Start the service and one association with it; at the end everything is stopped in order."""
    network = LiveNetwork()
    service = AppService(application, network.carrier(), [ADDRESS], **named)
    await service.start()
    web = Web(settings)
    carrier = network.carrier()
    carrier.connect(ADDRESS, web.driver)
    async with asyncio.timeout(PATIENCE):
        await web.ready.wait()
    try:
        yield web
    finally:
        await service.stop(grace)
        await until(lambda: web.down is not None, "the association ends")
        carrier.close()


__all__ = ["PARAMS", "Call", "RecordType", "Web", "serving", "settle", "until"]


def run(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine function, which pytest calls with its fixtures."""

    @functools.wraps(test)
    def wrapper(**named: Any) -> None:
        asyncio.run(test(**named))  # type: ignore[arg-type]

    return wrapper
