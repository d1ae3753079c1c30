"""What all commands share of their output: streams that may close or fill up, complaints, and ``--output``.

A pipe that its reader has closed (``| head``) is not an error: the rest of the output is dropped, and the exit status
is the command's. A full disk is an error: it is reported once, and the exit status is 74, EX_IOERR.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fcgi_core.common.text import escape

__all__ = ["Output", "add_output_argument", "complain", "guarded", "output_is_gone"]


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("pretty", "json"), default="pretty", help="text to read, or JSON (pretty)"
    )


def complain(command: str, *problems: str) -> None:
    """Print a line to standard error for each problem, with control characters escaped."""
    for problem in problems:
        print(f"{command}: {escape(problem)}", file=sys.stderr)


class Output(io.RawIOBase):
    """A raw stream that writes to `descriptor` until a write fails, and drops the rest."""

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
        """The failure as a sentence; '' if there was none, or if the reader has gone."""
        if self.failure is None or self.failure.errno == errno.EPIPE:
            return ""
        return f"standard output: {self.failure.strerror}"


_standard: Output | None = None


def output_is_gone() -> bool:
    """Whether standard output has failed, so that a command that prints for ever should end."""
    return _standard is not None and _standard.failure is not None


@contextmanager
def guarded() -> Iterator[Output]:
    """Replace standard output and standard error by `Output`s within the block."""
    global _standard
    kept = sys.stdout, sys.stderr
    _standard = output = Output(1)
    try:
        if kept[0] is sys.__stdout__:  # a test or an embedding program may have replaced it
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
    """A text stream on `raw`. Characters that the locale lacks are written as backslash escapes."""
    if like is None:  # the descriptor was closed before the program started; no file opened later may get its number
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
