"""The half on the web server's side: messages arrive as remote text and go to the live feed and the outputs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from types import MappingProxyType

from fcgi_core.plugin import (
    AssociationInfo,
    FeedEntry,
    Outcome,
    OutputFigures,
    RequestInfo,
    StartAnew,
    WebHalf,
    WebHost,
)

from . import batch
from .about import FIELDS_ELEMENT, OF_PROCESS, REQUEST_ELEMENT, details, server_name
from .lines import Head, Lines, OfRequest
from .message import FACILITIES, Data, Message, parse_text, read
from .options import Output, SyslogOptions
from .outputs import make_sink
from .reassembly import Reassembler
from .rules import RulesByHost
from .severity import WARNING
from .sinks import Sink
from .storm import StormControl

__all__ = ["SyslogWeb"]

_KEY = "syslog"
"""In `RequestInfo.plugin_data`."""
_NOTHING: Mapping[str, str] = MappingProxyType({})
HELD_STDERR = 8 << 20
"""Bytes of unfinished FCGI_STDERR lines of all requests together; beyond it the oldest are published as they are. An
application can leave `max_message` bytes of each of thousands of requests unfinished."""
KNOWN_HEADS = 1024
"""Parsed heads that are kept: one for each logger and severity, and virtual host."""
KNOWN_HEAD_LENGTH = 2048
"""Characters of the longest head that is kept."""
KNOWN_HEAD_COST = 8192
"""Bytes of memory of the largest head that is kept: an application may give a line hundreds of fields."""


class _Source:
    """What this side knows of a request, whatever a line says, and the request's FCGI_STDERR.

    The request holds its source, so the source does not hold the request: reference counts free both.
    """

    __slots__ = ("_data", "_fields", "details", "quiet", "server_name", "stderr")

    def __init__(self, request: RequestInfo, limit: int, rules: RulesByHost) -> None:
        self.server_name = server_name(request)
        self.details = details(request.raw_params, rules[self.server_name].redact)
        self.stderr = Reassembler(limit)
        self.quiet = False
        self._data: Data | None = None
        self._fields: dict[str, str] = self.details

    def fields(self, data: Data) -> dict[str, str]:
        """Return the fields of a line: those that the application added, overridden by what this side knows."""
        if data is not self._data:  # most lines of a request have the same data
            self._fields = _added(data) | self.details
            self._data = data
        return self._fields


class SyslogWeb(WebHalf):
    """All hooks run on the loop's thread; each output writes on a separate thread."""

    def __init__(self, host: WebHost, options: SyslogOptions) -> None:
        self._host = host
        self._options = options
        self._facility = FACILITIES.index(options.facility)
        self._acknowledged = options.delivery == "acknowledged"
        self._rules = RulesByHost(options)
        self._storms = StormControl()
        self._batched = options.batched
        self._heads: dict[tuple[str | None, ...], Head] = {}
        """By text and application name; for a line that names its request also by the request's virtual host, which is
        None once the request is forgotten."""
        self._holding: dict[_Source, RequestInfo] = {}
        """Sources with an unfinished event on STDERR, oldest first."""
        self._held = 0
        """Bytes of these unfinished events."""
        self.malformed = 0
        """Items that were not RFC 5424 messages."""
        self._last_malformed = ""
        self._reported = 0
        self.sinks = [self._sink(output) for output in options.outputs]
        """The outputs, in the order of the options."""

    def output_figures(self) -> list[OutputFigures]:
        return [sink.figures() for sink in self.sinks]

    def reopen(self) -> None:
        for sink in self.sinks:
            sink.reopen()

    def configure(self, options: SyslogOptions, server_name: str | None = None) -> None:
        """Use new options; unchanged outputs keep their waiting lines."""
        if server_name is not None:
            self._rules.change(options, server_name)
            return
        for name in ("scope", "delivery"):
            if getattr(options, name) != getattr(self._options, name):
                raise StartAnew(f"syslog.{name} is {getattr(self._options, name)}")
        kept = dict(zip((output.model_dump_json() for output in self._options.outputs), self.sinks, strict=True))
        fresh = [output for output in options.outputs if output.model_dump_json() not in kept]
        made = {output.model_dump_json(): self._sink(output) for output in fresh}  # if one fails, all stays as it was
        self.sinks = [
            made[key] if (key := output.model_dump_json()) in made else kept.pop(key) for output in options.outputs
        ]
        for sink in kept.values():
            sink.close()
        self._options = options
        self._facility = FACILITIES.index(options.facility)
        self._rules.change(options, None)

    def commit(self) -> Future[None] | None:
        """Return a future of when every required output has written all lines for good; None if they have."""
        behind = [(sink, sink.accepted) for sink in self.sinks if sink.required and sink.written < sink.accepted]
        return _all_written(behind) if behind else None

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        problem = ""
        if channel == self._batched:
            try:
                self._publish_all(self._lines(item, association))
                return
            except ValueError as error:
                problem = str(error)
        message, other_problem = read(item)
        problem = problem or other_problem
        fields: Mapping[str, str]
        text = message.text
        if request is not None:
            source = self._source(request)
            name, identity = source.server_name, request.identity
            fields = source.fields(message.data)
        elif self._of_process(channel):
            name, identity, fields = _of_claims(message.data)
            if name:
                text = text.removeprefix(f"{name}: ")
        else:
            # its request is forgotten, and the application's claim about it is not to be trusted
            name = identity = ""
            fields = _flat(message.data)
        if problem:
            self.malformed += 1
            self._last_malformed = f"{association.peer}: {problem}"
            fields = {**fields, "malformed": problem}
        head = _head_of(message, association.peer_name, name, identity, fields)
        self._publish(head.entry(time.time() if message.time is None else message.time, text))

    def _lines(self, item: bytes, association: AssociationInfo) -> Lines:
        """Return the lines of a batch. ValueError says what is wrong with it."""
        texts, times, requests, numbers, lines, clean = batch.decode(item)
        peer_name = association.peer_name
        known = self._heads
        if not any(requests):
            heads = [known.get((text, peer_name)) or self._head((text, peer_name)) for text in texts]
            return Lines(heads, times, numbers, lines, clean)
        if not self._options.by_request or self._options.own_streams:
            raise ValueError("a batch names requests, which this scope does not allow")
        heads = []
        places: dict[tuple[int, object], int] = {}
        of_lines: list[int] = []
        about: list[OfRequest | None] = []
        last: RequestInfo | None = None
        name: str | None = None
        one: OfRequest | None = None
        found = self._host.find_requests(requests, association)
        for request, number, reference in zip(found, numbers, requests, strict=True):
            if request is None:
                name = one = None
            elif request is not last:
                name = server_name(request)
                one = OfRequest(request.identity, request.raw_params, self._rules[name].redact)
            last = request
            key = (number, name if reference else 0)
            place = places.get(key)
            if place is None:
                place = places[key] = len(heads)
                begins = (texts[number], peer_name, name) if reference else (texts[number], peer_name)
                heads.append(known.get(begins) or self._head(begins))
            of_lines.append(place)
            about.append(one)
        return Lines(heads, times, of_lines, lines, clean, about)

    def _head(self, begins: tuple[str | None, ...]) -> Head:
        text, peer_name = begins[:2]
        assert text is not None
        assert peer_name is not None
        message = parse_text(text)
        data = message.data
        name, identity, fields = _of_claims(data)
        if message.time is not None or message.text not in ("", f"{name}: ") or not text.endswith(" "):
            raise ValueError("a head of a batch has a time or a text")
        if len(begins) > 2:
            identity = ""
            if begins[2] is None:
                # its request is forgotten, and the application's claim about it is not to be trusted
                name, fields = "", _flat(data)
            else:
                name, fields = begins[2], _added(data)
        head = _head_of(message, peer_name, name, identity, fields)
        if len(text) <= KNOWN_HEAD_LENGTH and head.cost <= KNOWN_HEAD_COST:
            if len(self._heads) >= KNOWN_HEADS:
                self._heads.clear()
            self._heads[begins] = head
        return head

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if not self._holding:
            return  # without making `plugin_data` for each request
        source = request.plugin_data.get(_KEY)
        if source in self._holding:
            self._flush(source, request)

    def stderr(self, request: RequestInfo, data: bytes) -> None:
        """Publish FCGI_STDERR, unless the application side makes lines of it itself (`copy`)."""
        if self._options.stderr == "copy" or "stderr" not in self._options.capture:
            return
        source = self._source(request)
        before = source.stderr.held
        events = source.stderr.feed(data)
        self._held += source.stderr.held - before
        source.quiet = False
        if source.stderr:
            self._holding[source] = request
        self._publish_stderr(source, request, events)
        while self._held > HELD_STDERR and self._holding:
            self._flush(*next(iter(self._holding.items())))

    def tick(self) -> None:
        for source, request in list(self._holding.items()):
            if source.quiet:
                self._flush(source, request)
            source.quiet = True
        self._report_suppressed()
        for sink in self.sinks:
            sink.look()
        if self.malformed != self._reported:
            self._host.log.warning(
                "%d items were not RFC 5424 messages, the last from %s",
                self.malformed - self._reported,
                self._last_malformed,
            )
            self._reported = self.malformed

    def close(self) -> None:
        for source, request in list(self._holding.items()):
            self._flush(source, request)
        self._report_suppressed()
        for sink in self.sinks:
            sink.close()

    def _sink(self, output: Output) -> Sink:
        return make_sink(output, self._host.log, acknowledged=self._acknowledged)

    def _of_process(self, channel: str) -> bool:
        return not self._options.by_request or channel.startswith("syslog.process")

    def _source(self, request: RequestInfo) -> _Source:
        source = request.plugin_data.get(_KEY)
        if source is None:
            source = request.plugin_data[_KEY] = _Source(request, self._options.max_message, self._rules)
        assert isinstance(source, _Source)
        return source

    def _flush(self, source: _Source, request: RequestInfo) -> None:
        del self._holding[source]
        self._held -= source.stderr.held
        self._publish_stderr(source, request, source.stderr.flush())

    def _publish_stderr(self, source: _Source, request: RequestInfo, events: list[str]) -> None:
        rules = self._rules[source.server_name]
        for event in events:
            severity, text = rules.of_stderr(event)
            now = time.time()
            if not self._storms.allows(source.server_name, severity, rules, now):
                continue
            self._publish(
                FeedEntry(
                    now,
                    severity,
                    rules.redact(text),
                    source.server_name,
                    self._options.app_name,
                    self._facility,
                    "",
                    "stderr",
                    request.identity,
                    source.details or None,
                )
            )

    def _report_suppressed(self) -> None:
        for name, count in self._storms.take_suppressed():
            text = f"{count} messages suppressed"
            app_name = self._options.app_name
            self._publish(FeedEntry(time.time(), WARNING, text, name, app_name, self._facility, "", "suppressed"))

    def _publish(self, entry: FeedEntry) -> None:
        self._host.publish(entry)
        for sink in self.sinks:
            if entry.severity <= sink.threshold:
                sink.write(entry)

    def _publish_all(self, lines: Lines) -> None:
        self._host.publish_all(lines)
        for sink in self.sinks:
            wanted = lines.down_to(sink.threshold)
            if wanted is not None:
                sink.write(wanted)


