"""The half in the application's process: lines become RFC 5424 messages, each sent with the request it belongs to."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from operator import itemgetter

from fcgi_core.plugin import (
    SEVERITIES,
    ApplicationHalf,
    ApplicationHost,
    AssociationInfo,
    Outcome,
    RequestInfo,
    StartAnew,
    Turns,
    current_request,
)

from . import batch
from .about import FIELDS_ELEMENT, LONGEST_VALUE, REQUEST_ELEMENT, details, server_name
from .capture import NO_FIELDS, Capture
from .hold import Held, HeldLine
from .local_socket import LocalLine, LocalSocket
from .message import (
    APP_NAME_LENGTH,
    FACILITIES,
    HOSTNAME_LENGTH,
    PROCID_LENGTH,
    clean_name,
    clip,
    format_data,
    format_time,
)
from .options import SyslogOptions
from .reassembly import Reassembler
from .rules import Rules, RulesByHost
from .severity import CRIT, WARNING
from .storm import StormControl
from .uncompiled import Sending, guarded

__all__ = ["SyslogApplication"]

_KEY = "syslog"
"""In `RequestInfo.plugin_data`."""
_WORKER = "FCGI_SCTP_WORKER"
"""In the environment of a worker: its number."""
_FIXED = ("scope", "delivery", "spool", "spool_bytes", "listen")
"""Options that a running half cannot change."""
KNOWN_HOSTS = 1000
"""Virtual hosts whose beginnings of lines are kept; names come from clients where a web server passes them on."""
KNOWN_HEADS = 1000
"""Beginnings of lines that are kept for each of them: an application may name loggers after its requests."""
_WORD = re.compile(r"[0-9A-Za-z._-]{8,}")
"""What may be the identity of a request: nginx's $request_id has 32 hexadecimal digits."""
LOOK_AT = 1024
"""Characters of another program's line in which an identity is looked for."""
KEPT_LINES = 30_000
"""Lines that wait for the loop to fetch them; no more are taken."""
LONG = 1024
"""Characters from which on a line is looked at more closely, with what it begins with: all shorter ones together have
30 MiB at most."""
KEPT_LONG = 32 << 20
"""Characters of the longer ones together."""
FIELDS_ROOM = 32 << 10
"""Bytes of the fields that `extra` adds to a line; where they have more, each is cut to `CUT_FIELD` characters."""
CUT_FIELD = 128
MANY_PIECES = 100
"""Pieces of one source's STDERR waiting from which on a thread that adds one lets the others go first."""
MOST_PIECES = 10_000
"""No more are taken."""
MOST_ECHOES = 100
"""Lines that others say while one is being sent, and that are sent after it."""
TURN = 4000
"""Lines made into items before other work of the loop has its turn (some 3 ms)."""
MANY = 2000
"""Lines waiting from which on a thread that adds one lets the loop go first: one that does nothing else would keep the
interpreter to itself."""
LET_GO_FIRST = 0.001
"""Seconds that it waits then, once."""
LATEST = float(batch.LATEST // 1_000_000 - 1)
"""Seconds from the epoch to the last time that a line can have."""
_SEVERITY: Callable[[batch.Plain], int] = itemgetter(0)


_Heads = dict[tuple[int, str], str]
"""By severity and MSGID: what lines begin with, without a time."""


class _Source:
    """A request, or the process outside of any: what is the same in all its lines, and its STDERR.

    The request holds it, so it does not hold the request: both go as soon as nobody needs them.
    """

    __slots__ = ("data", "heads", "held", "prefix", "quiet", "server_name", "stderr", "target", "turns")

    def __init__(
        self, limit: int, server_name: str, data: str, heads: _Heads, target: tuple[AssociationInfo, int] | None = None
    ) -> None:
        self.server_name = server_name
        self.data = data
        """Structured data."""
        self.heads = heads
        self.target = target
        self.prefix = f"{server_name}: " if server_name else ""
        self.stderr = Reassembler(limit)
        self.turns = Turns()
        """For `stderr`: pieces do not mix, and a destructor that writes while one is looked at comes after it."""
        self.held: Held | None = None
        self.quiet = False


class SyslogApplication(ApplicationHalf):
    """Takes lines on any thread."""

    def __init__(self, host: ApplicationHost, options: SyslogOptions) -> None:
        self._host = host
        self._sending = Sending()
        self._failures = 0
        self._reported = 0
        self._hostname = clean_name(socket.gethostname(), HOSTNAME_LENGTH)
        self._process_id = clean_name(str(os.getpid()), PROCID_LENGTH)
        self._fixed = {name: getattr(options, name) for name in _FIXED}
        self._by_request = options.by_request
        self._own_streams = options.own_streams
        self._about = {"application": host.name} if host.name else {}
        if worker := os.environ.get(_WORKER):
            self._about["worker"] = worker
        self._rules = RulesByHost(options)
        self._storms = StormControl()
        self._loop_thread = threading.get_ident()
        self._batched = options.batched
        self._lines: deque[batch.Plain] = deque()
        self._fetching = False
        self._echo = False
        """A line was said while lines were fetched, on the loop's thread."""
        self._echoed = False
        """The same of the fetching before this one."""
        self._sources_of_requests = False
        """Whether any request has had one of its own: while none has, nobody need look whether it does."""
        self._long = 0
        """Characters of long lines that wait, about: it begins again at 0 when none waits."""
        self._gathering = host.gather(self._batched, self._make)
        self._at_once = options.spool is not None
        """What is to be in a file when the call that logged it returns cannot wait for others."""
        self._process = _Source(options.max_message, "", self._data({}), {})
        self._hosts: dict[str, _Source] = {}
        """By SERVER_NAME as it came, where the web side says whose lines are: what they have in common."""
        self._holding: dict[_Source, RequestInfo | None] = {}  # STDERR that waits for its next line
        self._capture = Capture(self._take, self._take_output, host.log.name, self._lose)
        self._apply(options)
        self._named: dict[str, RequestInfo] = {}
        """With `listen`: the requests that run, by identity."""
        self._listener: LocalSocket | None = None
        if options.listen is not None and (worker or "0") == "0":  # one socket, however many workers
            try:
                self._listener = LocalSocket(options.listen, self._take_local, self._lose)
            except BaseException:
                self._capture.uninstall()
                self._capture.close()
                raise

    def configure(self, options: SyslogOptions, server_name: str | None = None) -> None:
        """The new options; StartAnew for what takes another half, ValueError for what is not for one host alone."""
        if server_name is None:
            for name, value in self._fixed.items():
                if getattr(options, name) != value:
                    raise StartAnew(f"syslog.{name} is {value}")
        self._rules.change(options, server_name)
        if server_name is None:
            self._apply(options)
        else:
            self._capture.install(self._options.capture, self._rules.lowest)

    def _apply(self, options: SyslogOptions) -> None:
        self._options = options
        self._limit = options.max_message
        self._short = min(LONG, self._limit // 4)  # UTF-8 has 4 bytes at most
        self._facility = FACILITIES.index(options.facility)
        app_name = clean_name(options.app_name or self._host.name, APP_NAME_LENGTH)
        self._priorities = [f"<{self._facility * 8 + severity}>1 " for severity in range(8)]
        self._names = f" {self._hostname} {app_name} {self._process_id} "
        self._process.heads.clear()
        self._hosts.clear()
        self._take_stderr = "stderr" in options.capture
        self._keep_stderr = options.stderr == "take"
        self._capture.install(options.capture, self._rules.lowest)

    def association_up(self, association: AssociationInfo) -> None:
        # lines that no web side takes, for the plugin is not enabled there or with other options, stay on stderr
        self._capture.heard(self._host.is_taken(self._batched))

    def association_down(self, association: AssociationInfo, reason: str) -> None:
        self._capture.heard(self._is_heard())

    def _is_heard(self) -> bool:
        return bool(self._host.associations()) and self._host.is_taken(self._batched)

    def request_begin(self, request: RequestInfo) -> None:
        if self._listener is not None:
            self._named[request.identity] = request

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if self._listener is not None:
            self._named.pop(request.identity, None)
        if not self._sources_of_requests:
            return  # and no `plugin_data` made for each request
        source = request.plugin_data.get(_KEY)
        if source is None:
            return
        self._flush(source, request)
        if source.held is not None:
            lines = source.held.take()
            if outcome.status >= 500 or outcome.error:
                self._raise(source, request, lines)

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        if not self._take_stderr:
            return False
        if self._capture.forked:
            return self._capture.from_fork(data)
        return self._pieces(request, data)

    def _take_output(self, data: bytes) -> bool:
        """What the process prints is put together and looked at as STDERR is."""
        return self._pieces(current_request(), data)

    def _pieces(self, request: RequestInfo | None, data: bytes) -> bool:
        source = self._source(request)
        waiting = len(source.turns)
        if waiting < MOST_PIECES:
            source.turns.add(partial(self._feed, source, request, data))
        else:
            self._lose()
        if waiting > MANY_PIECES and not source.turns.mine and threading.get_ident() != self._loop_thread:
            time.sleep(LET_GO_FIRST)
        return self._keep_stderr

    def _feed(self, source: _Source, request: RequestInfo | None, data: bytes) -> None:
        events = source.stderr.feed(data)
        source.quiet = False
        if source.stderr:
            self._holding[source] = request
        self._send_stderr(source, request, events)

    def tick(self) -> None:
        if self._host.associations():
            self._capture.heard(self._is_heard())
        for source in list(self._holding):  # other threads add some meanwhile
            if source.quiet:
                self._flush(source, self._holding.get(source))
            source.quiet = True
        self._report_suppressed()
        failures = self._failures
        if failures != self._reported:
            self._host.log.error("%d lines could not be sent (%d since the start)", failures - self._reported, failures)
            self._reported = failures

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._capture.uninstall()
        self._capture.close()
        for source in list(self._holding):  # other threads may still add some
            self._flush(source, self._holding.get(source))
        self._report_suppressed()

    def _source(self, request: RequestInfo | None) -> _Source:
        if request is None:
            return self._process
        source = request.plugin_data.get(_KEY)
        if source is None:
            self._sources_of_requests = True
            # two threads may come here at once for a request: both get the first one's
            source = request.plugin_data.setdefault(_KEY, self._new_source(request))
        assert isinstance(source, _Source)
        return source

    def _new_source(self, request: RequestInfo) -> _Source:
        name = server_name(request)
        if not self._by_request:
            about = {"server_name": name, "request": request.identity}
            data = self._data(about | details(request.raw_params, self._rules[name].redact))
            association = self._host.association_of(request)
            return _Source(self._limit, name, data, {}, None if association is None else (association, 0))
        host = self._hosts.get(request.server_name) or self._host_source(request)
        return _Source(self._limit, host.server_name, host.data, host.heads)

    def _host_source(self, request: RequestInfo) -> _Source:
        """What the lines of all requests of a virtual host have in common: the web side knows the request itself, and
        what was said of it here would be made for nothing."""
        name = server_name(request)
        host = _Source(self._limit, name, self._data({"server_name": name}), {})
        if len(request.server_name) <= LONGEST_VALUE:
            if len(self._hosts) >= KNOWN_HOSTS:
                self._hosts.clear()
            self._hosts[request.server_name] = host
        return host

    def _data(self, about: dict[str, str]) -> str:
        """Structured data of lines, with what they all have."""
        about = about | self._about
        return format_data(REQUEST_ELEMENT, about) if about else ""

    def _flush(self, source: _Source, request: RequestInfo | None) -> None:
        source.turns.add(partial(self._flushed, source, request))

    def _flushed(self, source: _Source, request: RequestInfo | None) -> None:
        self._holding.pop(source, None)
        self._send_stderr(source, request, source.stderr.flush())

    def _send_stderr(self, source: _Source, request: RequestInfo | None, events: list[str]) -> None:
        for event in events:
            try:
                severity, text = self._rules[source.server_name].of_stderr(event)
                self._line(source, request, severity, "stderr", text, time.time(), NO_FIELDS)
            except Exception:
                self._lose()

    def _take(
        self, severity: int, msgid: str, text: str, when: float | None = None, fields: dict[str, str] = NO_FIELDS
    ) -> None:
        request = current_request()
        if request is None:
            source = self._process
        elif self._by_request and not self._rules.holds:
            source = self._hosts.get(request.server_name) or self._host_source(request)
        else:
            source = self._source(request)
        self._line(source, request, severity, msgid, text, time.time() if when is None else when, fields)

    def _take_local(self, line: LocalLine, pid: int, uid: int) -> None:
        """A line of another program, on the input's thread."""
        request = self._request_in(line.text)
        source = self._source(request)
        rules = self._rules[source.server_name]
        now = time.time()
        if line.severity > rules.threshold or not self._allows(rules, source, line.severity, now):
            return
        head = (
            f"<{line.facility * 8 + line.severity}>1 - {self._hostname} {clean_name(line.tag, APP_NAME_LENGTH)} {pid}"
            f" local {source.data}{format_data(FIELDS_ELEMENT, {'uid': str(uid)})} "
            f"{'' if self._by_request else source.prefix}"
        )
        text = rules.redact(line.text)
        self._hand_over(source, request, line.severity, head, now, clip(text, self._limit))

    def _request_in(self, text: str) -> RequestInfo | None:
        """The request that another program's line names by its identity; nothing else tells whose it is."""
        if not self._named:
            return None
        words = _WORD.findall(text[:LOOK_AT])
        return next((request for word in words if (request := self._named.get(word)) is not None), None)

    def _line(
        self,
        source: _Source,
        request: RequestInfo | None,
        severity: int,
        msgid: str,
        text: str,
        when: float,
        fields: dict[str, str],
    ) -> None:
        """Send a line, unless it is not severe enough or one too many."""
        rules = self._rules.base if self._rules.same else self._rules[source.server_name]
        if not 0.0 <= when < LATEST:
            fields = {**fields, "malformed": f"time {when!r}: seconds from 1970 to 9999 were expected; it is now"}
            when = time.time()
        if severity > rules.threshold:
            if rules.hold and request is not None:
                if source.held is None:
                    source.held = Held()
                source.held.add(HeldLine(severity, msgid, text, when, fields))
            return
        if rules.rate and not self._allows(rules, source, severity, when):
            return
        if fields:
            if rules.redacts:
                fields = {name: rules.redact_field(name, value) for name, value in fields.items()}
            head = self._begin(source, severity, msgid, source.data + _format_fields(fields))
        else:
            head = source.heads.get((severity, msgid)) or self._head(source, severity, msgid)
        if rules.redacts and ("=" in text or not rules.only_secrets):
            text = rules.redact(text)
        if len(text) > self._short:
            text = clip(text, self._limit)
        self._hand_over(source, request, severity, head, when, text)

    def _begin(self, source: _Source, severity: int, msgid: str, data: str) -> str:
        """A message of RFC 5424 up to its text, without a time. Where all lines share a channel the text begins with
        the virtual host's name."""
        prefix = "" if self._by_request else source.prefix
        return f"{self._priorities[severity]}-{self._names}{msgid} {data or '-'} {prefix}"

    def _head(self, source: _Source, severity: int, msgid: str) -> str:
        """The one of all lines that add nothing."""
        if len(source.heads) >= KNOWN_HEADS:
            source.heads.clear()
        head = source.heads[severity, msgid] = self._begin(source, severity, msgid, source.data)
        return head

    def _allows(self, rules: Rules, source: _Source, severity: int, now: float) -> bool:
        return (
            not rules.rate or severity <= CRIT or self._storms.allows(source.server_name, rules.rate, rules.burst, now)
        )

    def _hand_over(
        self,
        source: _Source,
        request: RequestInfo | None,
        severity: int,
        head: str,
        when: float,
        text: str,
    ) -> None:
        """Keep a line until the loop fetches it with others; what is urgent, or is its request's, goes by itself."""
        if self._at_once or severity <= CRIT or (request is not None and self._own_streams):
            self._send(source, request, severity, head, when, text)
            return
        if self._fetching and threading.get_ident() == self._loop_thread:
            # a line that fetching lines made others say is fetched next; one that fetching that one made them say is
            # not, for it would never end
            self._echo = True
            if self._echoed:
                self._lose()
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
        """Many lines wait: let the loop fetch them, and forget the latest if they are too many."""
        if count > KEPT_LINES or self._long > KEPT_LONG:
            try:
                self._lines.pop()
            except IndexError:
                return  # they have just been fetched
            self._gathering.lose(1)
        if threading.get_ident() != self._loop_thread:
            time.sleep(LET_GO_FIRST)

    def _send(
        self, source: _Source, request: RequestInfo | None, severity: int, head: str, when: float, text: str
    ) -> None:
        """Send a line by itself."""
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
            # a line that sending a line made others say goes after it; one that sending that one made them say does
            # not, for it would never end
            if sending.echo or len(sending.later) >= MOST_ECHOES:
                self._lose()
            else:
                sending.later.append((channel, item, request, severity))
            return
        sending.now = True
        try:
            self._send_item(channel, item, request, severity)
            sending.echo = True
            while sending.later:
                self._send_item(*sending.later.pop(0))
        finally:
            sending.now = sending.echo = False

    def _send_item(self, channel: str, item: bytes, request: RequestInfo | None, severity: int) -> None:
        try:
            self._host.send(channel, item, request=request, urgency=severity)
        except Exception:
            self._lose()

    def _make(self, crowded: bool) -> Iterator[tuple[bytes, int, AssociationInfo | None]]:
        """Items of what was kept; on the loop's thread."""
        return guarded(self._items(crowded), self._set_fetching)

    def _set_fetching(self, fetching: bool) -> None:
        self._fetching = fetching
        if fetching:
            self._echoed, self._echo = self._echo, False

    def _items(self, crowded: bool) -> Iterator[tuple[bytes, int, AssociationInfo | None]]:
        lines = self._lines
        taken = [lines.popleft() for _ in range(min(TURN, len(lines)))]
        if not lines:
            self._long = 0
        groups = [taken] if taken else []
        if len(self._host.associations()) > 1:
            groups = _apart(groups, lambda line: line[4] and line[4][0])
        if crowded:
            # something may have to be dropped: an item of one severity each, so that it is what is least severe
            groups = sorted(_apart(groups, _SEVERITY), key=lambda group: group[0][0])
        for group in groups:
            for part in batch.split(group):
                target = part[0][4]
                yield batch.encode(part), min(map(_SEVERITY, part)), target and target[0]

    def _raise(self, source: _Source, request: RequestInfo, lines: list[HeldLine]) -> None:
        """Send what was held as if it were severe enough; the field `severity` says what it was."""
        assert source.held is not None
        severity = self._rules[source.server_name].threshold
        if lines and source.held.forgotten:
            told = f"{source.held.forgotten} earlier lines of this request were not held"
            self._line(source, request, severity, "held", told, lines[0].time, NO_FIELDS)
        for line in lines:
            fields = {**line.fields, "severity": SEVERITIES[line.severity]}
            self._line(source, request, severity, line.msgid, line.text, line.time, fields)

    def _report_suppressed(self) -> None:
        for name, count in self._storms.take_suppressed():
            source = _Source(self._limit, name, self._data({"server_name": name} if name else {}), {})
            head = self._head(source, WARNING, "suppressed")
            self._hand_over(source, None, WARNING, head, time.time(), f"{count} messages suppressed")

    def _lose(self) -> None:
        """A line cannot be sent."""
        self._failures += 1  # reported by `tick`
        self._gathering.lose(1)


def _format_fields(fields: dict[str, str]) -> str:
    """The fields of a line as structured data that has room in an item beside the longest text."""
    data = format_data(FIELDS_ELEMENT, fields)
    if len(data) * 4 <= FIELDS_ROOM:
        return data
    size = len(data.encode("utf-8", "backslashreplace"))
    if size <= FIELDS_ROOM:
        return data
    short = {name: value[:CUT_FIELD] for name, value in fields.items()}
    return format_data(FIELDS_ELEMENT, {**short, "cut": f"fields of {size} bytes in all, each cut to {CUT_FIELD}"})


def _apart(groups: Sequence[list[batch.Plain]], key: Callable[[batch.Plain], Hashable]) -> list[list[batch.Plain]]:
    """Each group taken apart by a key of its lines, whose order stays."""
    apart: list[list[batch.Plain]] = []
    for group in groups:
        by_key: dict[Hashable, list[batch.Plain]] = {}
        for line in group:
            by_key.setdefault(key(line), []).append(line)
        apart.extend(by_key.values())
    return apart
