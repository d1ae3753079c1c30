"""The half in the application's process: sends a snapshot of its figures to each web side at every interval.

A separate thread makes snapshots, for the application's collectors may be slow. If one is not finished when the next is
due, the next is skipped; the web side shows the age of the last one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain
from queue import SimpleQueue

from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    AssociationInfo,
    ServiceFigures,
    StartAnew,
    TransportFigures,
)

from .endpoint import Endpoint
from .families import APPLICATION, CHANNEL
from .options import MetricsOptions
from .process import process_figures
from .registry import registry_lines
from .samples import PeerTotals, process_samples, traffic_samples
from .snapshot import split, write_sample

__all__ = ["MetricsApplication"]

CLOSE_WITHIN = 0.5
"""Seconds for the last snapshot at the end of the process."""
SETTLE = 0.25
"""Seconds by which a tick may be early."""

_Figures = tuple[TransportFigures, ServiceFigures]


class MetricsApplication(ApplicationHalf):
    def __init__(self, host: ApplicationHost, options: MetricsOptions) -> None:
        self._host = host
        self._options = options
        self._traffic = host.traffic()
        self._peers = PeerTotals("peer")
        self._number = 0
        self._due = 0.0
        self._work: SimpleQueue[_Figures | None] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self._failing = False
        self._registry_failing = False
        self.endpoint: Endpoint | None = None
        if options.health is not None:
            self.endpoint = Endpoint(options.health, None, host.service, shared=True)
            host.log.info("serving /healthz and /ready at %s", options.health)
        self._up: dict[int, tuple[str, str]] = {}
        """The web side's process of each association."""

    def configure(self, options: MetricsOptions, server_name: str | None = None) -> None:
        if server_name is not None:
            raise ValueError("the options of metrics must be the same for all virtual hosts")
        if options.health != self._options.health:
            raise StartAnew(f"metrics.health is {self._options.health}")
        self._options = options
        self._due = 0.0

    def association_up(self, association: AssociationInfo) -> None:
        again, more = association.identity in self._up, association.process in self._up.values()
        self._up[association.identity] = association.process
        if again or not more:
            self._due = 0.0  # a new web side need not wait, and another association with one has nothing to wait for
            self.tick()

    def association_down(self, association: AssociationInfo, reason: str) -> None:
        self._up.pop(association.identity, None)

    def tick(self) -> None:
        now = time.monotonic()
        if now < self._due - SETTLE or not self._idle.is_set() or not self._host.associations():
            return
        self._due = max(self._due + self._options.interval, now) if self._due else now + self._options.interval
        self._start()

    def close(self) -> None:
        """Send a last snapshot: after a restart, the final figures count."""
        if self.endpoint is not None:
            self.endpoint.close()
            self.endpoint = None
        if self._idle.is_set() and self._host.associations():
            self._start()
        if self._thread is not None:
            self._idle.wait(CLOSE_WITHIN)
            self._work.put(None)

    def _start(self) -> None:
        """Have the other thread make a snapshot, with the figures that only this thread may read."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
            self._thread.start()
        self._idle.clear()
        self._work.put((self._host.transport(), self._host.service()))

    # ---- on the thread

    def _run(self) -> None:
        while (figures := self._work.get()) is not None:
            try:
                self._send(figures)
                self._failing = False
            except BaseException:  # a collector that calls sys.exit() does not end the thread
                if not self._failing:
                    self._failing = True
                    self._host.log.exception("cannot make a snapshot; trying again at each interval")
            finally:
                self._idle.set()

    def _send(self, figures: _Figures) -> None:
        self._number += 1
        lines = chain(self._own_lines(figures), self._registry_lines() if self._options.registry else ())
        for part in split(self._number, time.time(), lines):
            self._host.broadcast(CHANNEL, part)

    def _own_lines(self, figures: _Figures) -> Iterator[str]:
        transport, service = figures
        own = process_samples(APPLICATION, transport, process_figures(), service, self._peers)
        for sample in chain(own, traffic_samples(APPLICATION, self._traffic, self._options.max_hosts)):
            yield write_sample(sample)

    def _registry_lines(self) -> list[str]:
        """Return the application's lines; none if a collector fails."""
        try:
            lines = list(registry_lines())
        except BaseException:  # whatever a collector raises must not end our thread
            if not self._registry_failing:
                self._host.log.exception("cannot collect the application's own metrics; they are left out")
            self._registry_failing = True
            return []
        self._registry_failing = False
        return lines
