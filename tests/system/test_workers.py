"""Workers: several processes of one application, found by the web side, replaced and restarted without a lost
request."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.load import Load
from tests.system.stack import HERE, Program, Stack, in_background, wait_until


def process_ids(app: Program) -> list[int]:
    """The workers' process ids, in the order in which they became ready."""
    return [int(number) for number in re.findall(r"worker \d+ is ready, process (\d+)", app.text)]


@pytest.fixture
def two(start: Callable[..., Stack]) -> Stack:
    stack = start(application="applications:plain", app={"workers": 2})
    stack.web.says("has 2 workers")
    wait_until(lambda: stack.web.text.count("is up") >= 2, "the web side has an association with each worker")
    return stack


def test_a_reload_replaces_every_worker_and_loses_no_request(two: Stack) -> None:
    before = process_ids(two.app)
    assert len(before) == 2
    with Load(two) as load:
        wait_until(lambda: load.seen[200] > 50, "requests are answered")
        two.app.send(signal.SIGHUP)
        two.app.says("all workers are replaced")
        answered = load.seen[200]
        wait_until(lambda: load.seen[200] > answered + 50, "requests are answered after it")
    assert set(load.seen) == {200}
    after = process_ids(two.app)[2:]
    assert len(after) == 2
    assert not set(before) & set(after)


def test_a_file_with_an_error_replaces_no_worker(two: Stack) -> None:
    listen = {**two._application, "listen": two.addresses[0]}
    two.write("app0", {"app": {**listen, "threads": "many"}, **two._common})
    two.app.send(signal.SIGHUP)
    two.app.says("configuration not reloaded: ")
    two.app.says("app.threads: is 'many'; a whole number was expected")
    two.write("app0", {"app": {**listen, "workers": 3}, **two._common})
    two.app.send(signal.SIGHUP)
    two.app.says("these options have changed in the file and need a restart: app.workers")
    two.app.says("all workers are replaced")
    assert len(process_ids(two.app)) == 4, "two were replaced, once"
    assert two.ask("/hello").status == 200


def test_code_that_cannot_be_imported_replaces_no_worker(start: Callable[..., Stack], tmp_path: Path) -> None:
    code = tmp_path / "shop.py"
    good = f"import asyncio, sys\nsys.path.append({str(HERE)!r})\nfrom applications import plain\n"
    good += "asyncio.get_running_loop()\n"
    code.write_text(good)
    stack = start(application="shop:plain", app={"workers": 1, "path": str(tmp_path)}, throws=True)
    before = stack.ask("/process").body
    for wrong in ("import nothing_of_that_name\n", "raise RuntimeError('it is half done')\n", "plain = 1\n"):
        refused = stack.app.text.count("not reloaded, the workers serve on")
        code.write_text(wrong)
        stack.app.send(signal.SIGHUP)
        wait_until(lambda n=refused: stack.app.text.count("not reloaded, the workers serve on") > n, "it is refused")
        assert stack.ask("/process").body == before
    for reason in ("nothing_of_that_name", "it is half done", "'shop:plain' is int, which cannot be called"):
        assert reason in stack.app.text
    code.write_text(good)
    stack.app.send(signal.SIGHUP)
    stack.app.says("all workers are replaced")
    assert stack.ask("/process").body != before


def test_a_killed_worker_is_started_again_and_the_other_serves_on(two: Stack) -> None:
    with Load(two) as load:
        wait_until(lambda: load.seen[200] > 50, "requests are answered")
        os.kill(process_ids(two.app)[0], signal.SIGKILL)
        two.app.says("ended with status -9")
        wait_until(lambda: len(process_ids(two.app)) == 3, "it is started again")
        answered = load.seen[200]
        wait_until(lambda: load.seen[200] > answered + 50, "requests are answered after it")
    # GET may be made twice, so those that were inside it went to the other
    assert set(load.seen) == {200}


def test_a_worker_is_replaced_after_so_many_requests(start: Callable[..., Stack]) -> None:
    stack = start(application="applications:plain", app={"workers": 1, "max_requests": 100})
    with Load(stack, threads=4) as load:
        wait_until(lambda: len(process_ids(stack.app)) >= 2, "it is replaced")
        answered = load.seen[200]
        wait_until(lambda: load.seen[200] > answered + 20, "requests are answered after it")
    assert set(load.seen) == {200}
    assert "requests and is replaced" in stack.app.text


def test_a_worker_is_replaced_when_it_has_grown(start: Callable[..., Stack]) -> None:
    stack = start(application="applications:plain", app={"workers": 1, "max_memory": "2M"})
    wait_until(lambda: len(process_ids(stack.app)) >= 2, "it is replaced")
    assert "has grown to" in stack.app.text
    assert stack.ask("/hello").status == 200


def test_workers_of_a_killed_parent_end_too_and_leave_their_ports_to_the_next(two: Stack) -> None:
    """Stated: what they had begun ends well; the next parent starts at once."""
    workers = process_ids(two.app)
    with in_background(lambda: two.ask("/drip?digits=12")) as answer:
        two.saw("drip begun")
        os.kill(two.app.pid, signal.SIGKILL)
        assert answer()[0].body == b"012345678901"
    two.app.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers end")
    two.apps = [two.start_app()]
    wait_until(lambda: two.ask("/hello").status == 200, "the next parent's workers serve")
    wait_until(lambda: len(process_ids(two.app)) == 2, "both of them are ready")


def test_each_worker_reports_its_own_figures(two: Stack) -> None:
    seen = {two.ask("/process").body for _ in range(30)}
    assert len(seen) == 2
    told = [two.status("app0", worker) for worker in range(2)]
    assert {str(one["pid"]).encode() for one in told} == seen
    assert sum(one["requests"]["ended"] for one in told) == 30
    web = two.status("web")
    assert sum(one["requests"] for one in web["upstreams"]) == 30
    assert min(one["requests"] for one in web["upstreams"]) > 0


def test_a_worker_that_cannot_start_ends_the_program_with_its_own_message(start: Callable[..., Stack]) -> None:
    stack = start(application="applications:plain")
    path = stack.write("broken", {"app": {"application": "nothing:here", "listen": "127.0.0.1:1", "workers": 2}})
    broken = stack.run("broken", *_command(), "app", "--config", path)
    assert broken.wait() == os.EX_CONFIG
    assert "no module 'nothing'" in broken.text
    assert "Traceback" not in broken.text


def _command() -> list[str]:
    from tests.system.stack import COMMAND

    assert Path(COMMAND).exists()
    return [COMMAND]
