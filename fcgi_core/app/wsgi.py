"""WSGI applications (PEP 3333) on threads.

The application runs on a thread of the pool; protocol and sockets stay on the loop's. What a thread has to say (output,
its end) goes into one queue, and the loop is woken once for all that stands in it.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import ClientGone
from ..exchange import error_page
from ..plugin import bound_to_request
from ..records import PREFERRED_CONTENT
from ..text import name_of_request
from .threads import ThreadPool
from .wsgi_files import Body, Errors, Wait

if TYPE_CHECKING:
    from .service import AppExchange, AppService

__all__ = ["WsgiApplication", "make_environ"]

log = logging.getLogger("fcgi_sctp.app")
application_log = logging.getLogger("fcgi_sctp.application")
"""Uncaught exceptions of the application, bound to their request."""

DEFAULT_THREADS = 16
MOST_THREADS = 1000
"""All threads of a process, those that wait for slow clients included; each costs some 50 KiB."""
WRITE_AHEAD = 64 * 1024
"""Bytes that a thread may hand over beyond what has been taken up by the window, before it waits."""

Handover = tuple["WsgiRequest", bytes, bool, str]
"""(request, output, whether it is the end, error)"""


class WsgiApplication:
    """Runs one WSGI callable. `threads` work at once."""

    def __init__(
        self, application: Callable[..., Iterable[bytes]], *, threads: int = DEFAULT_THREADS, script_name: str = ""
    ) -> None:
        self.application = application
        self.script_name = script_name
        self.pool = ThreadPool(threads, MOST_THREADS)
        self.service: AppService
        self._loop: asyncio.AbstractEventLoop
        self._handed_over: deque[Handover] = deque()
        self._awake = False

    async def start(self, service: AppService) -> None:
        self.service = service
        self._loop = asyncio.get_running_loop()

    def request(self, exchange: AppExchange) -> None:
        self.pool.submit(WsgiRequest(self, exchange).run)

    async def stop(self) -> None:
        threads = self.pool.close()
        # those that were idle end at once; one inside the application is a daemon and ends with the process
        deadline = self._loop.time() + 0.5
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - self._loop.time()))

    def hand_over(self, request: WsgiRequest, data: bytes, end: bool, error: str = "") -> None:
        """From a request's thread to the loop."""
        self._handed_over.append((request, data, end, error))
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._take_over)
            except RuntimeError:
                pass  # the loop is closed: the process ends, and nobody waits for this answer

    def _take_over(self) -> None:
        self._awake = False
        queue = self._handed_over
        while queue:
            request, data, end, error = queue.popleft()
            exchange = request.exchange
            exchange.send(data)
            request.passed_on += len(data)
            if end:
                if request.complete:
                    exchange.end(error=error)
                else:
                    exchange.fail(error)
            elif exchange.writable:
                request.taken_up()


