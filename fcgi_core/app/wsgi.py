"""WSGI applications (PEP 3333) on threads.

The application runs on a thread of the pool; protocol and sockets stay on the loop's thread. Threads put their output
and the ends of their requests into one queue, and the loop is woken once for all that is in it.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..common.forks import leave
from ..common.frames import frames_of_thread
from ..errors import ClientGone, RequestCut
from ..plugin import bound_to_request
from ..protocol.records import PREFERRED_CONTENT, ProtocolStatus
from .gateway import GatewayRequest, is_secure, server_of, split_path
from .helpers import Helpers
from .rules import NO_LENGTH, as_bytes, make_text_head
from .threads import ThreadPool
from .wsgi_files import Body, Errors, Wait

if TYPE_CHECKING:
    from .exchange import AppExchange
    from .service import AppService

__all__ = ["WsgiApplication", "make_environ"]

log = logging.getLogger("fcgi_sctp.app")
application_log = logging.getLogger("fcgi_sctp.application")
"""Gets uncaught exceptions of the application, bound to their request."""

DEFAULT_THREADS = 16
MOST_THREADS = 1000
"""Threads of a process, including threads that wait for slow clients; each costs some 50 KiB."""
WRITE_AHEAD = 64 * 1024
"""Bytes that a thread may hand over before it waits until the window has room for them."""

Handover = tuple["WsgiRequest", bytes, bool, str]
"""Request, output, whether the request ends with it, and the error for plugins."""


class WsgiApplication:
    """Runs one WSGI callable on up to `threads` threads at once, not counting threads that wait for clients."""

    def __init__(
        self, application: Callable[..., Iterable[bytes]], *, threads: int = DEFAULT_THREADS, script_name: str = ""
    ) -> None:
        self.application = application
        self.script_name = script_name
        self.pool = ThreadPool(threads, MOST_THREADS)
        self._loop: asyncio.AbstractEventLoop
        self._handed_over: deque[Handover] = deque()
        self._awake = False

    async def start(self, service: AppService) -> None:
        self._loop = asyncio.get_running_loop()

    def request(self, exchange: AppExchange) -> None:
        request = WsgiRequest(self, exchange)
        try:
            self.pool.submit(request.run)
        except RuntimeError as error:  # OVERLOADED: the web side may give the request to another application
            log.error("request refused: no thread can be started: %s", error)
            exchange.end(error="no thread can be started", status=ProtocolStatus.OVERLOADED)

    async def stop(self) -> None:
        for job in self.pool.take_back():  # no thread has begun them: another application may take them
            request: WsgiRequest = job.__self__  # type: ignore[attr-defined]
            request.exchange.end(error="the process ends", status=ProtocolStatus.OVERLOADED)
        threads = self.pool.close()
        # idle threads end at once; a thread inside the application is a daemon and ends with the process
        deadline = self._loop.time() + 0.5
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - self._loop.time()))

    def hand_over(self, request: WsgiRequest, data: bytes, end: bool, error: str = "") -> None:
        """Give the loop a part of a response, or its end. To be called on the request's thread."""
        self._handed_over.append((request, data, end, error))
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._take_over)
            except RuntimeError:
                pass  # the loop is closed: the process ends

    def _take_over(self) -> None:
        self._awake = False
        queue = self._handed_over
        while queue:
            request, data, end, error = queue.popleft()
            exchange = request.exchange
            exchange.send(data)
            request.passed_on += len(data)
            if end:
                if request.late:
                    request.came_back = True
                    self.pool.end_waiting()
                elif request.complete:
                    exchange.end(error=error)
                else:
                    exchange.fail(error)
            elif exchange.writable:
                request.taken_up()


class BodyTooLong(Exception):
    """The application sent more than its Content-Length. The bytes that it counts have been sent."""


