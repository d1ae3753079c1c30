"""ASGI 3 applications on the loop: HTTP, and lifespan. No threads, one task for each request.

FastCGI has no way to hand a connection over, so there are no WebSockets: a request to upgrade is offered as what it is
for FastCGI, a plain HTTP request, and the application answers it as it answers any client (frameworks say 404 or 426).
CGI has neither trailers nor interim responses: the extensions for them are not offered.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import ClientGone, FcgiSctpError
from ..exchange import error_page
from ..plugin import bound_to_request
from ..records import PREFERRED_CONTENT
from ..text import name_of_request
from .asgi_scope import ASGI_VERSIONS, make_scope

if TYPE_CHECKING:
    from .service import AppExchange, AppService

__all__ = ["AsgiApplication", "StartUpFailed", "is_asgi"]

log = logging.getLogger("fcgi_sctp.app")
application_log = logging.getLogger("fcgi_sctp.application")
"""Uncaught exceptions of the application, bound to their request."""

SHUTDOWN_TIMEOUT = 10.0
"""Seconds that work after responses, requests that are given up, and lifespan.shutdown each have at the end."""

Event = MutableMapping[str, Any]
Asgi = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

_NOT_PASSED_ON = frozenset({b"status", b"transfer-encoding", b"connection", b"keep-alive"})
"""Response headers with another meaning here: CGI's own, and those of a connection that is not the application's
(RFC 9110 section 7.6.1)."""
_STATUS_LINES = {status.value: f"Status: {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})


class StartUpFailed(FcgiSctpError):
    """The application said lifespan.startup.failed."""


def is_asgi(application: Any) -> bool:
    """Whether calling it gives a coroutine: ASGI 3. Old ASGI 2, a call with one argument, is not."""
    while isinstance(application, functools.partial):
        application = application.func
    if inspect.isclass(application):
        return False
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(type(application).__call__)


class AsgiApplication:
    """Runs one ASGI callable."""

    def __init__(self, application: Asgi, *, script_name: str = "") -> None:
        self.application = application
        self.script_name = script_name
        self.service: AppService
        self.tasks: dict[asyncio.Task[None], AppExchange] = {}
        self.stopping = False
        self.state: dict[str, Any] | None = None
        """What the application keeps from its start-up (lifespan state); None if it has no lifespan."""
        self._lifespan: Lifespan | None = None
        self._loop: asyncio.AbstractEventLoop

    async def start(self, service: AppService) -> None:
        self.service = service
        self._loop = asyncio.get_running_loop()
        lifespan = Lifespan(self.application)
        if await lifespan.start_up():
            self._lifespan = lifespan
            self.state = lifespan.state

    def request(self, exchange: AppExchange) -> None:
        request = AsgiRequest(exchange)
        task = request.task = self._loop.create_task(request.run(self))
        self.tasks[task] = exchange

    async def stop(self) -> None:
        self.stopping = True
        for task, exchange in self.tasks.items():
            if not exchange.ended:
                task.cancel()
        # the others have answered, and do what their application does after that
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=SHUTDOWN_TIMEOUT)
        running = [task for task in self.tasks if not task.done()]  # one that was cancelled before it began is done
        for task in running:
            log.warning("a task that still ran after its response is given up")
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=SHUTDOWN_TIMEOUT)
        if self._lifespan is not None:
            await self._lifespan.shut_down()


class AsgiRequest:
    """One request: what the application's task receives and sends."""

    __slots__ = (
        "_body_told",
        "_gone",
        "_head",
        "_head_only",
        "_length_known",
        "_status",
        "_waiters",
        "exchange",
        "task",
    )

    def __init__(self, exchange: AppExchange) -> None:
        self.exchange = exchange
        self._gone = False
        self._body_told = False
        """The application has had the last of the request's body."""
        self._head: bytes | None = None
        """The response's head from http.response.start on, until it goes; then b''."""
        self._status = 0
        self._head_only = exchange.params.get("REQUEST_METHOD") == "HEAD"
        self._length_known = False
        self._waiters: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None]
        """What runs it."""
        exchange.on_abort = self._abort
        exchange.on_input = exchange.on_writable = self._changed

    # ---- called by the exchange

    def _abort(self) -> None:
        self._gone = True
        self._changed()

    def _changed(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _change(self) -> None:
        """Wait until anything changes. An application may wait in receive() and in send() at once."""
        waiter = self.exchange.service.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    # ---- the task

    async def run(self, owner: AsgiApplication) -> None:
        exchange = self.exchange
        error = ""
        with bound_to_request(exchange):
            try:
                scope = make_scope(exchange.params, owner.script_name)
                if owner.state is not None:
                    scope["state"] = owner.state.copy()
                await owner.application(scope, self.receive, self.send)
                if not exchange.ended and not self._gone:
                    error = "the application returned before its response was complete"
                    application_log.error("%s: %s", self._name(), error)
            except BaseException as exception:
                if isinstance(exception, (KeyboardInterrupt, GeneratorExit)):
                    raise
                if self._gone and _caused_by_absence(exception):
                    error = "the client went away"
                elif owner.stopping and isinstance(exception, asyncio.CancelledError):
                    error = "given up: the process ends"
                else:
                    application_log.exception("uncaught exception in %s", self._name())
                    error = f"uncaught {type(exception).__name__}"
        owner.tasks.pop(self.task, None)  # here and not in a call-back, for which the loop would turn once more
        self._finish(error)

    def _finish(self, error: str) -> None:
        exchange = self.exchange
        if not exchange.ended:
            if self._gone:
                exchange.end(error=error or "the client went away")
            elif self._head == b"":
                exchange.fail(error)
            else:
                method = exchange.params.get("REQUEST_METHOD", "")
                exchange.send(error_page(HTTPStatus.INTERNAL_SERVER_ERROR, method))
                exchange.end(error=error)
        self._changed()

    def _name(self) -> str:
        return name_of_request(self.exchange.params)

    async def receive(self) -> Event:
        """ASGI's receive: the body as it comes, then http.disconnect once there is nobody or nothing more to say."""
        exchange = self.exchange
        while not self._gone and not exchange.ended:
            if not self._body_told and (exchange.body or exchange.input_closed):
                data = exchange.take_body() if exchange.body else b""
                self._body_told = exchange.input_closed
                return {"type": "http.request", "body": data, "more_body": not self._body_told}
            await self._change()
        return {"type": "http.disconnect"}

    async def send(self, event: Event) -> None:
        """ASGI's send. It returns when the window has taken up what was given."""
        exchange = self.exchange
        if self._gone:
            raise ClientGone("the client went away")
        kind = event["type"]
        if kind == "http.response.body":
            if exchange.ended:
                raise RuntimeError("the response is complete, and more of its body was sent")
            head = self._head
            if head is None:
                raise RuntimeError("http.response.body before http.response.start")
            data = event.get("body", b"")
            more = event.get("more_body", False)
            if head:
                self._head = b""
                if not more and not self._length_known and not self._head_only and self._status not in _BODILESS:
                    head += b"Content-Length: %d\r\n" % len(data)
                head += b"\r\n"
            if len(data) > PREFERRED_CONTENT:
                exchange.send(head)  # a record of its own costs less than a copy of what is long
                head = b""
            exchange.send(head if self._head_only else head + data if head else data)
            if not more:
                exchange.end()
                self._changed()  # a receive() that waits learns of the end
                return
            while not exchange.writable:
                await self._change()
                if self._gone:
                    raise ClientGone("the client went away")
        elif kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("http.response.start came twice")
            self._head = self._make_head(event["status"], event.get("headers", ()))
        else:
            raise RuntimeError(f"{kind!r} is not to be sent on an HTTP request here")

    def _make_head(self, status: int, headers: Any) -> bytes:
        """The response's head in CGI's form (RFC 3875 section 6), without the empty line."""
        if not 200 <= status <= 999:
            raise ValueError(f"status {status}: a FastCGI response has one from 200 to 999")
        lines = [_STATUS_LINES.get(status) or b"Status: %d \r\n" % status]
        for name, value in headers:
            lowered = name.lower()
            if lowered in _NOT_PASSED_ON:
                continue
            if lowered == b"content-length":
                self._length_known = True
            lines.append(b"%b: %b\r\n" % (name, value))
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a response header contains a line break")
        self._status = status
        return head


def _caused_by_absence(error: BaseException | None) -> bool:
    """Whether an exception came of our ClientGone: frameworks wrap it in their own."""
    seen = 0
    while error is not None and seen < 20:
        if isinstance(error, ClientGone):
            return True
        if isinstance(error, BaseExceptionGroup):
            return any(map(_caused_by_absence, error.exceptions))
        error = error.__cause__ or error.__context__
        seen += 1
    return False


class Lifespan:
    """The application's start and end ("Lifespan Protocol"). One that does not know the scope runs without it."""

    def __init__(self, application: Asgi) -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._answer: asyncio.Future[str | None]
        """None for complete, else what the application says has failed."""
        self._task: asyncio.Task[None]

    async def start_up(self) -> bool:
        """False if the application has no lifespan; StartUpFailed if it says that it cannot start."""
        self._task = asyncio.create_task(self._run())
        answer = await self._ask("lifespan.startup")
        if answer is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if not self._task.cancelled():
                self._task.exception()  # said already
            raise StartUpFailed(f"the application could not start: {answer}")
        if self._task.done():
            # the specification: an exception here means that there is no lifespan
            log.debug("the application takes no lifespan: %r", self._task.exception())
            return False
        return True

    async def shut_down(self) -> None:
        """Let the application clean up; errors are logged."""
        answer = None
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT):
                if not self._task.done():
                    answer = await self._ask("lifespan.shutdown")
                await self._task
        except TimeoutError:
            self._task.cancel()
            answer = f"it took more than {SHUTDOWN_TIMEOUT:g} s"
        except Exception:
            application_log.exception("the application's lifespan failed")
            return
        if answer is not None:
            log.error("the application could not shut down: %s", answer)

    async def _ask(self, kind: str) -> str | None:
        self._answer = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait({"type": kind})
        await asyncio.wait((self._answer, self._task), return_when=asyncio.FIRST_COMPLETED)
        return self._answer.result() if self._answer.done() else None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": ASGI_VERSIONS, "state": self.state}
        await self._application(scope, self._receive, self._send)

    async def _receive(self) -> Event:
        return await self._inbox.get()

    async def _send(self, event: Event) -> None:
        kind = event["type"]
        if kind.endswith(".failed"):
            self._reply(event.get("message") or "it did not say why")
        elif kind.endswith(".complete"):
            self._reply(None)
        else:
            raise RuntimeError(f"{kind!r} is not to be sent on a lifespan")

    def _reply(self, answer: str | None) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)
