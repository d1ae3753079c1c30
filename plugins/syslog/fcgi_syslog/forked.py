"""Passes lines of forked children to the parent: a child has no association and none of the parent's threads.

Each line is a datagram over a pair of sockets, made at the application's first fork. If the parent does not read them,
the child writes its lines to stderr and says why.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from fcgi_core.plugin import RequestInfo, bound_to_request, current_request

from .message import clip

__all__ = ["Relay"]

LONGEST = 100_000
"""Bytes of a text; a longer text is cut, and says so. The kernel accepts datagrams up to some 200 KB."""
SURELY = 16_000
"""Bytes of a text that fit a datagram even if each is written as \\u0000."""
PATIENCE_MS = 1000
"""Milliseconds that a child waits for room, once; it does not wait again until a line got through."""
KNOWN_FORKS = 256
"""Latest forks whose request is known: their children's lines are bound to it."""

STDERR = 2

Line = list[Any]
_relays: list[Relay] = []


def _nothing(pid: int, line: Line) -> None:
    """Replaces `take` after the end."""


class Relay:
    """Both ends, the parent's and the child's. In the parent, `take` is called with the child's process id and the
    arguments of `send`, bound to the request in which the child was forked."""

    def __init__(self, take: Callable[[int, Line], None]) -> None:
        self._take = take
        self.in_child = False
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._requests: dict[int, RequestInfo | None] = {}
        self._serials = count(1)
        self._forking: dict[int, int] = {}
        """The number of the fork, by the thread that is about to fork."""
        self._serial = 0
        """In the child: the number of the fork that made it."""
        self._waits = True
        self._said = False
        _relays.append(self)

    # ---- in the parent

    def before_fork(self) -> None:
        if self.in_child:
            return  # a grandchild sends through the same sockets
        if self._writer is None:
            self._open()
        serial = self._forking[threading.get_ident()] = next(self._serials)
        self._requests[serial] = current_request()
        while len(self._requests) > KNOWN_FORKS:
            self._requests.pop(next(iter(self._requests)), None)

    def _open(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._read, args=(self._reader,), name="forked children", daemon=True)
        self._thread.start()

    def after_in_parent(self) -> None:
        self._forking.pop(threading.get_ident(), None)

    def _read(self, reader: socket.socket) -> None:
        while data := reader.recv(1 << 20):
            serial, pid, *line = json.loads(data.decode("utf-8", "surrogatepass"))
            with bound_to_request(self._requests.get(serial)):
                self._take(pid, line)

    def close(self) -> None:
        """Take the lines that children have sent so far, then stop."""
        if self in _relays:
            _relays.remove(self)
        writer, self._writer = self._writer, None
        if self.in_child:
            return
        if writer is None or self._reader is None or self._thread is None:
            self._take = _nothing
            return
        writer.send(b"")  # queued after all lines
        self._thread.join()
        self._reader.close()
        writer.close()
        self._take = _nothing  # its owner holds this relay: a cycle

    # ---- in the child

    def after_in_child(self) -> None:
        if not self.in_child:
            self._serial = self._forking.get(threading.get_ident(), 0)
            if self._reader is not None:
                self._reader.close()  # or the child would not notice the parent's end
            self._requests.clear()
        self.in_child = True

    def send(self, *line: Any) -> bool:
        """Send a line to the parent. If that fails, write its texts to stderr and return False."""
        try:
            try:
                self._send(line, LONGEST)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                self._send(line, SURELY)
        except OSError as error:
            self._on_stderr(line, error)
            return False
        return True

    def _send(self, line: Sequence[Any], longest: int) -> None:
        parts = [clip(part, longest) if isinstance(part, str) else part for part in line]
        text = json.dumps([self._serial, os.getpid(), *parts], ensure_ascii=False)
        data = text.encode("utf-8", "surrogatepass")
        writer = self._writer
        if writer is None:
            raise OSError("it has closed the socket")
        try:
            writer.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not self._waits:
                raise
            self._waits = False
            poll = select.poll()
            poll.register(writer, select.POLLOUT)
            poll.poll(PATIENCE_MS)
            writer.send(data, socket.MSG_DONTWAIT)
        self._waits = True

    def _on_stderr(self, line: Sequence[Any], error: OSError) -> None:
        text = f"{' '.join(part for part in line if isinstance(part, str) and part).rstrip()}\n"
        if not self._said:
            self._said = True
            why = "it does not read" if isinstance(error, BlockingIOError) else error
            text = f"fcgi-sctp: lines of forked process {os.getpid()} do not reach its parent: {why}\n{text}"
        try:
            # not sys.stderr: a thread of the parent may have held its lock during the fork
            os.write(STDERR, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # stderr is closed, or its reader is gone


def _before_fork() -> None:
    for relay in _relays:
        relay.before_fork()


def _after_in_parent() -> None:
    for relay in _relays:
        relay.after_in_parent()


def _after_in_child() -> None:
    for relay in _relays:
        relay.after_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
