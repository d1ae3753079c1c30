"""SIGHUP: a running process reads its configuration file again. Plugins, and the applications of a web side, change
while it runs; the rest needs a restart. A file with an error changes nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from ..errors import ConfigError
from ..hosting.supervisor import Supervisor
from ..hosting.switching import adopt_plugins
from .config import Config, WebConfig
from .workers import Workers

__all__ = ["reload_plugins", "reload_workers"]

log = logging.getLogger("fcgi_sctp")

OF_PARENT = ("app.workers", "app.grace", "app.request_limit", "log_level")
"""Options that the parent of workers uses itself."""
OF_MEMBERS = re.compile(r"web\.(sites\.[^.]+|(sites\.[^.]+\.)?(connect|subset|server_name))")
"""Options that a web side changes while it runs."""


def reload_plugins(
    config: Config, supervisor: Supervisor, members: Callable[[WebConfig], list[str]] | None = None
) -> None:
    """Read the file again and adopt its plugins, and with `members`, on a web side, its applications and sites; it
    returns the options of these that it cannot adopt. The log names them, and the other options that have changed."""
    fresh = _read_again(config)
    if fresh is None:
        return
    problems = adopt_plugins(supervisor, fresh.load_plugins())
    _report(problems)
    waiting = config.differences(fresh)
    if members is not None and fresh.web is not None:
        left = members(fresh.web)
        waiting = [path for path in waiting if path in left or not OF_MEMBERS.fullmatch(path)]
    _report_waiting(waiting)
    if not problems:
        log.info("configuration reloaded")


def reload_workers(config: Config, workers: Workers) -> None:
    """Replace the workers with new ones, which read the file again."""
    if config.read_again is not None:
        fresh = _read_again(config)
        if fresh is None:
            return
        _report_waiting([path for path in config.differences(fresh) if path in OF_PARENT])
    workers.reload()


def _read_again(config: Config) -> Config | None:
    """Return the configuration that the file has now; None, with a line in the log, if there is no file or it has
    errors."""
    if config.read_again is None:
        log.warning("SIGHUP ignored: this process was started without a configuration file")
        return None
    try:
        return config.read_again()
    except ConfigError as error:
        _report(error.problems)
        return None


def _report(problems: list[str]) -> None:
    for problem in problems:
        log.error("configuration not reloaded: %s", problem)


def _report_waiting(paths: list[str]) -> None:
    if paths:
        log.warning("these options have changed in the file and need a restart: %s", ", ".join(paths))
