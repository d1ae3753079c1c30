"""The SQL of each request in a file of the web host, and slow statements at once in the live feed.

The application reports what it executes, for example from Django's `connection.execute_wrapper`::

    from fcgi_sctp_sqltrace import executed

    def wrapper(execute, sql, params, many, context):
        before = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            executed(sql, time.perf_counter() - before)

A request has two streams: its slow statements go on the channel's own, and the bulk of its trace on an additional one.
A warning then waits neither behind a megabyte of trace nor for a lost packet of it.
"""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    AssociationInfo,
    Channel,
    FeedEntry,
    Outcome,
    Plugin,
    RequestInfo,
    Scope,
    Stream,
    WebHalf,
    WebHost,
    current_request,
)

__all__ = ["SqlTracePlugin", "executed", "plugin"]

SLOW, TRACE = b"s", b"t"
"""The first byte of an item: a slow statement, or a part of the trace with a statement in each line."""
PART = 32 * 1024
"""Bytes of trace after which a part is sent."""
LONGEST = 8 * 1024
"""Characters of a statement that are kept."""
WARNING = 4

_running: Reporter | None = None


def executed(sql: str, seconds: float) -> None:
    """Report a statement that the calling thread or task executed for its request. Any thread."""
    request = current_request()
    if _running is not None and request is not None:
        _running.report(request, sql, seconds)


class SqlTracePlugin(Plugin):
    """The SQL of each request in a file of the web host, and slow statements in the live feed."""

    name = "sqltrace"
    version = "0.1"

    class Options(Plugin.Options):
        file: str = "/var/log/fcgi-sctp/sql.json"
        """The file, with a JSON object in each line; the web side writes it."""
        slow: float = 0.1
        """Seconds; a statement that took at least this long is a line of the live feed."""

    def channels(self, options: Any) -> list[Channel]:
        return [Channel("sqltrace", Scope.REQUEST, queue_bytes=4 << 20)]

    def application_half(self, host: ApplicationHost, options: Any) -> ApplicationHalf:
        return Reporter(host, options)

    def web_half(self, host: WebHost, options: Any) -> WebHalf:
        return Recorder(host, options)


class Trace:
    """The statements of one request that have not been sent."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.lines: list[bytes] = []
        self.size = 0

    def add(self, line: bytes) -> None:
        self.lines.append(line)
        self.size += len(line)
        if self.size >= PART:
            self.flush()

    def flush(self) -> None:
        lines, self.lines, self.size = self.lines, [], 0
        if lines:
            self.stream.send(TRACE + b"\n".join(lines), urgency=7)  # rather lost than a slow statement


class Reporter(ApplicationHalf):
    def __init__(self, host: ApplicationHost, options: Any) -> None:
        global _running
        self.host = host
        self.slow = options.slow
        _running = self

    def configure(self, options: Any, server_name: str | None = None) -> None:
        self.slow = options.slow

    def report(self, request: RequestInfo, sql: str, seconds: float) -> None:
        trace: Trace | None = request.plugin_data.get("sqltrace")
        if trace is None:
            trace = request.plugin_data["sqltrace"] = Trace(self.host.open_stream("sqltrace", request))
        line = f"{seconds:.6f} {' '.join(sql.split())[:LONGEST]}".encode(errors="replace")
        trace.add(line)
        if seconds >= self.slow:
            self.host.send("sqltrace", SLOW + line, request=request, urgency=WARNING)

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        trace: Trace | None = request.plugin_data.get("sqltrace")
        if trace is not None:
            trace.flush()

    def close(self) -> None:
        global _running
        _running = None


class Recorder(WebHalf):
    def __init__(self, host: WebHost, options: Any) -> None:
        self.host = host
        self.path = options.file
        self.file: TextIO = open(options.file, "a", encoding="utf-8")  # noqa: SIM115  closed by close()

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        identity, server_name = ("", "") if request is None else (request.identity, request.server_name)
        text = item[1:].decode(errors="replace")
        if item.startswith(SLOW):
            entry = FeedEntry(time.time(), WARNING, text, server_name, association.peer_name, request=identity)
            self.host.publish(entry)
        else:
            # JSON escapes what an application may not put into a file of this host: newlines and control characters
            self.file.write(json.dumps({"request": identity, "sql": text.split("\n")}) + "\n")

    def tick(self) -> None:
        self.file.flush()

    def reopen(self) -> None:
        self.file.close()
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def close(self) -> None:
        self.file.close()


plugin = SqlTracePlugin
