"""The examples for logrotate, rsyslog and fail2ban, each with the real program and lines of the real plugin."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.syslog.rsyslog import COMMAND as RSYSLOGD
from tests.system.stack import Stack, free_port, wait_until

Start = Callable[..., Stack]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PATHS = "/usr/sbin:/usr/bin:/usr/local/sbin"


def installed(name: str) -> str:
    found = shutil.which(name, path=PATHS)
    if found is None:
        pytest.skip(f"{name} is not installed (script/setup test)")
    return found


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each first replaced by its second; each must be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def test_logrotate_loses_nothing(start: Start, tmp_path: Path) -> None:
    logrotate = installed("logrotate")
    logs = tmp_path / "fcgi-sctp-web-shop"
    logs.mkdir(mode=0o750)
    stack = start("applications:plain", plugins={"syslog": {"outputs": [{"file": f"{logs}/{{server_name}}.log"}]}})
    config = tmp_path / "logrotate.conf"
    text = replaced(
        (EXAMPLES / "logrotate" / "fcgi-sctp").read_text(),
        ("/var/log", str(tmp_path)),
        ("su fcgi-sctp fcgi-sctp", ""),
        ("systemctl kill --kill-who=main --signal=USR1 'fcgi-sctp-web@*.service'", f"kill -USR1 {stack.web.pid}"),
    )
    config.write_text(text)
    config.chmod(0o644)
    stop, asked = threading.Event(), 0

    def ask() -> None:
        nonlocal asked
        while not stop.is_set():
            assert stack.ask(f"/log?text=number-{asked}-").status == 200
            asked += 1

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(3):
        before = asked
        wait_until(lambda at=before: asked > at + 50, "lines are logged")
        state = ["--state", str(tmp_path / "state"), "--force", str(config)]
        done = subprocess.run([logrotate, *state], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    stop.set()
    thread.join()

    def lines() -> list[str]:
        unpack = ["zcat", "-f", *map(str, logs.glob("shop.example.log*"))]
        found = subprocess.run(unpack, capture_output=True, text=True, check=True, timeout=60)
        return re.findall(r"number-(\d+)-", found.stdout)

    wait_until(lambda: len(lines()) >= asked, "all lines are in the files")
    assert sorted(map(int, lines())) == list(range(asked))
    assert {path.name for path in logs.iterdir()} >= {"shop.example.log.1", "shop.example.log.2.gz"}


def test_rsyslog_writes_a_file_for_each_virtual_host(start: Start, tmp_path: Path) -> None:
    if RSYSLOGD is None:
        pytest.skip("rsyslogd is not installed (script/setup test)")
    port = free_port()
    config = tmp_path / "rsyslog.conf"
    text = replaced(
        (EXAMPLES / "rsyslog" / "fcgi-sctp.conf").read_text(),
        ("/var/log/fcgi-sctp/", f"{tmp_path}/logs/"),
        ('port="601"', f'port="{port}"'),
    )
    config.write_text(f'global(workDirectory="{tmp_path}")\n{text}')
    stack = start("applications:plain", plugins={"syslog": {"outputs": [{"tcp": f"127.0.0.1:{port}"}]}})
    rsyslog = stack.run("rsyslogd", RSYSLOGD, "-n", "-f", str(config), "-i", str(tmp_path / "pid"))

    def listens() -> bool:
        assert rsyslog.running, rsyslog.text
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, "rsyslogd listens")
    for host in ("shop.example", "blog.example"):
        assert stack.ask(f"/log?level=40&text=said-at-{host}", host=host).status == 200
    for host in ("shop.example", "blog.example"):
        file = tmp_path / "logs" / f"{host}.log"
        wait_until(lambda file=file: file.exists() and file.read_text().endswith("\n"), f"{file.name} is written")
        assert re.fullmatch(
            rf"\S+ err applications:plain\[\d+\] \[\w+\] said-at-{re.escape(host)}\n", file.read_text()
        ), file.read_text()
    assert rsyslog.stop() == 0
    assert "rsyslogd: " not in rsyslog.text, rsyslog.text


def test_fail2ban_finds_who_fails_to_log_in(start: Start, tmp_path: Path) -> None:
    regex = installed("fail2ban-regex")
    out = tmp_path / "all.json"
    stack = start("applications:plain", plugins={"syslog": {"outputs": [{"json": str(out)}]}})
    forged = 'x","fields":{"remote":"192.0.2.66"}}'
    for text in ("login%20failed%20for%20eve", "login%20succeeded", "said%3A%20login%20failed"):
        assert stack.ask(f"/log?level=30&text={text}").status == 200
    assert stack.ask(f"/log?level=30&text=login%20failed%20for%20{forged.replace(chr(34), '%22')}").status == 200
    wait_until(lambda: out.exists() and out.read_text().count("\n") >= 4, "the lines are written")
    command = [regex, "--print-all-matched", "--verbose", str(out), str(EXAMPLES / "fail2ban" / "filter.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 lines, 0 ignored, 2 matched, 2 missed" in done.stdout, done.stdout
    assert re.findall(r"^\|\s+(\S+)\s+\w+ \w+ \d+", done.stdout, re.M) == ["127.0.0.1", "127.0.0.1"], done.stdout


def test_fail2ban_accepts_the_jail(tmp_path: Path) -> None:
    client = installed("fail2ban-client")
    folder = tmp_path / "fail2ban"
    shutil.copytree("/etc/fail2ban", folder)
    shutil.copy(EXAMPLES / "fail2ban" / "filter.conf", folder / "filter.d" / "fcgi-sctp.conf")
    (tmp_path / "fcgi-sctp-web-shop").mkdir()
    (tmp_path / "fcgi-sctp-web-shop" / "all.json").touch()
    jail = replaced((EXAMPLES / "fail2ban" / "jail.conf").read_text(), ("/var/log", str(tmp_path)))
    (folder / "jail.d" / "fcgi-sctp.conf").write_text(jail)
    (folder / "jail.d" / "zz.conf").write_text("[sshd]\nenabled = false\n")  # Debian's: it has no log here
    done = subprocess.run([client, "-c", str(folder), "--test"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([client, "-c", str(folder), "-d"], capture_output=True, text=True, timeout=60)
    assert re.search(r"'addlogpath', '[^']*/all\.json'", done.stdout), done.stdout
