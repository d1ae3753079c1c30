"""Support for systemd: the state of the service (sd_notify(3)), log lines for the journal (sd-daemon(3)), and sockets
that it has opened (sd_listen_fds(3)). Without systemd nothing happens."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

from ..common import listening
from ..common.operator_log import LineFormatter
from ..errors import ConfigError

__all__ = ["JournalFormatter", "Watchdog", "adopt_sockets", "journal_reads", "notify", "tell_reloading"]

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""
MOST_SOCKETS = 64
"""More sockets than a web side listens at; $LISTEN_FDS may say anything."""


def journal_reads(descriptor: int) -> bool:
    """Return whether the descriptor leads to the journal ($JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalFormatter(LineFormatter):
    """Formats lines for the journal, which adds the time and the process. Each line begins with its severity, as in
    ``<3>``, the lines of a traceback too."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        severity = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        severity = 7 if record.levelno < logging.INFO else severity
        return "\n".join(f"<{severity}>{line}" for line in super().format(record).splitlines())


def notify(state: str) -> None:
    """Send `state`, such as ``READY=1``, to the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.sendto(state.encode(), path.replace("@", "\0", 1) if path[0] == "@" else path)
        except OSError:
            pass  # the manager does not listen; the service works without it


def tell_reloading() -> None:
    """Tell the service manager that a reload begins; READY=1 tells that it is over."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


class Watchdog:
    """Tells systemd regularly that the event loop works (WatchdogSec= of the unit); systemd restarts a service from
    which it hears nothing. Without $WATCHDOG_USEC it does nothing."""

    def __init__(self, is_well: Callable[[], bool] = lambda: True) -> None:
        """While `is_well` returns False systemd hears nothing either."""
        self._is_well = is_well
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        time_limit = os.environ.get("WATCHDOG_USEC", "")
        is_number = time_limit.isascii() and time_limit.isdigit() and len(time_limit) < 16
        for_us = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._interval = int(time_limit) / 1e6 / 2 if is_number and for_us else 0.0
        """Seconds between two signs of life: half of the time limit, as sd_watchdog_enabled(3) recommends."""

    def start(self) -> None:
        """Send signs of life from now on. systemd's own clock starts when the service is ready."""
        if self._interval:
            self._handle = self._loop.call_later(self._interval, self._beat)

    def stop(self) -> None:
        """Send no more; systemd's limit holds until the process has ended, unless it is stopping."""
        if self._handle is not None:
            self._handle.cancel()

    def _beat(self) -> None:
        if self._is_well():
            notify("WATCHDOG=1")
        self.start()


def adopt_sockets() -> None:
    """Adopt the listening sockets that systemd has passed to this process ($LISTEN_FDS). ConfigError if one of them is
    none that the web side could use."""
    process = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if process != str(os.getpid()):
        return  # they were for who started this process
    if not (count.isascii() and count.isdigit() and len(count) < 6 and int(count) <= MOST_SOCKETS):
        raise ConfigError([f"LISTEN_FDS: is {count!r}; systemd sets it to a number up to {MOST_SOCKETS}"])
    for number in range(int(count)):
        try:
            listening.adopt(FIRST_DESCRIPTOR + number, made_here=False)
        except ValueError as error:
            name = names[number] if number < len(names) else ""
            raise ConfigError(
                [f"LISTEN_FDS: {name or number}: {error}; use ListenStream= with a path or a port, and Accept=no"]
            ) from None
