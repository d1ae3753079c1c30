"""Active health checks: the web side regularly sends each back end a request, and judges the back end by its answer.

An association shows whether the other process's SCTP answers, and clients' requests show how they are answered. Only a
probe shows that an application answers while no client asks it, or that it answers again after it had hung: with the
kernel's SCTP even a stopped process looks alive.

The probe is an ordinary responder request on the back end's association. Its answer is good when it is whole and its
status below 500 within `timeout`. After `fall` bad answers in a row the back end gets no requests, not even if there is
no other; after `rise` good answers it gets its share again, little by little. A new association begins with trust, and
with a probe. If the association has no room, or the answer is OVERLOADED, the back end is busy or ending: that is no
verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .. import __version__
from ..errors import RequestRefused
from ..hosting.exchange import Exchange
from ..protocol.records import decode_pairs, encode_pairs

__all__ = ["Probe", "ProbeOptions", "Prober"]

MAX_UNANSWERED = 16
"""Probes that an application may leave without an end: the next ones fail unsent. If it hangs it answers no abort."""


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """The request of a probe, and how its answers are judged. Times are seconds."""

    uri: str
    server_name: str = "localhost"
    interval: float = 5.0
    """From one probe to the next; not less than `timeout`."""
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    params: Mapping[str, str] = field(default_factory=dict)
    """Further CGI variables; they replace ours of the same name."""

    def encode(self) -> bytes:
        """Return the content of PARAMS, as nginx's own fastcgi_params would make it of such a request."""
        path, _, query = self.uri.partition("?")
        params = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SOFTWARE": f"fcgi-sctp/{__version__}",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": self.server_name,
            "SERVER_ADDR": "127.0.0.1",
            "SERVER_PORT": "80",
            "REQUEST_SCHEME": "http",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": "0",
            "REQUEST_METHOD": "GET",
            "REQUEST_URI": self.uri,
            "SCRIPT_NAME": path,
            "DOCUMENT_URI": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": "",
            "CONTENT_LENGTH": "",
            "HTTP_HOST": self.server_name,
            "HTTP_USER_AGENT": f"fcgi-sctp/{__version__} (health)",
        }
        return encode_pairs({**params, **self.params})


class Probe(Exchange):
    """One probe on its way: for an upstream, it takes the place of a web server's exchange."""

    __slots__ = ("_on_end", "over", "raw_params")

    def __init__(self, raw_params: bytes, on_end: Callable[[Probe, str | None], None]) -> None:
        super().__init__()
        self.raw_params = raw_params
        self.over = False
        """Its answer is not wanted any more."""
        self._on_end = on_end

    @property
    def params(self) -> Mapping[str, str]:
        return decode_pairs(self.raw_params)

    def _made_identity(self) -> str:
        return f"probe.{self.request.id}.{self.request.generation}"

    def send_output(self, data: bytes) -> None:
        """Read the status of the answer, and drop the rest."""
        if not self.head_size:
            self.read_head(data)
        self.bytes_out += len(data)
        self.link.connection.consumed(self.request, len(data))
        self.link.driver.wake()

    def send_stderr(self, data: bytes) -> None:
        """Drop a part of STDERR, which plugins have got."""

    def end(self, error: str | None = "") -> None:
        """Report that the answer is complete, or why it will not be; None: the back end accepts no requests now."""
        if self.over:
            return
        self.over = True
        if error == "" and not self.bytes_out:
            error = "it ended without an answer"
        elif error == "" and self.status >= 500:
            error = f"status {self.status}"
        self._on_end(self, error)


class BackEnd(Protocol):
    """What a prober needs of a back end."""

    def send_probe(self, probe: Probe) -> None:
        """Send a probe, and set its `link` and `request`. RequestRefused."""

    def abort_probe(self, probe: Probe) -> None:
        """Abort a probe."""

    def is_answered(self, probe: Probe) -> bool:
        """Return whether the application has ended a probe."""

    def probes_say(self, good: bool, why: str) -> None:
        """Send it requests from now on, or, if it is not `good`, none."""


class Prober:
    """Probes one back end while its association is up."""

    def __init__(self, options: ProbeOptions, back_end: BackEnd, loop: asyncio.AbstractEventLoop) -> None:
        self.problem = ""
        """Why the last probe failed; empty if it did not."""
        self.good = True
        self._options = options
        self._params = options.encode()
        self._back_end = back_end
        self._loop = loop
        self._row = 0
        """Probes in a row that contradict `good`."""
        self._probe: Probe | None = None
        self._unanswered: list[Probe] = []
        self._next: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin probing: the association is up."""
        self.good, self.problem, self._row = True, "", 0
        self._next = self._loop.call_later(0, self._send)

    def stop(self) -> None:
        """Stop probing: the association is lost, and its probes are no verdict."""
        for handle in (self._next, self._deadline):
            if handle is not None:
                handle.cancel()
        if self._probe is not None:
            self._probe.over = True
            self._probe = None
        self._unanswered.clear()

    def _send(self) -> None:
        self._next = self._loop.call_later(self._options.interval, self._send)
        if self._probe is not None:
            self._late()  # where `timeout` is as long as `interval`
        self._unanswered = [probe for probe in self._unanswered if not self._back_end.is_answered(probe)]
        if len(self._unanswered) >= MAX_UNANSWERED:
            self._judge(f"{MAX_UNANSWERED} probes have no answer")
            return
        probe = Probe(self._params, self._ended)
        try:
            self._back_end.send_probe(probe)
        except RequestRefused:
            return
        self._probe = probe
        self._deadline = self._loop.call_later(self._options.timeout, self._late)

    def _late(self) -> None:
        probe = self._probe
        assert probe is not None
        self._back_end.abort_probe(probe)
        self._unanswered.append(probe)
        probe.end(f"no answer within {self._options.timeout:g} s")

    def _ended(self, probe: Probe, problem: str | None) -> None:
        self._probe = None
        if self._deadline is not None:
            self._deadline.cancel()
        if problem is not None:
            self._judge(problem)

    def _judge(self, problem: str) -> None:
        self.problem = problem
        if self.good is not bool(problem):
            self._row = 0
            return
        self._row += 1
        if self._row >= (self._options.fall if problem else self._options.rise):
            self._row = 0
            self.good = not problem
            self._back_end.probes_say(self.good, problem)
