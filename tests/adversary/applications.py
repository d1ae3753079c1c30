"""Applications that victims run."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable
from typing import Any


def raises(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    raise RuntimeError(f"no such page: {environ['REQUEST_URI']}")


def says(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Logs a line, and keeps nothing."""
    logging.getLogger("says").warning("here")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def trims(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Has malloc return its free pages to the system: what is resident after that is held."""
    ctypes.CDLL(None).malloc_trim(0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"trimmed"]
