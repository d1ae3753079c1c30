"""Runs a side as a process: event loop, signals, log, and the parts put together from a configuration."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..app.making import ConfiguredApplication, load_application
from ..app.service import AppService
from ..common import signals
from ..common.operator_log import LineFormatter
from ..errors import ConfigError
from ..hosting.hook_limit import HookLimit, end_process, is_started_again
from ..hosting.supervisor import Supervisor
from ..hosting.switching import adopt_plugins
from ..protocol.settings import MAX_NAME, Settings
from ..sctp import open_carrier
from ..sctp.carrier import Address
from ..sctp.endpoints import advertisement, resolve, shifted
from ..web.feed import Feed
from ..web.probe import ProbeOptions
from ..web.service import BackEndOptions, WebOptions, WebService
from .admin import AdminServer, Commands, open_admin, open_admin_if_possible
from .config import ADMIN_DIRECTORY, AUTO, AppConfig, Config, WebConfig
from .standstill import StandstillWatch
from .status import app_commands, web_commands
from .systemd import JournalFormatter, journal_reads, notify
from .workers import COUNT_VARIABLE, WORKER_VARIABLE, Workers, end_with_parent, tell_ready, worker_command

__all__ = ["load_application", "run_app", "run_web"]

log = logging.getLogger("fcgi_sctp")

OF_PARENT = ("app.workers", "app.grace", "log_level")
"""Options that the parent of workers uses itself."""
LOOK_AT_LIMITS = 1.0
"""Seconds between looks at a worker's limits."""


def run_web(config: Config) -> None:
    """Run the web side until SIGTERM or SIGINT. ConfigError, CarrierError, ListenError, PluginError, OSError."""
    assert config.web is not None
    web = config.web
    _run(config, lambda: _start_web(config, web))


def run_app(config: Config) -> None:
    """Run the application side until SIGTERM or SIGINT. Errors as of `run_web`, and what the application's import
    raises."""
    assert config.app is not None
    app = config.app
    _run(config, lambda: _start_app(config, app))


@dataclass(frozen=True, slots=True)
class Running:
    """A side that runs, as the process' main sees it."""

    stop: Callable[[], Awaitable[None]]
    reload: Callable[[], None] | None = None
    """What SIGHUP does."""
    reopen: Callable[[], None] | None = None
    """What SIGUSR1 does."""
    supervisor: Supervisor | None = None
    """Runs plugins in this process."""
    close: Callable[[], Coroutine[Any, Any, None]] | None = None
    """What comes after `stop`, and after all that the application does when the process ends (atexit)."""


async def _start_web(config: Config, web: WebConfig) -> Running:
    carrier = open_carrier(config.sctp.carrier, config.sctp.carrier_options())
    feed = Feed(web.feed, group=web.feed_group) if web.feed is not None else None
    feed_is_wanted = "feed" in web.model_fields_set
    if feed is not None and not feed_is_wanted:
        try:
            os.makedirs(os.path.dirname(feed.path), exist_ok=True)
        except OSError:
            pass  # only root may, below /run; the service goes on without
    service = WebService(
        carrier,
        web.listen,
        [BackEndOptions(Address.parse(one.address), one.weight) for one in web.connect],
        plugins=config.load_plugins(),
        settings=_settings(config, web.name or socket.gethostname()),
        feed=feed,
        options=WebOptions(
            request_timeout=web.request_timeout,
            queue_timeout=web.queue_timeout,
            queue_length=web.queue_length,
            slow_start=web.slow_start,
            max_workers=web.max_workers,
            probes=None if web.health is None else ProbeOptions(**web.health.model_dump()),
            needs_feed=feed_is_wanted,
            socket_mode=web.mode,
            socket_group=web.socket_group,
        ),
    )
    await service.start()
    for listen in web.listen if web.mode & 0o002 else ():
        if listen.startswith("unix:"):
            log.info(
                "any local user may send requests to %s, mode %04o; web.socket_group limits that", listen, web.mode
            )
    admin = await _open_admin(web.admin, "web", web.admin_group, web_commands(service))
    return Running(
        lambda: _stop(admin, service.stop(web.grace)),
        lambda: _adopt(config, service.supervisor),
        service.supervisor.reopen,
        service.supervisor,
    )


async def _start_workers(config: Config, app: AppConfig, count: int) -> Running:
    workers = Workers(count, worker_command(), app.grace)
    await workers.start()
    return Running(workers.stop, lambda: _replace_workers(config, workers), workers.reopen)


async def _start_app(config: Config, app: AppConfig) -> Running:
    number = os.environ.get(WORKER_VARIABLE)
    if app.workers is not None and number is None:
        return await _start_workers(config, app, app.workers)
    # the parent's count, for the file may say another since
    worker, count = int(number or 0), int(os.environ.get(COUNT_VARIABLE) or 1)
    listen = [await resolve(Address.parse(text)) for text in app.listen]
    name = app.name or app.application or (app.fastcgi.address if app.fastcgi else "")
    service = AppService(
        ConfiguredApplication(app),
        open_carrier(config.sctp.carrier, config.sctp.carrier_options()),
        [shifted(address, worker) for address in listen],
        plugins=config.load_plugins(),
        settings=_settings(
            config,
            f"{name}#{worker}" if number is not None else name,
            advertisement(listen[0], count) if listen else {},
        ),
        remote_changes=app.remote_changes,
        max_associations=config.sctp.max_associations,
        max_associations_per_address=config.sctp.max_associations_per_address,
    )
    await service.start()
    if app.max_requests is not None or app.max_memory is not None:
        _watch_limits(service, app)
    admin = await _open_admin(app.admin, "app", app.admin_group, app_commands(service), number)
    end_with_parent()
    tell_ready()
    return Running(
        lambda: _stop(admin, service.finish(app.grace)),
        lambda: _adopt(config, service.supervisor),
        service.supervisor.reopen,
        service.supervisor,
        service.close,
    )


