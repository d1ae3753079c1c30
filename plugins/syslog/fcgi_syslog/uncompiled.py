"""What must run as it is, though all around it is compiled: mypyc has its limits.

A compiled function does not become a method of a class that is not, a class derived from `threading.local` might have
attributes that all threads share, and a generator's `finally` does not run when the code that iterates over it stops.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TextIO, TypeVar

from fcgi_core.plugin import RequestInfo

__all__ = ["Output", "Sending", "guarded", "listen", "nothing", "stop_listening"]

T = TypeVar("T")
Listener = Callable[[logging.Logger, logging.LogRecord], bool]

nothing = logging.NullHandler()
"""In the place of `logging.lastResort`, which writes to stderr what no handler takes."""


class Sending(threading.local):
    """What a thread of the application sends by itself, not through the loop."""

    now = False
    echo = False
    """What it sends was said while it sent something else."""

    def __init__(self) -> None:
        self.later: list[tuple[str, bytes, RequestInfo | None, int]] = []


def guarded(items: Iterable[T], busy: Callable[[bool], None]) -> Iterator[T]:
    """`items`; `busy(True)` before the first, `busy(False)` after the last, or when the code that wants them gives
    up."""
    busy(True)
    try:
        yield from items
    finally:
        busy(False)


# ---- records, of all loggers
#
# A handler on the root logger would do, were it not for applications: logging.config and basicConfig(force=True) remove
# it, basicConfig() does nothing where there is one, and no record of a logger with propagate=False comes to it.

_listeners: tuple[Listener, ...] = ()
_call_handlers: Callable[[logging.Logger, logging.LogRecord], None] | None = None
"""What was in the place of `_heard`, while that is somewhere in the chain of those that take its place."""


def listen(listener: Listener) -> None:
    """Call `listener` with each record that its logger lets pass, before the logger's handlers. If it returns True they
    do not get it."""
    global _listeners, _call_handlers
    _listeners = (*_listeners, listener)
    if _call_handlers is None:
        _call_handlers = logging.Logger.callHandlers
        logging.Logger.callHandlers = _heard  # type: ignore[assignment,method-assign]


def stop_listening(listener: Listener) -> None:
    """No more."""
    global _listeners, _call_handlers
    _listeners = tuple(one for one in _listeners if one != listener)
    if not _listeners and logging.Logger.callHandlers is _heard:  # else another stands before it: it stays, and is idle
        assert _call_handlers is not None
        logging.Logger.callHandlers = _call_handlers  # type: ignore[assignment,method-assign]
        _call_handlers = None


def _heard(logger: logging.Logger, record: logging.LogRecord) -> None:
    kept = False
    for listener in _listeners:
        kept = listener(logger, record) or kept
    if kept:
        return
    assert _call_handlers is not None
    if not Output.replaced:
        _call_handlers(logger, record)
        return
    before, _here.writes = _here.writes, True  # what handlers write to stderr has been taken as a record
    try:
        _call_handlers(logger, record)
    finally:
        _here.writes = before


# ---- sys.stdout and sys.stderr


class _Here(threading.local):
    writes = False
    """This thread is inside what takes lines, or in a handler of logging: what it writes is no line of its own."""


_here = _Here()


class Output:
    """Stands for sys.stdout or sys.stderr: what is written goes to `take`, and to `stream` if that returns False."""

    replaced: ClassVar[int] = 0
    """How many there are."""

    def __init__(self, stream: TextIO, take: Callable[[str], bool]) -> None:
        self.stream = stream
        self._take = take

    def write(self, text: str) -> int:
        if _here.writes:
            return self.stream.write(text)
        _here.writes = True
        try:
            if not self._take(text):
                self.stream.write(text)
        finally:
            _here.writes = False
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
