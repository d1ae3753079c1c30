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

from ..common.forks import leave
from ..errors import ClientGone, FcgiSctpError
from ..plugin import bound_to_request
from ..protocol.records import PREFERRED_CONTENT
from .asgi_scope import ASGI_VERSIONS, make_scope
from .gateway import GatewayRequest
from .rules import NO_LENGTH, as_bytes, make_head

if TYPE_CHECKING:
    from .exchange import AppExchange
    from .service import AppService

__all__ = ["AsgiApplication", "StartUpFailed", "is_asgi"]

log = logging.getLogger("fcgi_sctp.app")
application_log = logging.getLogger("fcgi_sctp.application")
"""Uncaught exceptions of the application, bound to their request."""

SHUTDOWN_TIMEOUT = 10.0
"""Seconds that work after responses, requests that are given up, and lifespan.shutdown each have at the end."""

Event = MutableMapping[str, Any]
Asgi = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


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


class AsgiRequest(GatewayRequest):
    """One request: what the application's task receives and sends."""

    __slots__ = (
        "_body_told",
        "_cut",
        "_waiters",
        "task",
    )

    def __init__(self, exchange: AppExchange) -> None:
        super().__init__(exchange)
        self._body_told = False
        """Whether the application has had the last of the request's body."""
        self._cut = ""
        """How the request's body ended before its CONTENT_LENGTH; '' if it did not."""
        self._waiters: set[asyncio.Future[None]] = set()
        self.task: asyncio.Task[None]
        """What runs it."""
        exchange.on_abort = self._abort
        exchange.on_input = exchange.on_writable = self._changed

    # ---- called by the exchange

    def _abort(self) -> None:
        self.gone = True
        self._changed()

    def _changed(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _change(self) -> None:
        """Wait until anything changes. An application may wait in receive() and in send() at once."""
        waiter = self.exchange.shared.loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)  # the one that waited may have been cancelled

    # ---- the task

    async def run(self, owner: AsgiApplication) -> None:
        """Run the application. Nothing that it raises gets any further: SystemExit would end the loop."""
        exchange = self.exchange
        error = ""
        with bound_to_request(exchange):
            try:
                if not self._wrong:
                    scope = make_scope(exchange.params, owner.script_name)
                    if owner.state is not None:
                        scope["state"] = owner.state.copy()
                    await owner.application(scope, self.receive, self.send)
                    if not exchange.ended and not self.gone:
                        error = "the application returned before its response was complete"
                        application_log.error("%s: %s", self._name(), error)
            except BaseException as exception:
                if isinstance(exception, SystemExit):
                    leave(exception)
                if isinstance(exception, GeneratorExit) and exchange.shared.loop.is_closed():
                    raise  # not the application's: what was left of this task is thrown away
                if self.gone and _caused_by_absence(exception):
                    error = "the client went away"
                elif owner.stopping and isinstance(exception, asyncio.CancelledError):
                    error = "given up: the process ends"
                elif self._cut:
                    error = self._cut
                else:
                    application_log.exception("uncaught exception in %s", self._name())
                    error = f"uncaught {type(exception).__name__}"
            if self._wrong:
                log.warning("%s: %s; it is answered with 400", self._name(), self._wrong)
                error = self._wrong
        leave(SystemExit(1) if error else None)
        owner.tasks.pop(self.task, None)  # here and not in a call-back, for which the loop would turn once more
        self._finish(error)

    def _finish(self, error: str) -> None:
        exchange = self.exchange
        if not exchange.ended:
            if self.gone:
                exchange.end(error=error or "the client went away")
            elif self._head == b"":
                exchange.fail(error)
            else:
                status = HTTPStatus.BAD_REQUEST if self._wrong or self._cut else HTTPStatus.INTERNAL_SERVER_ERROR
                exchange.send(self._error_page(status))
                exchange.end(error=error)
        self._changed()

    async def receive(self) -> Event:
        """ASGI's receive: the body as it comes, then http.disconnect once there is nobody or nothing more to say.

        The body ends where CONTENT_LENGTH says; where it ends before, that is http.disconnect, too.
        """
        exchange = self.exchange
        while not self.gone and not self._cut and not exchange.ended:
            if not self._body_told and (exchange.body or exchange.input_closed):
                data = exchange.take_body() if exchange.body else b""
                last = exchange.input_closed
                if self._awaited != NO_LENGTH:
                    data, last = self._within_announced(data, last)
                    if self._cut:
                        break
                self._body_told = last
                return {"type": "http.request", "body": data, "more_body": not last}
            await self._change()
        return {"type": "http.disconnect"}

    def _within_announced(self, data: bytes, closed: bool) -> tuple[bytes, bool]:
        """What of the data belongs to the request's body by its CONTENT_LENGTH, and whether that is its end."""
        if len(data) > self._awaited:
            log.warning("%s: the request's body is longer than its CONTENT_LENGTH; the rest is left out", self._name())
            data = data[: self._awaited]
        self._awaited -= len(data)
        if closed and self._awaited:
            self._cut = f"the request's body ended {self._awaited} bytes short of its CONTENT_LENGTH"
            log.warning("%s: %s", self._name(), self._cut)
        return data, self._awaited == 0

    async def send(self, event: Event) -> None:
        """ASGI's send. It returns when the window has taken up what was given."""
        exchange = self.exchange
        if self.gone:
            raise ClientGone("the client went away")
        kind = event["type"]
        if kind == "http.response.body":
            if exchange.ended:
                raise RuntimeError("the response is complete, and more of its body was sent")
            head = self._head
            if head is None:
                raise RuntimeError("http.response.body before http.response.start")
            data: Any = event.get("body", b"")
            if type(data) is not bytes:
                data = as_bytes(data)
            more = event.get("more_body", False)
            if head:
                self._head = b""
                # a response to HEAD says what GET would have got, but what is not there may only have been left out
                if not (more or self._length != NO_LENGTH or self._no_body):
                    head += b"Content-Length: %d\r\n" % len(data)
                head += b"\r\n"
            if self._no_body:
                data = b""
            elif self._left != NO_LENGTH:
                if len(data) > self._left:
                    self._end_too_long(head + data[: self._left])
                self._left -= len(data)
            if len(data) > PREFERRED_CONTENT:
                exchange.send(head)  # a record of its own costs less than a copy of what is long
                head = b""
            exchange.send(head + data if head else data)
            if not more:
                self._end()
                return
            while not exchange.writable:
                await self._change()
                if self.gone:
                    raise ClientGone("the client went away")
        elif kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("http.response.start came twice")
            status = event["status"]
            self._head, length = make_head(status, event.get("headers", ()))
            self._begin_response(status, length)
        else:
            raise RuntimeError(f"{kind!r} is not to be sent on an HTTP request here")

    def _end(self) -> None:
        """The application has said all. A body that is short is seen to be cut, and is an error where it was sent."""
        if self._left > 0:
            error = self._too_short()
            self.exchange.fail(error)
            self._changed()
            raise RuntimeError(error)
        self.exchange.end()
        self._changed()  # a receive() that waits learns of the end

    def _end_too_long(self, data: bytes) -> None:
        """More than was promised was to be sent: the client gets what was, and the application an error."""
        error = self._too_long()
        self.exchange.send(data)
        self.exchange.end(error=error)
        self._changed()
        raise RuntimeError(error)


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
        self._received = False
        """The application has been told to start, so it knows what a lifespan is."""
        self._stopping = False

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
            error = None if self._task.cancelled() else self._task.exception()
            if self._received:
                log.warning("the application goes on without lifespan, for its start-up raised %r", error)
            else:
                log.debug("the application takes no lifespan: %r", error)
            return False
        self._task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Say at once what ends the application's lifespan before its time."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._stopping:
            application_log.error("the application's lifespan failed while it serves", exc_info=error)

    async def shut_down(self) -> None:
        """Let the application clean up; errors are logged."""
        answer = None
        if self._task.done():
            return  # which was said then
        self._stopping = True
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT):
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
        event = await self._inbox.get()
        self._received = True
        return event

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
