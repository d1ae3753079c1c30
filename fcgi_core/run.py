"""Runs a side as a process: event loop, signals, log, and the parts put together from a configuration."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from .app.service import AppService
from .app.wsgi import WsgiApplication
from .config import AppConfig, Config, WebConfig
from .errors import ConfigError
from .names import resolve
from .sctp import open_carrier
from .sctp.carrier import Address
from .settings import Settings
from .web.feed import Feed
from .web.service import BackEndOptions, WebOptions, WebService

__all__ = ["load_application", "run_app", "run_web"]

log = logging.getLogger("fcgi_sctp")


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


async def _start_web(config: Config, web: WebConfig) -> Callable[[], Awaitable[None]]:
    carrier = open_carrier(config.sctp.carrier, config.sctp.carrier_options())
    feed = Feed(web.feed, group=web.feed_group) if web.feed is not None else None
    service = WebService(
        carrier,
        web.listen,
        [BackEndOptions(Address.parse(one.address), one.weight) for one in web.connect],
        plugins=config.load_plugins(),
        settings=_settings(config, web.name or socket.gethostname()),
        plan=config.sctp.plan,
        feed=feed,
        options=WebOptions(
            request_timeout=web.request_timeout,
            queue_timeout=web.queue_timeout,
            queue_length=web.queue_length,
            slow_start=web.slow_start,
            socket_mode=int(web.socket_mode, 8),
        ),
    )
    await service.start()
    return lambda: service.stop(web.grace)


async def _start_app(config: Config, app: AppConfig) -> Callable[[], Awaitable[None]]:
    assert app.application is not None
    sys.path.insert(0, app.path or os.getcwd())
    application = WsgiApplication(load_application(app.application), threads=app.threads, script_name=app.script_name)
    listen = [await resolve(Address.parse(text)) for text in app.listen]
    service = AppService(
        application,
        open_carrier(config.sctp.carrier, config.sctp.carrier_options()),
        listen,
        plugins=config.load_plugins(),
        settings=_settings(config, app.name or app.application),
        plan=config.sctp.plan,
    )
    await service.start()
    return lambda: service.stop(app.grace)


def load_application(name: str) -> Any:
    """The object that MODULE:CALLABLE names; ConfigError if there is none. The module's own errors pass through."""
    module_name, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise ConfigError(
                [f"app.application: {name!r}: no module {error.name!r} on {sys.path[0]} or Python's path"]
            ) from None
        raise
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise ConfigError([f"app.application: {name!r}: module {module_name!r} has no {attributes!r}"]) from None
    if not callable(found):
        raise ConfigError([f"app.application: {name!r} is {type(found).__name__}, which cannot be called"])
    return found


def _settings(config: Config, name: str) -> Settings:
    sctp = config.sctp
    return Settings(max_requests=sctp.max_requests, window=sctp.window, max_message=sctp.max_message, name=name)


def _run(config: Config, start: Callable[[], Coroutine[Any, Any, Callable[[], Awaitable[None]]]]) -> None:
    _start_log(config.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_main(start))


async def _main(start: Callable[[], Coroutine[Any, Any, Callable[[], Awaitable[None]]]]) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    stop = await start()
    # what is there now stays; requests free what they held without help, so the collector need not come often
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    log.info("ready")
    await stopping.wait()
    log.info("stopping")
    await stop()


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
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False
    # uncaught exceptions of the application go both ways: to the operator and to the plugins
    logging.getLogger("fcgi_sctp.application").parent = logging.getLogger()
    logging.getLogger("fcgi_sctp.application").addHandler(handler)
