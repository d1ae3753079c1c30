"""The process of a hook that cannot be ended, and the times for which hooks are not interrupted."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from time import perf_counter

import pytest

from fcgi_core.errors import HookTimeout
from fcgi_core.hosting.hook_limit import END_AFTER, SIGNAL, HookLimit, is_started_again
from fcgi_core.hosting.isolation import LIMIT_OF_CHANGES
from fcgi_core.hosting.switching import change_plugins
from tests.hosting.hanging import FOR_EVER, Side, raise_if_late
from tests.system.rogue_plugin import spin

# ---- what cannot be ended


def test_the_process_is_given_up_after_end_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_core.hosting.hook_limit.BURST", 1)
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: None)
    side = Side(FOR_EVER)
    given_up: list[tuple[str, float]] = []
    limit = HookLimit(side.supervisor, FOR_EVER, give_up=lambda name, late: given_up.append((name, late)))
    side.supervisor.hook = spin
    for seconds, count in ((-1.0, 0), (END_AFTER - 1.0, 0), (END_AFTER + 1.0, 1)):
        side.supervisor.hook_due = perf_counter() - seconds
        limit.look()
        assert len(given_up) == count
    assert given_up[0][0] == "tests.system.rogue_plugin.spin"
    assert given_up[0][1] > END_AFTER
    side.limit.look()  # where nothing starts another process
    assert len(given_up) == 1


STUCK = """
import logging, sys, threading
from fcgi_core.hosting.hook_limit import end_process

handler = logging.StreamHandler()
logging.getLogger("fcgi_sctp").addHandler(handler)
def stuck():
    threading.Timer(0.1, end_process, ("plugin.Half.tick", 31.0)).start()
    threading.Event().wait()
if sys.argv[1] == "holds the lock":
    handler.acquire()
stuck()
"""


@pytest.mark.parametrize("way", ["waits", "holds the lock"])
def test_the_process_ends_with_its_frames(way: str) -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK, way], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 70
    if way == "waits":
        assert "hook plugin.Half.tick has been late for 31 s and cannot be ended; this process ends" in ended.stderr
        assert "in stuck" in ended.stderr


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"INVOCATION_ID": "of the whole session"}, False),
        ({"SYSTEMD_EXEC_PID": "1"}, False),
        ({"SYSTEMD_EXEC_PID": str(os.getpid())}, True),
        ({"FCGI_SCTP_WORKER": "0"}, True),
        ({"NOTIFY_SOCKET": "/run/x"}, True),
    ],
)
def test_whether_the_process_is_started_again(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name in ("INVOCATION_ID", "SYSTEMD_EXEC_PID", "FCGI_SCTP_WORKER", "NOTIFY_SOCKET", "SUPERVISOR_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_started_again() is expected


def test_the_time_of_a_hook_inside_a_hook_is_its_own() -> None:
    side = Side(FOR_EVER)
    dues: list[float] = []

    def prints() -> None:
        side.half.does = bool
        dues.append(side.supervisor.hook_due)
        side.supervisor.stderr(None, b"x")
        dues.append(side.supervisor.hook_due)

    side.half.does = prints
    side.begin()
    assert dues[1] > dues[0]
    assert side.supervisor.hook_due == math.inf


def test_a_hook_on_another_thread_is_not_watched() -> None:
    side = Side(0.0)
    dues: list[float] = []
    side.half.does = lambda: dues.append(side.supervisor.hook_due)
    thread = threading.Thread(target=lambda: side.supervisor.stderr(None, b"x"))
    thread.start()
    thread.join()
    assert dues == [math.inf]


def test_a_set_aside_plugin_is_not_called_on_another_thread() -> None:
    side = Side(0.0)
    side.half.does = lambda: raise_if_late(side.limit)
    side.begin()
    thread = threading.Thread(target=lambda: side.supervisor.stderr(None, b"x"))
    thread.start()
    thread.join()
    assert side.half.calls == 1


def test_no_signal_is_sent_while_no_hook_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: sent.append(number))
    monkeypatch.setattr("fcgi_core.hosting.hook_limit.BURST", 1)
    side = Side(FOR_EVER)
    side.half.does = side.limit.look
    side.limit.look()
    side.begin()
    assert sent == []
    side.supervisor.hook_limit = 0.0
    side.begin()
    assert sent == [SIGNAL]


def test_a_signal_that_comes_late_does_nothing() -> None:
    side = Side(0.0)
    side.limit.install()
    try:
        signal.raise_signal(SIGNAL)
        signal.raise_signal(signal.SIGVTALRM)
    finally:
        side.limit.remove()
    signal.raise_signal(SIGNAL)
    signal.raise_signal(signal.SIGVTALRM)
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0.0


# ---- changes


def test_hooks_of_an_operators_change_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_core.hosting.isolation.perf_counter", float)
    side = Side(1.0)
    dues: list[float] = []
    side.half.does = lambda: dues.append(side.supervisor.hook_due)
    assert change_plugins(side.supervisor, {"hanging.level": "1"}) == {"hanging.level": ""}
    assert change_plugins(side.supervisor, {"hanging.enabled": "false"}) == {"hanging.enabled": ""}
    assert dues == [LIMIT_OF_CHANGES, LIMIT_OF_CHANGES, 1.0], "configure, close, and what was still to be gathered"
    patient = Side(FOR_EVER)
    patient.half.does = lambda: dues.append(patient.supervisor.hook_due)
    change_plugins(patient.supervisor, {"hanging.level": "1"})
    assert dues[3] == FOR_EVER


def test_a_change_that_does_not_return_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_core.hosting.isolation.LIMIT_OF_CHANGES", 0.0)
    side = Side()
    side.half.does = spin
    with side.watched():
        answer = change_plugins(side.supervisor, {"hanging.level": "1"})
    assert answer == {"hanging.level": "configure did not return"}
    assert side.supervisor.hook_due == math.inf


def test_hook_timeout_is_no_exception() -> None:
    assert not issubclass(HookTimeout, Exception)
