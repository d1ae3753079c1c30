"""A WSGI or ASGI application that is imported when the service starts, and not before: plugins run by then, so they
get what the application logs during its import.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

from ..common import signals
from ..errors import ConfigError
from .asgi import AsgiApplication, is_asgi
from .virtual_environment import adopt_environment, made_for_another_python
from .wsgi import WsgiApplication

if TYPE_CHECKING:
    from .exchange import AppExchange
    from .service import AppService

__all__ = ["ImportedApplication", "load_application"]


class ImportedApplication:
    """Stands for an application until the service starts it."""

    def __init__(
        self,
        name: str,
        *,
        path: str | None,
        interface: Literal["auto", "wsgi", "asgi"],
        threads: int,
        script_name: str,
        virtualenv: str | None = None,
    ) -> None:
        """`name` is MODULE:CALLABLE; `path` is put before Python's search path, None: the working directory, and the
        packages of `virtualenv` come next. `threads` are for WSGI."""
        self._name = name
        self._path = path
        self._virtualenv = virtualenv
        self._interface = interface
        self._threads = threads
        self._script_name = script_name

    async def start(self, service: AppService) -> None:
        """Import the application, put it in the place of this object, and start it. ConfigError, and whatever the
        module or the application's start raises."""
        found = self.load()
        if self._interface == "asgi" or (self._interface == "auto" and is_asgi(found)):
            service.application = AsgiApplication(found, script_name=self._script_name)
        else:
            service.application = WsgiApplication(found, threads=self._threads, script_name=self._script_name)
        await service.application.start(service)

    def load(self) -> Any:
        """Import the application and return it. It raises the errors of `load_application`."""
        if self._virtualenv is not None:
            adopt_environment(self._virtualenv)
        sys.path.insert(0, self._path or os.getcwd())
        with signals.suspended():  # an import may wait for something that never comes
            return load_application(self._name)

    def request(self, exchange: AppExchange) -> None:
        raise AssertionError("there are no requests before the start")

    async def stop(self) -> None:
        """Do nothing: the application was not started."""


def load_application(name: str) -> Any:
    """Return the object that MODULE:CALLABLE names. ConfigError if there is no such module or attribute, or the object
    cannot be called; errors that the module raises itself pass through."""
    module_name, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        if file := made_for_another_python(error):
            problem = (
                f"app.application: {name!r}: {file} was compiled for another Python than this one "
                f"({sys.version.split()[0]}, {sys.executable}): install its package again with this one"
            )
            raise ConfigError([problem]) from None
        if isinstance(error, ModuleNotFoundError) and error.name and module_name.startswith(error.name):
            raise ConfigError(
                [f"app.application: {name!r}: no module {error.name!r} in {sys.path[0]} or on Python's path"]
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
