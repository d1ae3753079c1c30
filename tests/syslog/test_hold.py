"""Held lines are bounded."""

from __future__ import annotations

import pytest
from fcgi_syslog import hold
from fcgi_syslog.hold import Held, HeldLine


def line(text: str) -> HeldLine:
    return HeldLine(7, "", text, 0.0, {})


def test_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "HELD_LINES", 3)
    monkeypatch.setattr(hold, "HELD_BYTES", 10)
    held = Held()
    for text in ("a", "b", "c", "d"):
        held.add(line(text))
    held.add(line("12345678"))
    assert held.forgotten == 2
    assert [one.text for one in held.take()] == ["c", "d", "12345678"]
    held.add(line("late"))
    assert held.take() == []