class WsgiRequest(GatewayRequest):
    """One request, on the loop and on its thread."""

    __slots__ = (
        "_body",
        "_given",
        "_head_sent",
        "_taken",
        "_wait",
        "_whole_length",
        "came_back",
        "complete",
        "input",
        "owner",
        "passed_on",
        "thread",
    )

    def __init__(self, owner: WsgiApplication, exchange: AppExchange) -> None:
        super().__init__(exchange)
        self.owner = owner
        self.complete = False
        """Whether the response is complete, or an error page was sent instead."""
        self.came_back = False
        """Whether its thread has come back, if the request was ended before."""
        self.thread = 0
        """The thread that runs it, or has run it; 0 before."""
        self.passed_on = 0
        """Bytes that the loop has passed to the exchange; used by the loop alone."""
        self._taken = 0
        """Bytes of these for which the window had room; written by the loop alone."""
        self._given = 0
        """Bytes handed to the loop; written by the request's thread alone."""
        self._wait = Wait(owner.pool, exchange)
        self._head_sent = False
        exchange.on_abort = self._abort
        exchange.on_writable = self.taken_up
        self._body: Body | None = None
        self._whole_length = NO_LENGTH
        """Length of the request's body if the web server gave none and all of it has come."""
        self.input: Any = None
        if not self._wrong:
            self._open_body(exchange)

    def _open_body(self, exchange: AppExchange) -> None:
        """Make `input`. It ends where CONTENT_LENGTH says (PEP 3333, "Input and Error Streams")."""
        length = self._awaited
        if exchange.input_closed:
            body = exchange.take_body()
            if length in (NO_LENGTH, len(body)):
                self.input = io.BytesIO(body)
                if body:
                    self._whole_length = len(body)
                return
            self._body = Body(self.owner.pool, exchange, length, body)
        else:
            self._body = Body(self.owner.pool, exchange, length)
            exchange.on_input = self._body.arrived
        self.input = io.BufferedReader(self._body, 16 * 1024)

    # ---- on the loop's thread

    def _abort(self) -> None:
        self.gone = True
        if self._body is not None:
            self._body.abort()
        self._wait.check()

    def has_returned(self, helpers: Helpers) -> bool:
        """Whether its thread has come back."""
        return self.came_back

    def where(self, helpers: Helpers) -> str:
        """Return the frames of its thread."""
        return frames_of_thread(sys._current_frames().get(self.thread))

    def give_up(self, error: str) -> None:
        """End the exchange; another thread takes the place of its own, which gets ClientGone when it reads, writes, or
        comes back."""
        super().give_up(error)
        self._abort()
        self.owner.pool.begin_waiting()

    def write_off(self) -> None:
        """Do nothing: the end of the process does not wait for these threads."""

    def taken_up(self) -> None:
        """Let the thread go on: the window has had room for all that was passed on."""
        self._taken = self.passed_on
        self._wait.check()

    # ---- on the request's thread

    def run(self) -> None:
        """Run the application. Its exceptions end here: the thread goes on with the next request."""
        owner, exchange = self.owner, self.exchange
        self.thread = get_ident()
        exchange.started = exchange.busy_since = time.monotonic()
        if self.gone:
            owner.hand_over(self, b"", True)
            return
        last = b""
        error = ""
        with bound_to_request(exchange):
            if self._wrong:
                log.warning("%s: %s; it is answered with 400", self._name(), self._wrong)
                self.complete = True
                owner.hand_over(self, self._error_page(HTTPStatus.BAD_REQUEST), True, self._wrong)
                return
            try:
                environ = make_environ(exchange.params, owner.script_name)
                if self._whole_length != NO_LENGTH:
                    environ["CONTENT_LENGTH"] = str(self._whole_length)
                environ["wsgi.input"] = self.input
                environ["wsgi.errors"] = Errors(exchange)
                result = owner.application(environ, self.start_response)
                try:
                    last = self._send_result(result)
                    if self._left > 0:
                        error = self._too_short()
                        application_log.error("%s: %s", self._name(), error)
                    else:
                        self.complete = True
                finally:
                    if hasattr(result, "close"):
                        result.close()
            except ClientGone:
                error = "the client went away"
            # a name for each: compiled, a variable keeps the type of its first value
            except BodyTooLong as too_long:
                error = str(too_long)
                application_log.error("%s: %s", self._name(), error)
            except RequestCut as cut:
                error = str(cut)
                log.warning("%s: %s", self._name(), error)
                if not self._head_sent:
                    last = self._error_page(HTTPStatus.BAD_REQUEST)
                    self.complete = True
            except BaseException as exception:
                if isinstance(exception, SystemExit):
                    leave(exception)
                # SystemExit and KeyboardInterrupt, too: this is not the main thread, and other requests go on
                application_log.exception("uncaught exception in %s", self._name())
                error = f"uncaught {type(exception).__name__}"
                if not self._head_sent:
                    last = self._error_page(HTTPStatus.INTERNAL_SERVER_ERROR)
                    self.complete = True
        leave(SystemExit(1) if error else None)
        owner.hand_over(self, last, True, error)

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable"."""
        if exc_info is not None:
            try:
                if self._head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response was called again without exc_info")
        self._head, length, number = make_text_head(status, headers)
        self._begin_response(number, length)
        return self.write

    def write(self, data: Any) -> None:
        """PEP 3333, "The write() Callable". It waits while more than WRITE_AHEAD bytes wait for the window."""
        if type(data) is not bytes:
            data = as_bytes(data)
        if self.gone:
            raise ClientGone
        if self._given - self._taken > WRITE_AHEAD:
            self._wait.until(lambda: self.gone or self._given - self._taken <= WRITE_AHEAD)
            if self.gone:
                raise ClientGone
        too_long = 0 <= self._left < len(data)
        data = self._within_length(data)
        if not self._head_sent:
            data = self._take_head() + data
        if data:
            self._given += len(data)
            self.owner.hand_over(self, data, False)
        if too_long:
            self.complete = True  # the response has its length
            raise BodyTooLong(self._too_long())

    def _within_length(self, data: bytes) -> bytes:
        """Return the part of the data that may be sent: within Content-Length, and none if there is no body."""
        if self._left != NO_LENGTH:
            if len(data) > self._left:  # compiled, a slice is a copy even if it is the whole
                data = data[: self._left]
            self._left -= len(data)
        elif self._no_body:
            return b""
        return data

    def _take_head(self, content_length: int = NO_LENGTH) -> bytes:
        """Return the head with its empty line, and with this length if the application gave none."""
        if self._head is None:
            raise AssertionError("the application did not call start_response before the first part of its response")
        self._head_sent = True
        if content_length != NO_LENGTH and self._length == NO_LENGTH:
            return self._head + b"Content-Length: %d\r\n\r\n" % content_length
        return self._head + b"\r\n"

    def _send_result(self, result: Any) -> bytes:
        """Send what the application returned. Return the bytes that are to be sent together with the end."""
        if isinstance(result, (list, tuple)) and len(result) == 1 and not self._head_sent:
            # the whole response is known: head, body and end are sent together, with the length (PEP 3333, "Handling
            # the Content-Length Header")
            data = result[0]
            if type(data) is not bytes:
                data = as_bytes(data)
            if self._no_body:
                # a response to HEAD has the length that GET would get, if it is known
                return self._take_head(NO_LENGTH if self._never_a_body or not data else len(data))
            if self._left != NO_LENGTH and len(data) > self._left:
                self.write(data)  # which raises
            head = self._take_head(len(data))
            data = self._within_length(data)
            if len(data) > PREFERRED_CONTENT:
                self._given += len(head)
                self.owner.hand_over(self, head, False)  # a separate record costs less than a copy of a long body
                return data
            return head + data
        if result is None:
            raise TypeError("the application returned None: an iterable of bytes was expected")
        for piece in result:
            if piece:
                self.write(piece)
        return b"" if self._head_sent else self._take_head()


_CONSTANT_ENVIRON: dict[str, Any] = {
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}


def make_environ(params: Any, script_name: str = "") -> dict[str, Any]:
    """Return a WSGI environ made from CGI variables; `script_name` is used as in `split_path`."""
    environ: dict[str, Any] = dict(params)
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = split_path(environ, script_name)
    # PEP 3333 requires these; a FastCGI client need not send them
    environ.setdefault("QUERY_STRING", "")
    secure = is_secure(environ)
    if not environ.get("REQUEST_METHOD"):
        environ["REQUEST_METHOD"] = "GET"
    if not environ.get("SERVER_PROTOCOL"):
        environ["SERVER_PROTOCOL"] = "HTTP/1.1"
    if not environ.get("SERVER_NAME") or not environ.get("SERVER_PORT"):
        # nginx passes them empty if it has no server_name, and on a unix socket
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server_of(environ, secure)
    # nginx passes these twice; the names without HTTP_ are the right ones (RFC 3875 section 4.1.18)
    environ.pop("HTTP_CONTENT_TYPE", None)
    environ.pop("HTTP_CONTENT_LENGTH", None)
    environ["wsgi.url_scheme"] = "https" if secure else "http"
    environ.update(_CONSTANT_ENVIRON)
    return environ
