"""The way of a line from the application's process: with others when the event loop fetches them, or by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import itemgetter

from fcgi_core.plugin import ApplicationHost, AssociationInfo, Gathering, RequestInfo

from . import batch
from .message import format_time
from .options import SyslogOptions
from .severity import CRIT
from .source import Source
from .uncompiled import Sending, guarded

__all__ = ["Losses", "Sender"]

KEPT_LINES = 30_000
"""Lines that may wait for the loop; any further ones are lost."""
LONG = 1024
"""Characters, head included, above which a line counts against `KEPT_LONG`. All shorter lines together take 30 MiB at
most."""
KEPT_LONG = 32 << 20
"""Characters of all long lines that wait."""
MOST_ECHOES = 100
"""Lines logged while a line is being sent; they are sent after it."""
TURN = 4000
"""Lines made into items before the loop does other work (about 3 ms)."""
MANY = 2000
"""Waiting lines above which a thread that adds one pauses, so that the loop can run: a thread that only logs would
otherwise keep the interpreter to itself."""
PAUSE = 0.001
"""Seconds of that pause."""
_SEVERITY: Callable[[batch.Plain], int] = itemgetter(0)


class Losses:
    """Counts lines that could not be sent. Any thread."""

    def __init__(self, gathering: Gathering, log: logging.Logger) -> None:
        self._gathering = gathering
        self._log = log
        self._count = 0
        self._reported = 0

    def add(self) -> None:
        """Count one line."""
        self._count += 1
        self._gathering.lose(1)

    def report(self) -> None:
        """Log how many lines were lost since the last report."""
        count = self._count
        if count != self._reported:
            self._log.error("%d lines could not be sent (%d since the start)", count - self._reported, count)
            self._reported = count


class _SenderOfOne:
    """Sends each line by itself. Any thread."""

    def __init__(self, host: ApplicationHost, options: SyslogOptions, losses: Losses) -> None:
        self._host = host
        self._batched = options.batched
        self._by_request = options.by_request
        self._own_streams = options.own_streams
        self._losses = losses
        self._sending = Sending()

    def send(
        self, source: Source, request: RequestInfo | None, severity: int, head: str, when: float, text: str
    ) -> None:
        if severity > CRIT and (request is None or not self._own_streams):
            channel, item = self._batched, batch.encode([(severity, head, when, text, source.target)])
        else:
            channel = "syslog.process" if self._by_request and request is None else "syslog"
            if severity <= CRIT:
                channel += ".urgent"
            priority, _, rest = head.partition(" - ")
            item = f"{priority} {format_time(when)} {rest}{text}".encode("utf-8", "backslashreplace")
        sending = self._sending
        if sending.now:
            # a line logged while another is sent goes after it; a line logged while that one is sent is lost, or
            # sending would never end
            if sending.echo or len(sending.later) >= MOST_ECHOES:
                self._losses.add()
            else:
                sending.later.append((channel, item, request, severity))
            return
        sending.now = True
        try:
            self._send(channel, item, request, severity)
            sending.echo = True
            while sending.later:
                self._send(*sending.later.pop(0))
        finally:
            sending.now = sending.echo = False

    def _send(self, channel: str, item: bytes, request: RequestInfo | None, severity: int) -> None:
        try:
            self._host.send(channel, item, request=request, urgency=severity)
        except Exception:
            self._losses.add()


class Sender:
    """Keeps lines until the loop fetches them, many together; sends urgent ones at once. Any thread."""

    def __init__(self, host: ApplicationHost, options: SyslogOptions) -> None:
        self._host = host
        self._by_request = options.by_request
        self._own_streams = options.own_streams
        self._at_once = options.spool is not None
        """With a spool a line must be in a file when the call that logged it returns."""
        self._loop_thread = threading.get_ident()
        self._lines: deque[batch.Plain] = deque()
        self._fetching = False
        self._echo = False
        """The loop's thread has logged a line while it fetched lines."""
        self._echoed = False
        """The loop's thread had logged a line during the fetch before this one."""
        self._long = 0
        """Characters of the long lines that wait, about; 0 again when no line waits."""
        self._gathering = host.gather(options.batched, self._make)
        self.losses = Losses(self._gathering, host.log)
        self._sender_of_one = _SenderOfOne(host, options, self.losses)

    def send(
        self, source: Source, request: RequestInfo | None, severity: int, head: str, when: float, text: str
    ) -> None:
        """Send a line with others; by itself if it is urgent, must be in the spool at once, or has its own stream."""
        if self._at_once or severity <= CRIT or (request is not None and self._own_streams):
            self._sender_of_one.send(source, request, severity, head, when, text)
            return
        if self._fetching and threading.get_ident() == self._loop_thread:
            # a line logged while lines are fetched goes with the next fetch; a line logged during that one is lost, or
            # fetching would never end
            self._echo = True
            if self._echoed:
                self.losses.add()
                return
        lines = self._lines
        target = request.reference if request is not None and self._by_request else source.target
        lines.append((severity, head, when, text, target))
        size = len(head) + len(text)
        if size > LONG:
            self._long += size
        count = len(lines)
        if count == 1:
            self._gathering.ready()
        elif count > MANY or self._long > KEPT_LONG:
            self._slow_down(count)

    def _slow_down(self, count: int) -> None:
        """Let the loop fetch lines; drop the latest one if too many wait."""
        if count > KEPT_LINES or self._long > KEPT_LONG:
            try:
                self._lines.pop()
            except IndexError:
                return  # they have just been fetched
            self._gathering.lose(1)
        if threading.get_ident() != self._loop_thread:
            time.sleep(PAUSE)

    def _make(self, crowded: bool) -> Iterator[tuple[bytes, int, AssociationInfo | None]]:
        """The items of the lines that wait, each with its urgency and association. On the loop's thread."""
        return guarded(self._items(crowded), self._set_fetching)

    def _set_fetching(self, fetching: bool) -> None:
        self._fetching = fetching
        if fetching:
            self._echoed, self._echo = self._echo, False

    def _items(self, crowded: bool) -> Iterator[tuple[bytes, int, AssociationInfo | None]]:
        lines = self._lines
        fetched = [lines.popleft() for _ in range(min(TURN, len(lines)))]
        if not lines:
            self._long = 0
        groups = [fetched] if fetched else []
        if len({one.process for one in self._host.associations()}) > 1:
            groups = _apart(groups, lambda line: line[4] and line[4][0].process)
        if crowded:
            # items may be dropped: with one severity in each, the least severe lines go
            groups = sorted(_apart(groups, _SEVERITY), key=lambda group: group[0][0])
        for group in groups:
            for part in batch.split(group):
                target = part[0][4]
                yield batch.encode(part), min(map(_SEVERITY, part)), target and target[0]


def _apart(groups: Sequence[list[batch.Plain]], key: Callable[[batch.Plain], Hashable]) -> list[list[batch.Plain]]:
    """Split each group by a key of its lines; lines of one key keep their order."""
    apart: list[list[batch.Plain]] = []
    for group in groups:
        by_key: dict[Hashable, list[batch.Plain]] = {}
        for line in group:
            by_key.setdefault(key(line), []).append(line)
        apart.extend(by_key.values())
    return apart
