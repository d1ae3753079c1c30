"""Worker processes: an application on several processors, each worker with an endpoint and associations of its own.

The parent runs no application. It starts each worker as a program of its own (a fresh interpreter: what SCTP and
threads hold does not survive a fork), restarts the ones that end, with a growing pause if they end at once, and on
SIGHUP replaces them one after the other: a worker is told to stop, sends DRAIN, ends what it has, and its successor
takes its place before the next one's turn comes. The web side sends to the others meanwhile, or lets requests wait.

Worker k listens on the configured port + k (and the UDP port + k); all of them tell the web side of all in SETTINGS, so
that the web side is configured with one address.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from ..errors import WorkerError

__all__ = ["READY_VARIABLE", "WORKER_VARIABLE", "Workers", "tell_ready", "worker_command"]

log = logging.getLogger("fcgi_sctp.app")

WORKER_VARIABLE = "FCGI_SCTP_WORKER"
"""Environment of a worker: its number, from 0."""
READY_VARIABLE = "FCGI_SCTP_READY_FD"
"""Environment of a worker: the file descriptor to write to when it listens."""
FIRST_PAUSE = 0.1
"""Seconds before a worker that ended at once is started again; doubled each time."""
LAST_PAUSE = 10.0
LONG_ENOUGH = 10.0
"""Seconds that a worker must have run for its end not to count as at once."""
START_LIMIT = 60.0
"""Seconds that a worker has to become ready; importing a large application takes a while."""


def tell_ready() -> None:
    """In a worker: it listens."""
    descriptor = os.environ.pop(READY_VARIABLE, None)
    if descriptor is not None:
        os.write(int(descriptor), b"1")
        os.close(int(descriptor))


class Workers:
    """The parent's work."""

    def __init__(self, count: int, command: Sequence[str], grace: float) -> None:
        """`command` starts a worker, which finds its number in its environment; it has `grace` seconds to end."""
        self._command = command
        self._grace = grace
        self._slots = [_Slot(self, number) for number in range(count)]
        self._reloading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all, and wait until they listen. WorkerError if one ends before it does."""
        results = await asyncio.gather(*(slot.start() for slot in self._slots))
        if not all(results):
            await self.stop()
            raise WorkerError("a worker ended before it was ready; its own message is above")
        for slot in self._slots:
            slot.keep()

    def reload(self) -> None:
        """Replace all workers, one after the other. A second call while it goes on does nothing."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    def reopen(self) -> None:
        """Hand SIGUSR1 on to all workers."""
        for slot in self._slots:
            slot.send(signal.SIGUSR1)

    async def _reload(self) -> None:
        log.info("replacing %d workers", len(self._slots))
        for slot in self._slots:
            await slot.replace()
        log.info("all workers are replaced")

    async def stop(self) -> None:
        """End all workers; those that do not end in time are killed."""
        if self._reloading is not None:
            self._reloading.cancel()
        await asyncio.gather(*(slot.stop() for slot in self._slots))


class _Slot:
    """One worker's place."""

    def __init__(self, owner: Workers, number: int) -> None:
        self._owner = owner
        self._number = number
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self._stopping = False
        self._replaced = asyncio.Event()

    async def start(self) -> bool:
        """Start the worker and wait until it listens; False if it ended instead."""
        reader, writer = os.pipe()
        environment = os.environ | {WORKER_VARIABLE: str(self._number), READY_VARIABLE: str(writer)}
        environment.pop("NOTIFY_SOCKET", None)  # the service manager listens to the parent alone
        self._started = asyncio.get_running_loop().time()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._owner._command, env=environment, pass_fds=[writer], stdin=asyncio.subprocess.DEVNULL
            )
        finally:
            os.close(writer)
        ready = await _byte_from(reader)
        if ready:
            log.info("worker %d is ready, process %d", self._number, self._process.pid)
        return ready

    def keep(self) -> None:
        """Start the worker again whenever it ends."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            assert self._process is not None
            status = await self._process.wait()
            if self._stopping:
                return
            if not self._replacing and status != 0:
                log.error("worker %d ended with status %d", self._number, status)
            if status != 0 and loop.time() - self._started < LONG_ENOUGH:
                log.error("worker %d is started again in %.1f s", self._number, self._pause)
                await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 2, LAST_PAUSE)
            else:
                self._pause = FIRST_PAUSE
            if not self._stopping and await self.start():
                self._replacing = False
                self._replaced.set()

    _replacing = False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker, if there is one now."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def replace(self) -> None:
        """End the worker gracefully and wait until its successor listens."""
        self._replaced.clear()
        self._replacing = True
        await self._end()
        await self._replaced.wait()

    async def stop(self) -> None:
        self._stopping = True
        await self._end()
        if self._keeper is not None:
            self._keeper.cancel()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            # the worker itself gives up its requests after the grace; this is for one that does not even do that
            await asyncio.wait_for(process.wait(), self._owner._grace + 5)
        except TimeoutError:
            log.error("worker %d does not end and is killed", self._number)
            process.kill()
            await process.wait()


async def _byte_from(reader: int) -> bool:
    """Wait for a byte from the pipe; False at its end, or when it takes too long."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[bool] = loop.create_future()

    def readable() -> None:
        loop.remove_reader(reader)
        arrived.set_result(os.read(reader, 1) != b"")

    loop.add_reader(reader, readable)
    try:
        return await asyncio.wait_for(arrived, START_LIMIT)
    except TimeoutError:
        loop.remove_reader(reader)
        return False
    finally:
        os.close(reader)


def worker_command() -> list[str]:
    """How this program was called, for its workers."""
    return [sys.executable, "-m", "fcgi_cli", *sys.argv[1:]]
