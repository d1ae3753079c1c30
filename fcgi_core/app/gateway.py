"""What WSGI and ASGI share: a request as a gateway handles it, and how it reads the variables of CGI."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from ..common.text import name_of_request
from ..hosting.exchange import error_page
from ..protocol.records import Role
from .exchange import AppExchange
from .helpers import Helpers
from .rules import NO_LENGTH, has_no_body, request_length

__all__ = ["GatewayRequest", "is_secure", "server_of", "split_path"]


class GatewayRequest:
    """One request to a WSGI or ASGI application: the length of its body, and how much of a response may be sent."""

    __slots__ = (
        "_awaited",
        "_head",
        "_head_only",
        "_left",
        "_length",
        "_never_a_body",
        "_no_body",
        "_wrong",
        "exchange",
        "gone",
        "late",
    )

    def __init__(self, exchange: AppExchange) -> None:
        self.exchange = exchange
        self.gone = False
        """Whether the client has gone, or the request was given up."""
        self.late = False
        """Whether the request was given up because it took too long."""
        exchange.work = self
        self._head: bytes | None = None
        """Head of the response, without the empty line; None until the application has given it."""
        self._head_only = exchange.params.get("REQUEST_METHOD") == "HEAD"
        """Whether the body is left out. That is for the web server to do (RFC 3875 section 4.3.3), but HAProxy answers
        502."""
        self._never_a_body = False
        """Whether the status of the response forbids a body."""
        self._no_body = self._head_only
        """Whether the response has no body, for one of the two reasons."""
        self._length = NO_LENGTH
        """Content-Length of the response."""
        self._left = NO_LENGTH
        """Bytes of it that are still to come; NO_LENGTH if it has no length or no body."""
        self._awaited = NO_LENGTH
        """Bytes of the request's body that are still to come by its CONTENT_LENGTH."""
        self._wrong = ""
        """What is wrong with the request, so that the application does not get it."""
        if exchange.request.role is not Role.AUTHORIZER:  # which has no body
            try:
                self._awaited = request_length(exchange.params)
            except ValueError as error:
                self._wrong = str(error)

    def has_returned(self, helpers: Helpers) -> bool:
        """Whether its thread or task has come back after that."""
        raise NotImplementedError

    def where(self, helpers: Helpers) -> str:
        """Return the frames of the application."""
        raise NotImplementedError

    def write_off(self) -> None:
        """Do without the thread or task, which hangs."""
        raise NotImplementedError

    def give_up(self, error: str) -> None:
        """End the exchange before the application does (`exchange.Work`)."""
        exchange = self.exchange
        self.late = self.gone = True
        if exchange.bytes_out:
            exchange.fail(error)
        else:
            exchange.send(self._error_page(HTTPStatus.GATEWAY_TIMEOUT))
            exchange.end(error=error)

    def _begin_response(self, status: int, length: int) -> None:
        """Keep the number of the status in the head, and its Content-Length."""
        self._length = length
        self._never_a_body = has_no_body(status)
        self._no_body = self._head_only or self._never_a_body
        self._left = NO_LENGTH if self._no_body else length

    def _too_short(self) -> str:
        """Return the error of a response that ends now."""
        sent = self._length - self._left
        return f"the response ended after {sent} of the {self._length} bytes of its Content-Length"

    def _too_long(self) -> str:
        """Return the error of a response that goes on beyond its length."""
        return f"the response is longer than the {self._length} bytes of its Content-Length; the rest is left out"

    def _name(self) -> str:
        return name_of_request(self.exchange.params)

    def _error_page(self, status: HTTPStatus) -> bytes:
        return error_page(status, self.exchange.params.get("REQUEST_METHOD", ""))


def split_path(params: Mapping[str, Any], script_name: str) -> tuple[str, str]:
    """Return SCRIPT_NAME and PATH_INFO. Web servers differ in what they pass: nginx's own fastcgi_params put the whole
    path into SCRIPT_NAME. Where PATH_INFO is missing or empty the path is split at `script_name`, where the application
    is mounted."""
    script: str = params.get("SCRIPT_NAME", "")
    info: str = params.get("PATH_INFO", "")
    if info:
        return script, info
    if script_name and (script == script_name or script.startswith(script_name + "/")):
        return script_name, script[len(script_name) :]
    return "", script


def is_secure(params: Mapping[str, Any]) -> bool:
    """Return whether the client came by HTTPS."""
    return params.get("HTTPS", "").lower() in ("on", "1") or params.get("REQUEST_SCHEME") == "https"


def server_of(params: Mapping[str, Any], secure: bool) -> tuple[str, str]:
    """Return name and port of the server, neither of them empty."""
    get = params.get
    name = get("SERVER_NAME") or get("SERVER_ADDR") or "localhost"
    return name, get("SERVER_PORT") or ("443" if secure else "80")
