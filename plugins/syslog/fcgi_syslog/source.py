"""What all lines of one request, of one virtual host, or of the process have in common."""

from __future__ import annotations

import os

from fcgi_core.plugin import ApplicationHost, AssociationInfo, RequestInfo, Turns

from .about import LONGEST_VALUE, REQUEST_ELEMENT, details, server_name
from .hold import Held
from .message import format_data
from .options import SyslogOptions
from .reassembly import Reassembler
from .rules import RulesByHost

__all__ = ["WORKER", "Source", "Sources"]

_KEY = "syslog"
"""In `RequestInfo.plugin_data`."""
WORKER = "FCGI_SCTP_WORKER"
"""The environment variable with the number of a worker process."""
KNOWN_HOSTS = 1000
"""Virtual hosts whose sources are kept: where a web server passes on the client's Host, clients make names up."""


class Source:
    """A request, or the process outside of any request.

    The request holds its source, so the source does not hold the request: reference counts free both.
    """

    __slots__ = ("data", "heads", "held", "prefix", "quiet", "server_name", "stderr", "target", "turns")

    def __init__(
        self,
        limit: int,
        server_name: str,
        data: str,
        heads: dict[tuple[int, str], str] | None = None,
        target: tuple[AssociationInfo, int] | None = None,
    ) -> None:
        self.server_name = server_name
        self.data = data
        """Structured data."""
        self.heads: dict[tuple[int, str], str] = {} if heads is None else heads
        """The message up to its text, without a time, by severity and MSGID."""
        self.target = target
        self.prefix = f"{server_name}: " if server_name else ""
        self.stderr = Reassembler(limit)
        self.turns = Turns()
        """For `stderr`: keeps pieces apart, and lets a destructor that writes during a piece wait for its end."""
        self.held: Held | None = None
        self.quiet = False
        """Nothing was written to `stderr` since the last tick."""


class Sources:
    """Finds the source of a line by its request. Any thread."""

    def __init__(self, host: ApplicationHost, options: SyslogOptions, rules: RulesByHost) -> None:
        self._host = host
        self._rules = rules
        self._limit = options.max_message
        self._by_request = options.by_request
        self._about = {"application": host.name} if host.name else {}
        if worker := os.environ.get(WORKER):
            self._about["worker"] = worker
        self.process = self.of_name("")
        self.hosts: dict[str, Source] = {}
        """By SERVER_NAME as the web server passed it. With `by_request`: what all requests of a host share."""
        self._any_of_requests = False

    def configure(self, limit: int) -> None:
        """Forget all heads, which the options have changed; `limit` is the bytes of a line's text."""
        self._limit = limit
        self.process.heads.clear()
        self.hosts.clear()

    def of(self, request: RequestInfo | None) -> Source:
        """The request's source, made at the first call; without a request the source of the process."""
        if request is None:
            return self.process
        source = request.plugin_data.get(_KEY)
        if source is None:
            self._any_of_requests = True
            # two threads may come here at once for a request: both get the first one's
            source = request.plugin_data.setdefault(_KEY, self._new(request))
        assert isinstance(source, Source)
        return source

    def known(self, request: RequestInfo) -> Source | None:
        """The request's source, None if it has none."""
        if not self._any_of_requests:
            return None  # without making `plugin_data` for each request
        source = request.plugin_data.get(_KEY)
        assert source is None or isinstance(source, Source)
        return source

    def of_host(self, request: RequestInfo) -> Source:
        """The source of a virtual host, not in `hosts` yet: the web side knows the request itself, so its lines need
        not describe it."""
        host = self.of_name(server_name(request))
        if len(request.server_name) <= LONGEST_VALUE:
            if len(self.hosts) >= KNOWN_HOSTS:
                self.hosts.clear()
            self.hosts[request.server_name] = host
        return host

    def of_name(self, name: str) -> Source:
        """A new source for lines of a virtual host, or of none if `name` is empty."""
        return Source(self._limit, name, self._data({"server_name": name} if name else {}))

    def _new(self, request: RequestInfo) -> Source:
        if self._by_request:
            host = self.hosts.get(request.server_name) or self.of_host(request)
            return Source(self._limit, host.server_name, host.data, host.heads)
        name = server_name(request)
        about = {"server_name": name, "request": request.identity}
        data = self._data(about | details(request.raw_params, self._rules[name].redact))
        association = self._host.association_of(request)
        return Source(self._limit, name, data, None, None if association is None else (association, 0))

    def _data(self, about: dict[str, str]) -> str:
        """Structured data: `about`, and what describes this process."""
        about = about | self._about
        return format_data(REQUEST_ELEMENT, about) if about else ""
