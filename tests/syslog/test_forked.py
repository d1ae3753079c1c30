"""Lines of processes that the application forks: they reach the parent, or stderr."""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fcgi_syslog import forked
from fcgi_syslog.message import Message

from fcgi_core.plugin import AssociationInfo, bound_to_request
from tests.syslog.items import MakeHalf, messages_in


def in_fork(work: Callable[[], object], *, wait: bool = True) -> int:
    """Do `work` in a child, which has 20 seconds for it, and return its process id."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            faulthandler.register(signal.SIGALRM, file=2, chain=True)  # says where the child hangs, then ends it
            signal.alarm(20)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if wait:
        reap(child)
    return child


def reap(child: int) -> None:
    """Wait for a child that must end well; kill it if it hangs before it could set its alarm."""
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], 40)[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(handle)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def messages(host: Any) -> list[Message]:
    return [message for sent in host.sent for message in messages_in(sent.item)]


def test_lines_of_a_child_are_the_parents_and_name_the_child(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make(scope="stream", severity="info", capture=["logging", "stderr", "exceptions", "output"])
    request = make_request()

    def work() -> None:
        logging.getLogger("shop.job").error("no item %d", 17, extra={"user": "a"})
        print("printed")
        half.stderr(None, b"ERROR: on wsgi.errors\n")
        logging.getLogger("shop.job").critical("urgent")
        try:
            raise LookupError("caught")
        except LookupError:
            logging.getLogger("shop.job").exception("in a child")

    with bound_to_request(request):
        child = in_fork(work)
    half.close()
    found = messages(host)
    assert [one.text.partition("\nTraceback")[0] for one in found] == [
        "no item 17",
        "printed",
        "ERROR: on wsgi.errors",
        "urgent",
        "in a child",
    ]
    assert "LookupError: caught" in found[4].text
    assert found[0].data["fields@32473"] == {"user": "a", "process": str(child)}
    assert (found[0].msgid, found[0].severity) == ("shop.job", 3)
    assert [sent.channel for sent in host.sent] == ["syslog", "syslog", "syslog", "syslog.urgent", "syslog"]
    assert {sent.request for sent in host.sent} == {request}


def test_a_grandchild_and_a_child_outside_of_any_request(make: MakeHalf, host: Any) -> None:
    half = make()

    def work() -> None:
        logging.error("child")
        in_fork(lambda: logging.error("grandchild"))

    in_fork(work)
    in_fork(lambda: logging.error("second"))
    half.close()
    assert [one.text for one in messages(host)] == ["child", "grandchild", "second"]
    assert len({one.data["fields@32473"]["process"] for one in messages(host)}) == 3


def test_many_lines_of_many_children_all_come(make: MakeHalf, host: Any) -> None:
    half = make()

    def work() -> None:
        for number in range(500):
            logging.error("%d", number)

    children = [in_fork(work, wait=False) for _ in range(4)]
    for child in children:
        reap(child)
    half.close()
    assert sorted(int(one.text) for one in messages(host)) == sorted([*range(500)] * 4)


def test_a_long_line_of_a_child_is_cut_and_says_so(make: MakeHalf, host: Any) -> None:
    half = make()
    for character in "aä€\x01\udc80":
        in_fork(lambda character=character: logging.error(character * 300_000))  # type: ignore[misc]
    half.close()
    lines = [line.text for line in messages(host)]
    assert [line[0] for line in lines] == ["a", "ä", "€", "\x01", "\\"]
    for line in lines:
        assert len(line) > 5000
        assert line.endswith("00 bytes in all]")


def test_a_child_that_outlives_its_parents_half_says_its_lines_on_stderr(
    make: MakeHalf, host: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    half = make()

    def work() -> None:
        os.read(reader, 1)
        logging.error("alone")
        logging.error("and again")

    child = in_fork(work, wait=False)
    half.close()
    os.write(writer, b"x")
    reap(child)
    for end in (reader, writer):
        os.close(end)
    told, *lines = capfd.readouterr().err.splitlines()
    assert told.startswith(f"fcgi-sctp: lines of forked process {child} do not reach its parent: ")
    assert lines == ["root alone", "root and again"]
    assert messages(host) == []


def test_a_parent_that_does_not_read_holds_no_child_for_long(
    make: MakeHalf, host: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "PATIENCE_MS", 10)
    goes_on = threading.Event()
    half = make(scope="stream")
    host.on_send = goes_on.wait

    def work() -> None:
        for number in range(20):
            logging.error("%d %s", number, "x" * 90_000)

    try:
        child = in_fork(work)
    finally:
        goes_on.set()  # or closing the half would wait for good
    told = capfd.readouterr().err
    assert f"lines of forked process {child} do not reach its parent: it does not read" in told
    half.close()
    here = {int(one.text.split()[0]) for one in messages(host)}
    there = {int(line.split()[1]) for line in told.splitlines()[1:]}
    assert here | there == {*range(20)}
    assert not here & there


def test_a_fork_while_other_threads_log_and_no_lock_is_left_held(
    make: MakeHalf, host: Any, make_request: Any, association: AssociationInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without handlers that write to files: Python leaves a file's lock held in a fork
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    half = make()
    host.gathering.waits = True  # as in a process: one thread, the loop's, fetches what all threads log
    host.by_request = {make_request(): association}
    half.association_up(association)
    log = logging.getLogger("shop")
    stop = threading.Event()
    # Each fork lets some lines through. Threads that log without a bound fill memory while a fork waits for a CPU, and
    # make the next fork slower: on a busy machine 20 forks of a large process took minutes.
    permits = threading.Semaphore(0)

    def talk() -> None:
        while permits.acquire() and not stop.is_set():
            log.error("parent")
            half.stderr(None, b"parent\n")

    threads = [threading.Thread(target=talk) for _ in range(2)]
    for thread in threads:
        thread.start()

    def work() -> None:
        log.error("child")
        half.stderr(None, b"child on stderr\n")

    until = time.monotonic() + 10
    forks = 0
    try:
        while forks < 20 and (not forks or time.monotonic() < until):
            permits.release(40)
            in_fork(work)
            forks += 1
    finally:
        stop.set()
        permits.release(len(threads))
        for thread in threads:
            thread.join()
    half.close()
    host.gathering.fetch()
    found = [one.text for one in messages(host)]
    assert (found.count("child"), found.count("child on stderr")) == (forks, forks)
