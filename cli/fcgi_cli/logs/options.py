"""The words of ``fcgi-sctp logs``."""

from __future__ import annotations

import argparse
import re
import time

from fcgi_core.common.text import SEVERITIES, severity_number

__all__ = ["DEFAULT_FEED", "DEFAULT_TAIL", "FEED_VARIABLE", "add_arguments"]

DEFAULT_FEED = "/run/fcgi-sctp/feed.sock"
FEED_VARIABLE = "FCGI_SCTP_FEED"
DEFAULT_TAIL = 10
"""Lines of the past, as tail(1) and journalctl(1) show."""
DIGITS = 15
EPILOG = """
On a terminal a line below shows what goes on, and keys work: ? lists them.

Exit status: 0; 1 if --count or --until-match was not reached before --timeout or the end, or if one of several sources
could not be read; 64 for wrong words; 69 if there is nothing to read; 130 after Ctrl-C.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``fcgi-sctp logs``."""
    parser.description = "Follow what the applications say, as it comes."
    parser.epilog = EPILOG
    parser.add_argument(
        "source",
        nargs="*",
        metavar="SOURCE",
        help="what to read, merged by time: sockets of feeds, files of the syslog plugin, pipes with what another "
        "viewer writes with -o json, or - for standard input; NAME=PATH gives it a name",
    )
    parser.add_argument(
        "--feed",
        action="append",
        default=[],
        metavar="PATH",
        help=f"a feed's unix socket (${FEED_VARIABLE}, else {DEFAULT_FEED})",
    )
    when = parser.add_argument_group("when")
    when.add_argument(
        "-n", "--tail", type=_count, metavar="N", help="matching lines of the past to begin with (10; all with --since)"
    )
    when.add_argument("--since", metavar="TIME", help="from then on: 10m (ago), 12:30, yesterday, 2026-07-01T12:00:00Z")
    when.add_argument("--until", metavar="TIME", help="up to then")
    when.add_argument("--no-follow", action="store_true", help="end after the lines of the past")
    when.add_argument("--count", type=_count, metavar="N", help="end after N lines shown")
    when.add_argument("--until-match", type=_pattern, metavar="REGEX", help="end after a line shown that has this")
    when.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="end after so long")
    which = parser.add_argument_group("which lines (each kind of condition must hold; one of several of a kind)")
    which.add_argument(
        "-l", "--level", type=_level, default=7, metavar="LEVEL", help=f"this or worse: {', '.join(SEVERITIES)}"
    )
    which.add_argument(
        "-s", "--server-name", action="append", default=[], metavar="NAME", help="virtual host; * and ? match any"
    )
    which.add_argument("--app", action="append", default=[], metavar="NAME", help="application; * and ? match any")
    which.add_argument(
        "-r",
        "--request",
        action="append",
        default=[],
        metavar="ID",
        help="all that one request said; a beginning will do",
    )
    which.add_argument(
        "-e", "--grep", action="append", default=[], type=_pattern, metavar="REGEX", help="the text has this"
    )
    which.add_argument("-i", "--ignore-case", action="store_true", help="--grep and --highlight take any case")
    which.add_argument("-v", "--invert-match", action="store_true", help="the text has not what --grep says")
    which.add_argument(
        "-w",
        "--where",
        action="append",
        default=[],
        type=_comparison,
        metavar="FIELD>=VALUE",
        help="compare a field: = != < <= > >= =~ !~; all of these must hold",
    )
    how = parser.add_argument_group("how they are shown")
    how.add_argument(
        "-o", "--output", choices=("pretty", "raw", "json"), default="pretty", help="columns, text alone, or JSON lines"
    )
    how.add_argument(
        "-t", "--template", metavar="TEXT", help="a layout: '{time} {level:<7} {host} {fields.status} {message}'"
    )
    how.add_argument(
        "--highlight", action="append", default=[], type=_pattern, metavar="REGEX", help="make this stand out"
    )
    how.add_argument("--fold", action="store_true", help="tracebacks on one line")
    how.add_argument("--utc", action="store_true", help="times in UTC, not local")
    how.add_argument("--no-status", action="store_true", help="no line below and no keys, on a terminal too")
    parser.set_defaults(started=time.time())


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
        raise argparse.ArgumentTypeError(f"{text[: DIGITS + 1]!r} is no number of lines, of {DIGITS} digits at most")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds below 1,000,000,000")
    return seconds


def _level(text: str) -> int:
    try:
        return severity_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no regular expression: {error}") from None
    return text


def _comparison(text: str) -> object:
    from .where import Comparison

    try:
        return Comparison.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
