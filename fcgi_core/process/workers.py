"""Worker processes: an application on several processors. Each worker has its own endpoint and associations.

The parent runs no application. It starts each worker as a new interpreter, because the state of SCTP and of threads
does not survive a fork. It restarts workers that end, with a growing pause if they end soon. On SIGHUP it replaces them
one after the other: a worker gets SIGTERM, sends DRAIN and ends its requests, and its successor listens before the next
worker is replaced. Meanwhile the web side sends requests to the other workers, or lets them wait. A successor can
listen only where the worker has ended, so another process tries before whether the application can be imported.

A worker that has reached a limit (`app.max_requests`, `app.max_memory`), or in which threads or tasks hang
(`app.request_limit`), reports that to the parent. It is replaced as on SIGHUP, when no other is being replaced, and
serves until then: all workers may reach a limit at the same time.

With `app.request_limit` each worker's event loop also writes a beat to the parent. A loop that stands still for so long
is blocked for good as far as one can tell, by an ASGI application that waits or by C code that keeps the interpreter to
itself. Nothing in the worker can act then, so the parent asks it for the frames of its threads, kills it, and starts
another.

When the parent is killed its workers end gracefully: each has one end of a pipe of which the parent alone has the
other, and sees it close. Otherwise they would keep the ports from the workers of the next parent.

Worker k listens on the configured port + k (and the UDP port + k). Each worker names all of them in SETTINGS, so that
the web side is configured with one address.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence

from ..errors import ConfigError, WorkerError

__all__ = [
    "COUNT_VARIABLE",
    "READY_VARIABLE",
    "TRIAL_VARIABLE",
    "WORKER_VARIABLE",
    "Workers",
    "end_with_parent",
    "over_limit_before",
    "tell_ready",
    "worker_command",
]

log = logging.getLogger("fcgi_sctp.app")

WORKER_VARIABLE = "FCGI_SCTP_WORKER"
"""Environment variable of a worker: its number, from 0."""
COUNT_VARIABLE = "FCGI_SCTP_WORKER_COUNT"
"""Environment variable of a worker: the number of workers."""
READY_VARIABLE = "FCGI_SCTP_READY_FD"
"""Environment variable of a worker: the file descriptor to write to when it listens."""
LIFE_VARIABLE = "FCGI_SCTP_LIFE_FD"
"""Environment variable of a worker: the file descriptor that reaches its end when the parent is gone."""
OVER_LIMIT_VARIABLE = "FCGI_SCTP_OVER_LIMIT"
"""Environment variable of a worker: how many requests `app.request_limit` has ended in the workers before it."""
TRIAL_VARIABLE = "FCGI_SCTP_TRIAL"
"""Environment variable of a process that imports the application as a worker does, and ends with status 0."""
FIRST_PAUSE = 0.1
"""Seconds before a worker that ended soon is started again; doubled each time, up to LAST_PAUSE."""
LAST_PAUSE = 10.0
LONG_ENOUGH = 10.0
"""Seconds after which the end of a worker does not count as soon."""
START_LIMIT = 60.0
"""Seconds in which a worker must listen; importing a large application takes a while."""
BEAT = 0.5
"""Seconds between beats of a worker's loop, and between looks at them."""
LIVES, OVER, SPENT, ENDS = b"1", b"o", b"s", b"0"
"""What a worker writes to its parent: it listens, or its loop still runs; a request was ended by the limit; it is to be
replaced; its loop runs no more, in order."""
SERVES = 1.0
"""Seconds that a worker serves at least, also if `app.max_memory` is less than it needs."""
FRAMES_WITHIN = 1.0
"""Seconds that a worker gets to write the frames of its threads before it is killed."""


def over_limit_before() -> int:
    """Return how many requests `app.request_limit` has ended in the workers before this one."""
    return int(os.environ.pop(OVER_LIMIT_VARIABLE, 0))


