"""A WSGI application for the system tests: each path does one thing. It notes what happens to it; /seen tells."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.validate import validator

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]

TEXT = ("Content-Type", "text/plain")
UNBUFFERED = ("X-Accel-Buffering", "no")
"""nginx passes each piece on at once."""
BLOCK = 64 * 1024

seen: Counter[str] = Counter()
log = logging.getLogger("shop.basket")


def content(size: int, seed: str = "") -> Iterator[bytes]:
    """`size` bytes that nobody can compress or mix up."""
    for start in range(0, size, BLOCK):
        yield random.Random(f"{seed} {start}").randbytes(min(BLOCK, size - start))


def digest(pieces: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The application itself."""
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    seen[environ["SERVER_NAME"]] += 1
    page = PAGES.get(environ["PATH_INFO"])
    if page is None:
        start_response("404 Not Found", [TEXT])
        return [b"no such page"]
    return page(environ, start_response, query)


validated = validator(plain)
"""The same, with the server's and the application's every step checked against PEP 3333."""


def hello(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [b"hello"]


def process(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [str(os.getpid()).encode()]


def tell_environ(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: value for name, value in environ.items() if isinstance(value, str | bool)}).encode()]


def tell_seen(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


def big(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    if line := query.get("lines"):
        log.info("ordinary %s;", line)
        log.critical("urgent %s;", line)
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", query["size"])])
    return content(int(query["size"]), query.get("seed", ""))


def cheap(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    """Big, and no work for the application."""
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", query["size"])])
    block = bytes(range(256)) * (BLOCK // 256)
    return (block for _ in range(int(query["size"]) // BLOCK))


def upload(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    read = environ["wsgi.input"].read
    seen["upload begun"] += 1
    whole, size = hashlib.sha256(), 0
    try:
        while piece := read(50_000):
            whole.update(piece)
            size += len(piece)
    finally:
        seen["upload over"] += 1
    seen["upload complete"] += 1
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"size": size, "sha256": whole.hexdigest()}).encode()]


def refuse(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    """Answers without a look at the body."""
    start_response("401 Unauthorized", [TEXT])
    return [b"who are you?"]


def echo(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    """Streams the body back line by line, each at once."""
    start_response("200 OK", [TEXT, UNBUFFERED])
    return iter(environ["wsgi.input"].readline, b"")


def shout(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    """Reads the body in each way that a WSGI input has."""
    source = environ["wsgi.input"]
    pieces = [source.read(3), source.readline(), *source.readlines(1), *source]
    start_response("200 OK", [TEXT])
    return [b"|".join(pieces)]


def write(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    put = start_response("200 OK", [TEXT])
    put(b"one ")
    put(b"two ")
    return [b"three"]


class Closing:
    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self._pieces = iter(pieces)
        self._name = name

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        seen[f"{self._name} closed"] += 1


def close(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return Closing([b"a", b"b"], "close")


def forever(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    def pieces() -> Iterator[bytes]:
        while True:
            yield b"still here\n"
            time.sleep(0.02)

    start_response("200 OK", [TEXT, UNBUFFERED])
    return Closing(pieces(), "forever")


def exc_info(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    import sys

    start_response("200 OK", [TEXT, ("X-First", "yes")])
    try:
        raise LookupError("before anything was sent")
    except LookupError:
        start_response("500 Oops", [TEXT, ("X-Second", "yes")], sys.exc_info())
    return [b"sorry"]


def exc_info_late(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    import sys

    start_response("200 OK", [TEXT])
    yield b"x" * 1000
    try:
        raise LookupError("after something was sent")
    except LookupError:
        start_response("500 Oops", [TEXT], sys.exc_info())


def errors(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    stream = environ["wsgi.errors"]
    for number in range(int(query.get("more", "0"))):
        stream.write(f"{number} " + "e" * 997 + "\n")
    stream.write(f"{query['text']} one\n")
    stream.writelines([f"{query['text']} ", "two\n"])
    stream.flush()
    start_response("200 OK", [TEXT])
    return [b"told"]


def sleep(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    seen["sleep begun"] += 1
    time.sleep(float(query["seconds"]))
    start_response("200 OK", [TEXT])
    return [b"awake"]


def hold(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    """Does not answer as long as a file is there."""
    while os.path.exists(query["while"]):
        time.sleep(0.02)
    start_response("200 OK", [TEXT])
    return [b"let go"]


def drip(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    """A response that takes its time: a digit each tenth of a second."""
    start_response("200 OK", [TEXT, UNBUFFERED])
    for number in range(int(query["digits"])):
        seen["drip begun"] += 1
        yield str(number % 10).encode()
        time.sleep(0.1)


def tell_log(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    log.log(int(query.get("level", logging.INFO)), "%s", query["text"], extra={"basket": "7"})
    start_response("200 OK", [TEXT])
    return [b"logged"]


def crash(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    raise RuntimeError(query.get("text", "crash"))


def crash_late(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    length = [("Content-Length", query["length"])] if "length" in query else []
    start_response("200 OK", [TEXT, *length])
    yield b"x" * 1000
    raise RuntimeError("crash after the head was sent")


def needs_a_file(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    with open(os.devnull, "rb") as file:
        start_response("200 OK", [TEXT])
        return [b"opened", file.read()]


def no_content(environ: Environ, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


PAGES = {
    "/hello": hello,
    "/process": process,
    "/environ": tell_environ,
    "/seen": tell_seen,
    "/big": big,
    "/cheap": cheap,
    "/upload": upload,
    "/refuse": refuse,
    "/echo": echo,
    "/shout": shout,
    "/write": write,
    "/close": close,
    "/forever": forever,
    "/exc-info": exc_info,
    "/exc-info-late": exc_info_late,
    "/errors": errors,
    "/sleep": sleep,
    "/hold": hold,
    "/drip": drip,
    "/log": tell_log,
    "/crash": crash,
    "/crash-late": crash_late,
    "/file": needs_a_file,
    "/no-content": no_content,
}
