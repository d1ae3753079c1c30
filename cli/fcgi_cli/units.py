"""Formats numbers for people, short enough for columns."""

from __future__ import annotations

__all__ = ["amount", "duration", "seconds", "size"]


def amount(value: float) -> str:
    """Format a count or a rate: ``0``, ``7.3``, ``812``, ``12.4k``, ``3.1M``."""
    if value >= 999_500:
        return f"{value / 1e6:.1f}M"
    if value >= 9_999.5:
        return f"{value / 1e3:.1f}k"
    if value >= 99.95 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}"


def size(value: float) -> str:
    """Format bytes: ``17 B``, ``4.0 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1023.95:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def seconds(value: float | None) -> str:
    """Format a short time: ``0.21 ms``, ``34 ms``, ``1.20 s``; ``-`` if it is unknown."""
    if value is None:
        return "-"
    if value < 0.01:
        return f"{value * 1000:.2f} ms"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s"


def duration(value: float) -> str:
    """Format a long time: ``7 s``, ``12 min 5 s``, ``3 h 2 min``, ``9 d 4 h``."""
    whole = int(value)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {smaller}"
    return f"{whole} s"
