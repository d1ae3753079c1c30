"""The alerts' clock: 100 alerts a second, and how late the machine let each of them be sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .ends import ALERT_SIZE, Held
from .measurement import Cell

__all__ = ["AlertClock"]


class AlertClock:
    """Has an alert sent every `Cell.interval`, from when `begun` is set until the measurement's end."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.begun = asyncio.Event()
        self.sent: list[float] = []
        """When each was sent, by the clock that both ends share."""
        self.late: list[float] = []
        """By how much each alert was sent too late, seconds: what the machine adds to every figure."""

    async def run(self, send: Callable[[int, bytes], None], look: Callable[[], None]) -> None:
        """Call `send(number, item)` for each alert, and `look()` at every tenth."""
        cell = self.cell
        loop = asyncio.get_running_loop()
        await self.begun.wait()
        begin = loop.time()
        number = 0
        while loop.time() - begin < cell.warm_up + cell.seconds:
            due = begin + number * cell.interval
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.late.append(loop.time() - due)
            now = time.monotonic()
            text = Held.pack(number, now) + b" an alert, as a firewall or an application writes it"
            self.sent.append(now)
            send(number, text.ljust(ALERT_SIZE))
            number += 1
            if number % 10 == 0:
                look()

    def late_p99(self) -> float:
        """Seconds by which the 99th of 100 was late; 0 if none was sent."""
        return sorted(self.late)[len(self.late) * 99 // 100] if self.late else 0.0