def tell_ready(over_limit: Callable[[], int] | None = None, is_spent: Callable[[], bool] = bool) -> Callable[[], None]:
    """Report to the parent that this worker listens. With `over_limit`, also that its loop runs, how many requests were
    over the limit, and once that it `is_spent` and to be replaced, until what this returns is called. SIGQUIT then
    writes the frames of all threads to standard error, even while the loop stands still."""
    descriptor = os.environ.pop(READY_VARIABLE, None)
    if descriptor is None:
        return lambda: None
    pipe = int(descriptor)
    if over_limit is not None:
        faulthandler.register(signal.SIGQUIT, file=2)  # first: the parent may send it as soon as it hears
    os.write(pipe, LIVES)
    if over_limit is None:
        os.close(pipe)
        return lambda: None
    os.set_inheritable(pipe, False)
    os.set_blocking(pipe, False)
    loop = asyncio.get_running_loop()
    ending, told, asked = False, 0, False
    serves_until = loop.time() + SERVES

    def beat() -> None:
        nonlocal told, asked
        count = over_limit()
        asks = not asked and loop.time() >= serves_until and is_spent()
        try:
            os.write(pipe, OVER * (count - told) + SPENT * asks + (ENDS if ending else LIVES))
            told, asked = count, asked or asks
        except OSError:
            pass  # the parent does not run now, or is gone
        if not ending:
            loop.call_later(BEAT, beat)

    def end() -> None:
        nonlocal ending
        ending = True
        beat()

    beat()
    return end


def end_with_parent() -> None:
    """Send this worker SIGTERM when its parent is gone."""
    descriptor = os.environ.pop(LIFE_VARIABLE, None)
    if descriptor is None:
        return
    loop, life = asyncio.get_running_loop(), int(descriptor)
    os.set_inheritable(life, False)

    def gone() -> None:
        loop.remove_reader(life)
        log.error("the parent of this worker is gone: the worker stops")
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(life, gone)


