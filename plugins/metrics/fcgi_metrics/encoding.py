"""The plugin's own samples as text for Prometheus.

They are many and of known shape, so a short encoder does; the library's is used for the applications' own metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

from .families import FAMILIES
from .samples import PROCESS, Buckets, Sample, stepping_aside
from .snapshot import escape

__all__ = ["encode"]


def encode(samples: Iterable[Sample], *, openmetrics: bool) -> bytes:
    """Return the families of `samples` in the order of their names, without OpenMetrics' end."""
    by_name: dict[str, list[Sample]] = {}
    for sample in stepping_aside(samples):
        by_name.setdefault(sample.name, []).append(sample)
    parts: list[str] = []
    for name in sorted(by_name):
        family = FAMILIES[name]
        # OpenMetrics names a counter's family without the suffix, the older format with it
        title = name.removesuffix("_total") if openmetrics else name
        parts.append(f"# HELP {title} {family.help}\n# TYPE {title} {family.kind}\n")
        parts.extend([_lines(sample, openmetrics) for sample in stepping_aside(by_name[name])])
    return "".join(parts).encode("utf-8", "replace")


def _lines(sample: Sample, openmetrics: bool) -> str:
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
    if openmetrics:  # the older format has no exemplars
        for position, (trace, seconds, when) in value.exemplars:
            lines[position] = f'{lines[position][:-1]} # {{trace_id="{trace}"}} {seconds!r} {when:.3f}\n'
    lines.append(f"{name}_count{{{series}}} {value.counts[-1][1]}\n{name}_sum{{{series}}} {float(value.total)!r}\n")
    return "".join(lines)
