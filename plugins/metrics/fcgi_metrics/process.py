"""Figures of this process, from /proc. What the system does not tell is left out."""

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
        return len(os.listdir("/proc/self/fd")) - 1  # the listing has one open itself
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # all: that is when the figure is wanted most


def _start_time() -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        uptime = float(file.read().split()[0])
    return time.time() - uptime + int(_stat()[19]) / os.sysconf("SC_CLK_TCK")


def _started() -> float:
    """The same in each answer: the clocks it is made of differ by a little each time."""
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
    """By name; see `families`."""
    figures = {}
    for name, read in _FIGURES.items():
        try:
            figures[name] = read()
        except (OSError, ValueError, IndexError):
            pass  # no such /proc here, or none of that form
    return figures
