"""The plugin's own samples as text for Prometheus.

They are many and of known shape, so a short encoder does; the library's is used for the applications' own metrics. This
runs on another thread than the event loop and yields to it often: without that, Python makes the loop wait 5 ms each
time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from .families import FAMILIES
from .samples import PROCESS, Buckets, Sample
from .snapshot import escape

__all__ = ["encode"]

STEP_ASIDE_AFTER = 100
"""Samples between two yields; about 0.3 ms."""


def encode(samples: Iterable[Sample], *, openmetrics: bool) -> bytes:
    """Return the families of `samples` in the order of their names, without OpenMetrics' end."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    parts: list[str] = []
    written = 0
    for name in sorted(by_name):
        family = FAMILIES[name]
        # OpenMetrics names a counter's family without the suffix, the older format with it
        title = name.removesuffix("_total") if openmetrics else name
        parts.append(f"# HELP {title} {family.help}\n# TYPE {title} {family.kind}\n")
        for sample in by_name[name]:
            parts.append(_lines(sample))
            written += 1
            if written % STEP_ASIDE_AFTER == 0:
                time.sleep(0)
    return "".join(parts).encode("utf-8", "replace")


def _lines(sample: Sample) -> str:
    scope, name, labels, value = sample
    pairs = [f'{key}="{escape(text)}"' for key, text in labels]
    if scope != PROCESS:
        pairs.append(f'server_name="{escape(scope)}"')
    pairs.sort()
    series = ",".join(pairs)
    if not isinstance(value, Buckets):
        return f"{name}{{{series}}} {float(value)!r}\n" if series else f"{name} {float(value)!r}\n"
    start = name + "_bucket{" + (series + "," if series else "") + 'le="'
    lines = [f'{start}{bound}"}} {count}\n' for bound, count in value.counts]
    lines.append(f"{name}_count{{{series}}} {value.counts[-1][1]}\n{name}_sum{{{series}}} {float(value.total)!r}\n")
    return "".join(lines)