class Workers:
    """Starts, restarts and replaces the workers, in their parent."""

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        grace: float,
        standstill_limit: float | None = None,
        tries: bool = False,
    ) -> None:
        """`command` starts a worker, which finds its number in its environment and gets `grace` seconds to end. A
        worker whose loop has no beat for `standstill_limit` seconds is replaced; None: none is. `tries`: the command
        knows TRIAL_VARIABLE."""
        self.count = count
        self._tries = tries
        self.standstill_limit = math.inf if standstill_limit is None else standstill_limit
        self._command = command
        self._grace = grace
        self._slots = [_Slot(self, number) for number in range(count)]
        self._life = os.pipe()
        self._reloading: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """Held while a worker is replaced, so that the others serve."""
        self._replacing: set[asyncio.Task[None]] = set()
        """Wait for their turn, or replace a worker."""

    async def start(self) -> None:
        """Start all workers and wait until they listen. WorkerError if one ends before; ConfigError if that is the
        file's fault, so that the service manager does not try again."""
        try:
            results = await asyncio.gather(*(slot.start() for slot in self._slots))
            if not all(results):
                problem = "a worker ended before it was ready; its error message is above"
                if any(slot.status == os.EX_CONFIG for slot in self._slots):
                    raise ConfigError([problem])
                raise WorkerError(problem)
        except BaseException:  # CancelledError, too: the program is to end while the workers start
            await self.stop()
            raise
        for slot in self._slots:
            slot.keep()

    def reload(self) -> None:
        """Replace all workers, one after the other. A second call has no effect until the first has ended."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    def reopen(self) -> None:
        """Send SIGUSR1 to all workers; one that starts opens its files anyway, and may take no signals yet."""
        for slot in self._slots:
            if slot.serves:
                slot.send(signal.SIGUSR1)

    async def _reload(self) -> None:
        # where a worker is down, its successor tries
        if self._tries and all(slot.serves for slot in self._slots) and not await self._can_start():
            log.error("not reloaded, the workers serve on: another one could not start; its error message is above")
            return
        log.info("replacing %d workers", len(self._slots))
        # workers that are down first: a worker that serves ends only when another has come up
        for slot in sorted(self._slots, key=lambda slot: slot.serves):
            async with self._turn:
                await slot.replace()
        log.info("all workers are replaced")

    async def _can_start(self) -> bool:
        """Whether a worker could import the application, as far as another process can."""
        environment = os.environ | {TRIAL_VARIABLE: "1", WORKER_VARIABLE: "0"}
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
            environment.pop(name, None)
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, env=environment, stdin=asyncio.subprocess.DEVNULL
            )
            return await asyncio.wait_for(process.wait(), START_LIMIT) == 0
        except TimeoutError:
            return False
        except OSError as error:  # no processes, descriptors or memory are left
            log.error("a worker cannot be started: %s", error.strerror)
            return False
        finally:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    def replace(self, slot: _Slot) -> None:
        """Replace a worker when its turn comes."""
        task = asyncio.get_running_loop().create_task(self._replace(slot, slot.process))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _replace(self, slot: _Slot, process: asyncio.subprocess.Process | None) -> None:
        async with self._turn:
            if slot.process is process and slot.serves:  # else it has been replaced meanwhile, or is being started
                await slot.replace()

    async def stop(self) -> None:
        """End all workers, and kill the workers that do not end in time."""
        tasks = {task for task in (self._reloading, *self._replacing) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)  # one ends the process that tries
        await asyncio.gather(*(slot.stop() for slot in self._slots))
        for end in self._life:
            os.close(end)


class _Slot:
    """The place of one worker, and the process in it."""

    def __init__(self, owner: Workers, number: int) -> None:
        self._owner = owner
        self._number = number
        self.process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self._ready = False
        """Whether the present process, or the last one, has listened."""
        self._stopping = False
        self._replacing = False
        self._replaced = asyncio.Event()
        self._pulse: _Pulse | None = None
        self._over_limit = 0
        """Requests that the limit has ended here."""

    @property
    def serves(self) -> bool:
        """Whether the worker runs and has listened."""
        return self._ready and self.process is not None and self.process.returncode is None

    @property
    def status(self) -> int | None:
        """What the process ended with; None: it runs, or there is none."""
        return None if self.process is None else self.process.returncode

    async def start(self) -> bool:
        """Start the worker and wait until it listens. Return False if it ended before or could not be started."""
        self._started = asyncio.get_running_loop().time()
        self.process, self._ready = None, False
        try:
            reader, writer = os.pipe()
            try:
                self.process = await self._run(writer)
                self._ready = await _byte_from(reader)
            finally:
                if self._ready:
                    self._pulse = _Pulse(reader, self._owner.standstill_limit, self._stands_still, self._heard)
                else:
                    os.close(reader)
        except OSError as error:  # no processes, descriptors or memory are left
            log.error("worker %d cannot be started: %s", self._number, error.strerror)
            return False
        if self._ready:
            log.info("worker %d is ready, process %d", self._number, self.process.pid)
        else:
            await self._end()  # in case it does not end by itself
        return self._ready

    async def _run(self, writer: int) -> asyncio.subprocess.Process:
        life = self._owner._life[0]
        names = {
            WORKER_VARIABLE: self._number,
            COUNT_VARIABLE: self._owner.count,
            READY_VARIABLE: writer,
            LIFE_VARIABLE: life,
            OVER_LIMIT_VARIABLE: self._over_limit,
        }
        environment = os.environ | {name: str(value) for name, value in names.items()}
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
            environment.pop(name, None)  # the service manager listens to the parent alone
        try:
            return await asyncio.create_subprocess_exec(
                *self._owner._command, env=environment, pass_fds=[writer, life], stdin=asyncio.subprocess.DEVNULL
            )
        finally:
            os.close(writer)

    def keep(self) -> None:
        """Restart the worker whenever it ends."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            status = 1 if self.process is None else await self.process.wait()
            self._forget_pulse()
            if self._stopping:
                return
            if self.process is not None and not self._replacing and status != 0:
                log.error("worker %d ended with status %d", self._number, status)
            if not self._ready or (status != 0 and loop.time() - self._started < LONG_ENOUGH):
                log.error("worker %d is restarted in %.1f s", self._number, self._pause)
                await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 2, LAST_PAUSE)
            else:
                self._pause = FIRST_PAUSE
            if not self._stopping and await self.start():
                self._replacing = False
                self._replaced.set()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def replace(self) -> None:
        """End the worker gracefully and wait until its successor listens."""
        self._replaced.clear()
        self._replacing = True
        await self._end()
        await self._replaced.wait()

    def _forget_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None

    def _heard(self, told: bytes) -> None:
        self._over_limit += told.count(OVER)
        if SPENT in told and not self._stopping:
            self._owner.replace(self)

    def _stands_still(self, seconds: float) -> None:
        """Kill the worker, after it has written the frames of its threads."""
        process = self.process
        assert process is not None
        log.error(
            "the event loop of worker %d, process %d, has stood still for %.1f s, longer than app.request_limit; the"
            " worker is replaced, and writes the frames of its threads",
            *(self._number, process.pid, seconds),
        )
        self._replacing = True
        self.send(signal.SIGQUIT)
        asyncio.get_running_loop().call_later(FRAMES_WITHIN, self._kill, process)

    @staticmethod
    def _kill(process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.kill()

    async def stop(self) -> None:
        self._stopping = True
        self._forget_pulse()
        if self._keeper is not None:
            # first, because it may be about to start another process
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        await self._end()

    async def _end(self) -> None:
        process = self.process
        if process is None or process.returncode is not None:
            return
        try:
            process.send_signal(signal.SIGTERM)
        except ProcessLookupError:
            pass  # it has just ended
        try:
            # a worker gives up its requests after the grace itself; this is for a worker that hangs
            await asyncio.wait_for(process.wait(), self._owner._grace + 5)
        except TimeoutError:
            log.error("worker %d has not ended within %g s and is killed", self._number, self._owner._grace + 5)
            process.kill()
            await process.wait()


class _Pulse:
    """The beats of a worker's loop, which come through the pipe by which it has reported that it listens."""

    def __init__(
        self, reader: int, limit: float, stopped: Callable[[float], None], heard: Callable[[bytes], None]
    ) -> None:
        """`stopped` is called once, with the seconds since the last beat, when there was none for `limit` seconds;
        `heard` with what the worker has written."""
        self._reader = reader
        self._limit = limit
        self._stopped = stopped
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._last = self._looked = self._loop.time()
        os.set_blocking(reader, False)
        self._loop.add_reader(reader, self._beats)
        self._handle = self._loop.call_later(BEAT, self._look)

    def close(self) -> None:
        self._beats()  # the last ones
        self._handle.cancel()
        self._loop.remove_reader(self._reader)
        os.close(self._reader)

    def _beats(self) -> None:
        try:
            beats = os.read(self._reader, 4096)
        except BlockingIOError:
            return
        self._last = self._loop.time()
        self._heard(beats)
        if not beats or ENDS in beats:
            self._handle.cancel()
            self._loop.remove_reader(self._reader)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._looked > 4 * BEAT:
            self._last = now  # this process did not run either: it was stopped, or the machine was
        self._looked = now
        if now - self._last >= self._limit:
            self._stopped(now - self._last)
        else:
            self._handle = self._loop.call_later(BEAT, self._look)


async def _byte_from(reader: int) -> bool:
    """Wait for a byte from the pipe. Return False at the end of the pipe or after START_LIMIT."""
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
    """Return the command that starts a worker, from the arguments of this program. -P keeps the working directory out
    of the import path, as it is for the program itself: a yaml.py there would run in each worker."""
    return [sys.executable, "-P", "-m", "fcgi_cli", *sys.argv[1:]]
