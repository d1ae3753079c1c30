"""The two sides, put together from a configuration and started."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..app.fastcgi.bridge import FastcgiBridge
from ..app.imported_application import ImportedApplication
from ..app.service import Application, AppService
from ..common import listening
from ..common.loggers import keep_all_enabled
from ..errors import ConfigError
from ..hosting.supervisor import Supervisor
from ..protocol.settings import MAX_NAME, Settings
from ..sctp import open_carrier
from ..sctp.carrier import Address
from ..sctp.endpoints import advertisement, resolve, shifted
from ..web.feed import Feed
from ..web.members import BackEndOptions, NameOptions
from ..web.names import Names, Watched
from ..web.probe import ProbeOptions
from ..web.resolver import DnsResolver
from ..web.service import WebOptions, WebService
from .admin import AdminServer, Commands, open_admin
from .config import ADMIN_DIRECTORY, AUTO, AppConfig, BackEndConfig, Config, WebConfig
from .reload import reload_plugins, reload_workers
from .status import app_commands, web_commands
from .succession import CONNECT_WITHIN, Predecessor
from .systemd import adopt_sockets, notify
from .values import name_server, srv_name
from .workers import (
    COUNT_VARIABLE,
    WORKER_VARIABLE,
    Workers,
    end_with_parent,
    over_limit_before,
    tell_ready,
    worker_command,
)

__all__ = ["Running", "start_app", "start_web", "try_app"]

log = logging.getLogger("fcgi_sctp")


@dataclass(frozen=True, slots=True)
class Running:
    """A side that runs, and what the process does with it."""

    stop: Callable[[], Awaitable[None]]
    reload: Callable[[], None]
    """Called on SIGHUP."""
    reopen: Callable[[], None]
    """Called on SIGUSR1."""
    supervisor: Supervisor | None = None
    """Runs the plugins; None in the parent of workers."""
    close: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Called after `stop`, and after the atexit functions of the application."""
    hangs: Callable[[], bool] = lambda: False
    """Whether threads or tasks may hang, which would hold up the end of the process."""
    pass_on: Callable[[Callable[[int], None]], None] | None = None
    """Called before `stop` when another process takes the place of this one, with what takes connections for it. None
    if no process can."""
    state: Callable[[], Mapping[str, Any]] = dict
    """What a process that takes the place of this one is to know."""
    tell_ready: Callable[[], None] = lambda: notify("READY=1")
    """Called when the process serves and takes signals."""


async def start_web(config: Config, web: WebConfig) -> Running:
    adopt_sockets()
    predecessor = Predecessor.find()
    carrier = open_carrier(config.sctp.carrier, config.sctp.carrier_options())
    feed = Feed(web.feed, group=web.feed_group) if web.feed is not None else None
    feed_is_wanted = "feed" in web.model_fields_set
    if feed is not None and not feed_is_wanted:
        try:
            os.makedirs(os.path.dirname(feed.path), exist_ok=True)
        except OSError:
            pass  # only root may do that below /run; the service runs without a feed
    service = WebService(
        carrier,
        web.listen,
        _members(web),
        plugins=config.load_plugins(),
        settings=_settings(config, web.name or socket.gethostname()),
        feed=feed,
        names=Names(DnsResolver([name_server(one) for one in web.nameservers]), asyncio.get_running_loop()),
        options=WebOptions(
            request_timeout=web.request_timeout,
            queue_timeout=web.queue_timeout,
            queue_length=web.queue_length,
            slow_start=web.slow_start,
            max_workers=web.max_workers,
            subset=web.subset,
            identity=_identity(web),
            grace=web.grace,
            probes=None if web.health is None else ProbeOptions(**web.health.model_dump()),
            needs_feed=feed_is_wanted,
            socket_mode=web.mode,
            socket_group=web.socket_group,
        ),
    )
    if predecessor is None:
        await service.start()
    else:
        service.members.take_over(predecessor.state)
        await service.start(CONNECT_WITHIN, must_reach=bool(predecessor.state.get("reached")))
    for listen in web.listen if web.mode & 0o002 else ():
        if listen.startswith("unix:"):
            log.info(
                "every local user may send requests to %s (mode %04o); set web.socket_group to limit that",
                *(listen, web.mode),
            )
    admin = await _open_admin(web.admin, "web", web.admin_group, web_commands(service))

    def adopt(fresh: WebConfig) -> None:
        service.members.configure(_members(fresh), fresh.subset)

    if strange := listening.release_unused():
        await _stop(admin, service.stop(0))
        raise ConfigError(
            [
                f"web.listen: systemd passed a socket at {where}, which is not in it; "
                "use the same address there and as ListenStream= in the .socket unit"
                for where in strange
            ]
        )
    pass_on: list[Callable[[int], None]] = []
    running = Running(
        lambda: _stop(admin, service.stop(web.grace, *pass_on)),
        lambda: reload_plugins(config, service.supervisor, adopt),
        service.supervisor.reopen,
        service.supervisor,
        pass_on=pass_on.append,
        state=service.members.state,
    )
    # a predecessor tells systemd with the number of the process that is the main one now
    if predecessor is None:
        return running
    return replace(running, tell_ready=partial(predecessor.tell_ready, service.serve, service.members.take_over))


