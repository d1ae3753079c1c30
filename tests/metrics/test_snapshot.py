from __future__ import annotations

import pytest
from fcgi_metrics.samples import PROCESS, Buckets, Sample
from fcgi_metrics.snapshot import (
    MAX_PARTS,
    PART_BYTES,
    Header,
    Meta,
    parse,
    read_header,
    split,
    write_meta,
    write_sample,
)
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = st.from_regex(r"\A[a-zA-Z_:][a-zA-Z0-9_:]{0,30}\Z")
LABELS = st.dictionaries(
    st.from_regex(r"\A[a-zA-Z_][a-zA-Z0-9_]{0,20}\Z"), st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
)
BUCKETS = st.builds(
    lambda counts, total: Buckets(
        tuple(zip(("0.1", "2.5", "+Inf"), sorted(counts), strict=True)), round(abs(total), 6)
    ),
    st.lists(st.integers(0, 1 << 40), min_size=3, max_size=3),
    st.floats(0, 1e9),
)
SAMPLES = st.builds(
    Sample,
    st.sampled_from([PROCESS, "shop.example", "-", "other"]),
    NAMES,
    LABELS.map(lambda labels: tuple(labels.items())),
    st.floats(allow_nan=False) | BUCKETS,
)


def read(*lines: str) -> list[Sample | Meta | None]:
    return list(parse("\n".join(["* # snapshot 1 1/1 0", *lines]).encode()))


@given(SAMPLES)
def test_samples_come_back(sample: Sample) -> None:
    line = write_sample(sample)
    assert "\n" not in line
    assert read(line) == [sample]


@given(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_help_comes_back(name: str, text: str) -> None:
    assert read(write_meta("help", name, text)) == [Meta("help", name, text)]


@settings(max_examples=20)
@given(st.lists(SAMPLES, max_size=100), st.integers(1, 1 << 50))
def test_parts(samples: list[Sample], number: int) -> None:
    parts = split(number, 1763850000.25, map(write_sample, samples))
    headers = [read_header(part) for part in parts]
    assert headers == [Header(number, part, len(parts), 1763850000.25) for part in range(1, len(parts) + 1)]
    assert [sample for part in parts for sample in parse(part)] == samples


def test_a_part_fits_its_record() -> None:
    lines = [write_sample(Sample("shop.example", f"metric_{number}", (), number)) for number in range(5000)]
    parts = split(7, 1e9, lines)
    assert len(parts) > 10
    assert max(map(len, parts)) <= PART_BYTES


def test_it_reads_as_the_document_says() -> None:
    sample = Sample("shop.example", "orders_total", (("kind", 'gift "wrapped"'), ("note", "a\\b\nc")), 5)
    assert write_sample(sample) == r'shop.example orders_total{kind="gift \"wrapped\"",note="a\\b\nc"} 5'
    buckets = Buckets((("0.5", 1), ("+Inf", 3)), 2.25)
    assert write_sample(Sample("*", "x_seconds", (), buckets)) == "* x_seconds 0.5=1,+Inf=3,sum=2.250000"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"* # snapshot 1 0/1 5",
        b"* # snapshot 1 2/1 5",
        b"* # snapshot x 1/1 5",
        b"* # snapshot 1 1/%d 5" % (MAX_PARTS + 1),
        b"* # snapshot 1 1/1 nan",
        b"* # snapshot 99999999999999999999 1/1 5",
        b"\xff" * 1000,
    ],
)
def test_invalid_headers(header: bytes) -> None:
    assert read_header(header + b"\nrest") is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        "shop.example",
        "shop.example requests",
        "shop.example requests five",
        "shop.example 1requests 5",
        "shop.example requests{a=1} 5",
        'shop.example requests{a="1} 5',
        'shop.example requests{a="1" b="2"} 5',
        'shop.example requests{a="1",a="2"} 5',
        'shop.example requests{1a="1"} 5',
        "shop.example requests 0x10",
        "shop.example requests 1_000",
        "shop.example seconds 0.1=1,0.2=2",
        "shop.example seconds 0.1=1,0.2=2,sum=1",
        "shop.example seconds 0.2=1,0.1=2,+Inf=2,sum=1",
        "shop.example seconds 0.1=3,0.2=2,+Inf=2,sum=1",
        "shop.example seconds 0.1=-1,+Inf=2,sum=1",
        "shop.example seconds +Inf=2,sum=x",
        "shop.example seconds 1e=1,+Inf=2,sum=1",
        "shop.example seconds sum=1",
        "* # comment x",
        "* # type 1x counter",
    ],
)
def test_invalid_lines(line: str) -> None:
    assert read(line) == [None]


@pytest.mark.parametrize("value", ["1", "+1.5", "-2e10", "inf", "+Inf", "NaN", "0.5"])
def test_numbers(value: str) -> None:
    (sample,) = read(f"* x {value}")
    assert isinstance(sample, Sample)


@given(st.binary(max_size=500))
def test_anything_can_be_read(data: bytes) -> None:
    read_header(data)
    for _ in parse(b"\n" + data):
        pass
