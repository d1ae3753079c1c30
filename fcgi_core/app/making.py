"""The application that a configuration asks for: a WSGI or ASGI callable, or a bridge to a FastCGI server.

It is imported when it is started and not before: plugins run by then, so they have what it says meanwhile.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from ..common import signals
from ..common.loggers import keep_all_enabled
from ..errors import ConfigError
from .asgi import AsgiApplication, is_asgi
from .fastcgi.bridge import FastcgiBridge
from .wsgi import WsgiApplication

if TYPE_CHECKING:
    from ..process.config import AppConfig
    from .service import AppExchange, Application, AppService

__all__ = ["ConfiguredApplication", "load_application", "make_application"]


class ConfiguredApplication:
    """Stands for the application until that is made, which is when the service starts it."""

    def __init__(self, app: AppConfig) -> None:
        self._app = app

    async def start(self, service: AppService) -> None:
        """Make the application, put it in this one's place, and start it. Errors as of `make_application`."""
        keep_all_enabled("fcgi_sctp")
        with signals.suspended():  # an import may wait for something that never comes
            service.application = make_application(self._app)
        await service.application.start(service)

    def request(self, exchange: AppExchange) -> None:
        raise AssertionError("there are no requests before the start")

    async def stop(self) -> None:
        """It was not started."""


def make_application(app: AppConfig) -> Application:
    """The application, not started. ConfigError, and what the import of the application's module raises."""
    if app.fastcgi is not None:
        bridge = app.fastcgi
        return FastcgiBridge(
            bridge.address,
            connections=bridge.connections,
            keep_connections=bridge.keep_connections,
            timeout=bridge.timeout,
        )
    assert app.application is not None
    sys.path.insert(0, app.path or os.getcwd())
    found = load_application(app.application)
    if app.interface == "asgi" or (app.interface == "auto" and is_asgi(found)):
        return AsgiApplication(found, script_name=app.script_name)
    return WsgiApplication(found, threads=app.threads, script_name=app.script_name)


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
