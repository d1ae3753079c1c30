"""Telling the service manager."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path

import pytest

from fcgi_core.errors import ConfigError
from fcgi_core.process.systemd import JournalFormatter, Watchdog, adopt_sockets, journal_reads, notify, tell_reloading


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


def test_a_reload_has_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        tell_reloading()
        first, second = manager.recv(200).decode().splitlines()
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdigit()


def beats(path: Path, count: int, is_well: list[bool]) -> list[bytes]:
    """What systemd hears until `count` datagrams have come; `is_well`: what the program thinks of itself, in turn."""

    async def run() -> list[bytes]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(path))
            manager.setblocking(False)
            watchdog = Watchdog(lambda: is_well.pop(0) if is_well else True)
            watchdog.start()
            heard = [await loop.sock_recv(manager, 100) for _ in range(count)]
            watchdog.stop()
            return heard

    return asyncio.run(run())


@pytest.mark.parametrize("process", ["", str(os.getpid())], ids=["not said", "this one"])
def test_signs_of_life(process: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", process)
    asked = [True, False, False, True]
    assert beats(tmp_path / "notify", 2, asked) == [b"WATCHDOG=1"] * 2
    assert asked == [], "nothing is sent while it is not well"


@pytest.mark.parametrize(("time_limit", "process"), [("", ""), ("20000", "1"), ("soon", ""), ("9" * 30, "")])
def test_nobody_waits_for_signs_of_life(
    time_limit: str, process: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", time_limit)
    monkeypatch.setenv("WATCHDOG_PID", process)
    asked = [True]
    assert beats(tmp_path / "notify", 0, asked) == []
    assert asked == [True]


def test_sockets_of_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "3")
    adopt_sockets()
    assert "LISTEN_FDS" not in os.environ, "children do not get it"


@pytest.mark.parametrize("count", ["", "many", "99999", "-1"])
def test_a_number_of_sockets_that_cannot_be(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        adopt_sockets()
