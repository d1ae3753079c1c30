"""A WSGI application with metrics of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter

orders = Counter("orders", 'Orders "taken".', ["kind"])


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    orders.labels('gift "wrapped"').inc()
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.15)  # such a request may be an exemplar
    status = "503 Service Unavailable" if environ["PATH_INFO"] == "/broken" else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    return [b"ordered"]
