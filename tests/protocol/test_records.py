from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.protocol.records import (
    HEADER_SIZE,
    LARGEST_CONTENT,
    MAX_CONTENT,
    PREFERRED_CONTENT,
    ProtocolStatus,
    RecordType,
    Role,
    begin_request,
    decode_pairs,
    encode_pairs,
    end_request,
    header,
    record,
    stream_records,
    values_of,
)
from fcgi_core.sctp.carrier import LARGE_MESSAGE, MESSAGE_SIZE
from tests.byte_stream import records_in

latin = st.text(st.characters(max_codepoint=255))


def test_a_record_is_the_specification_s_eight_bytes_and_its_content() -> None:
    assert record(RecordType.STDIN, 0x1234, b"abc", 7) == b"\x01\x05\x12\x34\x00\x03\x00\x07abc"
    assert record(RecordType.STDIN, 1, memoryview(b"abc")) == b"\x01\x05\x00\x01\x00\x03\x00\x00abc"
    assert header(RecordType.STDIN, 0x1234, 3, 7) + b"abc" == record(RecordType.STDIN, 0x1234, b"abc", 7)


def test_a_content_that_no_record_holds_is_refused() -> None:
    assert len(record(RecordType.STDIN, 1, bytes(MAX_CONTENT))) == MAX_CONTENT + 8
    with pytest.raises(struct.error):
        record(RecordType.STDIN, 1, bytes(MAX_CONTENT + 1))


def test_begin_and_end() -> None:
    assert begin_request(1, Role.FILTER, 1, 2) == b"\x01\x01\x00\x01\x00\x08\x00\x02\x00\x03\x01\x00\x00\x00\x00\x00"
    ended = end_request(1, -1, ProtocolStatus.OVERLOADED, 2)
    assert ended == b"\x01\x03\x00\x01\x00\x08\x00\x02\xff\xff\xff\xff\x02\x00\x00\x00"


@given(st.binary(max_size=100), st.integers(1, 40), st.booleans())
def test_a_body_is_cut_into_records_and_none_of_them_is_empty(data: bytes, size: int, view: bool) -> None:
    cut = stream_records(RecordType.STDOUT, 5, memoryview(data) if view else data, 3, size)
    contents = [one.content for one in records_in(b"".join(cut))]
    assert b"".join(contents) == data
    assert all(0 < len(content) <= size for content in contents)
    assert all(one[7] == 3 for one in cut)


def test_a_preferred_record_fills_a_message() -> None:
    assert PREFERRED_CONTENT + HEADER_SIZE == MESSAGE_SIZE
    assert LARGEST_CONTENT + HEADER_SIZE == LARGE_MESSAGE


@given(st.dictionaries(latin, latin))
def test_pairs_come_back(pairs: dict[str, str]) -> None:
    assert decode_pairs(encode_pairs(pairs)) == pairs
    assert decode_pairs(encode_pairs(pairs.items())) == pairs


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 65535, 70000])
def test_lengths_around_the_two_encodings(length: int) -> None:
    pairs = {"n" * length: "v" * length, "after": "x"}
    assert decode_pairs(encode_pairs(pairs)) == pairs
    name_length = encode_pairs(pairs)[:4]
    assert name_length[0] == length if length < 128 else name_length == (length | 1 << 31).to_bytes(4, "big")


def test_of_a_name_given_twice_the_last_value_counts() -> None:
    assert decode_pairs(encode_pairs([("A", "1"), ("B", "2"), ("A", "3")])) == {"A": "3", "B": "2"}


def test_text_beyond_latin_1_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_pairs({"A": "\u20ac"})


@given(st.dictionaries(latin, latin, min_size=1), st.data())
def test_cut_pairs_are_an_error_or_fewer_pairs(pairs: dict[str, str], data: st.DataObject) -> None:
    encoded = encode_pairs(pairs)
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    try:
        assert len(decode_pairs(cut)) < len(pairs)
    except ValueError:
        pass


@given(st.binary(max_size=40))
def test_any_bytes_are_pairs_or_a_value_error(data: bytes) -> None:
    try:
        decode_pairs(data)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "cut", [b"\x01", b"\x80\x00", b"\x80\x00\x00\x01", b"\x01\x80\x00\x00", b"\x01\x01a", b"\x05\x00ab"]
)
def test_each_place_where_pairs_can_be_cut(cut: bytes) -> None:
    with pytest.raises(ValueError, match="cut"):
        decode_pairs(cut)


NAMES = st.sampled_from(["A", "AB", "URI", "x" * 130])


@given(st.lists(st.tuples(NAMES, latin)), st.lists(NAMES, max_size=3, unique=True), st.integers(0, 300))
def test_some_values_are_those_that_all_of_them_would_give(
    pairs: list[tuple[str, str]], names: list[str], cut: int
) -> None:
    data = encode_pairs(pairs)[:-cut] if cut % 3 else encode_pairs(pairs)
    wanted = tuple(name.encode() for name in names)
    try:
        whole = decode_pairs(data)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            values_of(data, wanted)
    else:
        assert values_of(data, wanted) == [whole.get(name, "") for name in names]
