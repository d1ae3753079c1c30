"""The parser of the command line: one style of help and of errors for all commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from fcgi_core.common.text import escape

__all__ = ["Parser", "seconds", "whole_number"]

MOST_DIGITS = 15


class Help(argparse.HelpFormatter):
    """Formats help at most 100 columns wide, and keeps the lines of a text below the options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(100, _columns()))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "".join(indent + line for line in text.strip("\n").splitlines(keepends=True))
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence after the usage, with the exit status 64, EX_USAGE of sysexits.h."""

    def __init__(self, *args: object, **options: object) -> None:
        options.setdefault("formatter_class", Help)
        self._intermixing = False
        super().__init__(*args, **options)  # type: ignore[arg-type]  # as ArgumentParser takes them

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Allow options between other arguments, in commands without subcommands."""
        if self._intermixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._intermixing = True
        try:
            known, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixing = False
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {escape(message)}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(os.EX_USAGE)


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` on."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) >= least):
            raise argparse.ArgumentTypeError(
                f"invalid number {text[: MOST_DIGITS + 1]!r}: use {least} or more, with at most {MOST_DIGITS} digits"
            )
        return int(text)

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """The type of an argument that is a time between `least` and `most` seconds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"invalid time {text[:40]!r}: use seconds from {least:g} to {most:g}")
        return value

    return parse


def _columns() -> int:
    try:
        return max(40, int(os.environ.get("COLUMNS", "")) - 2)
    except ValueError:
        pass
    try:
        return max(40, os.get_terminal_size(1).columns - 2)
    except (OSError, ValueError, AttributeError):
        return 100
