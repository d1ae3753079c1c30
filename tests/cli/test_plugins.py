from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from fcgi_cli.main import main
from fcgi_cli.plugins import type_text
from pydantic import BaseModel, Field


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fcgi_cli.admin.DIRECTORY", str(tmp_path))
    monkeypatch.delenv("FCGI_SCTP_ADMIN", raising=False)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "installed"
    assert [line.split()[0] for line in lines[1:]][:2] == ["metrics", "syslog"]


def test_list_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    assert capsys.readouterr().out.startswith("installed\n")


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list", "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"metrics", "syslog"} <= {one["name"] for one in printed["installed"]}
    assert printed["running"] == []


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "metrics"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("metrics 1, plugin API 1\n")
    assert "  interval: number from 1 to 3600, default 5; a web side may change it\n      Seconds between" in text
    assert "  metrics: association, background, lifetime 5 s\n" in text


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "syslog", "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == "syslog"
    assert all(option["help"] for option in printed["options"])


def test_a_plugin_that_is_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "nope\x1b[0m"]) == 1
    assert "nope\\x1b[0m: not installed; installed plugins are: metrics" in capsys.readouterr().err


def test_a_process_that_does_not_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plugins", "list", "--admin", str(tmp_path / "none.sock")]) == 0
    assert "No such file" in capsys.readouterr().err


def test_types_in_words() -> None:
    class Inner(BaseModel):
        file: str = ""

    class Options(BaseModel):
        a: int = Field(1, ge=1, le=5)
        b: float = Field(1, gt=0)
        c: str | None = None
        d: Literal["x", "y"] = "x"
        e: list[Inner] = []
        f: dict[str, int] = {}
        g: bool = False
        h: Literal["only"] = "only"
        i: object = None

    schema = Options.model_json_schema()
    assert [type_text(field, schema["$defs"]) for field in schema["properties"].values()] == [
        "whole number from 1 to 5",
        "number above 0",
        "text or null",
        "x | y",
        "list of ({file})",
        "names with values",
        "true or false",
        "only",
        "any value",
    ]
