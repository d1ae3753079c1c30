"""The options of ``fcgi-sctp logs``."""

from __future__ import annotations

import argparse
import re
import time

from fcgi_core.common.text import SEVERITIES, severity_number

from ..parser import seconds, whole_number

__all__ = ["DEFAULT_FEED", "DEFAULT_TAIL", "FEED_VARIABLE", "add_arguments"]

DEFAULT_FEED = "/run/fcgi-sctp/feed.sock"
FEED_VARIABLE = "FCGI_SCTP_FEED"
DEFAULT_TAIL = 10
"""Lines of the past, as tail(1) and journalctl(1) show."""
MOST_SECONDS = 1e9
EPILOG = """
On a terminal, a status line shows rates, losses and filters, and keys change what is shown:
press ? for the list.

Exit status:
    0  success
    1  --count or --until-match was not reached, or one of several sources could not be read
   64  usage error
   69  no source can be read
  130  interrupted with Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``fcgi-sctp logs``."""
    parser.description = "Show the latest log lines of all applications, and new lines as they come."
    parser.epilog = EPILOG
    parser.add_argument(
        "source",
        nargs="*",
        metavar="SOURCE",
        help="read this, merged by time if there are several: a feed's socket, a file of the syslog plugin, a pipe "
        "from `logs -o json`, or - for standard input; NAME=PATH shows NAME before its lines",
    )
    parser.add_argument(
        "--feed",
        action="append",
        default=[],
        metavar="PATH",
        help=f"read this feed's unix socket; repeatable (${FEED_VARIABLE}, or {DEFAULT_FEED})",
    )
    when = parser.add_argument_group("how much, and how long")
    when.add_argument(
        "-n",
        "--tail",
        type=whole_number(0),
        metavar="N",
        help="begin with the latest N matching lines (10; with --since, all)",
    )
    when.add_argument(
        "--since",
        metavar="TIME",
        help="show lines from this time on: 10m (ago), 12:30, yesterday, 2026-07-01T12:00:00Z",
    )
    when.add_argument("--until", metavar="TIME", help="show lines up to this time")
    when.add_argument("--no-follow", action="store_true", help="show the lines that are there, and end")
    when.add_argument("--count", type=whole_number(0), metavar="N", help="end after showing N lines")
    when.add_argument(
        "--until-match", type=_pattern, metavar="REGEX", help="end after showing a line whose text matches"
    )
    when.add_argument("--timeout", type=seconds(0, MOST_SECONDS), metavar="SECONDS", help="end after this time")
    which = parser.add_argument_group(
        "which lines (different conditions must all hold; of a repeated option, one value is enough)"
    )
    which.add_argument(
        "-l",
        "--level",
        type=_level,
        default=7,
        metavar="LEVEL",
        help=f"show this severity and worse: {', '.join(SEVERITIES)}",
    )
    which.add_argument(
        "-s",
        "--server-name",
        action="append",
        default=[],
        metavar="NAME",
        help="show this virtual host; * and ? are wildcards",
    )
    which.add_argument(
        "--app", action="append", default=[], metavar="NAME", help="show this application; * and ? are wildcards"
    )
    which.add_argument(
        "-r",
        "--request",
        action="append",
        default=[],
        metavar="ID",
        help="show the lines of this request; the beginning of its id is enough",
    )
    which.add_argument(
        "-e",
        "--grep",
        action="append",
        default=[],
        type=_pattern,
        metavar="REGEX",
        help="show lines whose text matches",
    )
    which.add_argument("-i", "--ignore-case", action="store_true", help="ignore case in --grep and --highlight")
    which.add_argument("-v", "--invert-match", action="store_true", help="show lines whose text does not match --grep")
    which.add_argument(
        "-w",
        "--where",
        action="append",
        default=[],
        type=_comparison,
        metavar="FIELD>=VALUE",
        help="show lines whose field meets this: = != < <= > >= =~ !~; all of these must hold",
    )
    how = parser.add_argument_group("how to show lines")
    how.add_argument(
        "-o",
        "--output",
        choices=("pretty", "raw", "json"),
        default="pretty",
        help="columns, the text only, or a JSON object per line (pretty)",
    )
    how.add_argument(
        "-t",
        "--template",
        metavar="TEXT",
        help="print lines in this layout: '{time} {level:<7} {host} {fields.status} {message}'",
    )
    how.add_argument(
        "--highlight", action="append", default=[], type=_pattern, metavar="REGEX", help="highlight text that matches"
    )
    how.add_argument("--fold", action="store_true", help="show each traceback on one line")
    how.add_argument("--utc", action="store_true", help="show and read times in UTC instead of local time")
    how.add_argument("--no-status", action="store_true", help="no status line and no keys on a terminal")
    parser.set_defaults(started=time.time())


def _level(text: str) -> int:
    try:
        return severity_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"invalid regular expression {text[:100]!r}: {error}") from None
    return text


def _comparison(text: str) -> object:
    from .where import Comparison

    try:
        return Comparison.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
