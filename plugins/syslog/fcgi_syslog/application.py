"""The half in the application's process: lines become RFC 5424 messages, each sent with the request it belongs to."""

from __future__ import annotations

import os
import socket
import threading
import time

from fcgi_core.plugin import ApplicationHalf, ApplicationHost, Outcome, RequestInfo, current_request
from fcgi_core.text import severity_number

from .about import REQUEST_ELEMENT, details, server_name
from .capture import Capture
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
from .plugin import SyslogOptions
from .reassembly import Reassembler
from .severity import CRIT, guess

__all__ = ["SyslogApplication"]

_KEY = "syslog"
"""In `RequestInfo.plugin_data`."""


class _Source:
    """A request, or the process outside of any: what is the same in all its lines, and its STDERR.

    The request holds it, so it does not hold the request: both go as soon as nobody needs them.
    """

    __slots__ = ("data", "prefix", "quiet", "stderr")

    def __init__(self, request: RequestInfo | None, limit: int) -> None:
        self.data = ""
        self.prefix = ""
        if request is not None:
            name = server_name(request)
            about = {"server_name": name, "request": request.identity, **details(request)}
            self.data = format_data(REQUEST_ELEMENT, about)
            self.prefix = f"{name}: " if name else ""
        self.stderr = Reassembler(limit)
        self.quiet = False


class SyslogApplication(ApplicationHalf):
    """Takes lines on any thread."""

    def __init__(self, host: ApplicationHost, options: SyslogOptions) -> None:
        self._host = host
        self._sending = threading.local()
        self._lock = threading.Lock()
        self._failures = 0
        self._reported = 0
        self._hostname = clean_name(socket.gethostname(), HOSTNAME_LENGTH)
        self._process_id = clean_name(str(os.getpid()), PROCID_LENGTH)
        self._scope = options.scope
        self._process = _Source(None, options.max_message)
        self._holding: dict[_Source, RequestInfo | None] = {}  # STDERR that waits for its next line
        self._capture = Capture(self._take, host.log.name, self._failed)
        self._apply(options)

    def configure(self, options: SyslogOptions, server_name: str | None = None) -> None:
        """The new options; ValueError if the scope is another: it takes other channels."""
        if options.scope != self._scope:
            raise ValueError(f"syslog.scope is {self._scope} until the next start")
        self._apply(options)

    def _apply(self, options: SyslogOptions) -> None:
        self._options = options
        self._threshold = severity_number(options.severity)
        self._limit = options.max_message
        facility = FACILITIES.index(options.facility)
        self._priorities = [f"<{facility * 8 + severity}>1 " for severity in range(8)]
        app_name = clean_name(options.app_name or self._host.name, APP_NAME_LENGTH)
        self._names = f" {self._hostname} {app_name} {self._process_id} "
        self._severity_of_stderr = severity_number(options.stderr_severity)
        self._take_stderr = "stderr" in options.capture
        self._keep_stderr = options.stderr == "take"
        self._capture.install(options.capture, self._threshold)

    def request_begin(self, request: RequestInfo) -> None:
        self._capture.stay()

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        source = request.plugin_data.get(_KEY)
        if source is not None:
            self._flush(source, request)

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        if not self._take_stderr:
            return False
        source = self._source(request)
        with self._lock:
            events = source.stderr.feed(data)
            source.quiet = False
            if source.stderr:
                self._holding[source] = request
        self._send_stderr(source, request, events)
        return self._keep_stderr

    def tick(self) -> None:
        self._capture.stay()
        with self._lock:
            over = [(source, request) for source, request in self._holding.items() if source.quiet]
            for source in self._holding:
                source.quiet = True
        for source, request in over:
            self._flush(source, request)
        failures = self._failures
        if failures != self._reported:
            self._host.log.error("%d lines could not be sent (%d since the start)", failures - self._reported, failures)
            self._reported = failures

    def close(self) -> None:
        self._capture.uninstall()
        self._capture.close()
        for source, request in list(self._holding.items()):
            self._flush(source, request)

    def _source(self, request: RequestInfo | None) -> _Source:
        if request is None:
            return self._process
        source = request.plugin_data.get(_KEY)
        if source is None:
            # two threads may come here at once for a request: both get the first one's
            source = request.plugin_data.setdefault(_KEY, _Source(request, self._limit))
        assert isinstance(source, _Source)
        return source

    def _flush(self, source: _Source, request: RequestInfo | None) -> None:
        with self._lock:
            self._holding.pop(source, None)
            events = source.stderr.flush()
        self._send_stderr(source, request, events)

    def _send_stderr(self, source: _Source, request: RequestInfo | None, events: list[str]) -> None:
        for event in events:
            severity, text = guess(event)
            if severity is None:
                severity = self._severity_of_stderr
            self._send(source, request, severity, "stderr", text, time.time(), "")

    def _take(self, severity: int, msgid: str, text: str, when: float | None = None, data: str = "") -> None:
        request = current_request()
        self._send(self._source(request), request, severity, msgid, text, time.time() if when is None else when, data)

    def _send(
        self,
        source: _Source,
        request: RequestInfo | None,
        severity: int,
        msgid: str,
        text: str,
        when: float,
        data: str,
    ) -> None:
        if severity > self._threshold or getattr(self._sending, "now", False):
            return  # what sending a line makes others say is not sent: it would never end
        if len(text) * 4 > self._limit:
            text = clip(text, self._limit)
        if self._scope == "association":
            text = source.prefix + text
            channel = "syslog"
        else:
            channel = "syslog" if request is not None else "syslog.process"
        if severity <= CRIT:
            channel += ".urgent"
        header = f"{self._priorities[severity]}{format_time(when)}{self._names}{msgid}"
        line = f"{header} {source.data + data or '-'} {text}"
        self._sending.now = True
        try:
            self._host.send(channel, line.encode("utf-8", "backslashreplace"), request=request, urgency=severity)
        except Exception:
            self._failed()
        finally:
            self._sending.now = False

    def _failed(self) -> None:
        self._failures += 1  # reported by `tick`
