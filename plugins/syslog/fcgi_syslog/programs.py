"""Lines of other programs on the application's machine, and the requests that they name."""

from __future__ import annotations

import re
from collections.abc import Callable

from fcgi_core.plugin import RequestInfo

from .local_socket import LocalLine, LocalSocket
from .maker import LineMaker

__all__ = ["Programs"]

LOOK_AT = 1024
"""Characters of a line in which a request's identity is looked for."""
_IDENTITY = re.compile(r"[0-9A-Za-z._-]{8,}")
"""What may be the identity of a request: nginx's $request_id has 32 hexadecimal digits."""


class Programs:
    """Listens at `path`; OSError if that cannot be done."""

    def __init__(self, path: str, maker: LineMaker, lose: Callable[[], None]) -> None:
        self._maker = maker
        self._running: dict[str, RequestInfo] = {}
        """Requests by identity."""
        self._socket = LocalSocket(path, self._line, lose)

    def begin(self, request: RequestInfo) -> None:
        self._running[request.identity] = request

    def end(self, request: RequestInfo) -> None:
        self._running.pop(request.identity, None)

    def close(self) -> None:
        self._socket.close()

    def _line(self, line: LocalLine, pid: int, uid: int) -> None:
        """Send a line. On the socket's thread."""
        self._maker.line_of_program(line, pid, uid, self._named_in(line.text))

    def _named_in(self, text: str) -> RequestInfo | None:
        """The running request whose identity stands in the text: nothing else says which request a line belongs to."""
        if not self._running:
            return None
        words = _IDENTITY.findall(text[:LOOK_AT])
        return next((request for word in words if (request := self._running.get(word)) is not None), None)
