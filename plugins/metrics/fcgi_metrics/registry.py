"""The application's own metrics, which it registered with the library prometheus_client.

The library is not imported here: if the application has not imported it, there are no such metrics. Each process sends
its own figures, so an application in several processes needs no shared directory (PROMETHEUS_MULTIPROC_DIR).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from .families import RESERVED
from .samples import PROCESS, Sample
from .snapshot import write_meta, write_sample

__all__ = ["registry_lines"]


def registry_lines() -> Iterator[str]:
    """Yield the lines of a snapshot. Passes on whatever a collector of the application raises."""
    registry: Any = getattr(sys.modules.get("prometheus_client"), "REGISTRY", None)
    if registry is None:
        return
    for family in registry.collect():
        if family.name.startswith(RESERVED):
            continue
        yield write_meta("type", family.name, family.type)
        yield write_meta("help", family.name, family.documentation)
        for sample in family.samples:
            # a series' creation time is of no use on the web side
            if not sample.name.endswith("_created") and sample.value is not None:
                labels = tuple((str(name), str(value)) for name, value in sample.labels.items())
                yield write_sample(Sample(PROCESS, sample.name, labels, float(sample.value)))
