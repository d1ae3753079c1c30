"""What a pool of associations does on a path with delay and loss, as tests that a module for each carrier inherits.

The module has a fixture `start_path(plugins=…, web=…)`, which starts a `SidedStack` of ``applications:plain`` on a path
of 100 ms both ways that loses 2 % of the packets.
"""

from __future__ import annotations

import re
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from fcgi_core.web.pool import MOST, with_quiet
from tests.system.sided import Load, SidedStack, is_download
from tests.system.stack import wait_until

PATIENT = 60.0
AT_MOST = with_quiet(MOST, True)
THREADS = 24
SIZES = (10_000, 100_000)
"""Bytes; together more than the windows of one association carry in a few round trips."""
Start = Callable[..., SidedStack]


class Lines:
    """The file to which the web side writes the lines of `Load`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lines.log"
        self.plugins = {"syslog": {"outputs": [{"file": str(self.path)}]}}

    def read(self) -> list[tuple[str, str]]:
        """Kind and numbers of each, in the order in which they were written."""
        text = self.path.read_text() if self.path.exists() else ""
        return [(kind, line) for kind, line in re.findall(r"(ordinary|urgent) (\d+\.\d+);", text)]

    def all_come(self, logged: list[str]) -> None:
        wanted = {(kind, line) for kind in ("ordinary", "urgent") for line in logged}
        wait_until(lambda: wanted <= set(self.read()), f"all {len(wanted)} lines arrive", PATIENT)

    def are_in_order(self) -> None:
        """Those of one client's requests, which are one after the other; where one comes twice, the first counts."""
        by_client: dict[str, list[int]] = defaultdict(list)
        for kind, line in dict.fromkeys(self.read()):
            client, _, number = line.partition(".")
            if kind == "ordinary":
                by_client[client].append(int(number))
        assert by_client
        for numbers in by_client.values():
            assert numbers == sorted(numbers)


def processes(stack: SidedStack, side: str = "web") -> list[str]:
    """The process at the other end of each association, by `fcgi-sctp status`."""
    return [f"{one['member']} {one['peer_instance']}" for one in stack.associations(side)]


def grown(stack: SidedStack) -> None:
    wait_until(lambda: len(processes(stack)) > 1, "there is a second association", PATIENT)


class PoolContract:
    def test_it_grows_and_everything_arrives_once_and_in_order(self, start_path: Start, tmp_path: Path) -> None:
        lines = Lines(tmp_path)
        stack = start_path(plugins=lines.plugins)
        with Load(stack, threads=THREADS, sizes=SIZES, lines=True) as load:
            grown(stack)
            load.goes_on(2 * THREADS)
            web, app = processes(stack), processes(stack, "app0")
            (upstream,) = stack.status()["upstreams"]
        assert load.wrong == [], load.wrong[:9]
        assert len(set(web)) == 1, "they are of one process"
        assert 1 < len(web) <= AT_MOST
        assert len(set(app)) == 1
        assert 1 < len(app) <= AT_MOST
        assert upstream["state"] == "up"
        assert 1 < len(upstream["associations"]) <= AT_MOST
        lines.all_come(load.logged)
        assert set(Counter(lines.read()).values()) == {1}
        lines.are_in_order()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
    def test_the_application_is_restarted(self, start_path: Start, tmp_path: Path, number: signal.Signals) -> None:
        """Stopped, it ends what it has, and what it has not begun waits for the next one: what is lost are uploads that
        were under way when it began to refuse, and whose bodies nobody has any more. Killed, it costs the requests
        inside."""
        lines = Lines(tmp_path)
        stack = start_path(plugins=lines.plugins, web={"queue_timeout": "60s"}, app={"grace": "60s"})
        stopped = number == signal.SIGTERM
        with Load(stack, threads=THREADS, sizes=SIZES, lines=True, fails=(503,) if stopped else (0, 502)) as load:
            grown(stack)
            old = set(processes(stack))
            if stopped:
                assert stack.app.stop() == 0
            else:
                stack.app.kill()
            stack.apps = [stack.start_app()]
            wait_until(lambda: not set(processes(stack)) <= old, "the web side has the new process", PATIENT)
            begun = load.begun
            load.goes_on(2 * THREADS)
            after = len(load.logged)
            grown(stack)
            load.goes_on(THREADS)
        assert load.wrong == [], load.wrong[:9]
        assert [number for number, _ in load.failed if number >= begun] == []
        assert not stopped or not any(is_download(number) for number, _ in load.failed)
        lines.all_come(load.logged if stopped else load.logged[after:])
        twice = {int(line.partition(".")[2]) for (_, line), count in Counter(lines.read()).items() if count > 1}
        assert all(not stopped and number < begun for number in twice), "only a download that was made again"
        lines.are_in_order()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
    def test_the_web_side_is_restarted(self, start_path: Start, tmp_path: Path, number: signal.Signals) -> None:
        """nginx answers 502 while it is away. Stopped, it ends what it has; killed, it costs the requests inside."""
        lines = Lines(tmp_path)
        stack = start_path(plugins=lines.plugins, web={"grace": "60s"})
        stopped = number == signal.SIGTERM
        with Load(stack, threads=THREADS, sizes=SIZES, lines=True, fails=(502,) if stopped else (0, 502)) as load:
            grown(stack)
            if stopped:
                assert stack.web.stop() == 0
            else:
                stack.web.kill()
            stack.start_web()
            begun = load.begun
            load.goes_on(2 * THREADS)
            after = len(load.logged)
            grown(stack)
            load.goes_on(THREADS)
        assert load.wrong == [], load.wrong[:9]
        assert [number for number, _ in load.failed if number >= begun] == []
        lines.all_come(load.logged[after:])
        assert set(Counter(lines.read()).values()) == {1}
        lines.are_in_order()
