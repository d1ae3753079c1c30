"""httpbin from PyPI. It logs hardly anything, so this module logs each request with its status."""

import logging
import time

# without a handler at the root, importing httpbin makes Flask add its own, and each line appears twice
logging.getLogger().addHandler(logging.NullHandler())
logging.getLogger().setLevel(logging.INFO)

import httpbin  # noqa: E402
from flask import Response, g, request  # noqa: E402

NOTICE = 25
SLOW = 0.5
"""Seconds."""

log = logging.getLogger("demo")
app = httpbin.app


@app.before_request
def begin() -> None:
    g.began = time.monotonic()


@app.after_request
def end(response: Response) -> Response:
    took = time.monotonic() - g.began
    if response.status_code >= 500:
        level = logging.ERROR
    elif response.status_code >= 400:
        level = logging.WARNING
    elif took >= SLOW:
        level = NOTICE
    else:
        level = logging.INFO
    log.log(
        level, "%s %s: %s after %.0f ms", request.method, request.full_path.rstrip("?"), response.status, took * 1e3
    )
    return response
