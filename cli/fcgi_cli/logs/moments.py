"""Parses times as people write them: ``10m`` ago, ``12:30``, ``yesterday``, ``2026-07-01T12:00:00Z``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

__all__ = ["moment"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_FURTHEST = 1e12
"""Seconds since the epoch; no log line is that far away."""
_AGO = re.compile(r"-?((?:\d+(?:\.\d+)?[smhdw])+)(?: ago)?")


def moment(text: str, now: float, *, utc: bool = False) -> float:
    """Parse a time into seconds since the epoch; without a zone it is local time, or UTC. ValueError."""
    seconds = _moment(text, now, utc=utc)
    if not -_FURTHEST < seconds < _FURTHEST:
        raise _invalid(text)
    return seconds


def _moment(text: str, now: float, *, utc: bool) -> float:
    words = text.strip().lower()
    if match := _AGO.fullmatch(words):
        return now - sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"[\d.]+[smhdw]", match[1]))
    if words.startswith("@"):
        try:
            return float(words[1:])
        except ValueError:
            pass
    zone = UTC if utc else None
    today = datetime.combine(datetime.fromtimestamp(now, zone).date(), time(), zone)
    named = {"now": None, "today": today, "yesterday": today - timedelta(days=1)}
    if words in named:
        day = named[words]
        return now if day is None else day.timestamp()
    try:
        return datetime.combine(today, time.fromisoformat(words), zone).timestamp()
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text.strip())
        return (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        raise _invalid(text) from None


def _invalid(text: str) -> ValueError:
    return ValueError(
        f"invalid time {text[:40]!r}: use 10m (ago), 12:30, today, yesterday, 2026-07-01, "
        "2026-07-01T12:00:00Z or @SECONDS"
    )
