"""FastCGI records and name-value pairs: bytes to values and back.

Section numbers are those of the FastCGI Specification 1.0. Records inside SCTP messages carry the generation of the
request id in the header's reserved byte and are never padded; `hosting/byte_stream.py` reads records of byte streams.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final

from ..errors import RemoteProtocolError, foreign_protocol_hint
from ..sctp.carrier import LARGE_MESSAGE, MESSAGE_SIZE

VERSION: Final = 1
HEADER = struct.Struct(">BBHHBB")
"""version, type, request id, content length, padding length, reserved (our generation). Section 3.3."""
HEADER_SIZE: Final = 8
_CLOSED: Final = VERSION << 56 | 6 << 48
_ENDED: Final = VERSION << 56 | 3 << 48 | 8 << 16
_CLOSING, _ENDING = struct.Struct(">QQQ"), struct.Struct(">QQ")
"""An END_REQUEST record as two numbers, and before it an empty STDOUT. Fewer numbers are made and packed sooner."""
MAX_CONTENT: Final = 65535
"""Largest content of one record, bytes (section 3.3)."""
MAX_PARAMS = 1 << 20
"""Bytes of one request's PARAMS. nginx takes 32 KiB of header by default, Apache httpd about 800 KiB."""
MAX_PAIRS = 10_000
"""Name-value pairs that are decoded: a pair of three bytes then takes fifty times its memory. nginx passes 30, and one
for each field of a header of 32 KiB."""
LARGEST_CONTENT = LARGE_MESSAGE - HEADER_SIZE
"""Content of the records that we make of a stream at most, bytes: with the header a large message, and a multiple of 8
as section 3.3 recommends. HAProxy stalls on padded records of 65,535 bytes when a client leaves, and takes these, which
are not padded; nginx and php-fpm accept any size."""
PREFERRED_CONTENT = MESSAGE_SIZE - HEADER_SIZE
"""The same where messages are not large."""


class RecordType:
    """Record types: FastCGI's (section 8) and, from 32 on, the private ones that travel over SCTP only. Plain numbers,
    because each record is compared with several: of an enumeration, Python 3.11 looks each up by code of its own."""

    BEGIN_REQUEST: Final = 1
    ABORT_REQUEST: Final = 2
    END_REQUEST: Final = 3
    PARAMS: Final = 4
    STDIN: Final = 5
    STDOUT: Final = 6
    STDERR: Final = 7
    DATA: Final = 8
    GET_VALUES: Final = 9
    GET_VALUES_RESULT: Final = 10
    UNKNOWN_TYPE: Final = 11
    SETTINGS: Final = 32
    CONFIG: Final = 33
    CONFIG_RESULT: Final = 34
    CREDIT: Final = 35
    ACK: Final = 36
    DRAIN: Final = 37
    ERROR: Final = 38
    LOAD: Final = 39
    FEEDBACK: Final = 64
    """64 + channel: an item of feedback, or the last part of one."""
    FEEDBACK_MORE: Final = 160
    """160 + channel: a part of an item of feedback; the next record of the channel on this stream continues it."""


class Role(IntEnum):
    """Roles of an application (section 6)."""

    RESPONDER = 1
    AUTHORIZER = 2
    FILTER = 3


class ProtocolStatus(IntEnum):
    """The protocol status of END_REQUEST (section 5.5)."""

    REQUEST_COMPLETE = 0
    CANT_MPX_CONN = 1
    OVERLOADED = 2
    UNKNOWN_ROLE = 3
    INCOMPLETE = 128
    """Over SCTP only, never toward a web server: the response is cut, because the application or the server behind it
    failed in the middle of it. END_REQUEST follows STDOUT without the empty record that would close it. The web side
    answers 502 if nothing of the response has gone, else it closes the web server's connection, which is how FastCGI
    shows that a response is cut."""


ROLES = {role.value: role for role in Role}
PROTOCOL_STATUS = {status.value: status for status in ProtocolStatus}
"""By number, because calling the enumeration is slow."""


def header(record_type: int, request_id: int, length: int, generation: int = 0) -> bytes:
    """The 8 bytes before a content of `length` bytes."""
    return HEADER.pack(VERSION, record_type, request_id, length, 0, generation)


def record(record_type: int, request_id: int, content: bytes | memoryview = b"", generation: int = 0) -> bytes:
    """One whole record; `content` is 0 to 65,535 bytes (struct.error beyond)."""
    return HEADER.pack(VERSION, record_type, request_id, len(content), 0, generation) + content


