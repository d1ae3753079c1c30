"""The command itself: its options, its messages, its exit statuses. tests/system tests what the sides do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli.main import main

from fcgi_core import __version__
from fcgi_core.errors import FcgiSctpError
from fcgi_core.process import run
from fcgi_core.process.config import Config

GOOD = """\
web: {listen: unix:/run/web.sock, connect: 192.0.2.1:9000}
app: {application: shop:app, listen: 0.0.0.0:9000, path: '${SHOP:-.}'}
plugins: {syslog: {scope: association}}
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Config]]:
    """The sides that would have been started, with their configurations."""
    calls: list[tuple[str, Config]] = []
    monkeypatch.setattr(run, "run_web", lambda config, *rest: calls.append(("web", config)))
    monkeypatch.setattr(run, "run_app", lambda config, *rest: calls.append(("app", config)))
    return calls


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fcgi-sctp {__version__}\n"


@pytest.mark.parametrize("command", [[], ["web"], ["app"], ["logs"], ["check"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: fcgi-sctp")


@pytest.mark.parametrize("words", [[], ["fly"], ["web", "--fly"], ["app", "a:b", "--threads", "many"]])
def test_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code
    assert "usage: fcgi-sctp" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["web"],
        ["web", "--listen", "unix:/a"],
        ["web", "--connect", "a:1"],
        ["app"],
        ["app", "shop:app"],
        ["app", "--listen", "a:1"],
    ],
)
def test_missing_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == os.EX_USAGE
    assert f"fcgi-sctp: {words[0]} needs " in capsys.readouterr().err


def test_check_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check"])
    assert ended.value.code == os.EX_USAGE
    assert "fcgi-sctp check: CONFIG is missing" in capsys.readouterr().err


def test_web_from_flags_alone(started: list[tuple[str, Config]]) -> None:
    words = ["web", "--listen", "unix:/a", "--listen", "127.0.0.1:9001", "--connect", "a:1", "--connect", "b:2"]
    words += ["--feed", "/tmp/feed", "--sctp", "userspace", "--name", "edge", "--plugin", "syslog"]
    assert main([*words, "--log-level", "debug"]) == 0
    ((side, config),) = started
    assert side == "web"
    assert config.web is not None
    assert config.web.listen == ["unix:/a", "127.0.0.1:9001"]
    assert [one.address for one in config.web.connect] == ["a:1", "b:2"]
    assert (config.web.feed, config.web.name) == ("/tmp/feed", "edge")
    assert config.sctp.carrier == "userspace"
    assert config.plugins == {"syslog": {}}
    assert config.log_level == "debug"


def test_app_from_flags_alone(started: list[tuple[str, Config]]) -> None:
    assert main(["app", "shop:app", "--listen", "127.0.0.1:9000/9900", "--threads", "4"]) == 0
    ((side, config),) = started
    assert side == "app"
    assert config.app is not None
    assert (config.app.application, config.app.listen, config.app.threads) == ("shop:app", ["127.0.0.1:9000/9900"], 4)


@pytest.mark.parametrize("side", ["web", "app"])
def test_from_a_file(started: list[tuple[str, Config]], good: str, side: str) -> None:
    assert main([side, "--config", good]) == 0
    assert started[0][0] == side
    assert started[0][1].plugins == {"syslog": {"scope": "association"}}


def test_flags_go_over_the_file(started: list[tuple[str, Config]], good: str) -> None:
    assert main(["app", "blog:app", "-c", good, "--threads", "2"]) == 0
    config = started[0][1]
    assert config.app is not None
    assert (config.app.application, config.app.threads, config.app.listen) == ("blog:app", 2, ["0.0.0.0:9000"])


def test_a_wrong_configuration(capsys: pytest.CaptureFixture[str], started: list[Any]) -> None:
    assert main(["web", "--listen", "/run/x.sock", "--connect", "nowhere"]) == os.EX_CONFIG
    error = capsys.readouterr().err
    assert "flags: web.listen" in error
    assert "flags: web.connect" in error
    assert not started


@pytest.mark.parametrize("error", [OSError("no room"), FcgiSctpError("no luck")])
def test_an_error_of_a_side_ends_the_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], good: str, error: Exception
) -> None:
    def fail(config: Config, *rest: object) -> None:
        raise error

    monkeypatch.setattr(run, "run_web", fail)
    assert main(["web", "-c", good]) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err == f"fcgi-sctp: {error}\n"


