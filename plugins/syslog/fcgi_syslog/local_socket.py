"""A socket like /dev/log for programs on the application's machine that call syslog(3) or logger(1).

The kernel names the sender (SO_PASSCRED), so the process and user id of a line cannot be forged. A program that sends
faster than lines are read waits, as at /dev/log.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from .message import DEFAULT_PRIORITY, PRIORITY

__all__ = ["LocalLine", "LocalSocket", "read_datagram"]

LONGEST = 1 << 20
"""Bytes of a datagram; the kernel cuts a longer one, and its line says so."""
CUT = " [cut by the socket]"
RECEIVE_BUFFER = 4 << 20
_TIME = re.compile(
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) "
)
_TAG = re.compile(r"([^\s:\[\]]{1,48})(?:\[(\d{1,20})\])?: ?")
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid"""
_SPACE = socket.CMSG_SPACE(_CREDENTIALS.size)
PAUSE = 0.1
"""Seconds until receiving is tried again when the system is out of memory for it."""


class LocalLine(NamedTuple):
    severity: int
    facility: int
    tag: str
    """The program's name for itself, '' if it gave none."""
    text: str


def read_datagram(data: bytes) -> LocalLine:
    """Return the line in a datagram ``<PRI>TIME TAG[PID]: TEXT``, where all but TEXT may be missing.

    Facility `kern` belongs to the kernel; it becomes `user`, as in rsyslog and the journal.
    """
    text = data.rstrip(b"\0\n").decode("utf-8", "backslashreplace")
    number = DEFAULT_PRIORITY
    if (priority := PRIORITY.match(text)) and int(priority[1]) < 192:
        number = int(priority[1])
        text = text[priority.end() :]
    if when := _TIME.match(text):
        text = text[when.end() :]
    tag = ""
    if found := _TAG.match(text):
        tag = found[1]
        text = text[found.end() :]
    return LocalLine(number & 7, number >> 3 or 1, tag, text)


Take = Callable[[LocalLine, int, int], None]
"""Takes a line with the process and user id of its sender."""


class LocalSocket:
    """Listens at `path`; OSError if that fails. Calls `take` on a separate thread, and `lose` if `take` raises."""

    def __init__(self, path: str, take: Take, lose: Callable[[], None]) -> None:
        self.path = path
        self._socket = _bind(path)
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, args=(take, lose), name="syslog input", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the lines that were sent before, and remove the socket."""
        if os.getpid() != self._process:
            return  # a forked child: the parent still uses path and socket
        try:
            os.unlink(self.path)
        except OSError:
            pass
        try:
            self._socket.shutdown(socket.SHUT_RD)  # queued datagrams can still be received
        except OSError:
            pass
        self._thread.join(1.0)
        self._socket.close()

    def _run(self, take: Take, lose: Callable[[], None]) -> None:
        while True:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(LONGEST, _SPACE)
            except OSError as error:
                if error.errno in (errno.ENOMEM, errno.ENOBUFS):
                    time.sleep(PAUSE)
                    continue
                return  # the socket is closed
            if not (data or ancillary):
                return  # shut down: each datagram, even an empty one, has ancillary data
            try:
                if data:
                    take(*_received(data, ancillary, flags))
            except Exception:
                lose()


def _received(data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int) -> tuple[LocalLine, int, int]:
    """Return the line in a datagram, and the process and user id of its sender."""
    pid = uid = 0
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid, uid, _ = _CREDENTIALS.unpack_from(content)
    line = read_datagram(data)
    if flags & socket.MSG_TRUNC:
        line = line._replace(text=line.text + CUT)
    return line, pid, uid


def _bind(path: str) -> socket.socket:
    """Return a socket bound to `path`; the socket that a killed process left there is replaced."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                    probe.connect(path)
                raise OSError(errno.EADDRINUSE, "another process listens here", path)
        except ConnectionRefusedError:
            os.unlink(path)
        except FileNotFoundError:
            pass
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        bound.bind(path)
        os.chmod(path, 0o666)  # as /dev/log: every user may log
    except OSError as error:
        bound.close()
        raise OSError(error.errno, error.strerror, path) from None
    return bound
