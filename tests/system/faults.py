"""A WSGI application that says what logs cannot take, and destructors of which write to its error output."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger("faults")
COUNT = 3000


class Leaving:
    """Found by the collector alone, wherever that comes to run, and says something when it goes."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.itself = self
        self.say = say

    def __del__(self) -> None:
        self.say("not closed\n")


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    write = environ["wsgi.errors"].write
    if environ["PATH_INFO"] == "/destructors":
        gc.set_threshold(100)  # as it is where nobody changed it, and more often
        for number in range(COUNT):
            Leaving(write)
            write(f"written {number}\n")
    else:
        log.info("before")
        log.info("too long for a datagram", extra={f"f{number}": "\x01" * 1024 for number in range(13)})
        log.info("after")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
