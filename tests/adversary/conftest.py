"""A lab for each test: victims and attackers, and after it nothing runs and nothing is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adversary.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()
