"""Makes the page for Prometheus from samples: families, checked and bounded, with each series once.

Applications send remote text: whatever it holds, the page is valid. Samples that do not fit are left out and counted by
reason. All of this runs on one thread, which is not the event loop's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fcgi_core.plugin import OTHER, clean_host

from .encoding import encode
from .families import APPLICATION, FAMILIES, RESERVED
from .samples import PROCESS, Buckets, Labels, Sample, Value, add_values
from .snapshot import Meta, parse
from .validity import is_bound, is_valid, valid_groups

__all__ = ["OWN_LABELS", "Exposition", "Snapshot"]

_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "summary": ("", "_sum", "_count"),
    "info": ("_info",),
    "stateset": ("",),
    "unknown": ("",),
}
"""Suffixes of the sample names of a family, by its type (OpenMetrics 1.0, "Metric Types")."""


LINE_COST, COMMA_COST = 640, 320
"""Bytes of memory, about, of a parsed line, and of each label or bucket after a comma in it."""
OWN_LABELS = ("address", "worker")
"""The labels that name a process of an application: its address in the web side's configuration, and its name."""
_CREATED = dict.fromkeys(("counter", "histogram", "summary"), ("_created",))
"""Further suffixes that such a family reserves, though these samples are not sent."""


class _Parsed(NamedTuple):
    own: list[Sample]
    """Samples of `families`, with safe host names."""
    metrics: dict[str, Metric]
    """The application's own metrics, with OWN_LABELS."""
    omitted: dict[str, int]


class Snapshot:
    """The last whole snapshot of an application process: as received, and parsed once it is shown."""

    __slots__ = ("_parsed", "held", "labels", "number", "parts")

    def __init__(self, labels: Labels, number: int, parts: tuple[bytes, ...]) -> None:
        """`labels` name the process: OWN_LABELS."""
        self.labels = labels
        self.number = number
        self.parts = parts
        self.held = sum([len(part) + LINE_COST * part.count(b"\n") + COMMA_COST * part.count(b",") for part in parts])
        """Bytes of memory, about, parsed or not."""
        self._parsed: _Parsed | None = None

    def parse(self, max_samples: int) -> _Parsed:
        """Return the parsed snapshot. Not thread-safe."""
        if self._parsed is None:
            self._parsed = _Parser(self, max_samples).result()
            self.parts = ()
        return self._parsed


class Exposition:
    """Makes pages, and remembers which hosts it shows by name."""

    def __init__(self, max_hosts: int, max_samples: int) -> None:
        self.max_hosts = max_hosts
        self.max_samples = max_samples
        self.omitted: dict[str, int] = {}
        """Counts of samples left out of the last page, by reason."""
        self._hosts: set[str] = set()
        self._folded: set[str] = set()

    def samples(self, own: Iterable[Sample], snapshots: Sequence[Snapshot]) -> list[Sample]:
        """Return all samples of `families`: `own` and the applications', with surplus hosts counted together."""
        return [*own, *self._applications(snapshots)]

    def page(self, own: Iterable[Sample], snapshots: Sequence[Snapshot], accept: str) -> tuple[bytes, str]:
        """Return the page for a client that accepts `accept`, and its content type."""
        encode_metrics, content_type = choose_encoder(accept)
        samples = encode(self.samples(own, snapshots), openmetrics="openmetrics" in content_type)
        # the applications' metrics come last: their encoder writes OpenMetrics' end
        return samples + encode_metrics(_Collected(self._metrics(snapshots))), content_type

    # ---- the plugin's own families

    def _applications(self, snapshots: Sequence[Snapshot]) -> Iterator[Sample]:
        for snapshot in snapshots:
            together: dict[tuple[str, str, Labels], Value] = {}
            for scope, name, labels, value in snapshot.parse(self.max_samples).own:
                key = self._admit(scope), name, labels
                known = together.get(key)
                added = value if known is None else add_values(known, value)
                if added is not None:
                    together[key] = added
            for (scope, name, labels), value in together.items():
                yield Sample(scope, name, (*snapshot.labels, *labels), value)

    def _admit(self, scope: str) -> str:
        """Return the host under which a scope is shown."""
        if scope == PROCESS or scope in self._hosts:
            return scope
        if scope != OTHER and len(self._hosts) < self.max_hosts:
            self._hosts.add(scope)
            return scope
        if scope != OTHER and len(self._folded) < 10_000:
            self._folded.add(scope)
        return OTHER

    @property
    def hosts_folded(self) -> int:
        return len(self._folded)

    # ---- pages

    def _metrics(self, snapshots: Sequence[Snapshot]) -> list[Metric]:
        """Return the applications' own metrics, those of one name together."""
        metrics: dict[str, Metric] = {}
        self.omitted = {}
        claimed: dict[str, str] = {}
        for snapshot in snapshots:
            parsed = snapshot.parse(self.max_samples)
            for reason, count in parsed.omitted.items():
                self.omitted[reason] = self.omitted.get(reason, 0) + count
            for name, metric in parsed.metrics.items():
                self._join(metrics, claimed, name, metric)
        return [metrics[name] for name in sorted(metrics)]

    def _join(self, metrics: dict[str, Metric], claimed: dict[str, str], name: str, metric: Metric) -> None:
        """Add a worker's metric to those of other workers, unless they disagree on its meaning."""
        meaning = f"{name} {metric.type}"
        names = {name + suffix for suffix in ("", *_SUFFIXES[metric.type], *_CREATED.get(metric.type, ()))}
        if any(claimed.get(one, meaning) != meaning for one in names):
            self.omitted["conflict"] = self.omitted.get("conflict", 0) + len(metric.samples)
            return
        claimed.update(dict.fromkeys(names, meaning))
        known = metrics.get(name)
        if known is None:
            known = metrics[name] = Metric(name, metric.documentation, metric.type)
        known.samples.extend(metric.samples)


