"""FastCGI on a byte stream, as web servers and FastCGI applications speak it; the protocol over SCTP needs none of it.

Records may be padded here, and the reserved byte of their headers is 0.
"""

from __future__ import annotations

from ..protocol.records import (
    HEADER_SIZE,
    MAX_CONTENT,
    VERSION,
    RecordType,
    length_at,
    record,
    stream_records,
    wrong_version,
)

__all__ = ["KEEP_CONN", "RecordReader", "find_value", "params_records"]

KEEP_CONN = 1
"""Flag of BEGIN_REQUEST: the connection stays open after the request (section 5.1)."""


class RecordReader:
    """Cuts a byte stream into records. It holds at most one unfinished record (64 KiB + 263 bytes)."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def inside_record(self) -> bool:
        """Whether the last record is unfinished."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Returns the records that `data` completes, in order, each as (type, request id, content).
        RemoteProtocolError if a version byte is not 1."""
        records: list[tuple[int, int, bytes]] = []
        position = 0
        rest = self._rest
        if len(rest) >= HEADER_SIZE:
            # a long read is not copied to complete a record
            stop = HEADER_SIZE + (rest[4] << 8 | rest[5])
            position = stop + rest[6] - len(rest)
            if position > len(data):
                self._rest = rest + data
                return records
            content = rest[HEADER_SIZE:stop] + data[: max(stop - len(rest), 0)]
            records.append((rest[1], rest[2] << 8 | rest[3], content))
        elif rest:
            data = rest + data
        end = len(data)
        while end - position >= HEADER_SIZE:
            # by hand: compiled, this is faster than `struct`
            if data[position] != VERSION:
                raise wrong_version(data[position])
            start = position + HEADER_SIZE
            stop = start + (data[position + 4] << 8 | data[position + 5])
            following = stop + data[position + 6]
            if following > end:
                break
            request_id = data[position + 2] << 8 | data[position + 3]
            records.append((data[position + 1], request_id, data[start:stop]))
            position = following
        self._rest = data[position:] if position else data
        if self._rest and self._rest[0] != VERSION:
            raise wrong_version(self._rest[0])
        return records


def params_records(request_id: int, params: bytes) -> list[bytes]:
    """`params`, which `decode_pairs` accepts, as PARAMS records: one if they fit, else cut between pairs.

    php-fpm and uwsgi parse each record by itself. A pair longer than a record is cut all the same, as section 3.4 has
    it; those two then close the connection. None for empty params (that would end the stream).
    """
    if len(params) <= MAX_CONTENT:
        return [record(RecordType.PARAMS, request_id, params)] if params else []
    records = []
    start = position = 0
    while position < len(params):
        end = _pair_end(params, position)
        if end - start > MAX_CONTENT:
            records += stream_records(RecordType.PARAMS, request_id, params[start:position], size=MAX_CONTENT)
            start = position
        position = end
    records += stream_records(RecordType.PARAMS, request_id, params[start:], size=MAX_CONTENT)
    return records


def _pair_end(data: bytes, position: int) -> int:
    """Where the name-value pair that begins at `position` ends."""
    name_length, position = length_at(data, position)
    value_length, position = length_at(data, position)
    return position + name_length + value_length


def find_value(data: bytes, name: bytes) -> str | None:
    """The value of `name` among the name-value pairs of `data`, found without decoding the pairs before it.

    None if that is not certain: ask `decode_pairs`. It is certain for a short value of a name that stands in `data`
    once, so that no value can pose as the pair.
    """
    position = data.find(name)
    if position < 2 or data.rfind(name) != position or data[position - 2] != len(name):
        return None
    start = position + len(name)
    length = data[position - 1]
    if length >= 128 or start + length > len(data):
        return None
    if position >= 5 and data[position - 5] == len(name) and data[position - 4] >= 128:
        return None  # the two bytes before the name may be the end of a long value's four bytes of length
    return data[start : start + length].decode("latin-1")
