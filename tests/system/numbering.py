"""A WSGI application that logs numbered lines on a thread of its own, and notes each in a file once that is done."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

log = logging.getLogger("numbers")
stopping = threading.Event()


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    if environ["PATH_INFO"] == "/go":
        threading.Thread(target=work, args=(query["name"], query["note"]), daemon=True).start()
    elif environ["PATH_INFO"] == "/stop":
        stopping.set()
    elif environ["PATH_INFO"] == "/log":
        log.log(int(query.get("level", logging.INFO)), "%s", query["text"])
    start_response(query.get("status", "200 OK"), [("Content-Type", "text/plain")])
    return [b"done"]


def work(name: str, note: str) -> None:
    """Some 2,000 lines a second."""
    noted = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    number = 0
    while not stopping.is_set():
        for _ in range(10):
            log.info("line %s.%d;", name, number)
            os.write(noted, b"%s.%d\n" % (name.encode(), number))
            number += 1
        time.sleep(0.005)
