"""The commands as a newcomer types them: flags alone, TCP toward nginx, what is said when something is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.stack import CARRIER, COMMAND, HERE, PATIENCE, Program, Stack, free_address

Start = Callable[..., Stack]
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def fcgi_sctp(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end soon."""
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, cwd=cwd, timeout=PATIENCE)


class FlagsAlone(Stack):
    """No YAML file. The application is found in the working directory."""

    def start_app(self, number: int = 0) -> Program:
        (self.folder / "applications.py").write_bytes((HERE / "applications.py").read_bytes())
        words = ["app", "applications:validated", "--listen", self.addresses[number], "--sctp", CARRIER]
        return self.run("app", COMMAND, *words, "--threads", "4", "--plugin", "syslog")

    def start_web(self) -> None:
        words = ["web", "--listen", self.listen, "--connect", self.addresses[0], "--sctp", CARRIER]
        words += ["--feed", str(self.feed), "--plugin", "syslog"]
        self.web = self.run("web", COMMAND, *words)
        self.web.says("ready")


def test_flags_alone() -> None:
    with FlagsAlone() as stack:
        assert stack.ask("/hello").body == b"hello"
        stack.ask("/log?text=by+flags+alone", host="blog.example")
        assert stack.lines_with("by flags alone")[0]["server_name"] == "blog.example"


def test_nginx_over_tcp(start: Start) -> None:
    stack = start(tcp=True)
    assert stack.ask("/hello").body == b"hello"
    body = os.urandom(300_000)
    assert stack.ask("/upload", "POST", body).json()["size"] == len(body)


def test_a_feed_in_no_directory(tmp_path: Path) -> None:
    words = ["web", "--listen", f"unix:{tmp_path}/web.sock", "--connect", free_address(), "--sctp", CARRIER]
    done = fcgi_sctp(*words, "--feed", f"{tmp_path}/no/feed.sock")
    assert done.returncode == os.EX_UNAVAILABLE
    assert f"cannot offer the live feed at {tmp_path}/no/feed.sock: No such file" in done.stderr
    assert "Traceback" not in done.stderr


class WithoutFeed(Stack):
    """As somebody who may not write to /run types it, with the least of flags."""

    def start_web(self) -> None:
        words = ["web", "--listen", self.listen, "--connect", self.addresses[0], "--sctp", CARRIER]
        self.web = self.run("web", *AS_NOBODY, COMMAND, *words)
        self.web.says("ready")


def test_the_default_feed_is_no_condition() -> None:
    if os.geteuid() != 0 or subprocess.run([*AS_NOBODY, COMMAND, "--version"], capture_output=True).returncode:
        pytest.skip("another user than root is needed, one who can read this checkout")
    stack = WithoutFeed()
    stack.folder.chmod(0o777)
    with stack:
        assert stack.ask("/hello").body == b"hello"
        assert "feed.sock: " in stack.web.text
        assert "going on without" in stack.web.text


def test_an_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = "{}:{}".format(*taken.getsockname())
        done = fcgi_sctp("web", "--listen", where, "--connect", free_address(), "--feed", f"{tmp_path}/feed.sock")
    assert done.returncode == os.EX_UNAVAILABLE
    assert f"cannot listen at {where}" in done.stderr
    assert not (tmp_path / "feed.sock").exists(), "nothing is left"
    assert "Traceback" not in done.stderr


def test_an_sctp_address_in_use(start: Start) -> None:
    stack = start()
    done = fcgi_sctp("app", "applications:plain", "--listen", stack.addresses[0], "--sctp", CARRIER, cwd=HERE)
    assert done.returncode == os.EX_UNAVAILABLE
    assert stack.addresses[0].partition("/")[0] in done.stderr
    assert "Traceback" not in done.stderr
    assert stack.ask("/hello").body == b"hello", "the one that was there first goes on"


@pytest.mark.parametrize(
    ("application", "fragment"),
    [
        ("nothing_there:app", "no module 'nothing_there'"),
        ("applications:nothing", "has no 'nothing'"),
        ("applications:BLOCK", "cannot be called"),
    ],
)
def test_no_such_application(application: str, fragment: str) -> None:
    done = fcgi_sctp("app", application, "--listen", free_address(), "--sctp", CARRIER, cwd=HERE)
    assert done.returncode == os.EX_CONFIG
    assert fragment in done.stderr
    assert "Traceback" not in done.stderr


def test_check(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("web:\n  listen: unix:/run/web.sock\n  connect: 192.0.2.1:9000\n")
    bad.write_text("web:\n  listen: unix:/run/web.sock\n  connect: 192.0.2.1\n")
    done = fcgi_sctp("check", str(good))
    assert (done.returncode, done.stderr) == (0, "")
    done = fcgi_sctp("check", str(bad))
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith(f"fcgi-sctp: {bad}: web.connect")
    assert "'192.0.2.1'" in done.stderr
    assert "HOST:PORT" in done.stderr
