"""Whether a process still has a peer's UDP port: a process that was killed says nothing, but its host does."""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["PortProbe"]


class PortProbe:
    """Sends empty datagrams from a connected socket, which learns from ICMP that no process has the port.

    The carrier's own socket is not connected, and an error that waits on it would upset uvloop.
    """

    def __init__(self, name: tuple[Any, ...]) -> None:
        """Ask for the first time. `name` is the peer's UDP address, as sockets have it."""
        family = socket.AF_INET6 if len(name) == 4 else socket.AF_INET
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.connect(name)
        except OSError:
            pass  # then the association's packets, or that none come, show it
        self.ask()

    def ask(self) -> None:
        try:
            if self._socket is not None:
                self._socket.send(b"")
        except OSError:
            pass  # a refusal may be reported here, too; the next look sees another, or heartbeats show it in time

    def refused(self) -> bool:
        """Whether the peer's host has answered, since this was last called, that no process has the port."""
        try:
            if self._socket is not None:
                self._socket.recv(1)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass  # no answer is there
        return False

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
