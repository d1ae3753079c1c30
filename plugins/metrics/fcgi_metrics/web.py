"""The half on the web server's side: keeps the applications' last snapshots, and shows them to Prometheus and statsd
together with the web side's figures.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fcgi_core.plugin import AssociationInfo, RequestInfo, StartAnew, WebHalf, WebHost

from .endpoint import Endpoint
from .exposition import OWN_LABELS, Exposition, Snapshot
from .families import PLUGIN, WEB
from .options import MetricsOptions, host_and_port
from .process import process_figures
from .samples import (
    PROCESS,
    Labels,
    PeerTotals,
    Sample,
    peer_of,
    process_samples,
    service_samples,
    stepping_aside,
    traffic_samples,
)
from .snapshot import Header, read_header
from .statsd import Statsd

__all__ = ["MetricsWeb"]

MAX_WORKERS = 1000
"""Application processes whose snapshots are kept; processes that have ended make room for others."""
MAX_SNAPSHOT = 16 << 20
"""Bytes of one process' snapshot."""
MAX_GONE = 16 << 20
"""Bytes of memory, about, of the snapshots of processes that have ended. The earliest is dropped first."""
PART_COST = 160
"""Bytes of memory of a part of a snapshot without its content."""
T = TypeVar("T")


class _Worker:
    """One process of an application."""

    def __init__(self, name: str, address: str, process: tuple[str, str]) -> None:
        self.address = address
        """Of its application in the configuration."""
        self.name = name
        """Unique among the kept processes of this address."""
        self.process = process
        """`AssociationInfo.process`."""
        self.associations: set[int] = set()
        self.gone_at = 0.0
        """When the last association went down, by the monotonic clock."""
        self.shown_from = 0.0
        """By the monotonic clock. After it was replaced, it is shown only if it does not end."""
        self.whole: Snapshot | None = None
        self.whole_at = 0.0
        self.coming = 0
        """The number of the snapshot whose parts are arriving."""
        self.parts: dict[int, bytes] = {}
        self.size = 0
        """Bytes of memory of `parts`."""

    @property
    def labels(self) -> Labels:
        return tuple(zip(OWN_LABELS, (self.address, self.name), strict=True))

    @property
    def held(self) -> int:
        """Bytes of memory, about."""
        return self.size + (self.whole.held if self.whole is not None else 0)

    def forget_parts(self) -> bool:
        """Drop the parts of the arriving snapshot; return whether there were any."""
        there = bool(self.parts)
        self.parts, self.size = {}, 0
        return there