def _are_buckets(value: Buckets) -> bool:
    return 0 <= value.total < math.inf and all(is_bound(bound) for bound, _ in value.counts)


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _Parser:
    """Parses one snapshot."""

    def __init__(self, snapshot: Snapshot, max_samples: int) -> None:
        self._snapshot = snapshot
        self._left = max_samples
        self._own: list[Sample] = []
        self._metrics: dict[str, Metric] = {}
        self._seen: set[tuple[str, Labels]] = set()
        self._types: dict[str, str] = {}
        self._helps: dict[str, str] = {}
        self._omitted: dict[str, int] = {}

    def result(self) -> _Parsed:
        for part in self._snapshot.parts:
            time.sleep(0)  # yield to the event loop, see `encoding`
            for line in parse(part):
                if line is None:
                    self._omit("malformed")
                elif isinstance(line, Meta):
                    self._meta(line)
                elif self._left <= 0:
                    self._omit("too many")
                elif line.name.startswith(RESERVED):
                    self._own_sample(line)
                else:
                    self._sample(line)
        for family, metric in list(self._metrics.items()):
            samples = valid_groups(metric.type, family, metric.samples)
            if len(samples) < len(metric.samples):
                self._omit("malformed", len(metric.samples) - len(samples))
            metric.samples = samples
            if not samples:
                del self._metrics[family]
        return _Parsed(self._own, self._metrics, self._omitted)

    def _omit(self, reason: str, count: int = 1) -> None:
        self._omitted[reason] = self._omitted.get(reason, 0) + count

    def _meta(self, meta: Meta) -> None:
        if len(self._types) + len(self._helps) >= 2 * self._left:
            return
        if meta.what == "type":
            self._types[meta.name] = meta.text
        else:
            self._helps[meta.name] = meta.text

    def _own_sample(self, sample: Sample) -> None:
        scope, name, labels, value = sample
        family = FAMILIES.get(name) if name.startswith(APPLICATION) else None
        if family is None or (family.kind == "histogram") is not isinstance(value, Buckets):
            self._omit("unknown")
            return
        wanted = {label for label in family.labels if label != "server_name"}
        if {label for label, _ in labels} != wanted or ("server_name" in family.labels) is (scope == PROCESS):
            self._omit("unknown")
            return
        if not (_are_buckets(value) if isinstance(value, Buckets) else 0 <= value < math.inf):
            self._omit("malformed")  # the plugin's figures are never negative or NaN
            return
        self._left -= 1
        self._own.append(Sample(scope if scope == PROCESS else clean_host(scope), name, labels, value))

    def _sample(self, sample: Sample) -> None:
        _, name, labels, value = sample
        family, kind = self._family(name)
        by_name = dict(labels)
        if isinstance(value, Buckets) or not family or sample.scope != PROCESS:
            self._omit("unknown")
            return
        suffix = name.removeprefix(family)
        if any(one.startswith("__") for one in by_name) or not is_valid(kind, suffix, by_name, family, value):
            self._omit("malformed")
            return
        renamed = tuple(sorted((f"exported_{label}" if label in OWN_LABELS else label, text) for label, text in labels))
        key = name, renamed
        if key in self._seen:
            self._omit("twice")
            return
        metric = self._metrics.get(family)
        if metric is not None and metric.type != kind:  # its type came after its first sample
            self._omit("malformed")
            return
        self._seen.add(key)
        self._left -= 1
        if metric is None:
            metric = self._metrics[family] = Metric(family, self._helps.get(family, ""), kind)
        metric.add_sample(name, dict((*self._snapshot.labels, *renamed)), value)

    def _family(self, name: str) -> tuple[str, str]:
        """Return the family that a sample belongs to, and its type; '' if the type has no such sample."""
        for suffix in ("_total", "_bucket", "_sum", "_count", "_gsum", "_gcount", "_info", ""):
            family = name.removesuffix(suffix) if suffix else name
            kind = self._types.get(family)
            if kind is not None and name.endswith(suffix) and suffix in _SUFFIXES.get(kind, ()):
                return family, kind
        if name in self._types:
            return "", ""
        return name, "unknown"