def stream_records(
    record_type: int, request_id: int, data: bytes | memoryview, generation: int = 0, size: int = PREFERRED_CONTENT
) -> list[bytes]:
    """`data` as records of at most `size` bytes of content each; none for empty data (that would end the stream)."""
    total = len(data)
    if total <= size:
        return [record(record_type, request_id, data, generation)] if total else []
    view = memoryview(data)  # each part is copied once
    return [record(record_type, request_id, view[start : start + size], generation) for start in range(0, total, size)]


def length_at(data: bytes, position: int) -> tuple[int, int]:
    """The length of a name or value that stands at `position`, and the position after it."""
    length = data[position]
    if length < 128:
        return length, position + 1
    return int.from_bytes(data[position : position + 4], "big") & 0x7FFFFFFF, position + 4


def begin_request(request_id: int, role: int, flags: int, generation: int = 0) -> bytes:
    """A BEGIN_REQUEST record (section 5.1)."""
    content = bytes((role >> 8, role & 255, flags, 0, 0, 0, 0, 0))
    return record(RecordType.BEGIN_REQUEST, request_id, content, generation)


def end_request(
    request_id: int,
    app_status: int = 0,
    status: int = ProtocolStatus.REQUEST_COMPLETE,
    generation: int = 0,
    stderr: int = 0,
    *,
    closing: bool = False,
) -> bytes:
    """An END_REQUEST record (section 5.5); `app_status` is sent modulo 2**32. `stderr` goes into its three reserved
    bytes, modulo 2**24: over SCTP, the bytes of STDERR that the application sent. `closing`: an empty STDOUT before."""
    key = request_id << 32 | generation
    ending = (app_status & 0xFFFFFFFF) << 32 | status << 24 | stderr & 0xFFFFFF
    return _CLOSING.pack(_CLOSED | key, _ENDED | key, ending) if closing else _ENDING.pack(_ENDED | key, ending)


def encode_pairs(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """Name-value pairs (section 3.4). Text is latin-1, as PEP 3333 keeps bytes in str; UnicodeEncodeError beyond."""
    parts = []
    for name, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
        raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1")
        for length in (len(raw_name), len(raw_value)):
            parts.append(bytes((length,)) if length < 128 else (length | 0x80000000).to_bytes(4, "big"))
        parts.append(raw_name)
        parts.append(raw_value)
    return b"".join(parts)


def decode_pairs(data: bytes) -> dict[str, str]:
    """The name-value pairs of `data`, as latin-1 text; of a name given twice the last value counts.

    ValueError if a length points beyond the end, or if there are more than MAX_PAIRS. Section 3.4.
    """
    pairs = _decode(data, None)
    if len(pairs) > MAX_PAIRS:
        raise ValueError(f"{len(pairs)} name-value pairs; at most {MAX_PAIRS} are accepted")
    return pairs


def values_of(data: bytes, names: tuple[bytes, ...]) -> list[str]:
    """The values of `names` among the name-value pairs of `data`, as `decode_pairs` has them; '' for a missing name.

    ValueError if a length points beyond the end.
    """
    pairs = _decode(data, {len(name) for name in names})
    return [pairs.get(name.decode("latin-1"), "") for name in names]


def _decode(data: bytes, lengths: set[int] | None) -> dict[str, str]:
    """The pairs whose names have one of `lengths`; None: all pairs."""
    text = data.decode("latin-1")
    end = len(data)
    position = 0
    pairs = {}
    try:
        while position < end:
            name_length = data[position]
            value_length = data[position + 1]
            if (name_length | value_length) < 128:  # both are short, as nearly always
                position += 2
            else:
                name_length, position = length_at(data, position)
                value_length, position = length_at(data, position)
            value_start = position + name_length
            if lengths is None or name_length in lengths:
                pairs[text[position:value_start]] = text[value_start : value_start + value_length]
            position = value_start + value_length
    except IndexError:
        position = end + 1
    if position != end:
        raise ValueError(f"name-value pairs are cut: {end} bytes, a length points to byte {position}")
    return pairs


def wrong_version(version: int) -> RemoteProtocolError:
    """The error for a record whose first byte is not 1 (section 3.3)."""
    what = f"a record begins with byte {version:#04x} where FastCGI has its version, 1"
    return RemoteProtocolError(what, advice=foreign_protocol_hint(version))
