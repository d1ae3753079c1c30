"""What runs as it is among compiled modules: no line is taken while others are sent, and then they are again."""

from __future__ import annotations

import logging

import pytest
from fcgi_syslog.uncompiled import guarded, listen, stop_listening


def test_busy_holds_while_items_are_read() -> None:
    said: list[bool] = []
    items = guarded([1, 2], said.append)
    assert said == []
    assert next(items) == 1
    assert said == [True]
    assert list(items) == [2]
    assert said == [True, False]


def test_busy_ends_when_iteration_stops_early() -> None:
    said: list[bool] = []

    def consume() -> None:
        for _ in guarded([1, 2], said.append):
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        consume()
    assert said == [True, False]


def test_records_are_heard_whoever_else_stands_before_the_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    others: list[str] = []

    def listener(logger: logging.Logger, record: logging.LogRecord) -> bool:
        heard.append(record.getMessage())
        return False

    def other(logger: logging.Logger, record: logging.LogRecord) -> None:
        others.append(record.getMessage())
        ours(logger, record)

    logger = logging.getLogger("heard")
    before = logging.Logger.callHandlers
    listen(listener)
    logger.error("one")
    ours = logging.Logger.callHandlers
    monkeypatch.setattr(logging.Logger, "callHandlers", other)  # as sentry_sdk does
    stop_listening(listener)
    logger.error("not heard")
    listen(listener)
    logger.error("two")
    monkeypatch.undo()
    stop_listening(listener)
    assert (heard, others) == (["one", "two"], ["not heard", "two"])
    assert logging.Logger.callHandlers is before
