"""ASGI 3 applications on the loop: HTTP and lifespan. Each request has a task; there are no threads.

FastCGI cannot hand over a connection, so there are no WebSockets: the application gets a request to upgrade as a plain
HTTP request (frameworks answer 404 or 426). CGI has neither trailers nor interim responses, so their extensions are not
offered.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..common.forks import leave
from ..common.frames import frames_of_awaitable
from ..errors import ClientGone, FcgiSctpError
from ..plugin import bound_to_request
from ..protocol.records import PREFERRED_CONTENT
from .asgi_scope import ASGI_VERSIONS, make_scope
from .gateway import GatewayRequest
from .helpers import BoundThreads, Helpers
from .rules import NO_LENGTH, as_bytes, make_head

if TYPE_CHECKING:
    from .exchange import AppExchange
    from .service import AppService

__all__ = ["AsgiApplication", "StartUpFailed", "is_asgi"]

log = logging.getLogger("fcgi_sctp.app")
application_log = logging.getLogger("fcgi_sctp.application")
"""Gets uncaught exceptions of the application, bound to their request."""

SHUTDOWN_TIMEOUT = 10.0
"""Seconds that a stop waits for work after responses, for cancelled requests, and for lifespan.shutdown, each."""
LATE_TIMEOUT = 1.0
"""Seconds that it waits for requests that took longer than `app.request_limit`."""

Event = MutableMapping[str, Any]
Asgi = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class StartUpFailed(FcgiSctpError):
    """The application answered lifespan.startup.failed."""


def is_asgi(application: Any) -> bool:
    """Return whether a call gives a coroutine, as in ASGI 3. ASGI 2 applications, called with one argument, do not."""
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
        self.tasks: dict[asyncio.Task[None], AsgiRequest] = {}
        self.stopping = False
        self.state: dict[str, Any] | None = None
        """The lifespan state of the application; None if it has no lifespan."""
        self._lifespan: Lifespan | None = None
        self._loop: asyncio.AbstractEventLoop

    async def start(self, service: AppService) -> None:
        self._loop = asyncio.get_running_loop()
        if service.limit is not None:
            self._loop.set_default_executor(BoundThreads(thread_name_prefix="asyncio"))
        lifespan = Lifespan(self.application)
        if await lifespan.start_up():
            self._lifespan = lifespan
            self.state = lifespan.state

    def request(self, exchange: AppExchange) -> None:
        request = AsgiRequest(self, exchange)
        task = request.task = self._loop.create_task(request.run())
        self.tasks[task] = request

    async def stop(self) -> None:
        self.stopping = True
        for task, request in self.tasks.items():
            if not request.exchange.ended:
                task.cancel()
        late = [task for task, request in self.tasks.items() if request.late]
        if late:  # they were cancelled when their time was up
            _, running = await asyncio.wait(late, timeout=LATE_TIMEOUT)
            for task in running:
                del self.tasks[task]
        # the rest have answered, and their applications do work after that
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=SHUTDOWN_TIMEOUT)
        running = {task for task in self.tasks if not task.done()}  # a task that was cancelled before it began is done
        for task in running:
            log.warning("a task still ran %g s after its response and is cancelled", SHUTDOWN_TIMEOUT)
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=SHUTDOWN_TIMEOUT)
        if self._lifespan is not None:
            await self._lifespan.shut_down()


class AsgiRequest(GatewayRequest):
    """One request: its task, and the receive and send of the application."""

    __slots__ = (
        "_body_told",
        "_coroutine",
        "_cut",
        "_owner",
        "_waiters",
        "task",
    )

    def __init__(self, owner: AsgiApplication, exchange: AppExchange) -> None:
        super().__init__(exchange)
        self._owner = owner
        self._body_told = False
        """Whether the application has had the last of the request's body."""
        self._cut = ""
        """How the request's body ended before its CONTENT_LENGTH; '' if it did not."""
        self._waiters: set[asyncio.Future[None]] = set()
        self._coroutine: Any
        """The application's, once it has begun."""
        self.task: asyncio.Task[None]
        """The task in which `run` runs."""
        exchange.on_abort = self._abort
        exchange.on_input = exchange.on_writable = self._changed

    # ---- called by the exchange

    def _abort(self) -> None:
        self.gone = True
        self._changed()

    def has_returned(self, helpers: Helpers) -> bool:
        """Whether the task has ended, and no thread works for it."""
        return self.task.done() and self.exchange not in helpers.threads

    def where(self, helpers: Helpers) -> str:
        """Return the frames of the application's coroutine, to where it waits for another task, a thread or the loop,
        and those of the tasks and threads that it started."""
        return "\n".join(filter(None, (frames_of_awaitable(self._coroutine), helpers.where(self.exchange, self.task))))

    def give_up(self, error: str) -> None:
        """End the exchange and cancel the task."""
        super().give_up(error)
        self._changed()
        self.task.cancel()

    def write_off(self) -> None:
        """Do without the task: the end of the process does not wait for it."""
        self._owner.tasks.pop(self.task, None)

    def _changed(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _change(self) -> None:
        """Wait until the exchange changes. An application may wait in receive() and in send() at the same time."""
        waiter = self.exchange.shared.loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)  # the application may have been cancelled

    async def _client(self) -> None:
        """Wait for the client, which may be slow, until the exchange changes."""
        exchange = self.exchange
        exchange.busy_since = math.inf
        try:
            await self._change()
        finally:
            exchange.busy_since = time.monotonic()

    # ---- the task

    async def run(self) -> None:
        """Run the application. Its exceptions end here: SystemExit would end the loop."""
        owner, exchange = self._owner, self.exchange
        error = ""
        with bound_to_request(exchange):
            try:
                if not self._wrong:
                    scope = make_scope(exchange.params, owner.script_name)
                    if owner.state is not None:
                        scope["state"] = owner.state.copy()
                    coroutine = self._coroutine = owner.application(scope, self.receive, self.send)
                    exchange.busy_since = exchange.began
                    await coroutine
                    if not exchange.ended and not self.gone:
                        error = "the application returned before its response was complete"
                        application_log.error("%s: %s", self._name(), error)
            except BaseException as exception:
                if isinstance(exception, SystemExit):
                    leave(exception)
                if isinstance(exception, GeneratorExit) and exchange.shared.loop.is_closed():
                    raise  # not an error of the application: the task is thrown away
                if self.gone and _caused_by_absence(exception):
                    error = "the client went away"
                elif (owner.stopping or self.late) and isinstance(exception, asyncio.CancelledError):
                    error = "cancelled: the process ends"
                elif self._cut:
                    error = self._cut
                else:
                    application_log.exception("uncaught exception in %s", self._name())
                    error = f"uncaught {type(exception).__name__}"
            if self._wrong:
                log.warning("%s: %s; it is answered with 400", self._name(), self._wrong)
                error = self._wrong
        leave(SystemExit(1) if error else None)
        owner.tasks.pop(self.task, None)  # here, because a call-back of the task would need another turn of the loop
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
        """Implement ASGI's receive: the body as it comes, then http.disconnect when the client has gone or the response
        is complete.

        The body ends where CONTENT_LENGTH says; a body that is shorter ends with http.disconnect.
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
            if exchange.input_closed:
                await self._change()
            else:
                await self._client()
        return {"type": "http.disconnect"}

    def _within_announced(self, data: bytes, closed: bool) -> tuple[bytes, bool]:
        """Return the part of the data that CONTENT_LENGTH counts, and whether the body ends with it."""
        if len(data) > self._awaited:
            log.warning("%s: the request's body is longer than its CONTENT_LENGTH; the rest is left out", self._name())
            data = data[: self._awaited]
        self._awaited -= len(data)
        if closed and self._awaited:
            self._cut = f"the request's body ended {self._awaited} bytes short of its CONTENT_LENGTH"
            log.warning("%s: %s", self._name(), self._cut)
        return data, self._awaited == 0

    async def send(self, event: Event) -> None:
        """Implement ASGI's send. It returns when the window has had room for the data."""
        exchange = self.exchange
        if self.gone:
            raise ClientGone("the client went away")
        kind = event["type"]
        if kind == "http.response.body":
            if exchange.ended:
                raise RuntimeError("http.response.body after the end of the response")
            head = self._head
            if head is None:
                raise RuntimeError("http.response.body before http.response.start")
            data: Any = event.get("body", b"")
            if type(data) is not bytes:
                data = as_bytes(data)
            more = event.get("more_body", False)
            if head:
                self._head = b""
                # not for HEAD: the application may have left out the body itself
                if not (more or self._length != NO_LENGTH or self._no_body):
                    head += b"Content-Length: %d\r\n" % len(data)
                head += b"\r\n"
            if self._no_body:
                data = b""
            elif self._left != NO_LENGTH:
                if len(data) > self._left:
                    exchange.send(head + data[: self._left])
                    self._end(self._too_long())
                self._left -= len(data)
            if len(data) > PREFERRED_CONTENT:
                exchange.send(head)  # a separate record costs less than a copy of a long body
                head = b""
            exchange.send(head + data if head else data)
            if not more:
                self._end()
                return
            while not exchange.writable:
                await self._client()
                if self.gone:
                    raise ClientGone("the client went away")
        elif kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("http.response.start was sent twice")
            status = event["status"]
            self._head, length = make_head(status, event.get("headers", ()))
            self._begin_response(status, length)
        else:
            raise RuntimeError(f"{kind!r} is not supported for an HTTP request")

    def _end(self, error: str = "") -> None:
        """End the response, which is complete though there is an `error`. RuntimeError for the application, if there is
        one or the body is too short; then the client sees it cut."""
        if not error and self._left > 0:
            error = self._too_short()
            self.exchange.fail(error)
        else:
            self.exchange.end(error=error)
        self._changed()  # a receive() that waits returns http.disconnect
        if error:
            raise RuntimeError(error)


