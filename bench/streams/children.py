"""Processes of a measurement: they end with their parent, and do not wait long for a processor that others use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

__all__ = ["settle"]

_PR_SET_PDEATHSIG = 1
NICE = -15
"""Their work is little, but what waits for a processor would be measured as the network's delay."""


def settle() -> None:
    """Called in the child: a session of its own, for Linux shares processors out by sessions, and a priority."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        Path("/proc/self/autogroup").write_text(str(NICE))
