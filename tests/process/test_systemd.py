"""Telling the service manager."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

import pytest

from fcgi_core.process.systemd import JournalFormatter, journal_reads, notify


def test_the_manager_is_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"fcgi-sctp-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("value", ["", "relative", "/nowhere/at/all"])
def test_no_manager_is_no_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", value)
    notify("READY=1")


def test_the_journal_is_known_by_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert journal_reads(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not journal_reads(stream.fileno()), "the variable is inherited by who writes elsewhere"
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not journal_reads(stream.fileno())
    assert not journal_reads(1 << 20), "no such descriptor"


@pytest.mark.parametrize(
    ("level", "severity"), [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 3)]
)
def test_lines_for_the_journal(level: str, severity: int) -> None:
    record = logging.LogRecord("fcgi_sctp.web", getattr(logging, level), "", 0, "%s up", ("one",), None)
    assert JournalFormatter().format(record) == f"<{severity}>fcgi_sctp.web: one up"


def test_each_line_of_a_traceback_has_its_severity() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("fcgi_sctp.app", logging.ERROR, "", 0, "thrown", None, sys.exc_info())
    lines = JournalFormatter().format(record).splitlines()
    assert lines[0] == "<3>fcgi_sctp.app: thrown"
    assert lines[-1] == "<3>    ValueError: broken"
    assert all(line.startswith("<3>") for line in lines)
