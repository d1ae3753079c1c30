"""Carries out what the keys ask for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace

from fcgi_core.common.text import SEVERITIES, escape

from .events import Event, Line
from .filter import Filter
from .formats import message_lines
from .prompt import Prompt
from .view import View

__all__ = ["HELP", "Controls"]

HELP = (
    ("space p", "pause, or go on: new lines wait in the feed, which reports how many it had to drop"),
    ("/", "search: show the latest lines that match, and highlight matches from now on"),
    ("+ -", "show more or fewer severities"),
    ("h", "show one virtual host (Tab completes; * is a wildcard; empty: all)"),
    ("r", "show only the request of the last line; again: all requests"),
    ("f", "fold tracebacks, or unfold them and show the latest again"),
    ("b", "show again the latest lines that pass the filters"),
    ("m Enter", "draw a mark"),
    ("x", "filters and highlights as on the command line"),
    ("? q", "this help; quit"),
)
MOST_FOUND = 100
"""Lines that a search shows at most."""


class Controls:
    """Changes the view, key by key."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._begun = view.filter.wanted
        self._begun_highlights = list(view.painter.highlights)
        self._marks = 0
        self.prompt: Prompt | None = None
        self._actions: dict[str, Callable[[], None]] = {
            " ": self._pause,
            "p": self._pause,
            "/": self._ask_pattern,
            "+": lambda: self._level(+1),
            "=": lambda: self._level(+1),
            "-": lambda: self._level(-1),
            "h": self._ask_host,
            "r": self._request,
            "f": self._fold,
            "b": self._again,
            "m": self._mark,
            "\n": self._mark,
            "x": self._reset,
            "?": self._help,
            "q": view.quit,
        }

    def key(self, key: str) -> None:
        if self.prompt is not None:
            if not self.prompt.key(key):
                self.prompt = None
        elif action := self._actions.get(key):
            action()

    def _pause(self) -> None:
        self._view.backlog.pause_or_resume(time.time())

    def _level(self, step: int) -> None:
        level = min(7, max(0, self._view.filter.wanted.level + step))
        self._want(level=level)
        self._say("all severities" if level == 7 else f"{SEVERITIES[level]} and worse")

    def _ask_pattern(self) -> None:
        self.prompt = Prompt("/", self._search)

    def _search(self, text: str) -> str:
        view = self._view
        if not text:
            view.painter.highlights = list(self._begun_highlights)
            return ""
        try:
            pattern = re.compile(text, 0 if any(map(str.isupper, text)) else re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
        view.painter.highlights = [*self._begun_highlights, pattern]
        self._show_found(lambda line: pattern.search(line.message) is not None, f"match /{escape(text)}/")
        return ""

    def _ask_host(self) -> None:
        self.prompt = Prompt("host:", self._host, sorted(self._view.hosts))

    def _host(self, text: str) -> str:
        self._want(server_names=(text,) if text else ())
        self._say(f"only {escape(text)}" if text else "all hosts")
        return ""

    def _request(self) -> None:
        view = self._view
        if view.filter.wanted.requests != self._begun.requests:
            self._want(requests=self._begun.requests)
            self._say("all requests")
        elif view.last is None or not view.last.request:
            self._say("the last line belongs to no request")
        else:
            request = view.last.request
            self._want(requests=(request,))
            self._show_found(lambda line: True, f"belong to request {escape(request)}")

    def _fold(self) -> None:
        view = self._view
        view.painter.folded = not view.painter.folded
        self._say("tracebacks folded" if view.painter.folded else "tracebacks unfolded")
        if not view.painter.folded:
            long = view.history.latest(lambda line: view.filter.takes(line) and len(message_lines(line.message)) > 1)
            if long is not None:
                view.show([long])

    def _again(self) -> None:
        self._show_found(lambda line: True, "pass the filters")

    def _mark(self) -> None:
        self._marks += 1
        now = time.strftime("%H:%M:%S", time.localtime())
        self._view.rule(f"mark {self._marks} · {now}")

    def _reset(self) -> None:
        self._view.filter = Filter(self._begun)
        self._view.painter.highlights = list(self._begun_highlights)
        self._say("filters and highlights as on the command line")

    def _help(self) -> None:
        for keys, text in HELP:
            self._view.write(self._view.painter.styled(f"   {keys:8}", "bold") + f" {text}\n")

    def _show_found(self, takes: Callable[[Line], bool], what: str) -> None:
        view = self._view
        found, count = view.history.matching(lambda line: view.filter.takes(line) and takes(line), MOST_FOUND)
        shown = f"; the last {len(found)}:" if count > len(found) else ":" if count else ""
        self._say(f"{count:,} of the latest {len(view.history):,} lines {what}{shown}")
        events: list[Event] = list(found)
        view.show(events)
        if found:
            self._say("new lines:")

    def _want(self, **changes: object) -> None:
        self._view.filter = Filter(replace(self._view.filter.wanted, **changes))  # type: ignore[arg-type]  # by name

    def _say(self, text: str) -> None:
        self._view.say(text)
