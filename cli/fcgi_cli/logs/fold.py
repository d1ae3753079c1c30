"""Folds a message of many lines into one."""

from __future__ import annotations

__all__ = ["fold"]


def fold(lines: list[str]) -> list[str]:
    """Fold the lines of a message into one: its beginning, the number of further lines, and the exception at its end.

    In a logged exception the first line is the message, and the last line without indentation is the exception. A
    message that begins with the traceback is shown by its exception only.
    """
    if len(lines) == 1:
        return lines
    first, *more = lines
    last = next((line for line in reversed(more) if line and not line[0].isspace()), "")
    many = f"⋯ {len(more)} more line{'s' if len(more) > 1 else ''}"
    if first.startswith("Traceback (most recent call last)") and last:
        return [f"{last} {many}"]
    if last and any("Traceback (most recent call last)" in line for line in more):
        return [f"{first} {many}: {last}"]
    return [f"{first} {many}"]