async def _open_admin(
    wanted: str | None, side: str, group: str | None, commands: Commands, worker: str | None = None
) -> AdminServer | None:
    if wanted is None:
        return None
    path = f"{ADMIN_DIRECTORY}/{side}.sock" if wanted == AUTO else wanted
    if worker is not None:
        path = f"{path.removesuffix('.sock')}.{worker}.sock"
    if wanted == AUTO:
        return await open_admin_if_possible(path, commands, group)
    return await open_admin(path, commands, group)


async def _stop(admin: AdminServer | None, stopping: Awaitable[None]) -> None:
    await stopping
    if admin is not None:
        admin.close()


def _adopt(config: Config, supervisor: Supervisor) -> None:
    """SIGHUP: read the file anew and take over what can be changed while running, the plugins; one with an error
    changes nothing. Of what else has changed the log says that it waits for a restart."""
    fresh = _read_again(config)
    if fresh is None:
        return
    problems = adopt_plugins(supervisor, fresh.load_plugins())
    for problem in problems:
        log.error("configuration not taken over: %s", problem)
    _tell_what_waits(config.differences(fresh))
    if not problems:
        log.info("configuration taken over")


def _replace_workers(config: Config, workers: Workers) -> None:
    """SIGHUP in the parent: others take the workers' places, which read the file anew; not if it has an error."""
    if config.read_again is not None:
        fresh = _read_again(config)
        if fresh is None:
            return
        _tell_what_waits([path for path in config.differences(fresh) if path in OF_PARENT])
    workers.reload()


def _read_again(config: Config) -> Config | None:
    """The configuration as the file has it now; None if there is no file, or it has errors, which the log tells."""
    if config.read_again is None:
        log.warning("SIGHUP: there is no configuration file to read again")
        return None
    try:
        return config.read_again()
    except ConfigError as error:
        for problem in error.problems:
            log.error("configuration not taken over: %s", problem)
        return None


def _tell_what_waits(paths: list[str]) -> None:
    if paths:
        log.warning("changed in the file, and waiting for a restart: %s", ", ".join(paths))


def _watch_limits(service: AppService, app: AppConfig) -> None:
    """End this worker as SIGTERM would, once it has done enough: the parent starts another."""

    def look() -> None:
        memory = _resident_memory()
        if app.max_requests is not None and service.requests_ended >= app.max_requests:
            log.info("this worker has done %d requests and is replaced", service.requests_ended)
        elif app.max_memory is not None and memory > app.max_memory:
            log.warning("this worker has grown to %d bytes and is replaced", memory)
        else:
            service.loop.call_later(LOOK_AT_LIMITS, look)
            return
        os.kill(os.getpid(), signal.SIGTERM)

    service.loop.call_later(LOOK_AT_LIMITS, look)


def _resident_memory() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _settings(config: Config, name: str, others: dict[str, str] | None = None) -> Settings:
    sctp = config.sctp
    return Settings(
        max_requests=sctp.max_requests,
        window=sctp.window,
        max_message=sctp.max_message,
        name=name.encode("ascii", "replace").decode()[:MAX_NAME],  # it travels as latin-1 and is shown in logs
        others=others or {},
    )


def _run(config: Config, start: Callable[[], Coroutine[Any, Any, Running]]) -> None:
    _start_log(config.log_level)
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with ExitStack() as ending:
        ending.callback(runner.close)
        # what an application registers when it is imported comes before this, and its last lines still go
        at_exit = ExitStack()
        atexit.register(at_exit.close)
        running = runner.run(_main(start, config.hook_limit))
        close = running.close
        if close is not None:
            ending.callback(lambda: runner.run(close()))
            at_exit.push(ending.pop_all())


async def _main(start: Callable[[], Coroutine[Any, Any, Running]], hook_limit: float | None) -> Running:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signals.handle(loop, number, stopping.set)
    starting = loop.create_task(start())
    stopped = loop.create_task(stopping.wait())
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("stopping before all was started")
        starting.cancel()
        await asyncio.wait((starting,))
    stopped.cancel()
    if starting.cancelled():
        return Running(_nothing)
    running = await starting
    if running.reload is not None:
        signals.handle(loop, signal.SIGHUP, running.reload)
    if running.reopen is not None:
        signals.handle(loop, signal.SIGUSR1, running.reopen)
    # what is there now stays; requests free what they held without help, so the collector need not come often
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    limit = None
    if running.supervisor is not None and hook_limit is not None:
        limit = HookLimit(running.supervisor, hook_limit, give_up=end_process if is_started_again() else None)
        limit.install()
    watch = StandstillWatch() if limit is None else StandstillWatch(limit.look)
    watch.start()
    log.info("ready")
    notify("READY=1")
    await stopping.wait()
    log.info("stopping")
    notify("STOPPING=1")
    await running.stop()
    watch.stop()
    if limit is not None:
        limit.remove()
    return running


async def _nothing() -> None:
    """There is nothing to stop."""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _start_log(level: str) -> None:
    """The operator's log on stderr, which is not the application's: it does not pass through the root logger, so that
    no plugin sends the program's own lines to the other side."""
    handler = logging.StreamHandler()
    plain = LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JournalFormatter() if journal_reads(2) else plain)
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False
    logging.getLogger("asyncio").addHandler(handler)  # what was thrown in a call-back, by lastResort otherwise
    # uncaught exceptions of the application go both ways: to the operator and to the plugins
    logging.getLogger("fcgi_sctp.application").parent = logging.getLogger()
    logging.getLogger("fcgi_sctp.application").addHandler(handler)
