"""The half beside the web server: messages come in as remote text and go to the live feed and the outputs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from fcgi_core.plugin import AssociationInfo, FeedEntry, Outcome, RequestInfo, WebHalf, WebHost
from fcgi_core.text import severity_number

from .about import FIELDS_ELEMENT, REQUEST_ELEMENT, details, server_name
from .file_sink import FileSink
from .message import FACILITIES, Data, read
from .plugin import Output, SyslogOptions
from .reassembly import Reassembler
from .severity import guess
from .sinks import Sink
from .socket_sink import SocketSink

__all__ = ["SyslogWeb"]

_KEY = "syslog"
"""In `RequestInfo.plugin_data`."""


class _Source:
    """What this side knows of a request, whatever a line says; and its FCGI_STDERR.

    The request holds it, so it does not hold the request: both go as soon as nobody needs them.
    """

    __slots__ = ("details", "quiet", "server_name", "stderr")

    def __init__(self, request: RequestInfo, limit: int) -> None:
        self.server_name = server_name(request)
        self.details = details(request)
        self.stderr = Reassembler(limit)
        self.quiet = False


class SyslogWeb(WebHalf):
    """All hooks run on the loop's thread; the outputs write on threads of their own."""

    def __init__(self, host: WebHost, options: SyslogOptions) -> None:
        self._host = host
        self._options = options
        self._facility = FACILITIES.index(options.facility)
        self._severity_of_stderr = severity_number(options.stderr_severity)
        self._holding: dict[_Source, RequestInfo] = {}  # STDERR that waits for its next line
        self.malformed = 0
        """Items that were no RFC 5424 messages."""
        self._last_malformed = ""
        self._reported = 0
        self._sinks = [self._sink(output) for output in options.outputs]

    @property
    def sinks(self) -> list[Sink]:
        """The outputs, in the order of the options."""
        return self._sinks

    def reopen(self) -> None:
        """Open all files anew: something has moved them away."""
        for sink in self._sinks:
            sink.reopen()

    def configure(self, options: SyslogOptions, server_name: str | None = None) -> None:
        """The new options; outputs that stay the same keep what waits in them."""
        if options.scope != self._options.scope:
            raise ValueError(f"syslog.scope is {self._options.scope} until the next start")
        kept = dict(zip((output.model_dump_json() for output in self._options.outputs), self._sinks, strict=True))
        self._sinks = [
            (kept.pop(key) if (key := output.model_dump_json()) in kept else self._sink(output))
            for output in options.outputs
        ]
        for sink in kept.values():
            sink.close()
        self._options = options
        self._facility = FACILITIES.index(options.facility)
        self._severity_of_stderr = severity_number(options.stderr_severity)

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        message, problem = read(item)
        fields: Mapping[str, str] | None
        text = message.text
        if request is not None:
            source = self._source(request)
            name, identity = source.server_name, request.identity
            fields = source.details
            if len(message.data) > 1 or REQUEST_ELEMENT not in message.data:
                fields = {**_flat(message.data), **fields}
        else:
            fields = _flat(message.data)
            name = identity = ""
            if self._of_process(channel):
                # nobody but the application can say whose line it is
                name, identity = fields.pop("server_name", ""), fields.pop("request", "")
                text = text.removeprefix(f"{name}: ") if name else text
        entry = FeedEntry(
            time.time() if message.time is None else message.time,
            message.severity,
            text,
            name,
            message.app_name or association.peer_name,
            message.facility,
            message.procid,
            message.msgid,
            identity,
            fields or None,
        )
        if problem:
            self.malformed += 1
            self._last_malformed = f"{association.peer}: {problem}"
            entry = replace(entry, fields={**(fields or {}), "malformed": problem})
        self._publish(entry)

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        source = request.plugin_data.get(_KEY)
        if source in self._holding:
            self._flush(source, request)

    def stderr(self, request: RequestInfo, data: bytes) -> None:
        """What the application side sent as FCGI_STDERR; if it makes lines of it itself (`copy`), those are enough."""
        if self._options.stderr == "copy" or "stderr" not in self._options.capture:
            return
        source = self._source(request)
        events = source.stderr.feed(data)
        source.quiet = False
        if source.stderr:
            self._holding[source] = request
        self._publish_stderr(source, request, events)

    def tick(self) -> None:
        over = [(source, request) for source, request in self._holding.items() if source.quiet]
        for source in self._holding:
            source.quiet = True
        for source, request in over:
            self._flush(source, request)
        if self.malformed != self._reported:
            self._host.log.warning(
                "%d items were no RFC 5424 messages, the last from %s",
                self.malformed - self._reported,
                self._last_malformed,
            )
            self._reported = self.malformed

    def close(self) -> None:
        for source, request in list(self._holding.items()):
            self._flush(source, request)
        for sink in self._sinks:
            sink.close()

    def _sink(self, output: Output) -> Sink:
        threshold = severity_number(output.severity)
        if output.file is not None:
            return FileSink(output.file, self._host.log, threshold)
        return SocketSink(output.socket or "/dev/log", self._host.log, threshold)

    def _of_process(self, channel: str) -> bool:
        return self._options.scope == "association" or channel.startswith("syslog.process")

    def _source(self, request: RequestInfo) -> _Source:
        source = request.plugin_data.get(_KEY)
        if source is None:
            source = request.plugin_data[_KEY] = _Source(request, self._options.max_message)
        assert isinstance(source, _Source)
        return source

    def _flush(self, source: _Source, request: RequestInfo) -> None:
        del self._holding[source]
        self._publish_stderr(source, request, source.stderr.flush())

    def _publish_stderr(self, source: _Source, request: RequestInfo, events: list[str]) -> None:
        for event in events:
            severity, text = guess(event)
            self._publish(
                FeedEntry(
                    time.time(),
                    self._severity_of_stderr if severity is None else severity,
                    text,
                    source.server_name,
                    self._options.app_name,
                    self._facility,
                    "",
                    "stderr",
                    request.identity,
                    source.details or None,
                )
            )

    def _publish(self, entry: FeedEntry) -> None:
        self._host.publish(entry)
        for sink in self._sinks:
            if entry.severity <= sink.threshold:
                sink.write(entry)


def _flat(data: Data) -> dict[str, str]:
    """Structured data as one mapping; the elements of others keep their names before a dot."""
    fields: dict[str, str] = {}
    for element, parameters in data.items():
        prefix = "" if element in (REQUEST_ELEMENT, FIELDS_ELEMENT) else f"{element}."
        for key, value in parameters.items():
            fields.setdefault(prefix + key, value)
    return fields
