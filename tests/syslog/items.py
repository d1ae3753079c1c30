"""Items of the channels as messages, and the other way round, whichever of the two forms an item has."""

from __future__ import annotations

from fcgi_syslog import batch
from fcgi_syslog.message import Message, parse, parse_text


def messages_in(item: bytes) -> list[Message]:
    """The messages of an item: one, or those of a batch."""
    if item.startswith(b"<"):
        return [parse(item)]
    lines = batch.decode(item)
    return [
        parse_text(lines.heads[number] + text)._replace(time=time / 1_000_000)
        for time, number, text in zip(lines.times, lines.numbers, lines.texts, strict=True)
    ]


def batch_of(*items: bytes) -> bytes:
    """A batch of items that are one message each."""
    lines: list[batch.Plain] = []
    for item in items:
        message = parse(item)
        head = message._replace(time=None, text="").encode().decode()
        lines.append((message.severity, head, message.time or 0.0, message.text, None))
    return batch.encode(lines)
