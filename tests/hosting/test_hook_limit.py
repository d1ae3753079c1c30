"""Hooks that do not return are ended, and those that have returned are let alone."""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import math
import re
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import pytest

from fcgi_core.errors import HookTimeout
from fcgi_core.hosting.hook_limit import EVERY, SIGNAL, HookLimit
from fcgi_core.hosting.isolation import SET_ASIDE_FOR
from fcgi_core.hosting.outgoing import Gathering
from tests.hosting.hanging import ANY, FOR_EVER, PATIENCE, Side, raise_if_late
from tests.hosting.supervised import OVER
from tests.system.rogue_plugin import HANGS, spin

WAYS = {
    **{name: hang for name, hang in HANGS.items() if name != "backtrack"},  # no thread could watch it
    "queue": lambda: SimpleQueue[int]().get(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_hook_that_does_not_return_is_ended_and_its_plugin_set_aside(
    way: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    side = Side()
    side.half.does = way
    with side.watched():
        side.begin()
    assert (side.state, side.errors) == ("set aside", 1)
    (failed,) = [record for record in caplog.records if record.exc_info]
    assert failed.getMessage() == "plugin hanging: request_begin failed"
    assert "in _do" in caplog.text, "with its own frames"
    assert "HookTimeout: did not return" in caplog.text
    assert "plugin hanging did not return from request_begin and is set aside for 60 s" in caplog.messages
    side.begin()
    assert side.half.calls == 1
    side.half.does = bool
    side.loop.pass_time(SET_ASIDE_FOR + 1)
    side.begin()
    assert side.half.calls > 1
    assert side.state == "running"


@pytest.mark.parametrize(
    "call",
    [
        lambda side: side.supervisor.request_end(ANY, OVER),
        lambda side: side.loop.pass_time(1.5),
        lambda side: side.supervisor.stderr(None, b"x"),
        lambda side: side.half.gathering.ready(),
    ],
    ids=["request_end", "tick", "stderr", "make"],
)
def test_each_hook_is_ended(call: Callable[[Side], object]) -> None:
    side = Side()
    side.half.does = spin
    with side.watched():
        call(side)
    assert (side.state, side.errors, side.half.calls) == ("set aside", 1, 1)
    assert side.supervisor.hook_due == math.inf


def test_gathering_stops_while_a_make_that_did_not_return_is_set_aside() -> None:
    side = Side()
    side.half.does = spin
    with side.watched():
        side.half.gathering.ready()
    side.half.gathering.ready()
    assert side.half.calls == 1
    calls: list[int] = []
    side.half.does = lambda: calls.append(1)
    side.loop.pass_time(SET_ASIDE_FOR + 2)
    assert len(calls) >= 2, "its tick, and what was there to be gathered"


def test_a_make_that_raises_fails_as_a_hook_does(caplog: pytest.LogCaptureFixture) -> None:
    side = Side(FOR_EVER)
    side.half.does = lambda: 1 / 0
    side.half.gathering.ready()
    assert "plugin hanging: make failed" in caplog.messages
    assert isinstance(side.half.gathering, Gathering)
    assert (side.state, side.errors) == ("running", 1)


@pytest.mark.parametrize("what", [SystemExit(1), asyncio.CancelledError()])
def test_a_hook_ends_neither_the_process_nor_its_caller(what: BaseException) -> None:
    side = Side(FOR_EVER)

    def raises() -> None:
        raise what

    side.half.does = raises
    side.begin()
    side.supervisor.stderr(None, b"x")
    assert side.errors == 2


def test_a_keyboard_interrupt_passes_through_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    side = Side(FOR_EVER)

    def interrupted() -> None:
        raise KeyboardInterrupt

    side.half.does = interrupted
    with pytest.raises(KeyboardInterrupt):
        side.begin()
    with pytest.raises(KeyboardInterrupt):
        side.supervisor.stderr(None, b"x")
    assert side.supervisor.hook_due == math.inf, "and no hook is thought to run"
    assert side.errors == 0


def backtrack() -> None:
    re.match("(a+)+$", "a" * 60 + "b")


def test_a_hook_that_keeps_the_interpreter_to_itself_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    side = Side()
    side.half.does = backtrack
    limit = HookLimit(side.supervisor, 0.001, every=0.02)
    limit.install()
    try:
        side.begin()  # and no thread looks
    finally:
        limit.remove()
    assert (side.state, side.errors) == ("set aside", 1)
    assert "in backtrack" in caplog.text


def test_a_hook_that_waits_for_a_busy_thread_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = 7.0
    monkeypatch.setattr("fcgi_core.hosting.hook_limit.thread_time", lambda: worked)
    side = Side(0.0)

    def tick(seconds: float) -> None:
        nonlocal worked
        worked += seconds
        side.limit.on_cpu_time(signal.SIGVTALRM, sys._getframe())

    tick(10.0)
    tick(10.0)  # nobody is late

    def works_little() -> None:
        tick(10.0)  # it was another's
        tick(EVERY / 8)
        tick(EVERY / 8)

    side.half.does = works_little
    side.begin()
    assert side.errors == 0

    def works() -> None:
        works_little()
        tick(EVERY / 2)

    side.half.does = works
    side.begin()
    assert (side.state, side.errors) == ("set aside", 1)


def test_a_hook_that_has_returned_is_not_ended() -> None:
    side = Side(0.0)
    side.begin()
    raise_if_late(side.limit)
    side.supervisor.stderr(None, b"x")
    raise_if_late(side.limit)
    side.half.does = lambda: 1 / 0
    side.begin()
    raise_if_late(side.limit)
    assert side.half.calls == 3


def test_the_next_hook_is_not_ended_for_the_last_one() -> None:
    side = Side(FOR_EVER)
    side.half.does = lambda: raise_if_late(side.limit)  # the signal was for the one before
    side.begin()
    side.supervisor.stderr(None, b"x")
    assert (side.half.calls, side.errors) == (2, 0)


def test_a_hook_that_is_late_is_ended_by_the_handler() -> None:
    side = Side(0.0)
    side.half.does = lambda: raise_if_late(side.limit)
    side.begin()
    assert (side.state, side.errors) == ("set aside", 1)


# ---- nothing is torn


def lock_is_free(handler: logging.Handler) -> bool:
    got: list[bool] = []

    def look() -> None:
        assert handler.lock is not None
        if handler.lock.acquire(timeout=1.0):
            got.append(True)
            handler.lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return bool(got)


def test_a_hook_that_logs_without_end_is_ended_and_the_log_goes_on() -> None:
    """It is in `logging` nearly always, where an exception leaves locks held."""
    log = logging.getLogger("hanging.busy")
    handler = logging.StreamHandler(io.StringIO())
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)

    def busy() -> None:
        while True:
            try:
                log.info("busy %d", 1)
            except Exception:
                pass

    side = Side()
    side.half.does = busy
    try:
        for count in range(1, 21):
            handler.setStream(io.StringIO())
            side.half.is_in.clear()
            with side.watched():
                side.begin()
            assert lock_is_free(handler), f"after {count} hooks"
            side.loop.pass_time(SET_ASIDE_FOR / 2)
            side.half.does = bool
            side.loop.pass_time(SET_ASIDE_FOR)
            side.half.does = busy
        assert side.errors == 20
    finally:
        log.removeHandler(handler)


def test_a_late_hook_in_code_with_locks_is_set_aside_when_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    side = Side()
    event = threading.Event()
    side.half.does = lambda: event.wait(PATIENCE)
    looks = 0

    def look() -> None:
        nonlocal looks
        assert side.half.is_in.wait(PATIENCE)
        while perf_counter() < side.supervisor.hook_due:
            pass
        for _ in range(3):
            side.limit.look()
            looks += 1
        event.set()

    side.limit.install()
    thread = threading.Thread(target=look)
    thread.start()
    side.begin()
    thread.join()
    side.limit.remove()
    assert looks == 3
    assert (side.state, side.errors) == ("set aside", 0)
    assert any("returned from request_begin only after" in message for message in caplog.messages)


def call_in(module: str, function: Callable[[], Any]) -> Any:
    """Call a function from a frame of another module."""
    return eval("function()", {"__name__": module, "function": function})


@pytest.mark.parametrize(
    "module", ["fcgi_core.hosting.delivery", "asyncio.base_events", "logging", "threading", "a_library"]
)
def test_no_exception_is_raised_through_the_code_of_others(module: str) -> None:
    side = Side(0.0)
    raised: list[bool] = []

    def may_raise() -> None:
        try:
            side.limit.on_signal(SIGNAL, sys._getframe())
        except HookTimeout:
            raised.append(True)
        else:
            raised.append(False)

    def hook() -> None:
        call_in(module, may_raise)  # it is in its own code again, and the other's stands between
        eval("signalled(frame())", {"__name__": module, "frame": sys._getframe, "signalled": in_other})
        may_raise()

    def in_other(frame: Any) -> None:
        try:
            side.limit.on_signal(SIGNAL, frame)
        except HookTimeout:
            raised.append(True)
        else:
            raised.append(False)

    side.half.does = hook
    side.begin()
    assert raised == [False, False, True]


def test_a_late_hook_in_harmless_code_is_ended() -> None:
    side = Side(0.0)
    side.half.does = lambda: call_in("http.client", lambda: raise_if_late(side.limit))
    side.begin()
    assert (side.state, side.errors) == ("set aside", 1)


def test_a_hook_without_a_visible_frame_is_not_ended() -> None:
    """It is compiled, or no function: nothing tells which frames are above it."""
    side = Side(0.0)
    for hook in (None, len, print, functools.partial(spin), object()):
        side.supervisor.hook_due, side.supervisor.hook = 0.0, hook
        raise_if_late(side.limit)
    side.supervisor.hook = raise_if_late
    side.limit.on_signal(SIGNAL, None)
    with pytest.raises(HookTimeout):
        raise_if_late(side.limit)


def test_of_a_hook_that_is_called_within_itself_the_outermost_call_counts() -> None:
    side = Side(0.0)
    depth = 0

    def again() -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            call_in("logging", again)
        else:
            raise_if_late(side.limit)

    side.supervisor.hook_due, side.supervisor.hook = 0.0, again
    again()
    assert depth == 2
