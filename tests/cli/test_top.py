from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli import top
from fcgi_cli.main import main
from fcgi_cli.rates import view
from rich.console import Console

from fcgi_core.process.admin import AdminServer

PATIENCE = 20.0


def status(ended: int = 0, name: str = "shop.example") -> dict[str, Any]:
    return {
        "side": "web",
        "name": "host1",
        "pid": 7,
        "uptime": 10.0 + ended,
        "bounds": [0.1, 1.0],
        "requests": {"in_flight": 3, "waiting": 2, "ended": ended},
        "hosts": [
            {
                "server_name": name,
                "requests": ended,
                "in_flight": 3,
                "statuses": {"2xx": 0, "5xx": ended},
                "bytes_out": 4096 * ended,
                "failed": 0,
                "seconds": {"counts": [ended, 0, 0], "total": 0.0},
            }
        ],
        "hosts_left_out": 0,
        "upstreams": [
            {"address": "127.0.0.1:9000", "state": "down", "in_flight": 3, "requests": ended, "associations": [1, 4]}
        ],
        "associations": [
            {
                "identity": 1,
                "peer": "127.0.0.1:9000",
                "peer_name": name,
                "requests": 3,
                "streams": 256,
                "streams_leased": 5,
                "shortages": {"asked": 1},
                "content_waiting": 0,
                "feedback_waiting": 0,
                "sctp": {"round_trip": 0.0002, "retransmissions": None, "queued": 0},
            }
        ],
        "plugins": [
            {
                "name": "syslog",
                "state": "running",
                "errors": 0,
                "channels": [{"name": "syslog", "streams": 1, "dropped": 4, "sent": ended, "received": 0}],
            }
        ],
    }


class Process:
    """An admin socket on a thread; each question finds one request more, and a second gone by."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.asked = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = AdminServer(self.path, {"status": self._status})
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(PATIENCE)

    def _status(self, question: Any) -> dict[str, Any]:
        assert question["streams"] is False
        self.asked += 1
        return status(self.asked)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            while self._server._clients:
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path / "web.sock")
    yield made
    made.close()


def drawn(views: list[dict[str, Any]], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(top.render(views, ["gone"]))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_tables_of_top() -> None:
    lines = [" ".join(line.split()) for line in drawn([view(status(5), status(25))]).splitlines()]
    assert lines[0] == "web host1 process 7 up 35 s 1 requests/s 3 in flight 2 waiting"
    assert "shop.example 1 1 3 50 ms 95 ms 99 ms 4.0 KiB" in lines
    assert "127.0.0.1:9000 DOWN 1 3 2" in lines
    assert "1 shop.example 127.0.0.1:9000 0.20 ms - 5/256 1 3 0 B" in lines
    assert "syslog running 0 syslog 1 1 0 4" in lines
    assert lines[-1] == "gone"


def test_remote_text_is_harmless() -> None:
    text = drawn([view(None, status(1, "\x1b]0;x\x07[red]a\n\u202e"))])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;x\\x07[red]a\\n\\u202e" in text


def test_a_narrow_terminal() -> None:
    for width in (80, 40, 10):
        assert max(map(len, drawn([view(None, status(1))], width).splitlines())) <= width


def test_once_as_json(process: Process, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "-o", "json", "--interval", "0.05", "--admin", process.path]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    (printed,) = json.loads(line)["processes"]
    assert printed["requests_per_second"] == 1
    assert printed["hosts"][0]["requests_per_second"] == 1
    assert process.asked == 2


def test_a_pipe_gets_a_table_each_time(process: Process, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--count", "3", "--interval", "0.05", "--admin", process.path]) == 0
    out = capsys.readouterr().out
    assert out.count("web host1") == 3
    assert "\x1b" not in out


def test_no_process_to_ask(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_cli.admin.DIRECTORY", str(tmp_path))
    monkeypatch.delenv("FCGI_SCTP_ADMIN", raising=False)
    for command in ("top", "status"):
        assert main([command]) == 69
        assert "use --admin PATH" in capsys.readouterr().err
        assert main([command, "--admin", str(tmp_path / "none.sock")]) == 69
        assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("interval", ["x", "0", "-1", "nan"])
def test_intervals(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["top", f"--interval={interval}"])
    assert "0.05 to 3600" in capsys.readouterr().err


def test_on_a_terminal(process: Process) -> None:
    """The screen is drawn again and again; Ctrl-C ends it and gives the terminal back."""
    master, slave = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "fcgi_cli", "top", "--interval", "0.05", "--admin", process.path],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        screen = b""
        deadline = time.monotonic() + PATIENCE
        while screen.count(b"shop.example") < 4:
            assert time.monotonic() < deadline, screen
            if select.select([master], [], [], 0.1)[0]:
                screen += os.read(master, 65536)
        program.send_signal(signal.SIGINT)
        while True:
            try:
                received = os.read(master, 65536)
            except OSError:
                break  # the other end is closed
            if not received:
                break
            screen += received
        assert program.wait(PATIENCE) == 130
    finally:
        program.kill()
        program.wait()
        os.close(master)
    assert screen.startswith(b"\x1b[?1049h")
    assert b"\x1b[?1049l" in screen  # back to what was there before
    assert b"Traceback" not in screen
