from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli import admin
from fcgi_cli.admin import AdminClient, AdminError, ask_all, sockets

from tests.cli.conftest import Answer


def good(line: bytes) -> bytes:
    return json.dumps({"ok": True, "answer": json.loads(line)}).encode() + b"\n"


def test_ask(serve: Callable[[Answer], str]) -> None:
    client = AdminClient(serve(good))
    assert client.ask("status", streams=False) == {"ask": "status", "streams": False}
    assert client.ask("plugins", x="y" * 3_000_000)["ask"] == "plugins"
    client.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b'{"ok": false, "error": "no such thing"}\n', "no such thing"),
        (b"HTTP/1.1 400 Bad Request\r\n", "not an admin socket of fcgi-sctp"),
        (b"[]\n", "not an admin socket of fcgi-sctp"),
        (b"", "the process closed the connection"),
    ],
)
def test_other_answers(serve: Callable[[Answer], str], answer: bytes, error: str) -> None:
    client = AdminClient(serve(lambda line: answer))
    with pytest.raises(AdminError, match=error):
        client.ask("status")
    client.close()


def test_it_connects_again(serve: Callable[[Answer], str]) -> None:
    answers = iter([b"", b'{"ok": true, "answer": 1}\n'])
    client = AdminClient(serve(lambda line: next(answers)))
    with pytest.raises(AdminError):
        client.ask("status")
    assert client.ask("status") == 1
    client.close()


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="No such file"):
        AdminClient(str(tmp_path / "none.sock")).ask("status")


def test_a_process_that_hangs(serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "PATIENCE", 0.01)
    go = threading.Event()

    def hang(line: bytes) -> bytes:
        assert go.wait(10)
        return b""

    with pytest.raises(AdminError, match="timed out"):
        AdminClient(serve(hang)).ask("status")
    go.set()


def test_an_endless_answer(serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MAX_ANSWER", 1000)
    client = AdminClient(serve(lambda line: b"x" * 2000))
    with pytest.raises(AdminError, match="not an admin socket"):
        client.ask("status")


def test_ask_all(serve: Callable[[Answer], str], tmp_path: Path) -> None:
    clients = [AdminClient(serve(good)), AdminClient(str(tmp_path / "none.sock")), AdminClient(serve(good))]
    answers, errors = ask_all(clients, "status")
    assert len(answers) == 2
    assert len(errors) == 1
    for client in clients:
        client.close()


def test_sockets_come_from_the_option_the_variable_or_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "DIRECTORY", f"{tmp_path}/run")
    monkeypatch.delenv("FCGI_SCTP_ADMIN", raising=False)
    for name in ("run/web.sock", "run/app.0.sock", "run/feed.sock", "run/other.txt", "run-shop/app.sock", "x/y.sock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found: list[Any] = sockets(None)
    assert found == [f"{tmp_path}/run-shop/app.sock", f"{tmp_path}/run/app.0.sock", f"{tmp_path}/run/web.sock"]
    monkeypatch.setenv("FCGI_SCTP_ADMIN", "/a:/b")
    assert sockets(None) == ["/a", "/b"]
    assert sockets(["/c"]) == ["/c"]
