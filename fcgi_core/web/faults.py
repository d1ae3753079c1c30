"""The web side's own faults in the live feed: the warnings and errors of its log, among the lines of applications."""

from __future__ import annotations

import logging
import os
from asyncio import AbstractEventLoop
from collections.abc import Callable
from threading import get_ident

from ..plugin import FeedEntry
from .exchange import WebExchange

__all__ = ["LOGGER", "FaultFeed", "about", "logger_of"]

LOGGER = "fcgi_sctp.web"

WARNING, ERROR = 4, 3
"""Severities (RFC 5424 section 6.2.1)."""
DAEMON = 3
"""The facility of system daemons."""


def logger_of(site: str) -> logging.Logger:
    """Return the logger for lines about a site; '' is the only one, or none."""
    return logging.getLogger(f"{LOGGER}.{site}" if site else LOGGER)


def about(exchange: WebExchange) -> dict[str, object]:
    """Return the `extra` of a log record about a request: the feed then shows its virtual host and its identity."""
    return {"exchange": exchange}


class FaultFeed(logging.Handler):
    """Publishes log records of level WARNING and above. Any thread may log."""

    def __init__(self, publish: Callable[[FeedEntry], None], loop: AbstractEventLoop) -> None:
        super().__init__(logging.WARNING)
        self._publish = publish
        self._loop = loop
        self._loop_thread = get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        exchange: WebExchange | None = getattr(record, "exchange", None)
        entry = FeedEntry(
            record.created,
            ERROR if record.levelno >= logging.ERROR else WARNING,
            record.getMessage(),
            "" if exchange is None else exchange.server_name,
            "fcgi-sctp",
            DAEMON,
            str(os.getpid()),
            "web",
            "" if exchange is None else exchange.identity,
            {"site": site} if (site := record.name.removeprefix(LOGGER).removeprefix(".")) else None,
        )
        if get_ident() == self._loop_thread:
            self._publish(entry)
        else:
            self._loop.call_soon_threadsafe(self._publish, entry)
