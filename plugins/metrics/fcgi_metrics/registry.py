"""The application's own metrics: what it registered with the library prometheus_client, if it uses that.

The library is not imported here: if the application has not done so, there is nothing to tell. Each process tells its
own figures, so an application in several processes needs no directory of files that they share
(PROMETHEUS_MULTIPROC_DIR).
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
    """The lines of a snapshot. What a collector of the application's raises passes through."""
    registry: Any = getattr(sys.modules.get("prometheus_client"), "REGISTRY", None)
    if registry is None:
        return
    for family in registry.collect():
        if family.name.startswith(RESERVED):
            continue
        yield write_meta("type", family.name, family.type)
        yield write_meta("help", family.name, family.documentation)
        for sample in family.samples:
            # when a series was made is of no use once it has passed through here
            if not sample.name.endswith("_created") and sample.value is not None:
                labels = tuple((str(name), str(value)) for name, value in sample.labels.items())
                yield write_sample(Sample(PROCESS, sample.name, labels, float(sample.value)))
