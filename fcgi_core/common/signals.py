"""Signals of this process only: a forked child gets back the handlers that stood before.

A fork inherits the loop's handlers and its wake-up descriptor, which is a socket that it shares with this process: a
SIGTERM for the child would leave the child alive and stop the service. So a fork finds signals blocked until the child
has put the former handlers back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["handle", "suspended"]

_Handler = Any
_handled: dict[signal.Signals, tuple[_Handler, _Handler]] = {}
"""The handler that stood before, and the one that the loop put in its place."""
_masks: dict[int, set[int]] = {}
"""By thread that is about to fork: the signals that it had blocked."""


def handle(loop: asyncio.AbstractEventLoop, number: signal.Signals, call: Callable[[], object]) -> None:
    """Have the loop call `call` whenever this process gets the signal. Call this on the main thread."""
    before = signal.getsignal(number)
    known = _handled.get(number)
    if known is not None and known[1] is before:
        before = known[0]
    elif number == signal.SIGINT and getattr(before, "func", None) is not None:
        before = signal.default_int_handler  # asyncio.Runner has replaced it
    loop.add_signal_handler(number, call)
    _handled[number] = (signal.SIG_DFL if before is None else before, signal.getsignal(number))


@contextmanager
def suspended() -> Iterator[None]:
    """A context in which foreign code blocks the loop: the handlers of SIGTERM and SIGINT that stood before are back,
    so they end it."""
    ending = {number: _handled[number] for number in (signal.SIGTERM, signal.SIGINT) if number in _handled}
    for number, (before, ours) in ending.items():
        if signal.getsignal(number) is ours:
            signal.signal(number, before)
    try:
        yield
    finally:
        for number, (before, ours) in ending.items():
            if signal.getsignal(number) is before:  # the code may have set its own
                signal.signal(number, ours)
                signal.siginterrupt(number, False)  # as the loop has it


def _before_fork() -> None:
    if _handled:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _handled)


def _unblock() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    if not _handled:
        return
    signal.set_wakeup_fd(-1)
    for number, (before, ours) in _handled.items():
        if signal.getsignal(number) is ours:  # the application may have set its own
            signal.signal(number, before)
    _handled.clear()
    _unblock()
    _masks.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_in_child)