def test_check_of_a_good_file(
    capsys: pytest.CaptureFixture[str], good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP", str(tmp_path))
    (tmp_path / "shop.py").write_text("def app(environ, start_response): ...")
    assert main(["check", good]) == 0
    assert capsys.readouterr().out == f"{good}: good; sides: web, app; plugins: syslog\n"
    (tmp_path / "shop.py").write_text("import sys; sys.exit('no shop today')")
    assert main(["check", good]) == os.EX_CONFIG
    assert "'shop:app' cannot be imported: SystemExit: no shop today" in capsys.readouterr().err
    assert main(["check", "--no-import", good]) == 0


def test_check_of_the_two_files_of_a_site(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    web, app = tmp_path / "web.yaml", tmp_path / "app.yaml"
    web.write_text("web: {listen: '127.0.0.1:80', connect: '192.0.2.1:9000'}")
    app.write_text("app: {application: 'json:dumps', listen: '0.0.0.0:9000'}")
    assert main(["check", str(web), str(app)]) == 0
    assert capsys.readouterr().out.count(": good; ") == 2
    web.write_text("web: {listen: '127.0.0.1:80', connect: '192.0.2.1:9000', request_timeout: 9}")
    app.write_text("app: {application: 'json:dumps', listen: '0.0.0.0:9000', request_limit: 10}")
    assert main(["check", str(web), str(app)]) == 0, "a warning is no error"
    captured = capsys.readouterr()
    assert captured.out.count(": good; ") == 2
    timeout, limit = captured.err.splitlines()
    assert timeout.startswith(f"fcgi-sctp: warning: {web}: web.request_timeout: is 9 s, not more than sctp.dead_after")
    assert limit.startswith(f"fcgi-sctp: warning: {web} and {app}: app.request_limit: is 10 s, more than web.")
    web.write_text("web: {listen: '127.0.0.1:80', connect: '192.0.2.1:9000'}")
    app.write_text("app: {application: 'json:dumps', listen: '0.0.0.0:9001'}\nplugins: {syslog: }")
    assert main(["check", str(app), str(web)]) == os.EX_CONFIG
    captured = capsys.readouterr()
    assert captured.out == ""
    listen, syslog = captured.err.splitlines()
    assert listen.startswith(f"fcgi-sctp: {web} and {app}: web.connect names 192.0.2.1:9000, but this application")
    assert syslog == f"fcgi-sctp: {web} and {app}: plugins.syslog: is enabled for app only; enable it on both sides"


@pytest.mark.parametrize("text", ["", "# nothing", "web:", "---", "{web: , app: }"])
def test_check_of_a_file_without_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert main(["check", str(path)]) == os.EX_CONFIG
    assert capsys.readouterr().err == f"fcgi-sctp: {path}: has no settings; it needs `web` or `app`\n"


def test_check_of_a_part_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("plugins: {syslog: }")
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: good; sides: none; plugins: syslog\n"


def test_errors_of_a_file_are_harmless(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a\x1b]0;x\x07.yaml"
    path.write_text('"\\e]0;y\\a": 1\nplugins: {"\\e[2J": 3}')
    assert main(["check", str(path)]) == os.EX_CONFIG
    assert main(["web", "-c", str(path)]) == os.EX_CONFIG
    assert main(["nginx-config", "-c", str(path)]) == os.EX_CONFIG
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 6
    assert "\x1b" not in captured.err
    assert "\\x1b]0;y" in captured.err


def test_check_of_a_bad_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("web: {listen: 'unix:/a', connect: nowhere, grace: long}\nplugins: {syslog: {scope: world}}\n")
    assert main(["check", str(path)]) == os.EX_CONFIG
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line, start, value, right in zip(
        lines,
        ("web.connect.0", "web.grace", "plugins.syslog.scope"),
        ("'nowhere'", "'long'", "'world'"),
        ("HOST:PORT", "seconds", "association"),
        strict=True,
    ):
        assert line.startswith(f"fcgi-sctp: {path}: {start}"), line
        assert value in line
        assert right in line


def test_check_of_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", f"{tmp_path}/nothing.yaml"]) == os.EX_CONFIG
    assert f"{tmp_path}/nothing.yaml: cannot be read" in capsys.readouterr().err


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"web", "app", "sctp", "plugins"} <= set(schema["properties"])


def test_the_installed_command() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("fcgi-sctp"), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"fcgi-sctp {__version__}\n"