class WsgiRequest:
    """One request on its thread."""

    __slots__ = (
        "_body",
        "_given",
        "_head",
        "_head_only",
        "_head_sent",
        "_headers",
        "_status",
        "_taken",
        "_wait",
        "aborted",
        "complete",
        "exchange",
        "input",
        "owner",
        "passed_on",
    )

    def __init__(self, owner: WsgiApplication, exchange: AppExchange) -> None:
        self.owner = owner
        self.exchange = exchange
        self.aborted = False
        self.complete = False
        """The response is whole, or an error page stands in its place."""
        self.passed_on = 0
        """Bytes that the loop has passed on; the loop's own."""
        self._taken = 0
        """Of those, bytes that the window has taken up; written by the loop alone."""
        self._given = 0
        """Bytes handed over; written by the request's thread alone."""
        self._wait = Wait(owner.pool)
        self._head: bytes | None = None
        self._head_sent = False
        self._head_only = exchange.params.get("REQUEST_METHOD") == "HEAD"
        """The body is left out: it is for the web server to do (RFC 3875 section 4.3.3), but HAProxy answers 502."""
        exchange.on_abort = self._abort
        exchange.on_writable = self.taken_up
        self._body: Body | None = None
        if exchange.input_closed:
            self.input: Any = io.BytesIO(exchange.take_body())
        else:
            self._body = Body(owner, exchange)
            exchange.on_input = self._body.arrived
            self.input = io.BufferedReader(self._body, 16 * 1024)

    # ---- on the loop's thread

    def _abort(self) -> None:
        self.aborted = True
        if self._body is not None:
            self._body.abort()
        self._wait.check()

    def taken_up(self) -> None:
        """The window has taken up all that was passed on."""
        self._taken = self.passed_on
        self._wait.check()

    # ---- on the request's thread

    def run(self) -> None:
        owner, exchange = self.owner, self.exchange
        exchange.started = time.monotonic()
        if self.aborted:
            owner.hand_over(self, b"", True)
            return
        last = b""
        error = ""
        with bound_to_request(exchange):
            try:
                environ = make_environ(exchange.params, owner.script_name)
                environ["wsgi.input"] = self.input
                environ["wsgi.errors"] = Errors(exchange)
                result = owner.application(environ, self.start_response)
                try:
                    last = self._send_result(result)
                    self.complete = True
                finally:
                    if hasattr(result, "close"):
                        result.close()
            except ClientGone:
                error = "the client went away"
            except BaseException as exception:
                if isinstance(exception, (KeyboardInterrupt, GeneratorExit)):
                    raise
                application_log.exception("uncaught exception in %s", name_of_request(exchange.params))
                error = f"uncaught {type(exception).__name__}"
                if not self._head_sent:
                    last = error_page(HTTPStatus.INTERNAL_SERVER_ERROR, exchange.params.get("REQUEST_METHOD", ""))
                    self.complete = True
        owner.hand_over(self, last, True, error)

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable"."""
        if exc_info is not None:
            try:
                if self._head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response was called twice, the second time without exc_info")
        self._status = status
        self._headers = headers
        lines = [f"Status: {status}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in headers]
        head = "".join(lines)
        if head.count("\n") != len(lines) or head.count("\r") != len(lines):
            raise ValueError("a status or header contains a line break")
        self._head = head.encode("latin-1")
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333, "The write() Callable": sent before it returns, as far as the window allows."""
        if self.aborted:
            raise ClientGone
        if self._given - self._taken > WRITE_AHEAD:
            self._wait.until(lambda: self.aborted or self._given - self._taken <= WRITE_AHEAD)
            if self.aborted:
                raise ClientGone
        if self._head_only:
            data = b""
        if not self._head_sent:
            data = self._take_head() + data
        if data:
            self._given += len(data)
            self.owner.hand_over(self, data, False)

    def _take_head(self, content_length: int | None = None) -> bytes:
        if self._head is None:
            raise AssertionError("the application sent data before it called start_response")
        self._head_sent = True
        if content_length is not None and not any(name.lower() == "content-length" for name, _ in self._headers):
            return self._head + b"Content-Length: %d\r\n\r\n" % content_length
        return self._head + b"\r\n"

    def _send_result(self, result: Iterable[bytes]) -> bytes:
        """Send what the application returned; what is left to be sent with the end is returned."""
        if isinstance(result, (list, tuple)) and len(result) == 1 and not self._head_sent:
            # the whole response is known: head, body and end go in one piece, with its length (PEP 3333,
            # "Handling the Content-Length Header")
            data = result[0]
            bodiless = self._status[:3] in ("204", "304") or self._status[:1] == "1" or (self._head_only and not data)
            head = self._take_head(None if bodiless else len(data))
            if self._head_only:
                return head
            if len(data) > PREFERRED_CONTENT:
                self._given += len(head)
                self.owner.hand_over(self, head, False)  # a record of its own costs less than a copy of what is long
                return data
            return head + data
        for data in result:
            if data:
                self.write(data)
        return b"" if self._head_sent else self._take_head()


_CONSTANT_ENVIRON: dict[str, Any] = {
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}


def make_environ(params: Any, script_name: str = "") -> dict[str, Any]:
    """A WSGI environ from CGI variables.

    Web servers differ in what they pass: nginx's own fastcgi_params put the whole path into SCRIPT_NAME and no
    PATH_INFO. Where PATH_INFO is missing or empty the path is split here, at `script_name`, where the application is
    mounted.
    """
    environ: dict[str, Any] = dict(params)
    if not environ.get("PATH_INFO"):
        path = environ.get("SCRIPT_NAME", "")
        if script_name and (path == script_name or path.startswith(script_name + "/")):
            environ["SCRIPT_NAME"] = script_name
            environ["PATH_INFO"] = path[len(script_name) :]
        else:
            environ["SCRIPT_NAME"] = ""
            environ["PATH_INFO"] = path
    # PEP 3333 wants these; a FastCGI client need not send them
    environ.setdefault("SCRIPT_NAME", "")  # HAProxy sends no empty one
    environ.setdefault("REQUEST_METHOD", "GET")
    environ.setdefault("SERVER_NAME", "localhost")
    environ.setdefault("SERVER_PORT", "80")
    environ.setdefault("SERVER_PROTOCOL", "HTTP/1.1")
    environ.setdefault("QUERY_STRING", "")
    # a request cannot bring a proxy in through its headers (CVE-2016-5385)
    environ.pop("HTTP_PROXY", None)
    # nginx passes these twice; the names without HTTP_ are the right ones (RFC 3875 section 4.1.18)
    environ.pop("HTTP_CONTENT_TYPE", None)
    environ.pop("HTTP_CONTENT_LENGTH", None)
    secure = environ.get("HTTPS", "").lower() in ("on", "1") or environ.get("REQUEST_SCHEME") == "https"
    environ["wsgi.url_scheme"] = "https" if secure else "http"
    environ.update(_CONSTANT_ENVIRON)
    return environ
