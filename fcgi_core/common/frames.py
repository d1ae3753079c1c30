"""Where a thread or a task is, as text for the log."""

from __future__ import annotations

import traceback
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

__all__ = ["frames_of_awaitable", "frames_of_thread"]

FRAMES = 20
"""Innermost frames that are shown."""
MOST_DEPTH = 1000
"""Coroutines that wait for each other, as far as they are followed: the interpreter's limit of recursion."""


def frames_of_thread(frame: FrameType | None) -> str:
    """Returns the innermost frames of a thread, of which `frame` is the last; '' if it has none."""
    return "" if frame is None else "".join(traceback.format_stack(frame)[-FRAMES:]).rstrip()


def frames_of_awaitable(awaitable: Any) -> str:
    """Returns the innermost frames of what a task awaits, as far as they are Python's own; '' if there are none."""
    found: list[traceback.FrameSummary] = []
    frame: FrameType | None = None
    while len(found) < MOST_DEPTH:
        if isinstance(awaitable, CoroutineType):
            frame, awaitable = awaitable.cr_frame, awaitable.cr_await
        elif isinstance(awaitable, GeneratorType):
            frame, awaitable = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif isinstance(awaitable, AsyncGeneratorType):
            frame, awaitable = awaitable.ag_frame, awaitable.ag_await
        else:
            break
        if frame is None:
            break  # it has ended
        found += traceback.extract_stack(frame, 1)[-1:]
    return "".join(traceback.format_list(found[-FRAMES:])).rstrip()
