"""Entries of the feed, and the lines of a source."""

from __future__ import annotations

from typing import Any

from fcgi_cli.logs.events import Event, Line
from fcgi_cli.logs.pump import Pump
from fcgi_cli.logs.source import Source

from fcgi_core.plugin import FeedEntry


def entry(number: int, message: str = "", **more: Any) -> FeedEntry:
    return FeedEntry(
        1_700_000_000.0 + number, 4, message or f"m{number}", "shop.example", "cart", 1, "7", request="r1", **more
    )


def lines(source: Source) -> list[str]:
    """All that comes until the source has ended."""
    pump = Pump([source])
    pump.start()
    events: list[Event] = []
    while not pump.ended:
        events += pump.wait()
    pump.close()
    return [event.message if isinstance(event, Line) else type(event).__name__ for event in events]
