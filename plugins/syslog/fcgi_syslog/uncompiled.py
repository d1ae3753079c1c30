"""What must run as it is, though all around it is compiled: mypyc has its limits.

A class derived from `logging.Handler` has slow attributes, and a generator's `finally` does not run when whoever
iterates over it gives up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["Handler", "guarded"]

T = TypeVar("T")


class Handler(logging.Handler):
    """Gives each record to `handle`, which looks at `filters` itself and never raises.

    `Handler.handle` would look for a lock, twice, and take a fifth of what a line costs here.
    """

    def __init__(self, handle: Callable[[logging.LogRecord], bool]) -> None:
        super().__init__()
        self.handle = handle  # type: ignore[assignment,method-assign]  # no frame of Python's between logging and compiled code

    def createLock(self) -> None:
        """None: `handle` shares nothing that a lock would have to guard."""
        self.lock = None

    def let_go(self) -> None:
        """Give records to nothing any more: what `handle` belongs to holds this handler, a circle. Not in `close`:
        `logging.config` calls that of all handlers that there are."""
        self.handle = _pass_over  # type: ignore[method-assign]

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never raises."""
        self.handle(record)


def _pass_over(record: logging.LogRecord) -> bool:
    """The `handle` of one that was let go."""
    return False


def guarded(items: Iterable[T], busy: Callable[[bool], None]) -> Iterator[T]:
    """`items`; `busy(True)` before the first, `busy(False)` after the last, or when whoever wants them gives up."""
    busy(True)
    try:
        yield from items
    finally:
        busy(False)
