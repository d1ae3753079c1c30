"""What runs as it is among compiled modules: no line is taken while others are sent, and then they are again."""

from __future__ import annotations

import logging

import pytest
from fcgi_syslog.uncompiled import Handler, guarded


def test_it_is_busy_while_somebody_iterates() -> None:
    said: list[bool] = []
    items = guarded([1, 2], said.append)
    assert said == []
    assert next(items) == 1
    assert said == [True]
    assert list(items) == [2]
    assert said == [True, False]


def test_it_is_not_busy_any_more_when_who_iterates_gives_up() -> None:
    said: list[bool] = []

    def consume() -> None:
        for _ in guarded([1, 2], said.append):
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        consume()
    assert said == [True, False]


def test_a_handler_gives_records_on_as_they_are() -> None:
    taken: list[logging.LogRecord] = []

    def take(record: logging.LogRecord) -> bool:
        taken.append(record)
        return True

    handler = Handler(take)
    records = [logging.makeLogRecord({"msg": str(number)}) for number in range(2)]
    handler.handle(records[0])
    handler.emit(records[1])
    assert taken == records
    handler.close()
