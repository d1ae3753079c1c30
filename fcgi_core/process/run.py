"""Runs a side as a process: event loop, signals and log."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from ..common import signals
from ..common.operator_log import LineFormatter
from ..hosting.hook_limit import HookLimit, end_process, is_started_again
from .config import Config
from .sides import Running, start_app, start_web, try_app
from .standstill import StandstillWatch
from .succession import Successor
from .systemd import JournalFormatter, Watchdog, journal_reads, notify
from .workers import TRIAL_VARIABLE, worker_command

__all__ = ["run_app", "run_web"]

log = logging.getLogger("fcgi_sctp")

EXIT_WITHIN = 2.0
"""Seconds that a process may take to end in which threads or tasks hang: Python waits for some threads without end."""

Start = Callable[[], Coroutine[Any, Any, Running]]


def run_web(config: Config) -> None:
    """Run the web side until SIGTERM or SIGINT. ConfigError, CarrierError, ListenError, PluginError, OSError."""
    assert config.web is not None
    web = config.web
    _run(config, lambda: start_web(config, web))


def run_app(config: Config) -> None:
    """Run the application side until SIGTERM or SIGINT. It raises the errors of `run_web`, and those of the
    application's import."""
    assert config.app is not None
    app = config.app
    if TRIAL_VARIABLE in os.environ:
        _start_log(config.log_level)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:  # code may ask for the running loop
            runner.run(try_app(config, app))
        with suppress(OSError, ValueError):
            print(end="", flush=True)
        os._exit(0)  # threads that the import has begun may go on without end
    _run(config, lambda: start_app(config, app))


def _run(config: Config, start: Start) -> None:
    _start_log(config.log_level)
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with ExitStack() as ending:
        ending.callback(runner.close)
        # registered first, so it runs after the atexit functions of the application, whose last lines are still sent
        at_exit = ExitStack()
        atexit.register(at_exit.close)
        running = runner.run(_main(start, config.hook_limit))
        close = None if running is None else running.close
        if running is not None and running.hangs():
            # the atexit functions of the application come after the threads, for which Python waits
            guard = threading.Timer(EXIT_WITHIN, os._exit, (0,))
            guard.daemon = True
            if close is not None:
                runner.run(close())
            guard.start()
            with suppress(OSError, ValueError):  # it is broken, or closed
                print(end="", flush=True)  # what the application printed and is not written yet
        elif close is not None:
            ending.callback(lambda: runner.run(close()))
            at_exit.push(ending.pop_all())


async def _main(start: Start, hook_limit: float | None) -> Running | None:
    """Run a side until it is to stop; return it, to be closed."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signals.handle(loop, number, stopping.set)
    early: set[signal.Signals] = set()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # without handlers they would end the process
        signals.handle(loop, number, partial(early.add, number))
    starting = loop.create_task(start())
    stopped = loop.create_task(stopping.wait())
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("stopping before the start is complete")
        starting.cancel()
        await asyncio.wait((starting,))
    stopped.cancel()
    if starting.cancelled():
        return None
    running = await starting
    successor = Successor(worker_command(), stopping.set, running.state)
    actions = {
        signal.SIGHUP: running.reload,
        signal.SIGUSR1: running.reopen,
        signal.SIGUSR2: _not_replaced if running.pass_on is None else successor.start,
    }
    for number, action in actions.items():
        signals.handle(loop, number, action)
    # objects made until now stay, and requests leave no cycles, so the collector need not run often
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    limit = None
    if running.supervisor is not None and hook_limit is not None:
        limit = HookLimit(running.supervisor, hook_limit, give_up=end_process if is_started_again() else None)
        limit.install()
    watch = StandstillWatch() if limit is None else StandstillWatch(limit.look)
    watch.start()
    watchdog = Watchdog()
    watchdog.start()
    log.info("ready")
    running.tell_ready()
    for number in early:
        actions[number]()
    await stopping.wait()
    successor.cancel()
    if successor.is_ready and running.pass_on is not None:
        watchdog.stop()  # systemd listens to the other process now
        running.pass_on(successor.pass_on)
    else:
        log.info("stopping")
        notify("STOPPING=1")
    await running.stop()
    successor.close()
    watchdog.stop()
    watch.stop()
    if limit is not None:
        limit.remove()
    return running


def _not_replaced() -> None:
    log.warning("SIGUSR2 ignored: it is for a web side; send SIGHUP, which replaces workers")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _start_log(level: str) -> None:
    """Write the operator's log to stderr. It does not pass through the root logger, so that no plugin sends the lines
    of this program to the other side as lines of the application."""
    handler = logging.StreamHandler()
    plain = LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JournalFormatter() if journal_reads(2) else plain)
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False
    logging.getLogger("asyncio").addHandler(handler)  # exceptions in call-backs
    # uncaught exceptions of the application go to the operator and, through the root logger, to the plugins; both know
    # the logger by this name
    logging.getLogger("fcgi_sctp.application").parent = logging.getLogger()
    logging.getLogger("fcgi_sctp.application").addHandler(handler)
