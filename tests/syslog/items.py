"""What the tests of both halves share: items as messages and back, loggers without handlers, requests that log."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fcgi_syslog import batch
from fcgi_syslog.application import SyslogApplication
from fcgi_syslog.message import Message, parse, parse_text

from fcgi_core.plugin import Outcome, bound_to_request


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


OVER = Outcome(status=200, duration=0.1, first_byte=0.1, bytes_in=0, bytes_out=0)
MakeHalf = Callable[..., SyslogApplication]


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger of a process without a logging configuration; pytest's handlers return at the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def messages(host: Any) -> list[Message]:
    return [message for sent in host.sent for message in messages_in(sent.item)]


def texts(host: Any) -> list[str]:
    return [message.text for message in messages(host)]


def ask(request: Any, *levels: int, text: str = "text") -> None:
    with bound_to_request(request):
        for level in levels:
            logging.getLogger("shop").log(level, "%s %d", text, level)
