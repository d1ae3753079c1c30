"""``fcgi-sctp logs``: follow the live feed of a running web side.

Exit status: 0; 1 if ``--count`` was not reached before ``--timeout`` or the end; 69 (EX_UNAVAILABLE of sysexits.h) if
there is no feed to read; 130 after Ctrl-C, as a shell has it.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from typing import TextIO

from fcgi_core.text import SEVERITIES, severity_number

from .logs_filter import Filter
from .logs_format import Clock, about, format_json, format_pretty, format_raw
from .logs_source import Event, FeedError, FeedSource, Line, Note, OutputClosed

__all__ = ["add_arguments", "run"]

DEFAULT_FEED = "/run/fcgi-sctp/feed.sock"
FEED_VARIABLE = "FCGI_SCTP_FEED"
DEFAULT_TAIL = 10
"""Lines of the past, as tail(1) and journalctl(1) show."""
EX_UNAVAILABLE = 69
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``fcgi-sctp logs``."""
    parser.description = "Follow what the applications say, as it comes."
    parser.add_argument(
        "--feed",
        metavar="PATH",
        default=None,
        help=f"the feed's unix socket (${FEED_VARIABLE}, else {DEFAULT_FEED})",
    )
    parser.add_argument(
        "-n", "--tail", type=_count, default=DEFAULT_TAIL, metavar="N", help="lines of the past to begin with (10)"
    )
    parser.add_argument("--no-follow", action="store_true", help="end after the lines of the past")
    parser.add_argument("--count", type=_count, metavar="N", help="end after N lines shown")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="end after so long")
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
    which.add_argument("-i", "--ignore-case", action="store_true", help="--grep takes any case")
    which.add_argument("-v", "--invert-match", action="store_true", help="the text has not what --grep says")
    how = parser.add_argument_group("how they are shown")
    how.add_argument(
        "-o", "--output", choices=("pretty", "raw", "json"), default="pretty", help="columns, text alone, or JSON lines"
    )
    how.add_argument("--utc", action="store_true", help="times in UTC, not local")


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    wanted = Filter(
        level=args.level,
        server_names=args.server_name,
        applications=args.app,
        requests=args.request,
        patterns=args.grep,
        ignore_case=args.ignore_case,
        invert=args.invert_match,
    )
    deadline = math.inf if args.timeout is None else time.monotonic() + args.timeout
    source = FeedSource(
        args.feed or os.environ.get(FEED_VARIABLE) or DEFAULT_FEED,
        tail=args.tail,
        follow=not args.no_follow,
        deadline=deadline,
        output=_pipe(sys.stdout),
    )
    try:
        shown = _show(source, wanted, _writer(args, wanted), args.count)
        sys.stdout.flush()
    except FeedError as error:
        print(f"fcgi-sctp logs: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    except (BrokenPipeError, OutputClosed):
        _abandon_output()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1 if args.count is not None and shown < args.count else 0


def _show(source: FeedSource, wanted: Filter, write: Callable[[list[Event]], None], most: int | None) -> int:
    """Write the lines wanted, up to `most`; how many there were."""
    shown = 0
    for batch in source.batches():
        events: list[Event] = []
        for event in batch:
            if isinstance(event, Line):
                if not wanted.takes(event):
                    continue
                shown += 1
            events.append(event)
            if shown == most:
                break
        if events:
            write(events)
        if shown == most:
            break
    return shown


def _writer(args: argparse.Namespace, wanted: Filter) -> Callable[[list[Event]], None]:
    out = sys.stdout
    if args.output == "pretty" and _in_colour(out):
        from .logs_terminal import TerminalOutput  # rich takes longer to load than all else

        clock = Clock(utc=args.utc, dated=False)
        return TerminalOutput(out, clock, None if wanted.inverted else wanted.pattern).write
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # a locale that cannot write a character must not end us
    clock = Clock(utc=args.utc)
    formats: dict[str, Callable[[Event], str]] = {
        "pretty": lambda event: format_pretty(event, clock),
        "raw": format_raw,
        "json": format_json,
    }
    return lambda events: _write_plain(events, out, formats[args.output])


def _write_plain(events: Iterable[Event], out: TextIO, form: Callable[[Event], str]) -> None:
    """Whole lines, at once: what reads the pipe gets each as soon as it is there. What is about the feed itself, and
    no part of it, goes to standard error."""
    lines = []
    for event in events:
        if isinstance(event, Note) or (form is format_raw and not isinstance(event, Line)):
            print(f"fcgi-sctp logs: {about(event)}", file=sys.stderr)
        else:
            lines.append(form(event))
    out.write("".join(lines))
    out.flush()


def _in_colour(out: TextIO) -> bool:
    """https://no-color.org: a terminal, and nobody said no."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _pipe(out: TextIO) -> int | None:
    """The descriptor to watch for a reader that goes away; None if `out` is no file of the system's."""
    try:
        return out.fileno()
    except (OSError, ValueError):
        return None


def _abandon_output() -> None:
    """Python flushes standard output at its end, and would complain about the pipe once more."""
    descriptor = _pipe(sys.stdout)
    if descriptor is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _level(text: str) -> int:
    try:
        return severity_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text
