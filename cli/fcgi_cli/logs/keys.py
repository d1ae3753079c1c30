"""Keys, one by one, while the program runs; the terminal is as it was when that ends."""

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
    """The terminal's keys: standard input's, or if that is none, the controlling terminal's. There may be no terminal;
    and in the background nobody types."""

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
        """Take keys from now on, if we are in the foreground."""
        try:
            if self._terminal < 0 or os.tcgetpgrp(self._terminal) != os.getpgrp():
                return
            self._before = termios.tcgetattr(self._terminal)
            tty.setcbreak(self._terminal, termios.TCSADRAIN)
            self.descriptor = self._terminal
        except (OSError, termios.error):
            pass  # no terminal that we control: it is watched only

    def close(self) -> None:
        """Put the terminal back."""
        if self._before is not None:
            try:
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
            except (OSError, termios.error):
                pass  # it has gone
            self._before = None
        self.descriptor = None

    def release(self) -> None:
        self.close()
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = self._terminal = -1

    def read(self) -> list[str]:
        """Keys pressed, characters or ``esc``; of arrows and the like nothing. '' at last: the terminal has gone."""
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
