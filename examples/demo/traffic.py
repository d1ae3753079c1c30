"""Requests to the three hosts, each with its expected answer and log line."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

TIMEOUT = 20.0
"""Seconds that a request may take; /drip and /delay take one or two."""


@dataclass(frozen=True)
class Visit:
    """A request, with its expected answer and log line."""

    host: str
    method: str
    path: str
    right: Callable[[bytes], bool] = lambda body: True
    """Whether the body of the answer is right."""
    status: int = 200
    severity: str = "info"
    """Severity of its line in the feed."""
    also: str = ""
    """Text of a further line of this request, with severity `err`."""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The answer to a visit."""

    visit: Visit
    request: str
    """nginx's $request_id, which the log lines carry too."""
    status: int
    size: int
    seconds: float
    problem: str
    """The error; '' if the answer is right."""


def make(port: int, visit: Visit) -> Answer:
    """Send the request, read the answer and check it."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    request, status, body, problem = "", 0, b"", ""
    try:
        connection.request(visit.method, visit.path, visit.body or None, {"Host": visit.host, **visit.headers})
        response = connection.getresponse()
        status, request = response.status, response.headers.get("X-Request-Id", "")
        body = response.read()
        if status != visit.status:
            problem = f"status {status}, not {visit.status}"
        elif not visit.right(body):
            problem = f"a wrong body of {len(body)} bytes"
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return Answer(visit, request, status, len(body), time.monotonic() - began, problem)


def visits() -> list[Visit]:
    """One round of requests of every kind."""
    octets = random.Random(7)
    hundred_kilobytes = bytes(octets.randint(0, 255) for _ in range(102400))
    return [
        Visit("shop.example", "GET", "/headers", lambda body: json.loads(body)["headers"]["Host"] == "shop.example"),
        Visit("shop.example", "GET", "/cookies", _echoes("cookies", {"basket": "7"}), headers={"Cookie": "basket=7"}),
        Visit("shop.example", "GET", "/image/png", lambda body: body.startswith(b"\x89PNG")),
        Visit("shop.example", "GET", "/bytes/102400?seed=7", lambda body: body == hundred_kilobytes),
        upload("shop.example", 3 << 20),
        upload("shop.example", 8 << 20),
        Visit("shop.example", "GET", "/status/404", status=404, severity="warning"),
        Visit("blog.example", "GET", "/html", lambda body: b"Herman Melville" in body),
        Visit("blog.example", "GET", "/gzip", lambda body: json.loads(gzip.decompress(body))["gzipped"] is True),
        Visit("blog.example", "GET", "/encoding/utf8", lambda body: "∮ E⋅da = Q" in body.decode()),
        Visit("blog.example", "GET", "/stream/20", lambda body: _ids(body) == list(range(20))),
        Visit("blog.example", "GET", "/range/65536", lambda body: body[:27] == b"abcdefghijklmnopqrstuvwxyza"),
        Visit("blog.example", "GET", "/redirect/2", status=302),
        Visit("blog.example", "GET", "/status/418", lambda body: b"teapot" in body, status=418, severity="warning"),
        Visit("api.example", "GET", "/get?a=1&b=2", _echoes("args", {"a": "1", "b": "2"})),
        Visit("api.example", "PUT", "/anything/7", _echoes("data", "seven"), body=b"seven"),
        Visit("api.example", "DELETE", "/anything/7", _echoes("method", "DELETE")),
        Visit("api.example", "GET", "/delay/1", severity="notice"),
        Visit("api.example", "GET", "/drip?duration=1&numbytes=5&delay=0", lambda body: body == b"*****"),
        Visit("api.example", "GET", "/status/503", status=503, severity="err"),
        # httpbin does not check this number, so this logs an uncaught exception with its traceback
        Visit("api.example", "GET", "/drip?duration=long", status=500, severity="err", also="ValueError: could not"),
    ]


def upload(host: str, size: int) -> Visit:
    """A POST of `size` random bytes, which httpbin returns as base64."""
    content = random.randbytes(size)
    wanted = hashlib.sha256(content).digest()

    def right(body: bytes) -> bool:
        returned = json.loads(body)["data"].removeprefix("data:application/octet-stream;base64,")
        return hashlib.sha256(base64.b64decode(returned)).digest() == wanted

    return Visit(host, "POST", "/post", right, body=content, headers={"Content-Type": "application/octet-stream"})


def _echoes(name: str, value: object) -> Callable[[bytes], bool]:
    return lambda body: json.loads(body)[name] == value


def _ids(body: bytes) -> list[int]:
    return [json.loads(line)["id"] for line in body.splitlines()]
