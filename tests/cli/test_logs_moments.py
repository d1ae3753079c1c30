"""Times as people write them, and times at the ends of the calendar."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import datetime
from pathlib import Path

import pytest
from fcgi_cli.logs.moments import moment
from fcgi_cli.main import main


@pytest.mark.parametrize(
    "moment",
    [
        *("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00-12:00", "9999-12-31T23:59:59-14:00"),
        *("9999-12-31T23:59:59+14:00", "1582-10-14T00:00:00Z", "0000-00-00T00:00:00Z", "2026-11-27T00:00:00+99:99"),
    ],
)
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Anchorage", "UTC"])
@pytest.mark.parametrize("words", [["--utc"], ["-o", "json"], ["-o", "raw"], ["-t", "{time}"], []])
def test_times_at_the_ends_of_the_calendar(
    tmp_path: Path,
    moment: str,
    zone: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        (tmp_path / "a.log").write_text(
            f"{moment} err shop.example cart [r1] text\n"
            + json.dumps({"time": moment, "severity": 3, "message": "text"})
            + "\n"
            + json.dumps({"time": moment[:19], "severity": 3, "message": "text"})
            + "\n"
            + json.dumps({"time": "9999-12-31T23:59:59.999999", "severity": 3, "message": "text"})
            + "\n"
        )
        assert main(["logs", "--no-follow", str(tmp_path / "a.log"), *words]) == 0
        out = capsys.readouterr().out
        assert all(
            re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T", line) for line in out.splitlines() if words in ([], ["--utc"])
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_time_that_is_impossible_is_that_of_the_line_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.log").write_text(
        "2026-01-31T00:00:00Z err shop.example cart [r1] one\n"
        "0001-01-01T00:00:00+14:00 err shop.example cart [r1] two\n"
        '{"time": 1769817600000, "severity": 3, "message": "milliseconds"}\n'
        '{"time": "9999-12-31T23:59:59-14:00", "severity": 3, "message": "four"}\n'
        '{"time": "5200-06-01T00:00:00Z", "severity": 3, "message": "five"}\n'
    )
    assert main(["logs", "--no-follow", "--utc", "-t", "{time}", str(tmp_path / "a.log")]) == 0
    assert [line[:10] for line in capsys.readouterr().out.splitlines()] == ["2026-01-31"] * 4 + ["5200-06-01"]


@pytest.mark.parametrize("moment", [1e11 - 1, -1e11 + 1, 253402300800, -62135596801, 1e300, float("nan"), -0.0])
def test_times_that_are_numbers(tmp_path: Path, moment: float, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text(json.dumps({"time": moment, "severity": 3, "message": "text"}) + "\n")
    for words in ([], ["--utc"], ["-o", "json"], ["-t", "{time} {message}"]):
        assert main(["logs", "--no-follow", str(tmp_path / "a.log"), *words]) == 0
        assert "text" in capsys.readouterr().out


def test_wrong_times_and_templates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--since", "soon"]) == os.EX_USAGE
    assert "invalid time 'soon': use 10m (ago), 12:30" in capsys.readouterr().err
    assert main(["logs", "--template", "{x}"]) == os.EX_USAGE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", "2026-07-01T11:50:00"),
        ("1h30m", "2026-07-01T10:30:00"),
        ("2d ago", "2026-06-29T12:00:00"),
        ("now", "2026-07-01T12:00:00"),
        ("today", "2026-07-01T00:00:00"),
        ("Yesterday", "2026-06-30T00:00:00"),
        ("08:15", "2026-07-01T08:15:00"),
        ("2026-01-02", "2026-01-02T00:00:00"),
        ("2026-01-02 03:04:05", "2026-01-02T03:04:05"),
        ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05"),
        ("@0", "1970-01-01T00:00:00"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    now = datetime.fromisoformat("2026-07-01T12:00:00+00:00").timestamp()
    assert moment(text, now, utc=True) == datetime.fromisoformat(expected + "+00:00").timestamp()