def _identity(web: WebConfig) -> str:
    """Return what tells a web side from others, see `WebSide`. On one host no two listen at the same sockets."""
    name = web.name if web.name[-1:].isdigit() else socket.gethostname().partition(".")[0]
    return " ".join((name.replace(" ", "_"), *web.listen))


def _members(web: WebConfig) -> list[BackEndOptions | NameOptions]:
    return [_member(one) for one in web.connect]


def _member(one: BackEndConfig) -> BackEndOptions | NameOptions:
    associations = None if one.associations == "auto" else one.associations
    if one.srv is not None:
        name, udp_port = srv_name(one.srv)
        return NameOptions(Watched("srv", name), udp_port, weight=one.weight, associations=associations)
    address = Address.parse(str(one))
    if one.dns is not None:
        watched = Watched("dns", address.hosts[0])
        return NameOptions(watched, address.udp_port, address.port, one.weight, associations)
    return BackEndOptions(address, one.weight, associations)


async def _start_workers(config: Config, app: AppConfig, count: int) -> Running:
    workers = Workers(count, worker_command(), app.grace, app.request_limit, tries=True)
    await workers.start()
    return Running(workers.stop, lambda: reload_workers(config, workers), workers.reopen)


async def try_app(config: Config, app: AppConfig) -> None:
    """Import the application and the plugins as a worker does. It raises the errors of `start_app`."""
    config.load_plugins()
    application = _application(app)
    if isinstance(application, ImportedApplication):
        application.load()


async def start_app(config: Config, app: AppConfig) -> Running:
    number = os.environ.get(WORKER_VARIABLE)
    if app.workers is not None and number is None:
        return await _start_workers(config, app, app.workers)
    # the parent's count: the file may have another by now
    worker, count = int(number or 0), int(os.environ.get(COUNT_VARIABLE) or 1)
    listen = [await resolve(Address.parse(text)) for text in app.listen]
    name = app.name or app.application or (app.fastcgi.address if app.fastcgi else "")
    service = AppService(
        _application(app),
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
        max_associations_per_web_side=config.sctp.max_associations_per_web_side,
        request_limit=app.request_limit,
        is_replaced=number is not None,
    )
    keep_all_enabled("fcgi_sctp")
    await service.start()
    admin = await _open_admin(app.admin, "app", app.admin_group, app_commands(service, over_limit_before()), number)
    end_with_parent()
    if app.request_limit is None and app.max_requests is None and app.max_memory is None:
        stop_beats = tell_ready()
    else:
        stop_beats = tell_ready(lambda: service.supervisor.requests_over_limit, lambda: _is_spent(service, app))

    async def stop() -> None:
        await _stop(admin, service.finish(app.grace))
        stop_beats()

    return Running(
        stop,
        lambda: reload_plugins(config, service.supervisor),
        service.supervisor.reopen,
        service.supervisor,
        service.close,
        lambda: service.supervisor.requests_over_limit > 0,
    )


def _application(app: AppConfig) -> Application:
    if app.fastcgi is not None:
        return FastcgiBridge(**app.fastcgi.model_dump())
    assert app.application is not None
    return ImportedApplication(
        app.application,
        path=app.path,
        interface=app.interface,
        threads=app.threads,
        script_name=app.script_name,
        virtualenv=app.virtualenv,
    )


async def _open_admin(
    wanted: str | None, side: str, group: str | None, commands: Commands, worker: str | None = None
) -> AdminServer | None:
    """Return the admin socket that the configuration wants, None for none. OSError; `auto` logs that instead."""
    if wanted is None:
        return None
    path = f"{ADMIN_DIRECTORY}/{side}.sock" if wanted == AUTO else wanted
    if worker is not None:
        path = f"{path.removesuffix('.sock')}.{worker}.sock"
    return await open_admin(path, commands, group, needed=wanted != AUTO)


async def _stop(admin: AdminServer | None, stopping: Awaitable[None]) -> None:
    await stopping
    if admin is not None:
        admin.close()


def _is_spent(service: AppService, app: AppConfig) -> bool:
    """Return whether another worker is to take the place of this one."""
    memory = _resident_memory()
    if app.max_requests is not None and service.shared.requests_ended >= app.max_requests:
        log.info("this worker has handled %d requests and is replaced", service.shared.requests_ended)
    elif app.max_memory is not None and memory > app.max_memory:
        log.warning("this worker has grown to %d bytes of memory and is replaced", memory)
    else:
        return service.limit is not None and service.limit.hanging > 0
    return True


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
