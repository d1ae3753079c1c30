"""Runs ``fcgi-sctp logs``: opens the sources and writes their lines, plain here, on a terminal by `live`."""

from __future__ import annotations

import argparse
import math
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from ..output import complain, output_is_gone
from .events import Event, Line, Note, OutputClosed, SourceError
from .feed import FeedSource
from .filter import Filter, Wanted
from .formats import Clock, about, format_json, format_pretty, format_raw
from .goal import Goal, exit_status
from .options import DEFAULT_FEED, DEFAULT_TAIL, FEED_VARIABLE
from .past import Past
from .pump import Pump
from .source import Source

__all__ = ["run"]

COMMAND = "fcgi-sctp logs"
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def run(args: argparse.Namespace) -> int:
    """Show the lines and return the exit status."""
    try:
        wanted = _wanted(args)
        plain = _plain_form(args, Clock(utc=args.utc))
    except ValueError as error:
        complain(COMMAND, str(error))
        return os.EX_USAGE
    follow = not args.no_follow and wanted.until > args.started
    tail = DEFAULT_TAIL if args.tail is None and args.since is None else args.tail
    goal = Goal(args.count, args.until_match)
    lines_wanted = Filter(wanted)
    try:
        sources = _sources(args, follow, tail if wanted.everything else None)
        deadline = math.inf if args.timeout is None else time.monotonic() + args.timeout
        if follow and wanted.until < math.inf:
            deadline = min(deadline, time.monotonic() + wanted.until - time.time())
        if follow and _is_terminal(args):
            from .live import Live  # loaded for a terminal only, with rich

            return Live(args, sources, lines_wanted, goal, tail, deadline).run()
        pump = Pump(sources, deadline=deadline, output=_descriptor(sys.stdout))
        try:
            pump.start()
            _write_all(past_then_present(pump, lines_wanted, tail), lines_wanted, goal, _writer(args, plain))
            sys.stdout.flush()
        finally:
            pump.close()
    except SourceError as error:
        complain(COMMAND, *error.sentences)
        return os.EX_UNAVAILABLE
    except OutputClosed:
        return 0
    return exit_status(goal, pump)


def past_then_present(pump: Pump, wanted: Filter, tail: int | None) -> Iterator[list[Event]]:
    """Batches of events until the end; of the past, only the latest `tail` wanted lines (None: all)."""
    if tail is not None:
        past = Past(tail)
        while pump.past and not pump.timed_out:
            for event in pump.wait():
                if not isinstance(event, Line) or wanted.takes(event):
                    past.add(event)
        yield past.events()
    while not (pump.ended or pump.timed_out):
        yield pump.wait()


def _write_all(
    batches: Iterable[list[Event]], wanted: Filter, goal: Goal, write: Callable[[list[Event]], None]
) -> None:
    """Write wanted lines until the goal is reached."""
    for batch in batches:
        events: list[Event] = []
        for event in batch:
            if isinstance(event, Line) and not wanted.takes(event):
                continue
            events.append(event)
            if isinstance(event, Line) and goal.reached_with(event):
                break
        if events:
            write(events)
        if goal.reached:
            return


def _wanted(args: argparse.Namespace) -> Wanted:
    from .moments import moment

    return Wanted(
        level=args.level,
        server_names=tuple(args.server_name),
        applications=tuple(args.app),
        requests=tuple(args.request),
        patterns=tuple(args.grep),
        ignore_case=args.ignore_case,
        invert=args.invert_match,
        where=tuple(args.where),
        since=-math.inf if args.since is None else moment(args.since, args.started, utc=args.utc),
        until=math.inf if args.until is None else moment(args.until, args.started, utc=args.utc),
    )


def _sources(args: argparse.Namespace, follow: bool, tail: int | None) -> list[Source]:
    """The sources to read. Each has a name if there are several, or if the user gave it one."""
    words = [*args.feed, *args.source] or [os.environ.get(FEED_VARIABLE) or DEFAULT_FEED]
    one_tail = tail if len(words) == 1 else None  # of several, `Past` finds the latest
    sources: list[Source] = []
    for word in words:
        name, path = _named(word)
        if not name and len(words) > 1:
            name = os.path.basename(path).removesuffix(".sock") or path
        if word not in args.feed and _is_file(path):
            from .files import FileSource

            sources.append(FileSource(path, tail=one_tail, follow=follow, name=name))
        elif word not in args.feed and os.path.isdir(path):
            raise SourceError(f"{path}: is a directory; name the files in it")
        elif word not in args.feed and (path == "-" or _is_pipe(path)):
            from .files import PipeSource

            sources.append(PipeSource(path, name=name))
        else:
            sources.append(FeedSource(path, tail=one_tail, follow=follow, name=name))
    return sources


def _named(word: str) -> tuple[str, str]:
    match = re.fullmatch(r"([\w.-]+)=(.+)", word)
    return (match[1], match[2]) if match and not os.path.exists(word) else ("", word)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return path.endswith((".log", ".json", ".jsonl", *COMPRESSED))


def _is_pipe(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _plain_form(args: argparse.Namespace, clock: Clock) -> Callable[[Event], str]:
    """A function that formats an event for a pipe. ValueError for an invalid template."""
    if args.template is not None:
        from .template import template

        form = template(args.template, clock)
        return lambda event: form(event) if isinstance(event, Line) else ""
    formats: dict[str, Callable[[Event], str]] = {
        "pretty": lambda event: format_pretty(event, clock, folded=args.fold),
        "raw": format_raw,
        "json": format_json,
    }
    return formats[args.output]


def _writer(args: argparse.Namespace, plain: Callable[[Event], str]) -> Callable[[list[Event]], None]:
    out = sys.stdout
    if args.output == "pretty" and args.template is None and in_colour(out):
        from .painter import Painter

        painter = Painter.of(args)
        return lambda events: _write(out, painter.paint(events))
    return lambda events: _write_plain(events, out, plain, args)


def _write_plain(events: Iterable[Event], out: TextIO, form: Callable[[Event], str], args: argparse.Namespace) -> None:
    """Write whole lines and flush them, so that a pipe gets each at once. Notes about the feed go to standard error."""
    lines = []
    text_alone = args.output == "raw" or args.template is not None
    for event in events:
        if isinstance(event, Note) or (text_alone and not isinstance(event, Line)):
            complain(COMMAND, about(event))
        else:
            lines.append(form(event))
    _write(out, "".join(lines))


def _write(out: TextIO, text: str) -> None:
    out.write(text)
    out.flush()
    if output_is_gone():
        raise OutputClosed


def in_colour(out: TextIO) -> bool:
    """Whether `out` is a terminal that shall have colours, see https://no-color.org."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _is_terminal(args: argparse.Namespace) -> bool:
    """Whether standard output is a terminal that can show a status line."""
    if args.no_status or args.output != "pretty" or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return sys.stdout.isatty()


def _descriptor(out: TextIO) -> int | None:
    """The descriptor to watch for a reader that goes away; None if `out` has none."""
    try:
        return out.fileno()
    except (OSError, ValueError):
        return None
