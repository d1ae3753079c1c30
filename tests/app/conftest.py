"""Fixtures of the tests of the bridge."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcgi_core.app.fastcgi import pool as pool_module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a FastCGI server's socket."""
    return tmp_path / "s"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time gives no connection up."""
    monkeypatch.setattr(pool_module, "KEEP", 1000.0)
