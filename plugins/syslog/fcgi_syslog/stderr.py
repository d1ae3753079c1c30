"""What the application writes to STDERR, or prints: pieces become lines."""

from __future__ import annotations

import threading
import time
from functools import partial

from fcgi_core.plugin import RequestInfo

from .maker import LineMaker
from .rules import RulesByHost
from .sender import PAUSE, Losses
from .source import Source

__all__ = ["Stderr"]

MANY_PIECES = 100
"""Waiting pieces of one source above which a thread that adds one pauses."""
MOST_PIECES = 10_000
"""Waiting pieces of one source; any further ones are lost."""


class Stderr:
    """Puts the pieces of each source together. Any thread."""

    def __init__(self, maker: LineMaker, rules: RulesByHost, losses: Losses) -> None:
        self._maker = maker
        self._rules = rules
        self._losses = losses
        self._loop_thread = threading.get_ident()
        self._unfinished: dict[Source, RequestInfo | None] = {}
        """Sources whose last event may go on."""

    def add(self, source: Source, request: RequestInfo | None, data: bytes) -> None:
        waiting = len(source.turns)
        if waiting < MOST_PIECES:
            source.turns.add(partial(self._feed, source, request, data))
        else:
            self._losses.add()
        if waiting > MANY_PIECES and not source.turns.mine and threading.get_ident() != self._loop_thread:
            time.sleep(PAUSE)

    def flush(self, source: Source, request: RequestInfo | None) -> None:
        """Send what the source has written, complete or not."""
        source.turns.add(partial(self._flush, source, request))

    def flush_all(self, *, quiet: bool = False) -> None:
        """Flush every source; with `quiet` only those that have written nothing since the last such call."""
        for source in list(self._unfinished):  # other threads add some meanwhile
            if source.quiet or not quiet:
                self.flush(source, self._unfinished.get(source))
            source.quiet = True

    def _feed(self, source: Source, request: RequestInfo | None, data: bytes) -> None:
        events = source.stderr.feed(data)
        source.quiet = False
        if source.stderr:
            self._unfinished[source] = request
        self._send(source, request, events)

    def _flush(self, source: Source, request: RequestInfo | None) -> None:
        self._unfinished.pop(source, None)
        self._send(source, request, source.stderr.flush())

    def _send(self, source: Source, request: RequestInfo | None, events: list[str]) -> None:
        for event in events:
            try:
                severity, text = self._rules[source.server_name].of_stderr(event)
                self._maker.line(source, request, severity, "stderr", text, time.time())
            except Exception:
                self._losses.add()
