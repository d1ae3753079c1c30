"""Whether a process still has a peer's UDP port: a process that was killed says nothing, but its host does."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol

__all__ = ["PortProbe", "PortUser", "PortWatch", "PortWatches"]

INTERVAL = 0.4
"""Seconds between probes of a port that is watched."""
REFUSALS = 2
"""Probes in a row that must be refused before no process is taken to have the port: one forged ICMP message ends
nothing."""


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


class PortUser(Protocol):
    """Watches a port, as the watch calls it."""

    def port_looked_at(self, gone: bool) -> None:
        """Called after each probe; `gone`: no process has the port any more."""


class PortWatch:
    """Probes one UDP port for all who watch it."""

    def __init__(self, watches: PortWatches, name: tuple[Any, ...]) -> None:
        self.users: set[PortUser] = set()
        self._watches = watches
        self._name = name
        self._probe = PortProbe(name)
        self._refusals = 0
        self._timer = watches.loop.call_later(INTERVAL, self._look)

    def discard(self, user: PortUser) -> None:
        """Stop watching; without a user there is no probe."""
        self.users.discard(user)
        if not self.users and self._watches.all.pop(self._name, None) is not None:
            self._timer.cancel()
            self._probe.close()

    def _look(self) -> None:
        self._refusals = self._refusals + 1 if self._probe.refused() else 0
        self._probe.ask()
        self._timer = self._watches.loop.call_later(INTERVAL, self._look)
        for user in tuple(self.users):
            user.port_looked_at(self._refusals >= REFUSALS)


class PortWatches:
    """The ports that are watched, each once however many associations its process has with this one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.all: dict[tuple[Any, ...], PortWatch] = {}

    def watch(self, name: tuple[Any, ...], user: PortUser) -> PortWatch:
        """Watch a port, until `discard`. `name` is its UDP address, as sockets have it."""
        watch = self.all.get(name)
        if watch is None:
            watch = self.all[name] = PortWatch(self, name)
        watch.users.add(user)
        return watch
