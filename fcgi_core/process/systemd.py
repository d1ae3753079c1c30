"""Support for systemd: the state of the service (sd_notify(3)) and log lines for the journal (sd-daemon(3)). Without
systemd nothing happens."""

from __future__ import annotations

import logging
import os
import socket

from ..common.operator_log import LineFormatter

__all__ = ["JournalFormatter", "journal_reads", "notify"]


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
