"""Messages of many lines on one: what a traceback says first and last."""

from __future__ import annotations

__all__ = ["fold"]


def fold(lines: list[str]) -> list[str]:
    """The lines of a message, in one: how it begins, how many are folded away, and what an exception says in the end.

    The message of a logged exception is its first line, and the last that is not indented its exception; text that
    begins with the traceback itself is named by the exception alone.
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
