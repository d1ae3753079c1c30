"""The memory that texts take, for the bounds of what is kept of a peer's texts.

Characters are not a measure: an empty text takes 49 bytes, one character beyond U+FFFF makes each take four, and a
field of a dictionary takes a hundred bytes in addition to its name and value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import getsizeof

__all__ = ["memory_cost"]

FIELD_COST = 104
"""Bytes of a field in addition to its name and value: its share of a dictionary that has just grown."""


def memory_cost(texts: Iterable[str], fields: Mapping[str, str] | None = None) -> int:
    """Returns the bytes of memory of texts and fields. Memory that is shared counts each time."""
    cost = sum(map(getsizeof, texts))
    if fields:
        cost += len(fields) * FIELD_COST + sum(map(getsizeof, fields)) + sum(map(getsizeof, fields.values()))
    return cost
