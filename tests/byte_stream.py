"""The records of a byte stream by name; the core's own reader gives plain tuples, because every request makes four."""

from __future__ import annotations

from typing import NamedTuple

from fcgi_core.hosting.byte_stream import RecordReader


class Record(NamedTuple):
    type: int
    request_id: int
    content: bytes


def records_in(data: bytes, reader: RecordReader | None = None) -> list[Record]:
    """Returns the records that `data` completes."""
    return [Record(*one) for one in (reader or RecordReader()).feed(data)]
