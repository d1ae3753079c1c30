"""The parent of workers, with programs for workers that do what a test wants."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fcgi_core.errors import WorkerError
from fcgi_core.process import workers as module
from fcgi_core.process.workers import Workers, worker_command
from tests.app.harness import until

READY = "import os, signal; os.write(int(os.environ['FCGI_SCTP_READY_FD']), b'1');"
SERVES = READY + "signal.pause()"


def python(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


@asynccontextmanager
async def running(command: list[str], count: int = 1) -> AsyncIterator[Workers]:
    workers = Workers(count, command, grace=5)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop()


def ready(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The process ids of all workers that have been ready."""
    return [int(number) for number in re.findall(r"is ready, process (\d+)", caplog.text)]


def pauses(caplog: pytest.LogCaptureFixture) -> list[float]:
    return [float(seconds) for seconds in re.findall(r"restarted in ([\d.]+) s", caplog.text)]


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("status", [0, 1])
def test_a_worker_that_ends_soon_is_restarted_with_growing_pauses(
    status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it ends with: an application may call sys.exit() when it is imported."""
    first = tmp_path / "first"
    command = python(f"import os; os.path.exists({str(first)!r}) and os._exit({status}); {SERVES}")

    async def test() -> None:
        async with running(command):
            first.touch()
            os.kill(ready(caplog)[0], signal.SIGKILL)
            await until(lambda: len(pauses(caplog)) == 4, "it is tried again and again")
            first.unlink()
            await until(lambda: len(ready(caplog)) == 2, "it is back")

    asyncio.run(test())
    # the first pause follows the kill, which came soon after the start
    assert pauses(caplog) == [0.1, 0.2, 0.4, 0.8]


def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No process, descriptor or memory left: the parent goes on."""
    program, away = tmp_path / "program", tmp_path / "away"
    program.write_text(f"#!{sys.executable} -S\n{SERVES}\n")
    program.chmod(0o755)

    async def test() -> None:
        async with running([str(program)], 2):
            program.rename(away)
            os.kill(ready(caplog)[0], signal.SIGKILL)
            await until(lambda: "cannot be started: No such file" in caplog.text, "it is told")
            away.rename(program)
            await until(lambda: len(ready(caplog)) == 3, "it is back")

    asyncio.run(test())


def test_a_worker_that_does_not_become_ready_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "START_LIMIT", 0.3)
    told = tmp_path / "pid"
    command = python(f"import os, signal; open({str(told)!r}, 'w').write(str(os.getpid())); signal.pause()")

    async def test() -> None:
        with pytest.raises(WorkerError):
            async with running(command):
                pass

    asyncio.run(test())
    if told.exists():  # the machine may have been too slow for even that
        assert not Path(f"/proc/{told.read_text()}").exists()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_reload_waits_for_a_worker_that_is_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, killed: int
) -> None:
    broken = tmp_path / "broken"
    command = python(f"import os; os.path.exists({str(broken)!r}) and os._exit(1); {SERVES}")

    async def test() -> None:
        async with running(command, 2) as workers:
            before = ready(caplog)
            broken.touch()
            os.kill(before[killed], signal.SIGKILL)
            await until(lambda: pauses(caplog), "it is down")
            workers.reload()
            await until(lambda: len(pauses(caplog)) == 3, "it stays down")
            assert Path(f"/proc/{before[1 - killed]}").exists(), "the other one serves meanwhile"
            broken.unlink()
            await until(lambda: "all workers are replaced" in caplog.text, "the reload ends")
            assert len(set(ready(caplog))) == 4

    asyncio.run(test())


def test_a_reload_that_another_worker_would_not_survive_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    tries = f"import os; trial = 'FCGI_SCTP_TRIAL' in os.environ; trial and os._exit(os.path.exists({str(broken)!r}));"

    async def test() -> None:
        workers = Workers(2, python(tries + SERVES), 5, tries=True)
        await workers.start()
        before = ready(caplog)
        broken.touch()
        workers.reload()
        await until(lambda: "not reloaded, the workers serve on" in caplog.text, "it is refused")
        assert ready(caplog) == before
        broken.unlink()
        workers.reload()
        await until(lambda: "all workers are replaced" in caplog.text, "it is done")
        assert len(set(ready(caplog))) == 4
        await workers.stop()

    asyncio.run(test())
    assert "ended with status" not in caplog.text


@pytest.mark.parametrize("away", [False, True])
def test_a_trial_has_an_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, away: bool
) -> None:
    """An import that waits for ever, or a program that is gone."""
    told, program = tmp_path / "pid", tmp_path / "program"
    tries = f"import os; 'FCGI_SCTP_TRIAL' in os.environ and open({str(told)!r}, 'w').write(str(os.getpid()));"
    program.write_text(f"#!{sys.executable} -S\n{tries if not away else ''}{SERVES}\n")
    program.chmod(0o755)

    async def test() -> None:
        workers = Workers(1, [str(program)], 5, tries=True)
        await workers.start()
        if away:
            program.unlink()
        else:
            monkeypatch.setattr(module, "START_LIMIT", 1.0)
        workers.reload()
        await until(lambda: "not reloaded, the workers serve on" in caplog.text, "it is refused")
        await workers.stop()

    asyncio.run(test())
    assert ("a worker cannot be started: No such file" in caplog.text) is away
    if told.exists() and told.read_text():
        assert not Path(f"/proc/{told.read_text()}").exists()


