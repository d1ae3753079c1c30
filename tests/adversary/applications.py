"""Applications that victims run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def raises(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    raise RuntimeError(f"no such page: {environ['REQUEST_URI']}")
