"""Standard output and standard error that may go away or be full, for all commands that print and end.

A reader that has seen enough (``| head``) is no error: what is still printed is thrown away, and the command ends with
the status that it has anyway. A disk that is full is one: it is told once, and the status is 74, EX_IOERR.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Output", "guarded", "output_is_gone"]


class Output(io.RawIOBase):
    """Writes to `descriptor` until that fails, and then to nowhere."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        while self.failure is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # a terminal that another program made non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.failure = error
        return len(data)

    @property
    def problem(self) -> str:
        """What is to be told of the failure; '' if there was none, or the reader has gone."""
        if self.failure is None or self.failure.errno == errno.EPIPE:
            return ""
        return f"standard output: {self.failure.strerror}"


_standard: Output | None = None


def output_is_gone() -> bool:
    """Whether nothing that is printed to standard output arrives any more: for commands that go on until then."""
    return _standard is not None and _standard.failure is not None


@contextmanager
def guarded() -> Iterator[Output]:
    """While it lasts, what is printed goes through `Output`s, to standard output and standard error."""
    global _standard
    kept = sys.stdout, sys.stderr
    _standard = output = Output(1)
    try:
        if kept[0] is sys.__stdout__:  # and no test's, or an embedding program's
            sys.stdout = _text(output, kept[0])
        if kept[1] is sys.__stderr__:
            sys.stderr = _text(Output(2), kept[1])
        yield output
    finally:
        for stream, before in zip((sys.stdout, sys.stderr), kept, strict=True):
            if stream is not before:
                stream.flush()
        sys.stdout, sys.stderr = kept
        _standard = None


def _text(raw: Output, like: Any) -> io.TextIOWrapper:
    """A text stream upon `raw`. What the locale cannot write is written with backslashes."""
    if like is None:  # the program was started with the descriptor closed; what is opened next must not get its number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != raw.fileno():
            os.dup2(nowhere, raw.fileno())
            os.close(nowhere)
    elif like.buffer is not None:
        like.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )
