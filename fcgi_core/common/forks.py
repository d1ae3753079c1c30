"""Processes that the application forks: they have none of the parent's threads, and must not keep its sockets.

A child that kept them would keep their addresses when the parent is killed, and associations would seem to be alive.
"""

from __future__ import annotations

import os
import socket
import sys
import weakref

__all__ = ["in_child", "keep_from_children", "leave"]

_child = False
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def keep_from_children(sock: socket.socket) -> None:
    """Replace this socket by /dev/null in forked children."""
    _sockets.add(sock)


def in_child() -> bool:
    """Returns whether this is a forked child."""
    return _child


def leave(error: BaseException | None) -> None:
    """End this process if it is a forked child: its code has returned, or raised `error`, into the server's code, where
    the child would act in the parent's place."""
    if not _child:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # it is closed, or none
    if error is None:
        os._exit(0)
    code = error.code if isinstance(error, SystemExit) else 1
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _after_in_child() -> None:
    global _child
    _child = True
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for sock in tuple(_sockets):
        if sock.fileno() >= 0:
            # not closed: the next file that the child opens would get the number that the parent's objects still use
            os.dup2(nothing, sock.fileno(), inheritable=False)
    os.close(nothing)
    _sockets.clear()


os.register_at_fork(after_in_child=_after_in_child)
