"""Who writes the lines for bench/syslog.py: as an application of `fcgi-sctp app`, or by itself with a SysLogHandler.

Numbered lines of a given length, at a given rate, through Python's logging. It begins when the file GO is there, and
writes what it did to the file DONE. Settings are in the environment, as LOAD_*.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ALONE = 20_000
"""Lines with which logging alone is measured."""
BATCH = 0.005
"""Seconds between bursts: a rate is kept by so many at once."""


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Writes as long a line on STDERR as the query string asks for; or for /load all lines of the load."""
    if environ["PATH_INFO"] == "/load":
        write = environ["wsgi.errors"].write
        load(lambda number, template: write(f"number={number};{template}\n"))
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")])
    yield b"before"
    if environ["QUERY_STRING"]:
        environ["wsgi.errors"].write("x" * int(environ["QUERY_STRING"]) + "\n")
        time.sleep(0.5)
    yield b"after"


def line_of(number: int, length: int) -> str:
    beginning = f"number={number}; basket item 17 was put into the basket of customer 4711, who has now 3 items in it "
    return beginning.ljust(length, "x")[:length]


def log_alone(template: str) -> float:
    """CPU seconds that a line takes with a handler that does nothing: what logging itself costs."""
    log = logging.getLogger("alone")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(logging.NullHandler())
    before = time.thread_time()
    for number in range(ALONE):
        log.info("number=%d;%s", number, template)
    return (time.thread_time() - before) / ALONE


def load(write: Callable[[int, str], object] | None = None) -> None:
    """Write all lines: by logging, or with `write`."""
    go, done = Path(os.environ["LOAD_GO"]), Path(os.environ["LOAD_DONE"])
    count, rate, length = (int(os.environ[f"LOAD_{name}"]) for name in ("COUNT", "RATE", "LENGTH"))
    log = logging.getLogger("load")
    log.setLevel(logging.INFO)
    if write is None:

        def write(number: int, template: str) -> None:
            log.info("number=%d;%s", number, template)

    while not go.exists():
        time.sleep(0.01)
    template = line_of(0, length)[len("number=0;") :]
    cpu, began = time.process_time(), time.monotonic()
    number = 0
    while number < count:
        due = min(count, int((time.monotonic() - began) * rate) + 1)
        for number in range(number, due):  # noqa: B020 (goes on where it was)
            write(number, template)
        number = due
        ahead = began + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(max(ahead, BATCH))
    took = time.monotonic() - began
    cpu = time.process_time() - cpu
    alone = log_alone(template) * 1e6
    temporary = done.with_suffix(".new")
    temporary.write_text(json.dumps({"seconds": took, "cpu": cpu, "logging": alone, "alone_cpu": alone * ALONE / 1e6}))
    temporary.rename(done)


def main() -> None:
    """By itself: the standard library's handler."""
    kind = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}[os.environ["LOAD_KIND"]]
    logging.raiseExceptions = False
    handler = logging.handlers.SysLogHandler(("127.0.0.1", int(os.environ["LOAD_PORT"])), socktype=kind)
    if kind is socket.SOCK_STREAM:
        handler.append_nul = False
        handler.setFormatter(logging.Formatter("%(message)s\n"))  # rsyslog's framing: a line feed ends a message
    logging.getLogger().addHandler(handler)
    load()


if __name__ == "__main__":
    main()
elif "LOAD_GO" in os.environ and "LOAD_STDERR" not in os.environ:
    threading.Thread(target=load, daemon=True).start()
