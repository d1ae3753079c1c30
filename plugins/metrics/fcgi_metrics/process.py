"""Figures of this process, from /proc. Figures that the system does not provide are left out."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable

__all__ = ["process_figures"]


def _stat() -> list[str]:
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        # the second field is a name in parentheses that may hold anything
        return file.read().rpartition(")")[2].split()


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # without the descriptor of the listing itself
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # all are open, which the operator must see


def _start_time() -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        uptime = float(file.read().split()[0])
    return time.time() - uptime + int(_stat()[19]) / os.sysconf("SC_CLK_TCK")


def _started() -> float:
    """Return the start time, read once: the clocks that it is computed from drift."""
    global _start
    if _start is None:
        _start = round(_start_time(), 2)
    return _start


_start: float | None = None
_FIGURES: dict[str, Callable[[], float]] = {
    "process_cpu_seconds_total": time.process_time,
    "process_resident_memory_bytes": lambda: int(_stat()[21]) * os.sysconf("SC_PAGE_SIZE"),
    "process_open_fds": _open_files,
    "process_max_fds": lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "process_threads": lambda: int(_stat()[17]),
    "process_start_time_seconds": _started,
}


def process_figures() -> dict[str, float]:
    """Return the figures by name; see `families`."""
    figures = {}
    for name, read in _FIGURES.items():
        try:
            figures[name] = read()
        except (OSError, ValueError, IndexError):
            pass  # /proc is missing, or has another form
    return figures
