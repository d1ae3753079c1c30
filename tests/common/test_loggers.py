"""Loggers that stay as they are when an application configures its own."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Iterator

import pytest

from fcgi_core.common.loggers import keep_all_enabled, keep_enabled


@pytest.fixture(autouse=True)
def enabled_after() -> Iterator[None]:
    yield
    for logger in logging.root.manager.loggerDict.values():  # pytest's, and those of other tests
        if isinstance(logger, logging.Logger):
            logger.disabled = False


def test_a_logger_that_is_kept_enabled_is() -> None:
    for _ in range(2):
        keep_enabled("kept")
    other = logging.getLogger("other")
    logging.config.dictConfig({"version": 1})
    assert (other.disabled, logging.getLogger("kept").disabled) == (True, False)
    assert logging.getLogger("kept").isEnabledFor(logging.ERROR)


def test_all_below_a_name() -> None:
    below, beside = logging.getLogger("program.part.of"), logging.getLogger("program_of_another")
    keep_all_enabled("program")
    logging.config.dictConfig({"version": 1})
    assert not below.disabled
    assert not logging.getLogger("program").disabled
    assert beside.disabled
