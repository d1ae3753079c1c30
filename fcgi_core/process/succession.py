"""A process that takes the place of another without a lost request: new code and configuration, the same sockets.

On SIGUSR2 a process starts its successor, with one end of a socket pair. Over it go, in this order::

    ->  a byte for each listening socket of the process, with the descriptors: 1 if this program made the socket; then
        the state of the process, as JSON: what an operator drained, what names stand for
    <-  "ready", when the successor listens at them too
    ->  "=" and the state, if it has changed meanwhile
    ->  descriptors of web servers' connections, whenever some have no requests, and a byte for each

Then the first process accepts no more, lets its requests end, and ends. A successor that ends before it is ready, or is
not ready in time, changes nothing. Connections that nobody serves any more would be lost with a request that is just
being written, so they are passed on open.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..common import listening
from .systemd import notify, tell_reloading

__all__ = ["Predecessor", "Successor"]

log = logging.getLogger("fcgi_sctp")

VARIABLE = "FCGI_SCTP_PREDECESSOR_FD"
"""Environment variable of a successor: the descriptor of its end of the socket pair."""
START_LIMIT = 60.0
"""Seconds in which the successor must be ready."""
CONNECT_WITHIN = 5.0
"""Seconds that a successor waits for its applications before it serves; until then its predecessor serves."""
ENDS_WITHIN = 2.0
"""Seconds that a successor that gives up may take to end; then it is killed."""
LOOK_FOR_END = 0.05
"""Seconds between looks whether it has ended."""
LOST = "%d connections of web servers could not be passed on and were closed"
MOST_DESCRIPTORS = 200
"""Descriptors in one message; Linux takes 253 (SCM_MAX_FD)."""
MOST_STATE = 100_000
"""Bytes of state in a message. The buffer of a socket has twice as many, and 1,024 applications of a name are 50 kB."""


class Successor:
    """Starts the process that is to take this one's place, and passes on to it."""

    def __init__(
        self, command: Sequence[str], serves: Callable[[], None], state: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        """`serves` is called when the successor serves and this process is to end. `state` returns what the successor
        is to know, as values for JSON."""
        self._command = command
        self._serves = serves
        self._state = state
        self._sent = b""
        """The state that the successor has."""
        self._loop = asyncio.get_running_loop()
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._waiting: list[int] = []
        self.is_ready = False
        """The successor serves."""

    def start(self) -> None:
        """Start the successor; what comes of it is logged."""
        if os.getpid() == 1:
            log.error("not reloaded: process 1 cannot be replaced, for its end is that of its container")
            return
        if self._channel is not None and self._process is not None:
            if self.is_ready:
                log.warning("not reloaded: process %d has taken the place of this one", self._process.pid)
            else:
                log.warning("not reloaded: process %d is starting already", self._process.pid)
            return
        tell_reloading()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = os.environ | {VARIABLE: str(theirs.fileno())}
        environment.pop("WATCHDOG_PID", None)  # it says who is watched, which changes
        try:
            self._process = subprocess.Popen(
                self._command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
            sockets = listening.hand_over()
            flags = bytes(made_here for _, made_here in sockets) or b"\0"
            self._sent = self._encoded()
            socket.send_fds(self._channel, [flags, self._sent], [sock.fileno() for sock, _ in sockets])
        except OSError as error:
            self._failed(f"it cannot be started: {error.strerror} ({error.filename or self._command[0]})")
            return
        finally:
            theirs.close()
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._readable)
        self._limit = self._loop.call_later(START_LIMIT, self._failed, f"it was not ready after {START_LIMIT:g} s")
        log.info("process %d is starting, to take the place of this one", self._process.pid)

    def _encoded(self) -> bytes:
        state = json.dumps(self._state()).encode()
        return state if len(state) <= MOST_STATE else b""

    def _readable(self) -> None:
        assert self._channel is not None
        assert self._process is not None
        try:
            said = self._channel.recv(16)
        except ConnectionResetError:
            said = b""  # it has not read its sockets
        if said == b"ready":
            self._stop_waiting()
            self.is_ready = True
            if (state := self._encoded()) != self._sent:
                with suppress(OSError):  # it has ended: nothing serves
                    self._channel.send(b"=" + state)
            listening.cease()
            log.info("process %d serves; this one ends its requests", self._process.pid)
            # a sign of life, too: systemd did not listen to the other one's until now
            notify(f"MAINPID={self._process.pid}\nREADY=1\nWATCHDOG=1")
            self._serves()
        else:
            self._stop_waiting()
            self._look_for_end(ENDS_WITHIN)

    def _look_for_end(self, within: float) -> None:
        """Wait for the end of a successor that has closed its socket, which is a little before."""
        assert self._process is not None
        if self._process.poll() is None and within > 0:
            self._limit = self._loop.call_later(LOOK_FOR_END, self._look_for_end, within - LOOK_FOR_END)
            return
        self._process.kill()
        self._failed(f"it ended with status {self._process.wait()}; its error message is above")

    def _stop_waiting(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _failed(self, why: str) -> None:
        self.cancel()
        log.error("not reloaded, this process serves on: no other could take its place: %s", why)
        notify("READY=1")

    def cancel(self) -> None:
        """End a successor that is not ready."""
        self._stop_waiting()
        if self.is_ready:
            return
        self.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Pass nothing more on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def pass_on(self, descriptor: int) -> None:
        """Pass a connection on, which is closed here."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(descriptor)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        lost = 0
        for first in range(0, len(waiting), MOST_DESCRIPTORS):
            some = waiting[first : first + MOST_DESCRIPTORS]
            try:
                assert self._channel is not None
                socket.send_fds(self._channel, [b"." * len(some)], some)
            except OSError:  # it has ended, or too many are on their way
                lost += len(some)
            for one in some:
                os.close(one)
        if lost:
            log.warning(LOST, lost)


class Predecessor:
    """The process whose place this one takes."""

    def __init__(self, channel: socket.socket, state: bytes) -> None:
        self.state = _decoded(state)
        """What it knew; empty if nothing can be read."""
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def find(cls) -> Predecessor | None:
        """Return the process that started this one to take its place, after adopting its sockets; None if there is
        none. OSError if it is gone."""
        number = os.environ.pop(VARIABLE, None)
        if number is None:
            return None
        channel = socket.socket(fileno=int(number))
        channel.set_inheritable(False)
        flags, descriptors, _, _ = socket.recv_fds(channel, MOST_DESCRIPTORS + MOST_STATE, MOST_DESCRIPTORS)
        for made_here, descriptor in zip(flags, descriptors, strict=False):
            listening.adopt(descriptor, made_here=bool(made_here))
        listening.hold_back()
        channel.setblocking(False)
        return cls(channel, flags[max(1, len(descriptors)) :])

    def tell_ready(
        self, serve: Callable[[socket.socket], Coroutine[Any, Any, None]], knows: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Report that this process serves. `serve` gets each connection that is passed on, `knows` a state that has
        changed since the start."""

        def readable() -> None:
            try:
                content, descriptors, _, _ = socket.recv_fds(self._channel, 1 + MOST_STATE, MOST_DESCRIPTORS)
            except OSError:
                content, descriptors = b"", []
            if content[:1] == b"=":
                knows(_decoded(content[1:]))
            elif lost := len(content) - len(descriptors):  # this process has no descriptors left
                log.warning(LOST, lost)
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                connection.set_inheritable(False)
                connection.setblocking(False)
                self._keep(serve(connection))
            if not content:
                self._loop.remove_reader(self._channel)
                self._channel.close()

        async def take_turn() -> None:
            await listening.accept_now()
            self._loop.add_reader(self._channel, readable)
            try:
                self._channel.send(b"ready")
            except OSError:
                pass  # it has ended meanwhile: this process serves alone

        self._keep(take_turn())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _decoded(state: bytes) -> Mapping[str, Any]:
    """Return the state that another process sent; empty if it is none, such as that of another version."""
    try:
        found = json.loads(state)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
