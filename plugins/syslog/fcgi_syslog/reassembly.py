"""Turns the bytes of STDERR into events: joins partial lines, and keeps lines of one event together.

STDERR comes in pieces that ignore lines: a FastCGI record ends anywhere, `traceback.print_exc` writes line by line. A
Python traceback forms one event with the exceptions that it names as its cause, a PHP error with its stack trace, and
any line with the indented lines after it. php-fpm joins all that a request logs to one line, which is split again: each
part has its severity (`PHP message: one; PHP message: PHP Warning:  two`). No I/O, no clock: the owner of a
`Reassembler` calls `flush` when the source has been quiet for a while, or has ended.
"""

from __future__ import annotations

import re

__all__ = ["Reassembler"]

_TRACEBACK = re.compile(r"(?:<[0-7]>)?Traceback \(most recent call last\):")
_GROUP_TRACEBACK = re.compile(r"(?:<[0-7]>)?\s*\+ Exception Group Traceback \(most recent call last\):")
_CHAINED = ("During handling of the above exception, another", "The above exception was the direct cause of")
_PHP_FATAL = re.compile(r"(?:PHP message: )?PHP (?:[A-Z][a-z]+ )*(?:[a-z]+ )*[Ee]rror:")
_PHP_STACK = re.compile(r"(?:PHP )?Stack trace:|#\d+ |PHP +\d+\. |Next \w")
_PHP_MESSAGE = "PHP message: "
_PHP_NEXT = f"; {_PHP_MESSAGE}"
_INDENTED = (" ", "\t")


class Reassembler:
    """The STDERR of one source. `limit` bounds the bytes of a line, which is cut and says so, and about the characters
    of an event, whose further lines become another event."""

    __slots__ = ("_cut", "_event", "_limit", "_partial", "_size", "_state")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._cut = 0
        self._event: list[str] = []
        self._size = 0
        self._state = _PLAIN

    def __bool__(self) -> bool:
        """Return whether anything is held back."""
        return bool(self._partial or self._event)

    @property
    def held(self) -> int:
        """The number of bytes and characters that are held back."""
        return len(self._partial) + self._size

    def feed(self, data: bytes) -> list[str]:
        """Return the events that `data` completes, without their last newline. An event that may go on, such as a
        traceback, is held until a line follows that does not belong to it."""
        events: list[str] = []
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._lines(self._take_partial(), events)
        self._keep(rest)
        if self._state is _PLAIN and not self._partial[:1].isspace():
            self._finish(events)
        return events

    def flush(self) -> list[str]:
        """Return the events that are held back, as if they were complete."""
        events: list[str] = []
        if self._partial:
            self._lines(self._take_partial(), events)
        self._finish(events)
        return events

    def _keep(self, data: bytes) -> None:
        room = self._limit - len(self._partial)
        self._partial += data[:room]
        self._cut += max(0, len(data) - room)

    def _take_partial(self) -> str:
        text = self._partial.decode("utf-8", "backslashreplace").removesuffix("\r")
        if self._cut:
            text += f" [cut: {len(self._partial) + self._cut} bytes in all]"
        self._partial.clear()
        self._cut = 0
        return text

    def _lines(self, line: str, events: list[str]) -> None:
        if _PHP_NEXT not in line or not (line.startswith(_PHP_MESSAGE) or self._of_php()):
            self._line(line, events)
            return
        first, *others = line.split(_PHP_NEXT)
        self._line(first, events)
        for other in others:
            self._line(_PHP_MESSAGE + other, events)

    def _of_php(self) -> bool:
        """Return whether the held event came from php-fpm."""
        return bool(self._event) and self._event[0].startswith(_PHP_MESSAGE)

    def _line(self, line: str, events: list[str]) -> None:
        if self._event and self._size + len(line) < self._limit and self._belongs(line):
            self._event.append(line)
            self._size += len(line) + 1
            return
        self._finish(events)
        if not line:
            return
        self._event.append(line)
        self._size = len(line) + 1
        if _TRACEBACK.match(line):
            self._state = _FRAMES
        elif _GROUP_TRACEBACK.match(line):
            self._state = _RAISED  # all its lines are indented
        elif _PHP_FATAL.match(line):
            self._state = _PHP

    def _belongs(self, line: str) -> bool:
        """Return whether `line` continues the held event, and update the state."""
        if _GROUP_TRACEBACK.match(line):
            return self._state is _RAISED and self._names_a_cause()
        if line.startswith(_INDENTED):
            return True
        if self._state is _FRAMES:
            # the exception's own line ends the frames; the lines of a longer message cannot be told from other text
            if line:
                self._state = _RAISED
            return True
        if self._state is _RAISED:
            if not line or line.startswith(_CHAINED):
                return True
            if _TRACEBACK.match(line) and self._names_a_cause():
                self._state = _FRAMES
                return True
            return False
        return self._state is _PHP and _PHP_STACK.match(line) is not None

    def _names_a_cause(self) -> bool:
        """Return whether the event's last line that is not empty announces another traceback."""
        return next((line for line in reversed(self._event) if line), "").startswith(_CHAINED)

    def _finish(self, events: list[str]) -> None:
        if self._event:
            events.append("\n".join(self._event).rstrip())
            self._event = []
            self._size = 0
        self._state = _PLAIN


# the state of the held event: an ordinary line, a traceback before its exception's line, after it, an error of PHP
_PLAIN, _FRAMES, _RAISED, _PHP = "plain", "frames", "raised", "php"