def _caused_by_absence(error: BaseException | None) -> bool:
    """Return whether an exception was caused by our ClientGone; frameworks wrap it in their own exceptions."""
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
    """Start and end of the application ("Lifespan Protocol"). An application that does not support it runs without."""

    def __init__(self, application: Asgi) -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._answer: asyncio.Future[str | None]
        """None for complete, else the message of the application."""
        self._task: asyncio.Task[None]
        self._received = False
        """Whether the application has received lifespan.startup, so it supports lifespan."""
        self._stopping = False

    async def start_up(self) -> bool:
        """Start the application. Return False if it has no lifespan; StartUpFailed if it answers that it failed."""
        self._task = asyncio.create_task(self._run())
        answer = await self._ask("lifespan.startup")
        if answer is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if not self._task.cancelled():
                self._task.exception()  # the answer has said it already
            raise StartUpFailed(f"the application could not start: {answer}")
        if self._task.done():
            # specification: an exception here means that lifespan is not supported
            error = None if self._task.cancelled() else self._task.exception()
            if self._received:
                log.warning("the application runs without lifespan, because its start-up raised %r", error)
            else:
                log.debug("the application does not support lifespan: %r", error)
            return False
        self._task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Log at once an exception that ends the lifespan too early."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._stopping:
            application_log.error("the application's lifespan failed while it served requests", exc_info=error)

    async def shut_down(self) -> None:
        """Let the application clean up; errors are logged."""
        answer = None
        if self._task.done():
            return  # `_ended` has logged why
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
            self._reply(event.get("message") or "no reason given")
        elif kind.endswith(".complete"):
            self._reply(None)
        else:
            raise RuntimeError(f"{kind!r} is not supported for lifespan")

    def _reply(self, answer: str | None) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)
