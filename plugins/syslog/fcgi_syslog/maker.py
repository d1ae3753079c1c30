"""From what was logged to a line as it travels: rules, held lines, storm control, redaction, the message's head."""

from __future__ import annotations

import os
import socket
import time

from fcgi_core.plugin import SEVERITIES, RequestInfo, current_request

from .about import FIELDS_ELEMENT
from .capture import NO_FIELDS
from .hold import Held, HeldLine
from .local_socket import LocalLine
from .message import (
    APP_NAME_LENGTH,
    FACILITIES,
    HOSTNAME_LENGTH,
    LAST_SECOND,
    PROCID_LENGTH,
    clean_name,
    clip,
    format_data,
)
from .options import SyslogOptions
from .rules import RulesByHost
from .sender import Sender
from .severity import WARNING
from .source import Source, Sources
from .storm import StormControl

__all__ = ["LineMaker"]

KNOWN_HEADS = 1000
"""Heads that are kept for each source: an application may name loggers after its requests."""
SHORT = 1024
"""Characters of a text that need no look at `max_message`."""
FIELDS_ROOM = 32 << 10
"""Bytes of the fields that `extra` adds to a line; where they have more, each is cut to `CUT_FIELD` characters."""
CUT_FIELD = 128
LATEST = float(LAST_SECOND)


class LineMaker:
    """Makes lines and hands them to the sender. Any thread."""

    def __init__(
        self, options: SyslogOptions, application: str, rules: RulesByHost, sources: Sources, sender: Sender
    ) -> None:
        self._application = application
        self._rules = rules
        self._sources = sources
        self._sender = sender
        self._storms = StormControl()
        self._by_request = options.by_request
        self._hostname = clean_name(socket.gethostname(), HOSTNAME_LENGTH)
        self._process_id = clean_name(str(os.getpid()), PROCID_LENGTH)
        self.configure(options)

    def configure(self, options: SyslogOptions) -> None:
        self._limit = options.max_message
        self._short = min(SHORT, self._limit // 4)  # UTF-8 has 4 bytes at most
        facility = FACILITIES.index(options.facility)
        self._priorities = [f"<{facility * 8 + severity}>1 " for severity in range(8)]
        app_name = clean_name(options.app_name or self._application, APP_NAME_LENGTH)
        self._names = f" {self._hostname} {app_name} {self._process_id} "
        self._sources.configure(self._limit)

    def take(
        self, severity: int, msgid: str, text: str, when: float | None = None, fields: dict[str, str] = NO_FIELDS
    ) -> None:
        """Send a line of the request that runs on this thread, or of the process."""
        request = current_request()
        sources = self._sources
        if request is None:
            source = sources.process
        elif self._by_request and not self._rules.holds:
            source = sources.hosts.get(request.server_name) or sources.of_host(request)
        else:
            source = sources.of(request)
        self.line(source, request, severity, msgid, text, time.time() if when is None else when, fields)

    def line(
        self,
        source: Source,
        request: RequestInfo | None,
        severity: int,
        msgid: str,
        text: str,
        when: float,
        fields: dict[str, str] = NO_FIELDS,
    ) -> None:
        """Send a line, or hold it, unless it is below the threshold or above the rate."""
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
        if rules.rate and not self._storms.allows(source.server_name, severity, rules, when):
            return
        if fields:
            if rules.redacts:
                fields = {name: rules.redact_field(name, value) for name, value in fields.items()}
            head = self._new_head(source, severity, msgid, source.data + _format_fields(fields))
        else:
            head = source.heads.get((severity, msgid)) or self._head(source, severity, msgid)
        if rules.redacts and ("=" in text or not rules.only_secrets):
            text = rules.redact(text)
        if len(text) > self._short:
            text = clip(text, self._limit)
        self._sender.send(source, request, severity, head, when, text)

    def line_of_program(self, line: LocalLine, pid: int, uid: int, request: RequestInfo | None) -> None:
        """Send a line that another program wrote to the socket of `listen`."""
        source = self._sources.of(request)
        rules = self._rules[source.server_name]
        now = time.time()
        if line.severity > rules.threshold or not self._storms.allows(source.server_name, line.severity, rules, now):
            return
        head = (
            f"<{line.facility * 8 + line.severity}>1 - {self._hostname} {clean_name(line.tag, APP_NAME_LENGTH)} {pid}"
            f" local {source.data}{format_data(FIELDS_ELEMENT, {'uid': str(uid)})} "
            f"{'' if self._by_request else source.prefix}"
        )
        text = rules.redact(line.text)
        self._sender.send(source, request, line.severity, head, now, clip(text, self._limit))

    def send_held(self, source: Source, request: RequestInfo, held: Held, lines: list[HeldLine]) -> None:
        """Send held lines as if they had the threshold's severity; the field `severity` has their own."""
        severity = self._rules[source.server_name].threshold
        if lines and held.forgotten:
            text = f"{held.forgotten} earlier lines of this request were not held"
            self.line(source, request, severity, "held", text, lines[0].time)
        for line in lines:
            fields = {**line.fields, "severity": SEVERITIES[line.severity]}
            self.line(source, request, severity, line.msgid, line.text, line.time, fields)

    def report_suppressed(self) -> None:
        """Send a line for each virtual host whose lines were suppressed since the last call."""
        for name, count in self._storms.take_suppressed():
            source = self._sources.of_name(name)
            head = self._head(source, WARNING, "suppressed")
            self._sender.send(source, None, WARNING, head, time.time(), f"{count} messages suppressed")

    def _new_head(self, source: Source, severity: int, msgid: str, data: str) -> str:
        """An RFC 5424 message up to its text, without a time. Where all lines share a channel the text begins with the
        virtual host's name."""
        prefix = "" if self._by_request else source.prefix
        return f"{self._priorities[severity]}-{self._names}{msgid} {data or '-'} {prefix}"

    def _head(self, source: Source, severity: int, msgid: str) -> str:
        """The head of a line without fields; kept in the source."""
        if len(source.heads) >= KNOWN_HEADS:
            source.heads.clear()
        head = source.heads[severity, msgid] = self._new_head(source, severity, msgid, source.data)
        return head


def _format_fields(fields: dict[str, str]) -> str:
    """The fields of a line as structured data, short enough for an item that also has the longest text."""
    data = format_data(FIELDS_ELEMENT, fields)
    if len(data) * 4 <= FIELDS_ROOM:
        return data
    size = len(data.encode("utf-8", "backslashreplace"))
    if size <= FIELDS_ROOM:
        return data
    short = {name: value[:CUT_FIELD] for name, value in fields.items()}
    return format_data(FIELDS_ELEMENT, {**short, "cut": f"fields of {size} bytes in all, each cut to {CUT_FIELD}"})
