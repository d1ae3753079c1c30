"""Reads single keys from the terminal, and restores its settings at the end."""

from __future__ import annotations

import codecs
import os
import re
import sys
import termios
import tty
from typing import Any

__all__ = ["Keyboard"]

_KEY = re.compile(r"\x1b[\[O][0-9;?]*[ -/]*[@-~]|\x1b.?|.", re.DOTALL)
READ = 1024


class Keyboard:
    """Reads keys from standard input if it is a terminal, else from the controlling terminal. Without a terminal, or in
    the background, there are no keys."""

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self._opened = -1
        self._before: list[Any] | None = None
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        if sys.stdin is not None and os.isatty(0):
            self._terminal = 0
        else:
            try:
                self._terminal = self._opened = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
            except OSError:
                self._terminal = -1

    def open(self) -> None:
        """Read keys from now on, if this process is in the foreground."""
        try:
            if self._terminal < 0 or os.tcgetpgrp(self._terminal) != os.getpgrp():
                return
            self._before = termios.tcgetattr(self._terminal)
            tty.setcbreak(self._terminal, termios.TCSADRAIN)
            self.descriptor = self._terminal
        except (OSError, termios.error):
            pass  # a terminal that we do not control: the viewer runs without keys

    def close(self) -> None:
        """Restore the terminal's settings."""
        if self._before is not None:
            try:
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
            except (OSError, termios.error):
                pass  # it has gone
            self._before = None
        self.descriptor = None

    def release(self) -> None:
        """Restore the terminal, and close it if we opened it."""
        self.close()
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = self._terminal = -1

    def read(self) -> list[str]:
        """The keys pressed, characters or ``esc``, without arrows and the like. '' means that the terminal has gone."""
        if self.descriptor is None:
            return []
        try:
            data = os.read(self.descriptor, READ)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.descriptor = None
            return [""]
        keys = []
        for key in _KEY.findall(self._decode(data)):
            if key == "\x1b":
                keys.append("esc")
            elif key[0] != "\x1b":
                keys.append("\n" if key == "\r" else key)
        return keys
