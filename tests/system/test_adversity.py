"""What must not break the road: stopped processes, no file descriptors, a web side that is killed. Each ends as
stated."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.stack import Stack, free_address, in_background, wait_until


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connected(path: str) -> int:
    """Connections to that socket, those not accepted yet with them: each has an end that bears its name."""
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return sum(row[-1] == path and row[3] == "00000000" for row in rows)


def statuses(stack: Stack, paths: list[str]) -> Counter[int]:
    """All at once; what each was answered."""
    seen: Counter[int] = Counter()

    def ask(path: str) -> None:
        seen[stack.ask(path).status] += 1

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def test_a_stopped_application_costs_its_requests_alone_and_goes_on_when_it_is_continued(
    start: Callable[..., Stack],
) -> None:
    """Stated: what it had taken is answered 504 after request_timeout; what comes after it goes on is served."""
    stack = start(application="applications:plain", web={"request_timeout": 2})
    os.kill(stack.app.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert statuses(stack, ["/hello"] * 5) == {504: 5}
        assert time.monotonic() - began < 15
    finally:
        os.kill(stack.app.pid, signal.SIGCONT)
    wait_until(lambda: stack.ask("/hello").status == 200, "it serves again")
    assert statuses(stack, ["/hello"] * 20) == {200: 20}


def test_a_stopped_web_side_goes_on_when_it_is_continued(start: Callable[..., Stack], tmp_path: Path) -> None:
    """Stated: nginx, which has handed its requests over, waits for it; nothing is lost.

    Ten requests are inside when it is stopped, held by the application; ten more come while it is stopped.
    """
    stack = start(application="applications:plain", app={"threads": 12})
    held = tmp_path / "held"
    held.touch()
    before, after = Counter[int](), Counter[int]()
    inside = threading.Thread(target=lambda: before.update(statuses(stack, [f"/hold?while={held}"] * 10)))
    inside.start()
    wait_until(lambda: stack.status()["requests"]["in_flight"] >= 10, "nginx has handed ten over")
    os.kill(stack.web.pid, signal.SIGSTOP)
    try:
        held.unlink()  # they are answered while nobody takes the answers
        waiting = threading.Thread(target=lambda: after.update(statuses(stack, ["/hello"] * 10)))
        waiting.start()
        wait_until(lambda: connected(stack.listen.removeprefix("unix:")) >= 20, "nginx has handed ten more over")
        assert (before, after) == ({}, {})
    finally:
        os.kill(stack.web.pid, signal.SIGCONT)
    inside.join()
    waiting.join()
    assert (before, after) == ({200: 10}, {200: 10})


def test_one_stopped_application_of_two_does_not_stop_the_other(start: Callable[..., Stack]) -> None:
    """Stated: those that the stopped one had get 504; after three of them it is avoided."""
    stack = start(application="applications:plain", endpoints=2, web={"request_timeout": 2})
    os.kill(stack.apps[0].pid, signal.SIGSTOP)
    try:
        first = statuses(stack, ["/hello"] * 20)
        assert set(first) <= {200, 504}
        assert first[200] >= 8
        assert "avoided" in stack.web.text
        assert statuses(stack, ["/hello"] * 20) == {200: 20}
    finally:
        os.kill(stack.apps[0].pid, signal.SIGCONT)


def test_no_file_descriptors(start: Callable[..., Stack]) -> None:
    """Stated: connections beyond the limit wait or fail; those that are served are served, and it recovers by
    itself."""
    stack = start(application="applications:plain")
    assert stack.ask("/hello").status == 200
    limit = open_files(stack.web.pid) + 10
    resource.prlimit(stack.web.pid, resource.RLIMIT_NOFILE, (limit, limit))
    path = stack.listen.removeprefix("unix:")
    hogs = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    try:
        for hog in hogs:
            hog.connect(path)
        wait_until(lambda: open_files(stack.web.pid) >= limit - 1, "the limit is reached")
        assert stack.web.running
    finally:
        for hog in hogs:
            hog.close()
    wait_until(lambda: open_files(stack.web.pid) < limit - 5, "the descriptors are free again")
    assert statuses(stack, ["/hello"] * 5) == {200: 5}


def take_descriptors(pid: int) -> Callable[[], None]:
    """Let the process open no file beside those that it has; returns what gives it its limit back."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    lowest_free = next(number for number in itertools.count() if number not in held)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))

    def give_back() -> None:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    return give_back


