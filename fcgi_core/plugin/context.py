"""The request that the calling thread or task works for."""

from __future__ import annotations

from contextvars import Context, ContextVar, Token

from .views import RequestInfo

_current: ContextVar[RequestInfo | None] = ContextVar("fcgi_sctp_request", default=None)


def current_request() -> RequestInfo | None:
    """Returns the request that the calling thread or task works for; None outside of one."""
    return _current.get()


def request_in(context: Context) -> RequestInfo | None:
    """Returns the request that a thread or task with this context works for; None if there is none."""
    return context.get(_current)


class bound_to_request:
    """A context in which the thread or task works for `request`, so that its log records are bound to it."""

    # a class, because each request enters it, and `contextlib.contextmanager` takes three times as long

    __slots__ = ("_request", "_token")

    def __init__(self, request: RequestInfo | None) -> None:
        self._request = request
        self._token: Token[RequestInfo | None]

    def __enter__(self) -> None:
        self._token = _current.set(self._request)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