def test_a_stop_ends_a_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = tmp_path / "pid"
    tries = f"import os; 'FCGI_SCTP_TRIAL' in os.environ and open({str(told)!r}, 'w').write(str(os.getpid()));"

    async def test() -> None:
        workers = Workers(1, python(tries + SERVES), 5, tries=True)
        await workers.start()
        workers.reload()
        await until(lambda: told.exists() and told.read_text(), "it runs")
        await workers.stop()

    asyncio.run(test())
    assert "not reloaded" not in caplog.text
    assert not Path(f"/proc/{told.read_text()}").exists()


def test_a_worker_imports_nothing_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As little as the program itself, which is a script."""
    for name in ("yaml", "pydantic", "fcgi_cli"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w').close()")
    (tmp_path / "web.yaml").write_text("web: {listen: 'unix:/tmp/web.sock', connect: ['127.0.0.1:9000']}")
    monkeypatch.setattr(sys, "argv", ["fcgi-sctp", "check", "web.yaml"])
    done = subprocess.run(worker_command(), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "imported").exists()


BEATS = (
    "import asyncio, os, signal, sys, time\n"
    "from fcgi_core.process.workers import over_limit_before, tell_ready\n"
    "async def main():\n"
    "    before = over_limit_before()\n"
    "    spent = []\n"
    "    end = tell_ready(lambda: 3, lambda: bool(spent))\n"
)


def worker(*lines: str) -> list[str]:
    return [sys.executable, "-P", "-c", BEATS + "".join(f"    {line}\n" for line in lines) + "asyncio.run(main())"]


@asynccontextmanager
async def watched(command: list[str], limit: float = 0.2, count: int = 1) -> AsyncIterator[Workers]:
    workers = Workers(count, command, 5, limit)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop()


def test_a_worker_whose_loop_stands_still_is_replaced_and_tells_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its successor knows how many requests the limit has ended."""
    monkeypatch.setattr(module, "BEAT", 0.02)
    first, told = tmp_path / "first", tmp_path / "told"
    command = worker(
        f"if os.path.exists({str(first)!r}):",
        f"    open({str(told)!r}, 'w').write(str(before))",
        "    await asyncio.Event().wait()",
        f"open({str(first)!r}, 'w').close()",
        "await asyncio.sleep(0.1)",
        "time.sleep(60)",
    )

    async def test() -> None:
        # two of the worker's beats, which is another process with its own constant
        async with watched(command, limit=2 * 0.5 + 1):
            await until(lambda: len(ready(caplog)) == 2 and told.exists() and told.read_text(), "it is replaced")

    asyncio.run(test())
    assert told.read_text() == "3"
    assert "the event loop of worker 0, process" in caplog.text
    assert "ended with status" not in caplog.text
    frames = capfd.readouterr().err
    assert "most recent call first" in frames
    assert "in main" in frames


def test_workers_that_are_spent_are_replaced_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The others serve meanwhile, also when the successor of the first does not come up."""
    broken, hangs = tmp_path / "broken", tmp_path / "hangs"
    command = worker(
        f"while not os.path.exists({str(hangs)!r}):",
        "    await asyncio.sleep(0.01)",
        "spent.append(1)",
        "await asyncio.Event().wait()",
    )
    command[-1] = f"import os; os.path.exists({str(broken)!r}) and os._exit(1)\n" + command[-1]

    async def test() -> None:
        async with watched(command, 60, 2) as workers:
            before = ready(caplog)
            broken.touch()
            hangs.touch()
            await until(lambda: len(workers._replacing) == 2 and pauses(caplog), "both are to be replaced")
            hangs.unlink()
            await until(lambda: len(pauses(caplog)) == 3, "no other takes the place of the first")
            assert [Path(f"/proc/{process}").exists() for process in before].count(True) == 1
            broken.unlink()
            await until(lambda: len(ready(caplog)) == 4, "both are replaced")
            await until(lambda: not workers._replacing, "and nothing is due")

    asyncio.run(test())


def test_sigquit_tells_where_a_worker_is_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def frames() -> bool:
        told.append(capfd.readouterr().err)
        return "most recent call first" in "".join(told)

    async def test() -> None:
        async with watched(worker("await asyncio.Event().wait()"), limit=60) as workers:
            (process,) = ready(caplog)
            os.kill(process, signal.SIGQUIT)
            await until(frames, "it writes its frames")
            assert workers._slots[0].serves

    asyncio.run(test())


def test_a_worker_that_ends_in_order_is_not_watched_any_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its atexit functions may take long."""
    monkeypatch.setattr(module, "BEAT", 0.02)
    command = worker("end()", "await asyncio.Event().wait()")

    async def test() -> None:
        async with watched(command) as workers:
            slot = workers._slots[0]
            await until(lambda: slot._over_limit == 3, "the last beat comes")
            assert slot._pulse is not None
            await until(lambda: slot._pulse is not None and slot._pulse._handle.cancelled(), "nothing is due")
        assert "stood still" not in caplog.text

    asyncio.run(test())
