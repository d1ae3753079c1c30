"""Worker processes: an application on several processors, each worker with an endpoint and associations of its own.

The parent runs no application. It starts each worker as a program of its own (a fresh interpreter: what SCTP and
threads hold does not survive a fork), restarts the ones that end, with a growing pause if they end at once, and on
SIGHUP replaces them one after the other: a worker is told to stop, sends DRAIN, ends what it has, and its successor
takes its place before the next one's turn comes. The web side sends to the others meanwhile, or lets requests wait.

A parent that is killed takes its workers along: each has an end of a pipe whose other end the parent alone has, and
ends gracefully when that is closed. Otherwise they would keep the ports from the next parent's.

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

__all__ = [
    "COUNT_VARIABLE",
    "READY_VARIABLE",
    "WORKER_VARIABLE",
    "Workers",
    "end_with_parent",
    "tell_ready",
    "worker_command",
]

log = logging.getLogger("fcgi_sctp.app")

WORKER_VARIABLE = "FCGI_SCTP_WORKER"
"""Environment of a worker: its number, from 0."""
COUNT_VARIABLE = "FCGI_SCTP_WORKER_COUNT"
"""Environment of a worker: how many there are."""
READY_VARIABLE = "FCGI_SCTP_READY_FD"
"""Environment of a worker: the file descriptor to write to when it listens."""
LIFE_VARIABLE = "FCGI_SCTP_LIFE_FD"
"""Environment of a worker: the file descriptor that is at its end when the parent is gone."""
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


def end_with_parent() -> None:
    """In a worker: SIGTERM to itself when the parent is gone."""
    descriptor = os.environ.pop(LIFE_VARIABLE, None)
    if descriptor is None:
        return
    loop, life = asyncio.get_running_loop(), int(descriptor)
    os.set_inheritable(life, False)

    def gone() -> None:
        loop.remove_reader(life)
        log.error("the parent of this worker is gone")
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(life, gone)


class Workers:
    """The parent's work."""

    def __init__(self, count: int, command: Sequence[str], grace: float) -> None:
        """`command` starts a worker, which finds its number in its environment; it has `grace` seconds to end."""
        self.count = count
        self._command = command
        self._grace = grace
        self._slots = [_Slot(self, number) for number in range(count)]
        self._life = os.pipe()
        self._reloading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all, and wait until they listen. WorkerError if one ends before it does."""
        try:
            results = await asyncio.gather(*(slot.start() for slot in self._slots))
            if not all(results):
                raise WorkerError("a worker ended before it was ready; its own message is above")
        except BaseException:  # cancelled, too: the program is to end while they start
            await self.stop()
            raise
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
        # first those that are down: one that serves does not go before another has come
        for slot in sorted(self._slots, key=lambda slot: slot.serves):
            await slot.replace()
        log.info("all workers are replaced")

    async def stop(self) -> None:
        """End all workers; those that do not end in time are killed."""
        if self._reloading is not None:
            self._reloading.cancel()
        await asyncio.gather(*(slot.stop() for slot in self._slots))
        for end in self._life:
            os.close(end)


class _Slot:
    """One worker's place."""

    def __init__(self, owner: Workers, number: int) -> None:
        self._owner = owner
        self._number = number
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self._ready = False
        """The process that runs, or ran last, has listened."""
        self._stopping = False
        self._replacing = False
        self._replaced = asyncio.Event()

    @property
    def serves(self) -> bool:
        """Whether it runs and has listened."""
        return self._ready and self._process is not None and self._process.returncode is None

    async def start(self) -> bool:
        """Start the worker and wait until it listens; False if it ended instead, or could not be started."""
        self._started = asyncio.get_running_loop().time()
        self._process, self._ready = None, False
        try:
            reader, writer = os.pipe()
            try:
                self._process = await self._run(writer)
                self._ready = await _byte_from(reader)
            finally:
                os.close(reader)
        except OSError as error:  # there are no more processes, descriptors or memory
            log.error("worker %d cannot be started: %s", self._number, error.strerror)
            return False
        if self._ready:
            log.info("worker %d is ready, process %d", self._number, self._process.pid)
        else:
            await self._end()  # if it does not end by itself
        return self._ready

    async def _run(self, writer: int) -> asyncio.subprocess.Process:
        life = self._owner._life[0]
        names = {
            WORKER_VARIABLE: self._number,
            COUNT_VARIABLE: self._owner.count,
            READY_VARIABLE: writer,
            LIFE_VARIABLE: life,
        }
        environment = os.environ | {name: str(value) for name, value in names.items()}
        environment.pop("NOTIFY_SOCKET", None)  # the service manager listens to the parent alone
        try:
            return await asyncio.create_subprocess_exec(
                *self._owner._command, env=environment, pass_fds=[writer, life], stdin=asyncio.subprocess.DEVNULL
            )
        finally:
            os.close(writer)

    def keep(self) -> None:
        """Start the worker again whenever it ends."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            status = 1 if self._process is None else await self._process.wait()
            if self._stopping:
                return
            if self._process is not None and not self._replacing and status != 0:
                log.error("worker %d ended with status %d", self._number, status)
            if not self._ready or (status != 0 and loop.time() - self._started < LONG_ENOUGH):
                log.error("worker %d is started again in %.1f s", self._number, self._pause)
                await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 2, LAST_PAUSE)
            else:
                self._pause = FIRST_PAUSE
            if not self._stopping and await self.start():
                self._replacing = False
                self._replaced.set()

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
        if self._keeper is not None:
            # first, for it may be about to start another
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            process.send_signal(signal.SIGTERM)
        except ProcessLookupError:
            pass  # it has just ended
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
        return False
    finally:
        loop.remove_reader(reader)


def worker_command() -> list[str]:
    """How this program was called, for its workers. -P: the working directory is no place to import from, as it is none
    for the program itself; a yaml.py there would run in each worker."""
    return [sys.executable, "-P", "-m", "fcgi_cli", *sys.argv[1:]]