def _head_of(message: Message, peer_name: str, name: str, identity: str, fields: Mapping[str, str]) -> Head:
    return Head(
        message.severity,
        name,
        message.app_name or peer_name,
        message.facility,
        message.procid,
        message.msgid,
        identity,
        fields or None,
        message.hostname,
    )


def _flat(data: Data, but: str = "") -> dict[str, str]:
    """Return structured data as one mapping, without the element `but`; foreign names begin with their element."""
    fields: dict[str, str] = {}
    for element, parameters in data.items():
        if element != but:
            prefix = "" if element in (REQUEST_ELEMENT, FIELDS_ELEMENT) else f"{element}."
            for key, value in parameters.items():
                fields.setdefault(prefix + key, value)
    return fields


def _added(data: Data) -> dict[str, str]:
    """Return the fields that an application may add to a line whose request is known here: none about the request."""
    added = _flat(data, REQUEST_ELEMENT)
    of_process = data.get(REQUEST_ELEMENT, _NOTHING)
    return added | {name: of_process[name] for name in OF_PROCESS if name in of_process}


def _of_claims(data: Data) -> tuple[str, str, dict[str, str]]:
    """Return virtual host, request and other fields as the application claims them."""
    fields = _flat(data)
    about = data.get(REQUEST_ELEMENT, _NOTHING)
    for name in ("server_name", "request"):
        if name in about:
            del fields[name]
    return about.get("server_name", ""), about.get("request", ""), fields


def _all_written(behind: list[tuple[Sink, int]]) -> Future[None]:
    """Return a future that is done when each sink has written that many lines."""
    future: Future[None] = Future()
    left = [None] * (len(behind) - 1)  # sinks call back on separate threads: one pops the last

    def one_written() -> None:
        try:
            left.pop()
        except IndexError:
            future.set_result(None)

    for sink, number in behind:
        sink.when_written(number, one_written)
    return future
