"""Checks samples against OpenMetrics 1.0, so that no application can make the page invalid.

Prometheus' parser is lax, others are not: they refuse the whole page for one negative counter, or for a histogram whose
buckets do not rise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from prometheus_client.samples import Sample

__all__ = ["is_bound", "is_valid", "valid_groups"]

_COUNTS = ("_total", "_sum", "_count", "_bucket", "_gcount")
_WHOLE = ("_count", "_bucket", "_gcount")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\+Inf")


def is_bound(text: str) -> bool:
    """Return whether `text` is a number that can be a bucket's bound or a quantile."""
    return _NUMBER.fullmatch(text) is not None


def is_valid(kind: str, suffix: str, labels: dict[str, str], family: str, value: float) -> bool:
    """Return whether a family of type `kind` may have this sample, whose name is the family's with `suffix`."""
    if suffix in _COUNTS and not value >= 0:  # false for NaN, too
        return False
    if suffix in _WHOLE and not value.is_integer():
        return False
    if suffix == "_gsum" and math.isnan(value):
        return False
    if suffix == "_bucket":
        return is_bound(labels.get("le", ""))
    if kind == "summary" and not suffix:
        quantile = labels.get("quantile", "")
        return is_bound(quantile) and 0 <= float(quantile) <= 1 and not value < 0
    if kind == "stateset":
        return family in labels and value in (0, 1)
    return kind != "info" or value == 1


def valid_groups(kind: str, family: str, samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples of a family, sorted by group, without incomplete groups."""
    if kind not in ("histogram", "gaugehistogram", "summary", "stateset"):
        return list(samples)
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        label = _label_within_group(kind, family, sample.name)
        key = tuple(sorted(item for item in sample.labels.items() if item[0] != label))
        groups.setdefault(key, []).append(sample)
    if not kind.endswith("histogram"):
        return [sample for group in groups.values() for sample in group]
    return [sample for group in groups.values() if _is_histogram(family, group) for sample in group]


def _label_within_group(kind: str, family: str, name: str) -> str:
    """Return the label by which this sample differs from others of its group; '' if there is none."""
    if kind == "stateset":
        return family
    if kind == "summary":
        return "quantile" if name == family else ""
    return "le" if name == family + "_bucket" else ""


def _is_histogram(family: str, group: list[Sample]) -> bool:
    bounds = [float(one.labels["le"]) for one in group if one.name == family + "_bucket"]
    counts = [one.value for one in group if one.name == family + "_bucket"]
    if not bounds or bounds[-1] != math.inf or sorted(set(bounds)) != bounds or sorted(counts) != counts:
        return False
    others = {one.name.removeprefix(family): one.value for one in group if one.name != family + "_bucket"}
    if len(others) + len(counts) != len(group):
        return False
    count, total = others.get("_count", others.get("_gcount")), others.get("_sum", others.get("_gsum"))
    if (count is None) is not (total is None) or count not in (None, counts[-1]):
        return False
    if bounds[0] < 0:
        return "_sum" not in others
    return "_gsum" not in others or others["_gsum"] >= 0