class MetricsWeb(WebHalf):
    def __init__(self, host: WebHost, options: MetricsOptions) -> None:
        self._host = host
        self._options = options
        self._traffic = host.traffic()
        self._workers: dict[tuple[str, str], _Worker] = {}
        """By process."""
        self._held = 0
        """Bytes of memory, about, of all their snapshots."""
        self._peers = PeerTotals("address")
        self._exposition = Exposition(options.max_hosts, options.max_samples)
        self._folds = False
        """Whether hosts beyond `max_hosts` are counted together, which is logged once."""
        self._whole = 0
        self._incomplete = 0
        self._dropped = 0
        self._malformed = 0
        self._due = 0.0
        # one thread makes pages and reports, one after the other
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._reporting: asyncio.Future[None] | None = None
        self._statsd: Statsd | None = None
        self.endpoint: Endpoint | None = None
        if options.statsd is not None:
            self._statsd = Statsd(host_and_port(options.statsd), options.statsd_prefix, tags=options.statsd_tags)
        if options.listen is not None:
            self.endpoint = Endpoint(options.listen, self.page, lambda: self._host.service().obstacle)
            host.log.info("serving /metrics at %s", options.listen)

    # ---- hooks

    def configure(self, options: MetricsOptions, server_name: str | None = None) -> None:
        if server_name is not None:
            raise ValueError("the options of metrics must be the same for all virtual hosts")
        for name in ("listen", "statsd", "statsd_prefix", "statsd_tags"):
            if getattr(options, name) != getattr(self._options, name):
                raise StartAnew(f"metrics.{name} is {getattr(self._options, name)}")
        self._options = options
        self._exposition.max_hosts = options.max_hosts
        self._exposition.max_samples = options.max_samples
        self._folds = False

    def association_up(self, association: AssociationInfo) -> None:
        worker = self._worker(association)
        if worker is not None:
            worker.associations.add(association.identity)

    def association_down(self, association: AssociationInfo, reason: str) -> None:
        worker = self._workers.get(association.process)
        if worker is not None:
            worker.associations.discard(association.identity)
            worker.gone_at = time.monotonic()
            if not worker.associations and worker.gone_at < worker.shown_from:
                self._remove(worker)
            elif not worker.associations:
                self._held -= worker.size
                self._incomplete += worker.forget_parts()
                self._make_room()

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        worker = self._workers.get(association.process)
        header = read_header(item)
        if header is None:
            self._malformed += 1
        elif worker is None:  # there are `MAX_WORKERS` already
            self._dropped += header.part == header.parts
        else:
            self._part(worker, header, item)

    def tick(self) -> None:
        now = time.monotonic()
        keep = self._options.keep
        for worker in [one for one in self._workers.values() if not one.associations and now - one.gone_at > keep]:
            self._remove(worker)
        if not self._folds:
            self._tell_of_folded_hosts()
        if self._statsd is not None and now >= self._due and self._reporting is None:
            self._due = now + self._options.interval
            self._report(self._statsd)

    def close(self) -> None:
        if self.endpoint is not None:
            self.endpoint.close()
            self.endpoint = None  # it calls `page`: a cycle
        if self._reporting is not None:
            self._reporting.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._statsd is not None:
            self._statsd.close()

    def _tell_of_folded_hosts(self) -> None:
        most = self._options.max_hosts
        self._folds = len(self._traffic.hosts()) > most or self._exposition.hosts_folded > 0
        if self._folds:
            self._host.log.warning(
                "more than %d virtual hosts (metrics.max_hosts): the others are counted together as other; where"
                " clients can invent SERVER_NAME, have the web server pass a name of its own",
                most,
            )

    # ---- snapshots

    def _worker(self, association: AssociationInfo) -> _Worker | None:
        """Return the process at the other end, with a unique name; None if there is no room."""
        worker = self._workers.get(association.process)
        if worker is not None:
            return worker
        if len(self._workers) >= MAX_WORKERS:
            gone = self._gone()
            if not gone:
                return None
            self._remove(gone[0])
        address = peer_of(association)
        name = association.peer_name[:128] or "application"
        worker = _Worker(name, address, association.process)
        taken = {one.name: one for one in self._workers.values() if one.address == address}
        if (predecessor := taken.get(name)) is not None:
            # the same worker, restarted: the series go on, and its predecessor gets a number. Shown while it ends, each
            # one's total would be an increase to Prometheus, for which they are one series
            number = 2
            while f"{name}-{number}" in taken:
                number += 1
            if predecessor.associations:
                self._held -= predecessor.held - predecessor.size
                predecessor.name, predecessor.whole = f"{name}-{number}", None
                predecessor.shown_from = time.monotonic() + self._options.keep
            else:
                self._remove(predecessor)
        self._workers[association.process] = worker
        return worker

    def _part(self, worker: _Worker, header: Header, item: bytes) -> None:
        done = worker.whole.number if worker.whole is not None else 0
        if header.number < worker.coming or header.number <= done:
            return  # late, or received over another association of the process
        held = worker.held
        if header.number > worker.coming:
            self._incomplete += worker.forget_parts()
            worker.coming = header.number
        worker.size += len(item) + PART_COST
        worker.parts[header.part] = item
        if worker.size > MAX_SNAPSHOT:
            worker.forget_parts()
            worker.coming += 1  # ignore the rest of it
            self._dropped += 1
        elif len(worker.parts) == header.parts:
            parts = tuple(worker.parts[part] for part in sorted(worker.parts))
            worker.whole, worker.whole_at = Snapshot(worker.labels, header.number, parts), time.monotonic()
            worker.forget_parts()
            self._whole += 1
        self._held += worker.held - held
        if self._held > self._options.max_memory:
            self._make_room()

    def _remove(self, worker: _Worker) -> None:
        self._held -= worker.held
        del self._workers[worker.process]

    def _gone(self) -> list[_Worker]:
        """Return the processes that have ended, in that order."""
        return sorted((one for one in self._workers.values() if not one.associations), key=lambda one: one.gone_at)

    def _make_room(self) -> None:
        """Drop snapshots until the rest fits: first those of processes that have ended, then the largest."""
        gone = self._gone()
        held_by_gone = sum([one.held for one in gone])
        for worker in gone:
            if self._held <= self._options.max_memory and held_by_gone <= MAX_GONE:
                break
            held_by_gone -= worker.held
            self._drop(worker)
        while self._held > self._options.max_memory:
            self._drop(max(self._workers.values(), key=lambda one: one.held))

    def _drop(self, worker: _Worker) -> None:
        self._held -= worker.held
        self._dropped += worker.whole is not None
        self._dropped += worker.forget_parts()
        worker.whole = None

    # ---- showing

    async def page(self, accept: str, zipped: bool) -> tuple[bytes, str]:
        """Return the page for Prometheus, and its content type."""
        make = self._collect()

        def render() -> tuple[bytes, str]:
            own, snapshots = make()
            page, kind = self._exposition.page(own, snapshots, accept)
            return (gzip.compress(page, 1) if zipped else page), kind

        return await self._off_loop(render)

    def _report(self, statsd: Statsd) -> None:
        make = self._collect()

        def report() -> None:
            statsd.send(self._exposition.samples(*make()))

        def reported(future: asyncio.Future[None]) -> None:
            self._reporting = None
            if not future.cancelled():
                future.exception()  # it is in the log: asyncio must not report it again

        self._reporting = asyncio.ensure_future(self._off_loop(report))
        self._reporting.add_done_callback(reported)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Exception:
            self._host.log.exception("cannot make the metrics page or report")
            raise

    def _collect(self) -> Callable[[], tuple[list[Sample], list[Snapshot]]]:
        """Read what only this thread may read; return a function that makes samples of it on another thread."""
        transport, service = self._host.transport(), self._host.service()
        now = time.monotonic()
        shown = [one for one in self._workers.values() if one.shown_from <= now]
        workers = sorted(shown, key=lambda one: (one.address, one.name))
        snapshots = [one.whole for one in workers if one.whole is not None]
        own = [
            Sample(PROCESS, f"{PLUGIN}workers", (), len(snapshots)),
            Sample(PROCESS, f"{PLUGIN}snapshots_total", (), self._whole),
            Sample(PROCESS, f"{PLUGIN}snapshots_incomplete_total", (), self._incomplete),
            Sample(PROCESS, f"{PLUGIN}snapshots_dropped_total", (), self._dropped),
        ]
        for worker in workers:
            labels = worker.labels
            own.append(Sample(PROCESS, f"{PLUGIN}worker_up", labels, int(bool(worker.associations))))
            if worker.whole is not None:
                own.append(Sample(PROCESS, f"{PLUGIN}snapshot_age_seconds", labels, round(now - worker.whole_at, 3)))
        malformed = self._malformed

        def make() -> tuple[list[Sample], list[Snapshot]]:
            own.extend(stepping_aside(process_samples(WEB, transport, process_figures(), service, self._peers)))
            own.extend(stepping_aside(service_samples(WEB, service)))
            own.extend(stepping_aside(traffic_samples(WEB, self._traffic, self._options.max_hosts)))
            own.append(Sample(PROCESS, f"{PLUGIN}hosts_folded", (), self._exposition.hosts_folded))
            omitted = dict(self._exposition.omitted)
            omitted["malformed"] = omitted.get("malformed", 0) + malformed
            for reason, count in omitted.items():
                own.append(Sample(PROCESS, f"{PLUGIN}samples_omitted", (("reason", reason),), count))
            if self._statsd is not None:
                own.append(Sample(PROCESS, f"{PLUGIN}statsd_errors_total", (), self._statsd.errors))
            return own, snapshots

        return make
