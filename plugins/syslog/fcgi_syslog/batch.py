"""The codec of a batch: many lines in one item of a channel.

Most lines of a process begin alike, so a batch has each beginning once: the *head*, an RFC 5424 message without a time
that ends where a line's text begins (`<14>1 - host shop 71 cart [fcgi@32473 server_name="a.test"] a.test: `).
docs/protocol.md ("Feedback") has the table of bytes; the number of a line's request is `RequestInfo.reference`, or 0.
Texts are found by their lengths, not by separators: a text may hold anything and never counts as another line. No I/O,
no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from fcgi_core.plugin import AssociationInfo

from .message import LAST_SECOND

Plain = tuple[int, str, float, str, tuple[AssociationInfo, int] | None]
"""A `Line`."""

__all__ = ["BATCH_SIZE", "Batch", "Line", "Plain", "decode", "encode", "split"]

BATCH_SIZE = 32 << 10
"""Characters of one batch, with the head counted for each line, unless a single line has more. It travels in some three
messages; the cost per batch is then a hundredth of the cost per line."""
LATEST = (LAST_SECOND + 1) * 1_000_000
"""Microseconds from the epoch to the end of the year 9999, the last that RFC 3339 can name."""
MOST_HEAD_BYTES = 256 << 10
"""Bytes of all heads of a received batch; ours have `BATCH_SIZE` characters, or those of one line."""
MOST_LINES = 10_000
"""Lines of a received batch, which are handled in one turn of the loop (about 15 ms). Ours have 4,000 at most."""
_COUNTS = struct.Struct(">IH")


class Line(NamedTuple):
    """The fields of a line on its way; senders make plain tuples of this shape."""

    severity: int
    head: str
    time: float
    text: str
    target: tuple[AssociationInfo, int] | None
    """The association of its request, whose web side gets the line; and the request's number (`RequestInfo.reference`),
    or 0 if the line must not name it."""


class Batch(NamedTuple):
    """Lines by column: `times`, `requests`, `numbers` and `texts` have an entry for each line."""

    heads: list[str]
    times: tuple[int, ...]
    """Microseconds since the epoch."""
    requests: tuple[int, ...]
    """Numbers of the lines' requests, 0 for none."""
    numbers: tuple[int, ...]
    """Positions of the lines' heads in `heads`."""
    texts: list[str]
    clean: bool
    """True if all texts are printable ASCII; False if that is not known."""


def split(lines: Sequence[Plain]) -> Iterable[Sequence[Plain]]:
    """Yield the lines in portions of one batch each."""
    size = 0
    start = 0
    for position, line in enumerate(lines):
        more = len(line[1]) + len(line[3])
        size += more
        if size > BATCH_SIZE and position > start:
            yield lines[start:position]
            start, size = position, more
    if start < len(lines):
        yield lines[start:] if start else lines


def encode(lines: Sequence[Plain]) -> bytes:
    """Return the item of some lines (see `Line`) with up to 65,535 heads; struct.error beyond."""
    numbers: dict[str, int] = {}
    last: str | None = None
    number = 0
    micros: list[int] = []
    requests: list[int] = []
    of_lines: list[int] = []
    texts: list[str] = []
    for _, head, when, text, target in lines:
        if head is not last:  # most have the same
            last = head
            number = numbers.setdefault(head, len(numbers))
        micros.append(int(when * 1_000_000 + 0.5))
        requests.append(0 if target is None else target[1])
        of_lines.append(number)
        texts.append(text)
    joined = "".join(texts)
    encoded_texts = joined.encode("utf-8", "backslashreplace")
    lengths: Iterable[int] = map(len, texts)
    if not joined.isascii():
        lengths = (len(one.encode("utf-8", "backslashreplace")) for one in texts)
    encoded = [head.encode("utf-8", "backslashreplace") for head in numbers]
    count = len(lines)
    columns = struct.pack(
        f">IH{2 * count}Q{count}I{count}H{len(encoded)}I",
        count,
        len(encoded),
        *micros,
        *requests,
        *lengths,
        *of_lines,
        *map(len, encoded),
    )
    return b"".join((columns, *encoded, encoded_texts))


_PRINTABLE = bytes(byte if 32 <= byte < 127 else 0 for byte in range(256))


def decode(item: bytes) -> Batch:
    """Return the lines of an item. ValueError says what is wrong with it."""
    if len(item) < _COUNTS.size:
        raise ValueError("it is too short for a batch")
    count, heads = _COUNTS.unpack_from(item)
    end = _COUNTS.size + count * 22 + heads * 4
    # no more heads than lines: each head is parsed, and our batches have no unused one
    if not 0 < count <= MOST_LINES or heads > count or end > len(item):
        raise ValueError(f"a batch of {count} lines and {heads} heads in {len(item)} bytes")
    columns = struct.unpack_from(f">{2 * count}Q{count}I{count}H{heads}I", item, _COUNTS.size)
    times = columns[:count]
    requests = columns[count : 2 * count]
    lengths = columns[2 * count : 3 * count]
    numbers = columns[3 * count : 4 * count]
    head_lengths = columns[4 * count :]
    head_bytes = sum(head_lengths)
    if head_bytes > MOST_HEAD_BYTES:
        raise ValueError(f"a batch of {count} lines has {heads} heads of {head_bytes} bytes")
    texts_at = end + head_bytes
    if texts_at + sum(lengths) != len(item):
        raise ValueError("the lengths in a batch do not add up to its size")
    if max(numbers) >= heads:
        raise ValueError("a line of a batch names a head that the batch lacks")
    if max(times) >= LATEST:
        times = tuple([min(time, LATEST - 1) for time in times])  # the line itself says that its time is invalid
    data = item[texts_at:]
    try:
        if data.isascii():
            text = data.decode("ascii")
            texts = [text[start:stop] for start, stop in pairwise(chain((0,), accumulate(lengths)))]
        else:
            texts = [data[start:stop].decode() for start, stop in pairwise(chain((0,), accumulate(lengths)))]
        names = [item[start:stop].decode() for start, stop in pairwise(accumulate(head_lengths, initial=end))]
    except UnicodeDecodeError:
        raise ValueError("a batch is not UTF-8") from None
    # bytes.translate returns the same object if it changes nothing; str.isprintable takes three times as long
    return Batch(names, times, requests, numbers, texts, data.translate(_PRINTABLE) is data)