@pytest.mark.parametrize("application", ["applications:plain", "asgi_applications:starlette"])
def test_an_application_without_file_descriptors(start: Callable[..., Stack], application: str) -> None:
    """Stated: a request for which the application cannot open a file is 500, and the reason is in its log and in the
    feed; those that need none are served, and a new web side is, at the latest when there are descriptors again.

    Nothing was asked before: what the program opens or imports for its first request, or its first error, it cannot.
    """
    stack = start(application=application, plugins={"syslog": {}}, app={"grace": 0.5}, throws=True)
    give_back = take_descriptors(stack.app.pid)
    assert statuses(stack, ["/hello", "/file"] * 20) == {200: 20, 500: 20}
    assert stack.ask("/upload", "POST", bytes(1 << 20)).json()["size"] == 1 << 20
    assert stack.app.text.count("OSError: [Errno 24] Too many open files: '/dev/null'") == 20
    stack.lines_with("Too many open files: '/dev/null'", 20)
    stack.web.kill()
    stack.start_web()
    give_back()
    assert statuses(stack, ["/hello", "/file"] * 20) == {200: 40}


def test_an_application_without_file_descriptors_ends_in_order(start: Callable[..., Stack], tmp_path: Path) -> None:
    """Stated: it ends as it would with some: what is inside is served, its exit status is 0."""
    stack = start(application="applications:plain")
    held = tmp_path / "held"
    held.touch()
    with in_background(lambda: stack.ask(f"/hold?while={held}").status) as inside:
        wait_until(lambda: stack.status()["requests"]["in_flight"] == 1, "the request is inside")
        take_descriptors(stack.app.pid)
        stack.app.send(signal.SIGTERM)
        stack.app.says("stopping")
        held.unlink()
        assert inside() == [200]
        assert stack.app.wait() == 0, stack.app.text


def test_a_killed_web_side_leaves_nothing_in_the_application(start: Callable[..., Stack]) -> None:
    """Stated: nginx answers 502; the application gives up what it worked on for it and serves the next web side."""
    stack = start(application="applications:plain")
    answered: list[int] = []
    under_way = threading.Thread(target=lambda: answered.append(stack.ask("/forever").status))
    under_way.start()
    stack.app.says("")  # it runs
    wait_until(lambda: stack.ask("/hello").status == 200, "requests are served beside it")
    os.kill(stack.web.pid, signal.SIGKILL)
    stack.web.wait()
    under_way.join()
    stack.start_web()
    stack.saw("forever closed")
    assert statuses(stack, ["/hello"] * 10) == {200: 10}


def test_connect_and_close_costs_nothing(start: Callable[..., Stack]) -> None:
    """Stated: a client that connects and closes, again and again, leaves no descriptor and no work behind."""
    stack = start(application="applications:plain")
    assert stack.ask("/hello").status == 200
    path = stack.listen.removeprefix("unix:")
    before = open_files(stack.web.pid)
    for _ in range(500):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    wait_until(lambda: open_files(stack.web.pid) <= before, "all are closed")

    def spent() -> int:
        fields = Path(f"/proc/{stack.web.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    ticks = spent()
    wait_until(lambda: stack.ask("/sleep?seconds=1").status == 200, "a second passes")
    assert spent() - ticks < 50, "it spins"


def test_another_protocol_on_the_web_servers_socket(start: Callable[..., Stack]) -> None:
    """Stated: the connection is closed, the log says what the peer seems to speak, the others go on."""
    stack = start(application="applications:plain")
    with socket.socket(socket.AF_UNIX) as browser:
        browser.connect(stack.listen.removeprefix("unix:"))
        browser.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert browser.recv(100) == b""
    stack.web.says("seems to speak HTTP")
    assert stack.ask("/hello").status == 200


def test_strangers_packets_on_the_sctp_port(start: Callable[..., Stack]) -> None:
    """Stated: bytes that are no SCTP reach nobody."""
    stack = start(application="applications:plain")
    udp_port = int(stack.addresses[0].rpartition("/")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for size in range(0, 1400, 7):
            stranger.sendto(os.urandom(size), ("127.0.0.1", udp_port))
    assert statuses(stack, ["/hello"] * 20) == {200: 20}
    assert free_address()
