"""What texts cost in memory. It is counted where what a peer sent is kept, so that what is counted is what is held.

A text is not its characters: one that is empty takes 49 bytes, one character beyond U+FFFF makes four bytes of each,
and a field of a dictionary takes a hundred beside its name and value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import getsizeof

__all__ = ["memory_cost"]

FIELD_COST = 104
"""Bytes of a field beside its name and value: its share of a dictionary that has just grown."""


def memory_cost(texts: Iterable[str], fields: Mapping[str, str] | None = None) -> int:
    """Bytes of memory of some texts, and of fields. What they share with others counts for each."""
    cost = sum(map(getsizeof, texts))
    if fields:
        cost += len(fields) * FIELD_COST + sum(map(getsizeof, fields)) + sum(map(getsizeof, fields.values()))
    return cost
