"""The whole road to PHP: nginx, the web side, SCTP, the bridge, php-fpm; and DokuWiki, as Debian packages it, on it."""

from __future__ import annotations

import http.client
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from tests.app.servers import php_fpm
from tests.system.stack import Stack, in_background, wait_until
from tests.system.test_failures import more, under_load

WIKI = Path("/usr/share/dokuwiki")
PREPEND = "<?php define('DOKU_CONF', '{folder}/conf/');"
LOCAL = "<?php $conf['savedir'] = '{folder}/data'; $conf['useacl'] = 0; $conf['title'] = 'Behind SCTP';"
PARTS = ["pages", "attic", "media", "media_attic", "media_meta", "meta", "cache", "index", "locks", "log", "tmp"]

PAGES = {
    "pid": "<?php echo getmypid();",
    "half": "<?php echo str_repeat('x', 1000); flush(); posix_kill(getmypid(), 9);",
    "dies": "<?php posix_kill(getmypid(), 9);",
    "named": "<?php usleep(2000); echo str_repeat($_GET['name'] . ';', 2000);",
    "late": "<?php ignore_user_abort(true); echo 'early'; fastcgi_finish_request();"
    " while (!file_exists($_GET['go'])) usleep(1000); echo 'LATE'; flush(); file_put_contents($_GET['done'], '');",
    "noisy": "<?php for ($i = 0; $i < 10; $i++) error_log(str_repeat('e', 1000)); echo 'said';",
    "wrong": "<?php error_log('PHP Fatal error: wrong'); echo 'said';",
}


class Outcome(NamedTuple):
    """When a request began and ended, and whether it was served."""

    began: float
    ended: float
    served: bool


def named(name: str) -> bytes:
    """What named.php answers."""
    return f"{name};".encode() * 2000


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def scripts_in(folder: Path | str) -> str:
    return f"fastcgi_param SCRIPT_FILENAME {folder}$fastcgi_script_name;"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("php")
    for name, text in PAGES.items():
        (made / f"{name}.php").write_text(text)
    return made


@pytest.fixture
def php(folder: Path, start: Callable[..., Stack]) -> Iterator[Stack]:
    with php_fpm(folder, children=2) as socket:
        bridge = {"address": f"unix:{socket}", "connections": 2}
        yield start(app={"application": None, "fastcgi": bridge}, nginx=scripts_in(folder))


def test_a_child_that_dies_is_a_502_or_a_cut(php: Stack) -> None:
    assert php.ask("/dies.php", "POST", b"").status == 502
    with pytest.raises(http.client.HTTPException):  # IncompleteRead, or RemoteDisconnected if nginx still had it all
        php.ask("/half.php")
    assert php.ask("/pid.php").body.isdigit()


def test_errors_before_the_headers_are_no_502(php: Stack) -> None:
    """Ten lines of 1,000 bytes: nginx alone, with fastcgi_pass to php-fpm, answers 502.

    They are in its log, each time, as far as nginx takes them (2,048 bytes of what comes at once).
    """
    log = php.folder / "nginx-error.log"
    for number in range(1, 11):
        answer = php.ask("/noisy.php")
        assert (answer.status, answer.body) == (200, b"said")
        wait_until(lambda number=number: told(log) >= number, "nginx logs them")  # type: ignore[misc]


def test_nginx_catches_what_php_says_before_its_headers(folder: Path, start: Callable[..., Stack]) -> None:
    """Pages with a certain error are to be asked for elsewhere, or shown as errors."""
    with php_fpm(folder, children=2) as socket:
        lines = scripts_in(folder) + ' fastcgi_catch_stderr "PHP Fatal error";'
        php = start(app={"application": None, "fastcgi": {"address": f"unix:{socket}", "connections": 2}}, nginx=lines)
        for _ in range(5):
            assert php.ask("/wrong.php").status == 502
            assert php.ask("/noisy.php").body == b"said"


def told(log: Path) -> int:
    """Requests of which nginx has logged STDERR."""
    return len({line.split("*")[1].split()[0] for line in log.read_text().splitlines() if "sent in stderr" in line})


def test_php_that_goes_on_after_its_answer(php: Stack) -> None:
    """fastcgi_finish_request(): nothing of it reaches a client, and the other child serves meanwhile."""
    go, done = php.folder / "go", php.folder / "done"
    assert php.ask(f"/late.php?go={go}&done={done}").body == b"early"
    for _ in range(10):
        assert php.ask("/pid.php").body.isdigit()
        assert php.ask("/pid.php", "POST", b"x").body.isdigit()
    assert not done.exists()
    go.touch()
    wait_until(done.exists, "the script ends")
    for _ in range(10):
        assert php.ask("/pid.php").body.isdigit()


def test_a_php_that_is_away_is_waited_for(folder: Path, tmp_path: Path, start: Callable[..., Stack]) -> None:
    bridge = f"unix:{tmp_path}/php.sock"
    stack = start(app={"application": None, "fastcgi": bridge}, nginx=scripts_in(folder))
    with in_background(*[lambda: stack.ask("/pid.php", "POST", b"")] * 3) as answers:
        stack.app.says("cannot be reached")
        with php_fpm(tmp_path):
            assert [(answer.status, answer.body.isdigit()) for answer in answers()] == [(200, True)] * 3
            stack.app.send(signal.SIGTERM)
            assert stack.app.wait() == 0


