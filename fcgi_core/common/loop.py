"""What this package needs of an event loop: asyncio's has it, and so has a test's virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Handle", "Loop"]


class Handle(Protocol):
    """A scheduled call."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """Schedules calls. Times are seconds of a monotonic clock."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle: ...

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle: ...
