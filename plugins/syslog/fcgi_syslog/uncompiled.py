"""The code that must stay interpreted where the rest of the plugin is compiled by mypyc.

A compiled function cannot become a method of an interpreted class, a compiled class derived from `threading.local` may
share its attributes between threads, and the `finally` of a compiled generator does not run if iteration stops early.
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
"""Replaces `logging.lastResort`, which writes records without a handler to stderr."""


class Sending(threading.local):
    """The lines that a thread of the application sends by itself, not through the loop."""

    now = False
    echo = False
    """The line being sent was logged while another was sent."""

    def __init__(self) -> None:
        self.later: list[tuple[str, bytes, RequestInfo | None, int]] = []


def guarded(items: Iterable[T], busy: Callable[[bool], None]) -> Iterator[T]:
    """Yield `items`; call `busy(True)` before the first, and `busy(False)` after the last or when iteration stops."""
    busy(True)
    try:
        yield from items
    finally:
        busy(False)


# ---- records, of all loggers
#
# A handler on the root logger is not enough: logging.config and basicConfig(force=True) remove it, basicConfig() does
# nothing if there is one, and records of a logger with propagate=False do not reach it.

_listeners: tuple[Listener, ...] = ()
_call_handlers: Callable[[logging.Logger, logging.LogRecord], None] | None = None
"""The method that `_heard` replaced and calls; None while `_heard` is not in use."""


def listen(listener: Listener) -> None:
    """Call `listener` with each record that its logger passes, before the logger's handlers; if it returns True the
    handlers do not get the record."""
    global _listeners, _call_handlers
    _listeners = (*_listeners, listener)
    if _call_handlers is None:
        _call_handlers = logging.Logger.callHandlers
        logging.Logger.callHandlers = _heard  # type: ignore[assignment,method-assign]


def stop_listening(listener: Listener) -> None:
    """Stop calling `listener`."""
    global _listeners, _call_handlers
    _listeners = tuple(one for one in _listeners if one != listener)
    if not _listeners and logging.Logger.callHandlers is _heard:  # if replaced since, it stays and is idle
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
    before, _here.writes = _here.writes, True  # captured as a record already
    try:
        _call_handlers(logger, record)
    finally:
        _here.writes = before


# ---- sys.stdout and sys.stderr


class _Here(threading.local):
    writes = False
    """This thread runs `take` or a logging handler, so its writes are not new lines."""


_here = _Here()


class Output:
    """Replaces sys.stdout or sys.stderr: text goes to `take`, and to `stream` if `take` returns False."""

    replaced: ClassVar[int] = 0
    """How many instances are in use."""

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
