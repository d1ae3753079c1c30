"""What the application says comes out beside the web server: bound to its host and request, at every scope."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.system.stack import COMMAND, SLOWNESS, Stack, wait_until


@pytest.fixture(scope="module", params=["request", "stream", "association"])
def stack(request: pytest.FixtureRequest, start_for_module: Callable[..., Stack]) -> Stack:
    return start_for_module(
        app={"name": "basket"}, plugins={"syslog": {"scope": request.param, "severity": "debug"}}, throws=True
    )


@pytest.mark.parametrize("host", ["shop.example", "blog.example"])
@pytest.mark.parametrize(
    ("level", "severity"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_a_line_with_all_that_belongs_to_it(stack: Stack, host: str, level: int, severity: int) -> None:
    text = f"line of {host} at {level}"
    before = time.time()
    answer = stack.ask(f"/log?text={quote(text)}&level={level}", host=host)
    (line,) = stack.lines_with(text)
    assert line["message"] == text
    assert line["severity"] == severity
    assert line["server_name"] == host
    assert line["request"] == answer.headers["X-Request-Id"]
    assert line["application"] == "basket"
    assert line["process"] == str(stack.app.pid)
    assert line["kind"] == "shop.basket"
    assert line["fields"]["basket"] == "7"
    assert before - 1 < line["time"] < time.time() + 1


def test_lines_of_many_requests_are_not_mixed_up(stack: Stack) -> None:
    def work(worker: int) -> dict[str, str]:
        host = ("shop.example", "blog.example")[worker % 2]
        sent = {}
        connection = stack.connect()
        for number in range(20):
            text = f"mixed {worker} {number} {host}"
            answer = stack.ask(f"/log?text={quote(text)}", host=host, connection=connection)
            sent[text] = answer.headers["X-Request-Id"]
        connection.close()
        return sent

    with ThreadPoolExecutor(8) as pool:
        sent = {text: request for part in pool.map(work, range(8)) for text, request in part.items()}
    lines = stack.lines_with("mixed ", len(sent))
    assert {line["message"]: line["request"] for line in lines} == sent
    assert len(lines) == len(sent)
    assert all(line["message"].endswith(line["server_name"]) for line in lines)


def test_an_uncaught_exception_is_one_entry(stack: Stack) -> None:
    answer = stack.ask("/crash?text=nobody+caught+this", host="blog.example")
    assert answer.status == 500
    (line,) = stack.lines_with("nobody caught this")
    assert line["severity"] == 3
    assert line["server_name"] == "blog.example"
    assert line["request"] == answer.headers["X-Request-Id"]
    assert "GET /crash" in line["message"].splitlines()[0]
    assert "Traceback (most recent call last):" in line["message"]
    assert line["message"].endswith("RuntimeError: nobody caught this")


def test_wsgi_errors(stack: Stack) -> None:
    answer = stack.ask("/errors?text=into+errors", host="blog.example")
    lines = stack.lines_with("into errors", 2)
    assert [line["message"] for line in lines] == ["into errors one", "into errors two"]
    assert {line["server_name"] for line in lines} == {"blog.example"}
    assert {line["request"] for line in lines} == {answer.headers["X-Request-Id"]}
    assert "into errors one" not in (stack.folder / "nginx-error.log").read_text()


def test_a_line_may_be_long_and_hold_anything(stack: Stack) -> None:
    text = "long \x1b[31mred\x1b[0m\nnext ü \N{SNOWMAN} " + "x" * 30_000 + " end of the long line"
    stack.ask(f"/log?text={quote(text)}")
    (line,) = stack.lines_with("end of the long line")
    assert line["message"] == text


def test_the_viewer_in_a_pipe(stack: Stack) -> None:
    """It follows; what came from afar is harmless, and its further lines are seen to be such."""
    with subprocess.Popen(
        [COMMAND, "logs", "--feed", stack.feed, "--tail", "0", "--count", "2", "--timeout", f"{15 * SLOWNESS:g}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as viewer:
        time.sleep(SLOWNESS)
        stack.ask(f"/log?level=40&text={quote('piped one' + chr(27) + '[2J' + chr(10) + 'forged')}")
        stack.ask("/log?level=30&text=piped+two", host="blog.example")
        assert viewer.stdout is not None
        first, rest, second = viewer.stdout.read().splitlines()
        assert viewer.wait(15) == 0
    assert "err" in first
    assert "shop.example" in first
    assert first.endswith("piped one\\x1b[2J")
    assert rest == "    forged"
    assert "warning" in second
    assert "blog.example" in second
    assert "piped two" in second


def test_the_viewer_picks(stack: Stack) -> None:
    stack.ask("/log?level=40&text=picked+error", host="blog.example")
    stack.ask("/log?level=20&text=picked+info", host="blog.example")
    stack.ask("/log?level=40&text=picked+elsewhere", host="shop.example")
    stack.lines_with("picked", 3)
    criteria = ["-l", "warning", "-s", "blog.*", "-e", "picked"]
    done = subprocess.run(
        [COMMAND, "logs", "--feed", stack.feed, "--no-follow", "-n", "1000", "-o", "json", *criteria],
        capture_output=True,
        check=True,
    )
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["picked error"]


def test_a_file_for_each_host(start: Callable[..., Stack], tmp_path: Path) -> None:
    outputs = [{"file": f"{tmp_path}/{{server_name}}.log"}]
    stack = start(plugins={"syslog": {"outputs": outputs}})
    stack.ask("/log?text=for+the+shop")
    stack.ask("/log?text=for+the+blog&level=40", host="blog.example")
    files = {"shop.example": "for the shop", "blog.example": "for the blog"}
    for host, text in files.items():
        path = tmp_path / f"{host}.log"
        wait_until(lambda path=path: path.exists() and path.read_text(), f"{path.name} is written")
        assert text in path.read_text()
        assert len(path.read_text().splitlines()) == 1


def test_no_web_side_no_feed(stack: Stack) -> None:
    done = subprocess.run(
        [COMMAND, "logs", "--feed", f"{stack.folder}/nothing.sock", "--no-follow"], capture_output=True, text=True
    )
    assert done.returncode == 69
    assert "nothing.sock" in done.stderr
