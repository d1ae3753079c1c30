from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.errors import RemoteProtocolError
from fcgi_core.hosting.byte_stream import RecordReader, find_value, params_records
from fcgi_core.protocol.records import HEADER, MAX_CONTENT, RecordType, decode_pairs, encode_pairs, record
from tests.byte_stream import Record, records_in

latin = st.text(st.characters(max_codepoint=255))
a_record = st.builds(
    lambda kind, request_id, content, padding: (Record(kind, request_id, content), padding),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.binary(max_size=300),
    st.integers(0, 255),
)


def padded(one: Record, padding: int) -> bytes:
    return HEADER.pack(1, one.type, one.request_id, len(one.content), padding, 0) + one.content + bytes(padding)


@given(st.lists(st.tuples(latin, st.one_of(st.integers(0, 300), st.integers(0, 70_000))), max_size=8))
def test_params_are_cut_between_pairs_into_as_few_records_as_possible(lengths: list[tuple[str, int]]) -> None:
    pairs = [(name, "v" * length) for name, length in lengths]
    whole = encode_pairs(pairs)
    contents = [one.content for one in records_in(b"".join(params_records(3, whole)))]
    assert b"".join(contents) == whole
    assert all(contents)
    if all(len(encode_pairs([pair])) <= MAX_CONTENT for pair in pairs):
        assert {name: value for one in contents for name, value in decode_pairs(one).items()} == dict(pairs)
        assert all(len(one) + len(other) > MAX_CONTENT for one, other in pairwise(contents))


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_params_that_fit_are_one_record(over: int) -> None:
    first = encode_pairs([("A", "x" * 40_000)])
    rest = encode_pairs([("B", "y" * (MAX_CONTENT + over - len(first) - 6))])
    cut = [first, rest] if over > 0 else [first + rest]
    assert [one.content for one in records_in(b"".join(params_records(1, first + rest)))] == cut


@given(st.lists(a_record, max_size=8), st.lists(st.integers(0, 3000), max_size=20))
def test_a_reader_finds_the_records_wherever_the_stream_is_cut(
    records: list[tuple[Record, int]], cuts: list[int]
) -> None:
    whole = b"".join(padded(*one) for one in records)
    reader = RecordReader()
    found = []
    last = 0
    for place in [*sorted(cuts), len(whole)]:
        found += reader.feed(whole[last:place])
        last = max(last, min(place, len(whole)))
    assert found == [one for one, _ in records]
    assert not reader.inside_record


@given(a_record.filter(lambda one: len(padded(*one)) > 1), st.data())
def test_a_reader_knows_that_it_is_inside_a_record(one: tuple[Record, int], data: st.DataObject) -> None:
    whole = padded(*one)
    reader = RecordReader()
    assert reader.feed(whole[: data.draw(st.integers(1, len(whole) - 1))]) == []
    assert reader.inside_record


@pytest.mark.parametrize(
    ("first", "hint"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"POST / HTTP/1.1\r\n", "HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH", "SSH"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "TLS"),
        (b"\x02\x01\x00\x01\x00\x00\x00\x00", None),
    ],
)
def test_another_protocol_is_recognized_by_its_first_byte(first: bytes, hint: str | None) -> None:
    for size in (len(first), 1):
        with pytest.raises(RemoteProtocolError) as caught:
            RecordReader().feed(first[:size])
        assert f"{first[0]:#04x}" in str(caught.value)
        assert ("seems to speak" in str(caught.value)) is (hint is not None)
        assert hint is None or hint in str(caught.value)


def test_a_wrong_version_after_a_good_record() -> None:
    with pytest.raises(RemoteProtocolError):
        RecordReader().feed(record(RecordType.STDIN, 1) + b"\x00" * 8)


@pytest.mark.parametrize(
    ("pairs", "value"),
    [
        ({"A": "1", "SERVER_NAME": "shop.example", "B": "2"}, "shop.example"),
        ({"SERVER_NAME": ""}, ""),
        ({"A": "1"}, None),
        ({}, None),
        ({"SERVER_NAME": "x" * 128}, None),
        ({"HTTP_X_SERVER_NAME": "forged"}, None),
        ({"HTTP_X": "\x0b\x06SERVER_NAMEforged", "SERVER_NAME": "shop.example"}, None),
        ({"HTTP_X": "SERVER_NAME"}, None),
        ({"HTTP_X": "\x0b\x7fSERVER_NAMEshort"}, None),
    ],
)
def test_find_value(pairs: dict[str, str], value: str | None) -> None:
    assert find_value(encode_pairs(pairs), b"SERVER_NAME") == value


@given(st.dictionaries(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255))), st.text())
def test_find_value_agrees_with_decode_pairs(pairs: dict[str, str], name: str) -> None:
    pairs["SERVER_NAME"] = name.encode("utf-8", "replace").decode("latin-1")
    assert find_value(encode_pairs(pairs), b"SERVER_NAME") in (pairs["SERVER_NAME"], None)


@pytest.mark.parametrize("length", [127, 128, 0x0B05, 0x0B7F, 0x0C00])
def test_find_value_is_not_fooled_by_a_long_length(length: int) -> None:
    pairs = encode_pairs({"A": "b", "SERVER_NAME": "v" * length})
    assert find_value(pairs, b"SERVER_NAME") == ("v" * length if length < 128 else None)