@pytest.mark.skipif(not WIKI.exists(), reason="dokuwiki is not installed (script/setup test)")
def test_dokuwiki(tmp_path: Path, start: Callable[..., Stack]) -> None:
    """A page is read, edited and read again."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/local.php").write_text(LOCAL.format(folder=tmp_path))
    (tmp_path / "prepend.php").write_text(PREPEND.format(folder=tmp_path))
    for part in PARTS:
        (tmp_path / "data" / part).mkdir(parents=True)
    lines = (
        f"php_admin_value[auto_prepend_file] = {tmp_path}/prepend.php\n"
        f"php_admin_value[session.save_path] = {tmp_path}\n"
    )
    with php_fpm(tmp_path, children=2, lines=lines) as socket:
        bridge = {"address": f"unix:{socket}", "connections": 2}
        stack = start(app={"application": None, "fastcgi": bridge}, nginx=scripts_in(WIKI))
        front = stack.ask("/doku.php")
        assert front.status == 200
        assert b"Behind SCTP" in front.body
        style = stack.ask("/lib/exe/css.php?t=dokuwiki")
        assert style.headers["Content-Type"].startswith("text/css")
        assert len(style.body) > 20_000
        assert b"jquery" in stack.ask("/lib/exe/jquery.php").body.lower()
        form = stack.ask("/doku.php?id=harbour&do=edit")
        cookies = "; ".join(one.split(";")[0] for one in form.headers.get_all("Set-Cookie") or ())
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form.body.decode()))
        text = "====== Harbour ======\n" + "Ships come and go. " * 5000
        saved = stack.ask(
            "/doku.php?id=harbour",
            "POST",
            urlencode({**fields, "wikitext": text, "summary": "a test", "do[save]": "Save"}),
            {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookies},
        )
        assert saved.status in (302, 303), saved.body
        page = stack.ask("/doku.php?id=harbour")
        assert page.body.count(b"Ships come and go.") == 5000
        assert (tmp_path / "data/pages/harbour.txt").read_text().startswith("====== Harbour")


@contextmanager
def pages_under_load(stack: Stack) -> Iterator[list[Outcome]]:
    """Six clients that ask for numbered pages; yields what became of them, in time. Each answer must be its own."""
    outcomes: list[Outcome] = []

    def load(name: str) -> None:
        began = time.monotonic()
        try:
            answer = stack.ask(f"/named.php?name={name}")
            served = answer.status == 200
            assert (answer.status, answer.body) == ((200, named(name)) if served else (502, answer.body))
        except (http.client.HTTPException, ConnectionError):
            served = False  # cut: its head had gone already
        outcomes.append(Outcome(began, time.monotonic(), served))

    with under_load(load, 6):
        yield outcomes


def stray(outcomes: list[Outcome], began: float, ended: float) -> list[Outcome]:
    """Requests that were lost though they were not under way in that time."""
    return [one for one in outcomes if not one.served and not (one.ended > began and one.began < ended)]


def test_php_children_are_killed_under_load(php: Stack) -> None:
    """Stated: a killed child costs the one request it worked on, 502 or cut; the rest is served, by its successor."""
    with pages_under_load(php) as outcomes:
        for _ in range(5):
            more(outcomes, 40)
            os.kill(int(php.ask("/pid.php").body), signal.SIGKILL)
        more(outcomes, 100)
    assert sum(not one.served for one in outcomes) <= 5
    assert len(outcomes) > 300


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_php_fpm_is_replaced_under_load(
    folder: Path, tmp_path: Path, start: Callable[..., Stack], how: signal.Signals
) -> None:
    """Stated: what php-fpm's children had not answered when they ended is 502 or cut; the rest waits and is served."""
    bridge = {"address": f"unix:{tmp_path}/php.sock", "connections": 2}
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(php_fpm(tmp_path))
        stack = start(app={"application": None, "fastcgi": bridge}, nginx=scripts_in(folder))
        master = parent(int(stack.ask("/pid.php").body))
        with pages_under_load(stack) as outcomes:
            more(outcomes, 100)
            began = time.monotonic()
            if how == signal.SIGKILL:
                os.killpg(master, how)  # the children go with it: its session is its alone
            else:
                os.kill(master, how)
            first.close()  # waits for its end; the socket's name is free then
            gone = time.monotonic()
            stack.app.says("cannot be reached")
            second.enter_context(php_fpm(tmp_path))
            more(outcomes, 100)
        assert stray(outcomes, began, gone) == []
        assert sum(not one.served for one in outcomes) <= 2


def test_php_fpm_is_reloaded_under_load(php: Stack) -> None:
    """Stated: SIGUSR2 costs what its children had, 502 or cut; the rest waits at its socket, which stays, and is
    served."""
    old = int(php.ask("/pid.php").body)
    with pages_under_load(php) as outcomes:
        more(outcomes, 100)
        began = time.monotonic()
        os.kill(parent(old), signal.SIGUSR2)

        def anew() -> bool:
            answer = php.ask("/pid.php")
            return answer.status == 200 and not Path(f"/proc/{old}").exists()

        wait_until(anew, "the new children answer")
        ended = time.monotonic()
        more(outcomes, 100)
    assert stray(outcomes, began, ended) == []
    assert sum(one.served for one in outcomes) > 150


def test_a_bridge_without_file_descriptors(folder: Path, start: Callable[..., Stack]) -> None:
    """Stated: requests for which the bridge cannot open a connection wait, and are served when it may open files."""
    with php_fpm(folder, children=8) as socket:
        bridge = {"address": f"unix:{socket}", "connections": 8}
        stack = start(app={"application": None, "fastcgi": bridge}, nginx=scripts_in(folder))
        limits = resource.prlimit(stack.app.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(stack.app.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        with in_background(*[lambda: stack.ask("/named.php?name=x").status] * 20) as answers:
            stack.app.says("cannot be reached")
            assert stack.app.running
            resource.prlimit(stack.app.pid, resource.RLIMIT_NOFILE, limits)
            assert set(answers()) == {200}
