"""Finds the threads and tasks that work for a request besides its own: what `asyncio.to_thread` runs, the synchronous
functions of Starlette, FastAPI and Django, the tasks of a middleware.

Each runs in a copy of the context of the task that started it, in which the request is bound. A thread's context is
found among the variables of its outermost functions, where whoever runs a function in a context has it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import cached_property
from threading import get_ident
from types import BuiltinMethodType, FrameType
from typing import Any

from ..common.frames import frames_of_awaitable, frames_of_thread
from ..plugin.context import request_in

__all__ = ["BoundThreads", "Helpers"]

OUTERMOST = 10
"""Functions of a thread that are looked at: asgiref's has the context in the seventh."""
MOST_SHOWN = 4
"""Threads, and tasks, of one request whose frames are shown."""


class BoundThreads(ThreadPoolExecutor):
    """The loop's executor: a thread works in the context of the task that gave it the work. asyncio's own does so for
    `asyncio.to_thread` alone, and not for `run_in_executor`."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        return super().submit(_run_in, copy_context(), function, args, named)


def _run_in(context: Context, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return context.run(function, *args, **named)


class Helpers:
    """Threads and tasks by the request that they work for, as they are when they are first asked for."""

    @cached_property
    def threads(self) -> dict[Any, list[FrameType]]:
        """The innermost frame of each thread. The calling one is left out."""
        found: dict[Any, list[FrameType]] = {}
        for thread, frame in sys._current_frames().items():
            request = None if thread == get_ident() else _request_of(frame)
            if request is not None:
                found.setdefault(request, []).append(frame)
        return found

    @cached_property
    def tasks(self) -> dict[Any, list[asyncio.Task[Any]]]:
        """Tasks, the requests' own included."""
        found: dict[Any, list[asyncio.Task[Any]]] = {}
        for task in asyncio.all_tasks():
            context = _context_of(task)
            request = None if context is None else request_in(context)
            if request is not None:
                found.setdefault(request, []).append(task)
        return found

    def where(self, request: object, own: asyncio.Task[Any]) -> str:
        """Return the frames of the threads and tasks of a request, without its `own` task."""
        parts = []
        tasks = [one for one in self.tasks.get(request, ()) if one is not own]
        for task in tasks[:MOST_SHOWN]:
            parts.append(f"its task {task.get_name()}, in:\n{frames_of_awaitable(task.get_coro())}")
        for frame in self.threads.get(request, ())[:MOST_SHOWN]:
            parts.append(f"a thread that works for it, in:\n{frames_of_thread(frame)}")
        return "\n".join(parts)


def _request_of(frame: FrameType | None) -> object:
    outermost: deque[FrameType] = deque(maxlen=OUTERMOST)
    while frame is not None:
        outermost.append(frame)
        frame = frame.f_back
    while outermost:
        for value in tuple(outermost.pop().f_locals.values()):
            context = value.__self__ if type(value) is BuiltinMethodType else value  # Context.run
            if type(context) is Context:
                return request_in(context)
    return None


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    if sys.version_info >= (3, 12):
        return task.get_context()
    return next((one for one in gc.get_referents(task) if type(one) is Context), None)
