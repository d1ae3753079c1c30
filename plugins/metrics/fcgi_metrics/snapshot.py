r"""The codec of a snapshot: text, one sample in each line, which begins with its virtual host.

    * # snapshot 17 1/2 1763850000.25
    * fcgi_app_process_cpu_seconds_total 3.17
    shop.example fcgi_app_requests_total{status="2xx"} 1017
    shop.example fcgi_app_request_seconds 0.001=12,0.0025=700,…,+Inf=1017,sum=2.5
    * # type orders_total counter
    * # help orders_total Orders taken.
    * orders_total{kind="gift \"wrapped\""} 5

``*`` is the process. A series is written as in Prometheus, with ``\\``, ``\"`` and ``\n`` in label values; a histogram
of the plugin is one line with cumulative buckets. All figures are cumulative since the process began, so a lost
snapshot costs nothing. A snapshot is sent in parts of whole lines; the first line of each part has the snapshot's
number, the part's number, the number of parts, and the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from .samples import Buckets, Labels, Sample

__all__ = [
    "MAX_PARTS",
    "PART_BYTES",
    "Header",
    "Meta",
    "escape",
    "parse",
    "read_header",
    "split",
    "write_meta",
    "write_sample",
]

PART_BYTES = 8000
"""Bytes of a part: it fits a record, so SCTP may abandon it at the end of its lifetime."""
MAX_PARTS = 2000
MAX_VALUE = 1024
"""Characters of a label's value and of a help text; longer ones are cut."""
_HEADER = re.compile(rb"\* # snapshot (\d{1,18}) (\d{1,6})/(\d{1,6}) (\d{1,12}(?:\.\d{1,9})?)")
_LINE = re.compile(r"(\S{1,253}) ([a-zA-Z_:][a-zA-Z0-9_:]{0,254})(?:\{(.*)\})? (\S+)", re.DOTALL)
_META = re.compile(r"\* # (type|help) ([a-zA-Z_:][a-zA-Z0-9_:]{0,254}) ?(.*)", re.DOTALL)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]{0,127})="((?:[^"\\\n]|\\.)*)"(,|$)')
_ESCAPED = re.compile(r"\\(.)")
_NUMBER = re.compile(r"[+-]?(?:inf|nan|\d+(?:\.\d*)?(?:e[+-]?\d+)?)", re.IGNORECASE)
_BUCKET = re.compile(r"(\d[0-9.e+-]{0,31}|\+Inf)=(\d{1,18})")


class Header(NamedTuple):
    number: int
    part: int
    """From 1."""
    parts: int
    time: float


class Meta(NamedTuple):
    """A line with the type or the help text of a metric."""

    what: str
    """``type`` or ``help``."""
    name: str
    text: str


def escape(text: str) -> str:
    """Return a label's value as it stands between quotes."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], text) if "\\" in text else text


def write_sample(sample: Sample) -> str:
    """Return the line of a sample, without its newline."""
    scope, name, labels, value = sample
    series = name
    if labels:
        series += "{" + ",".join(f'{key}="{escape(text[:MAX_VALUE])}"' for key, text in labels) + "}"
    if isinstance(value, Buckets):
        return f"{scope} {series} {','.join(f'{bound}={count}' for bound, count in value.counts)},sum={value.total:.6f}"
    return f"{scope} {series} {value!r}"


def write_meta(what: str, name: str, text: str) -> str:
    """Return the line with the type or the help text of a metric, without its newline."""
    return f"* # {what} {name} {escape(text[:MAX_VALUE])}"


def split(number: int, now: float, lines: Iterable[str]) -> list[bytes]:
    """Return the parts of a snapshot."""
    bodies: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        encoded = line.encode("utf-8", "replace")
        size += len(encoded) + 1
        if size > PART_BYTES - 64 and bodies[-1]:
            bodies.append([])
            size = len(encoded) + 1
        bodies[-1].append(encoded)
    return [
        b"\n".join([b"* # snapshot %d %d/%d %.3f" % (number, part, len(bodies), now), *body])
        for part, body in enumerate(bodies, 1)
    ]


def read_header(item: bytes) -> Header | None:
    """Return the first line of a part; None if it is invalid."""
    match = _HEADER.fullmatch(item[:128].partition(b"\n")[0])
    if match is None:
        return None
    header = Header(int(match[1]), int(match[2]), int(match[3]), float(match[4]))
    return header if 1 <= header.part <= header.parts <= MAX_PARTS else None


def parse(item: bytes) -> Iterator[Sample | Meta | None]:
    """Yield what each line of a part says, without the first line; None for a malformed line."""
    text = item.decode("utf-8", "replace")
    for line in text.split("\n")[1:]:
        match = _LINE.fullmatch(line)
        if match is None:
            about = _META.fullmatch(line)
            yield None if about is None else Meta(about[1], about[2], _unescape(about[3])[:MAX_VALUE])
            continue
        scope, name, label_text, value = match.groups()
        labels = _labels(label_text)
        if labels is None:
            yield None
        elif _NUMBER.fullmatch(value):
            yield Sample(scope, name, labels, float(value))
        else:
            buckets = _buckets(value)
            yield None if buckets is None else Sample(scope, name, labels, buckets)


def _labels(text: str | None) -> Labels | None:
    if not text:
        return ()
    labels = []
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            return None
        labels.append((match[1], _unescape(match[2])[:MAX_VALUE]))
        position = match.end()
    if len({name for name, _ in labels}) != len(labels):
        return None
    return tuple(labels)


def _buckets(text: str) -> Buckets | None:
    *pairs, total = text.split(",")
    name, _, number = total.partition("=")
    if name != "sum" or not _NUMBER.fullmatch(number):
        return None
    counts = []
    last = 0
    for pair in pairs:
        match = _BUCKET.fullmatch(pair)
        if match is None:
            return None
        count = int(match[2])
        if count < last:
            return None
        last = count
        counts.append((match[1], count))
    if not _are_bounds(tuple([bound for bound, _ in counts])):
        return None
    return Buckets(tuple(counts), float(number))


@lru_cache(64)
def _are_bounds(bounds: tuple[str, ...]) -> bool:
    """Return whether the bounds rise to +Inf."""
    if not bounds or bounds[-1] != "+Inf" or len(bounds) > 64:
        return False
    try:
        values = [float(bound) for bound in bounds]
    except ValueError:
        return False
    return all(low < high for low, high in pairwise(values))
