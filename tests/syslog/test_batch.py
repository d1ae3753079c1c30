"""Batches: what goes in comes out, whatever it is; what is none is refused."""

from __future__ import annotations

import re
import struct

import pytest
from fcgi_syslog.batch import BATCH_SIZE, LATEST, Plain, decode, encode, split
from fcgi_syslog.formats import format_line, format_lines, format_message, format_messages
from fcgi_syslog.lines import Head, Lines, OfRequest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.plugin import SECRETS, AssociationInfo, may_have_secrets
from fcgi_core.protocol.records import encode_pairs

INFO = AssociationInfo(1, "", "", "")
HEADS = [
    "<14>1 - host shop 71 cart - ",
    '<11>1 - host shop 71 cart [fcgi@32473 server_name="ä"] ä: ',
    "<15>1 - - - - - - ",
]
LINES = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from(HEADS),
        st.floats(0, 4e9),
        st.text(max_size=30) | st.just("a\nb\x1b"),
        st.none() | st.tuples(st.just(INFO), st.integers(0, 2**56 - 1)),
    ),
    min_size=1,
    max_size=30,
)


@given(LINES)
def test_encoded_lines_are_decoded_unchanged(lines: list[Plain]) -> None:
    batch = decode(encode(lines))
    assert int.from_bytes(encode(lines)[:4], "big") == len(lines), "the channel counts by it"
    assert [batch.heads[number] for number in batch.numbers] == [line[1] for line in lines]
    assert batch.requests == tuple(0 if line[4] is None else line[4][1] for line in lines)
    assert batch.texts == [line[3].encode("utf-8", "backslashreplace").decode() for line in lines]
    assert all(abs(time / 1e6 - line[2]) < 2e-6 for time, line in zip(batch.times, lines, strict=True))
    assert batch.clean is all(text.isascii() and text.isprintable() for text in batch.texts)


@given(st.binary(max_size=200))
def test_malformed_batches_are_refused(item: bytes) -> None:
    try:
        batch = decode(item)
    except ValueError:
        return
    assert len(batch.times) == len(batch.numbers) == len(batch.texts) > 0


GOOD = encode([(6, HEADS[0], 1.0, "text", None)])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (b"\0\0\0\1", "too short"),
        (bytes(6), "0 lines"),
        (GOOD[:4] + b"\xff\xff" + GOOD[6:], "65535 heads"),
        (GOOD[:4] + b"\0\2" + GOOD[6:28] + bytes(8) + GOOD[32:], "1 lines and 2 heads"),
        (b"\x7f" + GOOD[1:], "lines and 1 heads"),
        (encode([(6, "", 1.0, "", None)] * 10_001), "10001 lines"),
        (GOOD + b"x", "do not add up to its size"),
        (GOOD[:-1], "do not add up to its size"),
        (GOOD[:26] + b"\0\7" + GOOD[28:], "a head that the batch lacks"),
        (GOOD[:-1] + b"\xff", "not UTF-8"),
        (GOOD.replace(b"<14>1 - h", b"<14>1 - \xff"), "not UTF-8"),
    ],
)
def test_errors_name_the_fault(item: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(item)


@given(st.lists(st.integers(0, 3) | st.integers(BATCH_SIZE - 40, BATCH_SIZE + 40), max_size=12))
def test_portions(sizes: list[int]) -> None:
    lines: list[Plain] = [(6, "head", 0.0, "x" * size, None) for size in sizes]
    portions = [list(portion) for portion in split(lines)]
    assert [line for portion in portions for line in portion] == lines
    for portion in portions:
        assert len(portion) == 1 or sum(len(line[3]) + 4 for line in portion) <= BATCH_SIZE


def lines_of(*lines: tuple[int, str, str], requests: bool = False) -> Lines:
    """Severity, virtual host and text of each; with `requests` every second one names its own."""
    heads = [
        Head(severity, name, "shop", 1, "7\n1", "cart", "req", {"uri": "/", "x": "y"}, "host")
        for severity, name, _ in lines
    ]
    texts = [text for _, _, text in lines]
    clean = all(text.isascii() and text.isprintable() for text in texts)
    params = encode_pairs({"REQUEST_URI": "/own", "REMOTE_ADDR": "\x1b"})
    of_requests = [OfRequest(f"own {at}", params, str.upper) if at % 2 else None for at in range(len(lines))]
    return Lines(
        heads,
        [1_700_000_000_999_999 + number for number in range(len(lines))],
        range(len(lines)),
        texts,
        clean,
        of_requests if requests else None,
    )


@given(
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["", "a.test", "b\x1b"]), st.text()), min_size=1),
    st.booleans(),
)
def test_many_are_formatted_as_one(lines: list[tuple[int, str, str]], requests: bool) -> None:
    many = lines_of(*lines, requests=requests)
    entries = list(many)
    assert format_lines(many) == [format_line(entry) for entry in entries]
    assert all(text.count("\n") == 1 and text.isprintable() is False for text in format_lines(many))
    assert format_messages(many, 20) == [format_message(entry, 20) for entry in entries]


def test_a_part_of_them() -> None:
    many = lines_of((6, "a", "1"), (3, "b", "2"), (6, "a", "3"))
    assert many.down_to(6) is many
    graver = many.down_to(3)
    assert graver is not None
    assert graver.texts == ["2"]
    assert many.down_to(2) is None
    assert {name: of_host.texts for name, of_host in many.by_host().items()} == {"a": ["1", "3"], "b": ["2"]}
    assert graver.by_host().keys() == {"b"}
    assert len(many) == 3
    assert [one.message for one in many[1:]] == ["2", "3"]
    assert many[-1] == many[2]
    with pytest.raises(IndexError):
        many[3]
    named = lines_of((6, "a", "1"), (3, "b", "2"), requests=True)
    assert [(one.request, one.fields) for one in named] == [
        ("req", {"uri": "/", "x": "y"}),
        ("own 1", {"uri": "/OWN", "x": "y", "remote": "\x1b"}),
    ]
    assert named.held > len("12") + len("/own")
    assert named.by_host()["b"][0] == named[1]


PIECES = ["?", "&", ";", "pass", "word", "pa\u017f\u017f", "pwd", "TOKEN", "api_", "KEY", "\u212aEY", "sig", "=", "x"]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_the_look_for_secrets_misses_none(text: str) -> None:
    if re.search(SECRETS, text):
        assert "=" in text
        assert may_have_secrets(text)


def test_heads_are_bounded_before_they_are_parsed() -> None:
    """As many as lines, and no more of them than ours has; one line may have all."""
    line: Plain = (6, HEADS[0], 1.0, "", None)
    long = "x" * (200 << 10)
    assert decode(encode([(6, long, 1.0, "text", None)])).heads == [long]
    with pytest.raises(ValueError, match="2 lines has 2 heads of 307200 bytes"):
        decode(encode([(6, "x" * (150 << 10), 1.0, "", None), (6, "y" * (150 << 10), 1.0, "", None)]))
    item = encode([line])
    two = item[:4] + b"\0\2" + item[6:28] + struct.pack(">2I", 1, len(HEADS[0].encode()) - 1) + item[32:]
    with pytest.raises(ValueError, match="1 lines and 2 heads"):
        decode(two)


def test_an_impossible_time_costs_no_other_line() -> None:
    item = encode([(6, HEADS[0], 1.0, "one", None), (6, HEADS[0], 2.0, "two", None)])
    lines = decode(item[:6] + struct.pack(">Q", 2**64 - 1) + item[14:])
    assert lines.times == (LATEST - 1, 2_000_000)
    assert lines.texts == ["one", "two"]
