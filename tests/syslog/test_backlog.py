"""What waits for an output: in order, a portion at a time, and counted by the memory that it holds."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fcgi_syslog.backlog import Backlog, count_of, held_by
from fcgi_syslog.lines import Head, Lines
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.plugin import FeedEntry


def lines_of(texts: list[str], cost: int = 0) -> Lines:
    head = Head(6, "", "shop", 1, "", "", "", {"x": "y" * cost} if cost else None, "")
    return Lines([head], [0] * len(texts), [0] * len(texts), texts, clean=True)


@given(st.lists(st.integers(0, 40)), st.integers(1, 20_000), st.sampled_from([0, 500]))
def test_all_comes_out_in_order_and_nothing_is_held_then(counts: list[int], most: int, cost: int) -> None:
    backlog = Backlog()
    texts = [[f"{part}.{number}" for number in range(count)] for part, count in enumerate(counts)]
    parts = [FeedEntry(0.0, 6, "alone") if not one else lines_of(one, cost) for one in texts]
    backlog.extend((part, held_by(part)) for part in parts)
    assert backlog.lines == sum(len(one) or 1 for one in texts)
    seen: list[str] = []
    while backlog:
        assert backlog.held > 0
        part = backlog.take(most)
        assert 1 <= count_of(part) <= max(1, most // 112)
        seen += [one.message for one in part] if isinstance(part, Lines) else [part.message]
    assert seen == [text for one in texts for text in (one or ["alone"])]
    assert (backlog.held, backlog.lines) == (0, 0)


def test_a_batch_that_fits_is_not_split() -> None:
    backlog = Backlog()
    lines = lines_of(["one", "two"])
    backlog.extend([(lines, held_by(lines))])
    assert backlog.held == held_by(lines)
    assert backlog.take(100_000) is lines


MEASURE = """
import gc, logging, sys
from fcgi_syslog.batch import decode, encode
from fcgi_syslog.lines import Head, Lines, OfRequest
from fcgi_syslog.message import parse, read
from fcgi_syslog.sinks import Sink
from fcgi_core.plugin import FeedEntry

def rss():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))

class Standing(Sink):
    def _run(self): ...
    def prepare(self, part): ...
    def push(self): ...
    def left(self): return 0
    def abandon(self): return 0
    def release(self): ...

def entry(number, text="x", fields=0):
    said = b"".join(b' f%d="%d%s"' % (n, number, b"y" * 200) for n in range(fields))
    item = b"<14>1 2026-01-01T00:00:00.%06dZ host%d shop%d %d cart%d [fields@32473%s] " % (*[number] * 5, said)
    m = parse(item + text.encode())
    data = {k: v for element in m.data.values() for k, v in element.items()}
    about = (m.app_name, 1, m.procid, m.msgid, f"request {number}", data or None, m.hostname)
    return FeedEntry(m.time, 6, m.text, "shop.example", *about)

def batch(number, count, text, head_fields=0, params=0):
    begins = f"<14>1 - host{number} shop 71 cart - "
    columns = decode(encode([(6, begins, 1.7e9 + n, f"{number}.{n} {text}", None) for n in range(count)]))
    fields = {f"f{n}": f"{number}" + "y" * 100 for n in range(head_fields)}
    head = Head(6, "", "shop", 1, "71", "cart", "", fields, "h%d" % number)
    requests = [OfRequest(f"r{number}", bytes(params + number % 2), str)] * count if params else None
    return Lines([head], columns.times, columns.numbers, columns.texts, columns.clean, requests)

FIELDS = {f"f{n}": "x" * 1000 for n in range(10)}
MAKE = {
    "empty entries": lambda n: entry(n, ""),
    "entries with fields": lambda n: entry(n, "x", 10),
    "long entries": lambda n: entry(n, "x" * 10_000),
    "entries beyond latin-1": lambda n: entry(n, f"{n}" + "\\U0001f600" * 1000),
    "a line each": lambda n: batch(n, 1, ""),
    "short lines": lambda n: batch(n, 1000, ""),
    "lines": lambda n: batch(n, 100, "x" * 100),
    "lines beyond latin-1": lambda n: batch(n, 100, "\\U0001f600" * 100),
    "heads with fields": lambda n: batch(n, 1, "x", 32),
    "requests": lambda n: batch(n, 3, "x", 0, 5000),
    "one request": lambda n: FeedEntry(float(n), 6, f"{n}", "a", "b", 1, "", "", "c", FIELDS),
}[sys.argv[1]]
sink = Standing("standing", logging.getLogger())
for number in range(20):
    MAKE(number)
gc.collect()
before = rss()
for number in range(10**6):
    part = MAKE(number)
    sink.write(part) if isinstance(part, FeedEntry) else sink.write(part)
    if sink.lost:
        break
print((rss() - before) / sink.bound)
"""


@pytest.mark.parametrize(
    "what",
    [
        *("empty entries", "entries with fields", "long entries", "entries beyond latin-1", "a line each"),
        *("short lines", "lines", "lines beyond latin-1", "heads with fields", "requests", "one request"),
    ],
)
def test_what_is_counted_is_what_memory_costs(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE, what], capture_output=True, text=True, check=True)
    assert 0.3 < float(done.stdout) < 1.25
