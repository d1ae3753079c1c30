"""The half in the application's process: lines become RFC 5424 messages, each sent with the request it belongs to."""

from __future__ import annotations

import os

from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    AssociationInfo,
    Outcome,
    RequestInfo,
    StartAnew,
    current_request,
)

from .capture import Capture
from .maker import LineMaker
from .options import SyslogOptions
from .programs import Programs
from .rules import RulesByHost
from .sender import Sender
from .source import WORKER, Sources
from .stderr import Stderr

__all__ = ["SyslogApplication"]

_FIXED = ("scope", "delivery", "spool", "spool_bytes", "listen")
"""Options that a running half cannot change."""


class SyslogApplication(ApplicationHalf):
    """Connects what captures lines with what makes and sends them. Lines come on any thread."""

    def __init__(self, host: ApplicationHost, options: SyslogOptions) -> None:
        self._host = host
        self._rules = RulesByHost(options)
        self._sources = Sources(host, options, self._rules)
        self._sender = Sender(host, options)
        self._maker = LineMaker(options, host.name, self._rules, self._sources, self._sender)
        self._stderr = Stderr(self._maker, self._rules, self._sender.losses)
        lose = self._sender.losses.add
        self._capture = Capture(self._maker.take, self._printed, host.log.name, lose)
        self._apply(options)
        self._programs: Programs | None = None
        if options.listen is not None and os.environ.get(WORKER, "0") in ("", "0"):  # one socket for all workers
            try:
                self._programs = Programs(options.listen, self._maker, lose)
            except BaseException:
                self._capture.uninstall()
                self._capture.close()
                raise

    def configure(self, options: SyslogOptions, server_name: str | None = None) -> None:
        """Use new options. StartAnew for an option that needs a new half, ValueError for an option that one host cannot
        have alone."""
        if server_name is None:
            for name in _FIXED:
                if (value := getattr(self._options, name)) != getattr(options, name):
                    raise StartAnew(f"syslog.{name} is {value}")
        self._rules.change(options, server_name)
        if server_name is None:
            self._maker.configure(options)
            self._apply(options)
        else:
            self._capture.install(self._options.capture, self._rules.lowest)

    def _apply(self, options: SyslogOptions) -> None:
        self._options = options
        self._capture.install(options.capture, self._rules.lowest)

    def association_up(self, association: AssociationInfo) -> None:
        # lines that the web side does not accept, having no such plugin or other options, stay on stderr
        self._capture.heard(self._host.is_taken(self._options.batched))

    def association_down(self, association: AssociationInfo, reason: str) -> None:
        self._capture.heard(self._is_heard())

    def _is_heard(self) -> bool:
        return bool(self._host.associations()) and self._host.is_taken(self._options.batched)

    def request_begin(self, request: RequestInfo) -> None:
        if self._programs is not None:
            self._programs.begin(request)

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if self._programs is not None:
            self._programs.end(request)
        source = self._sources.known(request)
        if source is None:
            return
        self._stderr.flush(source, request)
        if (held := source.held) is not None:
            lines = held.take()
            if outcome.status >= 500 or outcome.error:
                self._maker.send_held(source, request, held, lines)

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        if "stderr" not in self._options.capture:
            return False
        if self._capture.forked:
            return self._capture.from_fork(data)
        return self._piece(request, data)

    def _printed(self, data: bytes) -> bool:
        """Treat what the process prints like STDERR."""
        return self._piece(current_request(), data)

    def _piece(self, request: RequestInfo | None, data: bytes) -> bool:
        self._stderr.add(self._sources.of(request), request, data)
        return self._options.stderr == "take"

    def tick(self) -> None:
        if self._host.associations():
            self._capture.heard(self._is_heard())
        self._stderr.flush_all(quiet=True)
        self._maker.report_suppressed()
        self._sender.losses.report()

    def close(self) -> None:
        if self._programs is not None:
            self._programs.close()
        self._capture.uninstall()
        self._capture.close()
        self._stderr.flush_all()
        self._maker.report_suppressed()
