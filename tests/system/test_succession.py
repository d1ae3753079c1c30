"""The web side restarts and reloads under load, behind real nginx, and no request is lost."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.system.stack as stack_module
from fcgi_core.protocol.records import RecordType, encode_pairs, record
from tests.system.load import Load
from tests.system.stack import COMMAND, Program, Stack, free_port, in_background, wait_until
from tests.system.test_members import drain, sent, states

Start = Callable[..., Stack]


class Manager:
    """What systemd hears from the program."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(30)

    def hears(self, text: str) -> str:
        while True:
            heard = self._socket.recv(4096).decode()
            if text in heard:
                return heard

    def close(self) -> None:
        self._socket.close()


class Successive(Stack):
    """A stack whose web side may be another process than the one that the test started."""

    successor = 0

    def reload(self) -> int:
        """Have another process take the place; its number."""
        before = len(re.findall(r"process (\d+) serves", self.web.text))
        os.kill(self.successor or self.web.pid, signal.SIGUSR2)
        wait_until(lambda: len(re.findall(r"process (\d+) serves", self.web.text)) > before, "another process serves")
        self.successor = int(re.findall(r"process (\d+) serves", self.web.text)[-1])
        return self.successor

    def stop(self) -> None:
        if self.successor:
            os.kill(self.successor, signal.SIGTERM)
            wait_until(lambda: not is_running(self.successor), "the successor ends")
        super().stop()


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listener(path: object) -> int:
    """The process that listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nginx use a connection for each request."""
    text = stack_module.NGINX.replace("fastcgi_keep_conn on;", "fastcgi_keep_conn off;")
    monkeypatch.setattr(stack_module, "NGINX", text)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "fresh"])
def test_a_reload_loses_no_request(start: Start, monkeypatch: pytest.MonkeyPatch, tcp: bool, keep: bool) -> None:
    if not keep:
        fresh(monkeypatch)
    stack = start(kind=Successive, application="applications:plain", tcp=tcp)
    with Load(stack, keep=True, posts=True) as load:
        for _ in range(3):
            load.answers()
            stack.reload()
        load.answers()
        assert stack.web.wait() == 0
    assert set(load.seen) == {200}
    assert "could not be passed on" not in stack.web.text
    sockets = [stack.feed, stack.folder / "web.admin"] + ([] if tcp else [stack.folder / "web.sock"])
    assert {listener(path) for path in sockets} == {stack.successor}
    assert stack.status()["side"] == "web"


def test_a_request_under_way_ends_in_the_process_that_began_it(start: Start) -> None:
    stack = start(kind=Successive, application="applications:plain")
    with in_background(lambda: stack.ask("/drip?digits=12")) as answer:
        stack.saw("drip begun")
        stack.reload()
        assert stack.web.running
        assert stack.ask("/hello").status == 200
        assert answer()[0].body == b"012345678901"
    assert stack.web.wait() == 0


def test_from_then_on_the_new_process_answers_all_questions(start: Start) -> None:
    port = free_port()
    plugins = {"metrics": {"listen": f"127.0.0.1:{port}"}}
    stack = start(kind=Successive, application="applications:plain", plugins=plugins)

    def ask(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    before = re.findall("^fcgi_web_process_start_time_seconds .*", ask("/metrics"), re.M)
    held = stack.connect()
    held.request("GET", "/drip?digits=600")  # longer than the start of a process takes, however busy the machine is
    stack.saw("drip begun")
    successor = stack.reload()
    pages = [ask("/metrics") for _ in range(10)]
    assert {ask("/ready") for _ in range(10)} == {"ready\n"}
    assert {stack.status()["pid"] for _ in range(3)} == {successor}
    assert stack.web.running, "it still ends a request"
    held.close()
    assert stack.web.wait() == 0
    starts = {start for page in pages for start in re.findall("^fcgi_web_process_start_time_seconds .*", page, re.M)}
    assert len(starts) == 1, "one process counts, not two in turn"
    assert starts != set(before)


def test_new_configuration_takes_effect_and_what_is_wrong_changes_nothing(start: Start) -> None:
    stack = start(kind=Successive, application="applications:plain", throws=True)
    good = (stack.folder / "web.yaml").read_text()
    stack.write("web", {"web": {**stack._web, "queue_length": "many"}, **stack._common})
    stack.web.send(signal.SIGUSR2)
    stack.web.says("web.queue_length: is 'many'")
    stack.web.says("not reloaded, this process serves on: no other could take its place: it ended with status 78")
    assert stack.ask("/hello").status == 200

    nobody = f"127.0.0.1:{free_port()}"
    stack.write("web", {"web": {**stack._web, "connect": nobody}, **stack._common})
    stack.web.send(signal.SIGUSR2)
    stack.web.says(f"no application can be reached, and the process that serves now reaches some: {nobody}: ")
    wait_until(lambda: stack.web.text.count("not reloaded, this process serves on") == 2, "it has ended")
    assert stack.ask("/hello").status == 200
    assert stack.feed.exists()
    assert stack.status()["side"] == "web"

    (stack.folder / "web.yaml").write_text(good)
    added = f"{stack.folder}/added.sock"
    moved = f"{stack.folder}/moved.sock"
    stack.write(
        "web", {"web": {**stack._web, "listen": [stack.listen, f"unix:{added}"], "feed": moved}, **stack._common}
    )
    successor = stack.reload()
    assert stack.web.wait() == 0
    assert {listener(added), listener(moved)} == {successor}
    assert not stack.feed.exists(), "nobody listens there any more"


def test_a_new_process_that_fails_late_leaves_the_sockets_to_the_first(start: Start) -> None:
    stack = start(kind=Successive, application="applications:plain")
    good = (stack.folder / "web.yaml").read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack.write("web", {"web": {**stack._web, "listen": [stack.listen, f"127.0.0.1:{port}"]}, **stack._common})
        stack.web.send(signal.SIGUSR2)
        stack.web.says(f"cannot listen at 127.0.0.1:{port}: Address already in use")
        stack.web.says("not reloaded, this process serves on")
    paths = [stack.folder / "web.sock", stack.feed, stack.folder / "web.admin"]
    assert "it ended with status 69" in stack.web.text
    for path in paths:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    (stack.folder / "web.yaml").write_text(good)
    successor = stack.reload()
    assert stack.web.wait() == 0
    assert {listener(path) for path in paths} == {successor}


def test_more_connections_than_spare_descriptors_change_hands(start: Start) -> None:
    stack = start(kind=Successive, application="applications:plain")
    kept = [socket.socket(socket.AF_UNIX) for _ in range(600)]
    for one in kept:
        one.connect(stack.listen.removeprefix("unix:"))
    resource.prlimit(stack.web.pid, resource.RLIMIT_NOFILE, (800, 800))
    stack.reload()
    assert stack.web.wait() == 0
    assert "not passed on" not in stack.web.text
    assert "could not be passed on" not in stack.web.text
    for one in kept:
        with one:
            one.sendall(record(RecordType.GET_VALUES, 0, encode_pairs({"FCGI_MPXS_CONNS": ""})))
            assert one.recv(8)[1] == RecordType.GET_VALUES_RESULT


def test_a_stop_during_the_start_of_a_successor_ends_both(start: Start) -> None:
    stack = start(application="applications:plain")
    stack.web.send(signal.SIGUSR2)
    stack.web.says("is starting, to take the place of this one")
    (number,) = re.findall(r"process (\d+) is starting", stack.web.text)
    assert stack.web.stop() == 0
    wait_until(lambda: not is_running(int(number)), "the other process ends")


def test_systemd_hears_of_each_step(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    stack = start(kind=Successive, application="applications:plain")
    manager.hears("READY=1")
    successor = stack.reload()
    assert re.search(r"^MONOTONIC_USEC=\d+$", manager.hears("RELOADING=1"), re.M)
    assert manager.hears("MAINPID=") == f"MAINPID={successor}\nREADY=1\nWATCHDOG=1"
    assert stack.web.wait() == 0
    manager.close()


def test_a_drain_by_hand_stays(start: Start) -> None:
    stack = start(kind=Successive, application="applications:plain", endpoints=2)
    first, second = stack.addresses
    wait_until(lambda: states(stack) == {first: "up", second: "up"}, "both are up")
    with Load(stack) as load:
        load.answers()
        assert drain(stack, "drain", first).returncode == 0
        for _ in range(2):
            stack.reload()
            wait_until(lambda: listener(stack.folder / "web.admin") == stack.successor, "it answers")
            load.answers()
            assert states(stack) == {first: "drained", second: "up"}
            assert sent(stack, first) == 0
        assert drain(stack, "undrain", first).returncode == 0
        wait_until(lambda: sent(stack, first), "it is used again")
    assert set(load.seen) == {200}


# ---- socket activation

ACTIVATE = """\
import os, sys
for number, descriptor in enumerate(sys.argv[1].split(",")):
    os.dup2(int(descriptor), 3 + number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(number + 1), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""


class Activated(Successive):
    """A stack whose web side gets its sockets as from systemd, which keeps them."""

    def __enter__(self) -> Activated:
        if self.listen.startswith("unix:"):
            self.given = socket.socket(socket.AF_UNIX)
            self.given.bind(self.listen.removeprefix("unix:"))
            Path(self.listen.removeprefix("unix:")).chmod(0o666)
        else:
            self.given = socket.create_server(("127.0.0.1", int(self.listen.rpartition(":")[2])))
        self.given.listen(512)
        super().__enter__()
        return self

    def activate(self, *given: socket.socket) -> Program:
        """A web side that gets these sockets, on descriptors that do not collide with those that it gets them at."""
        copies = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in given]
        config = self.write("web", {"web": self._web, **self._common})
        self._serial += 1
        numbers, names = ",".join(map(str, copies)), ":".join("fcgi-sctp-web.socket" for _ in given)
        command = [sys.executable, "-c", ACTIVATE, numbers, names, COMMAND, "web", "--config", config]
        program = Program(f"{self._serial}-web", command, self.folder, pass_fds=copies)
        for one in copies:
            os.close(one)
        self.programs.append(program)
        return program

    def start_web(self) -> None:
        self.web = self.activate(self.given)
        self.web.says("ready")

    def stop(self) -> None:
        if self.listen.startswith("unix:"):
            assert Path(self.listen.removeprefix("unix:")).exists(), "it is systemd's"
        self.given.close()
        Path(self.listen.removeprefix("unix:")).unlink(missing_ok=True)
        super().stop()


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "fresh"])
def test_a_restart_with_sockets_of_systemd_loses_no_request(
    start: Start, monkeypatch: pytest.MonkeyPatch, tcp: bool, keep: bool
) -> None:
    if not keep:
        fresh(monkeypatch)
    stack = start(kind=Activated, application="applications:plain", tcp=tcp)
    with Load(stack, keep=True, posts=not keep) as load:
        for _ in range(3):
            load.answers()
            assert stack.web.stop() == 0
            stack.start_web()
        load.answers()
        stack.reload()
        load.answers()
    assert set(load.seen) == {200}


def test_a_socket_of_systemd_that_the_file_does_not_name_is_an_error(start: Start) -> None:
    stack = start(kind=Activated, application="applications:plain")
    assert stack.web.stop() == 0
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        program = stack.activate(stack.given, other)
        assert program.wait() == 78
        where = f"127.0.0.1:{other.getsockname()[1]}"
        assert f"web.listen: systemd passed a socket at {where}, which is not in it; use the same" in program.text
        datagrams.bind(("127.0.0.1", 0))
        program = stack.activate(datagrams)
        assert program.wait() == 78
        assert "that listens; use ListenStream= with a path or a port, and Accept=no" in program.text


def test_systemds_own_activator(start: Start) -> None:
    activate = shutil.which("systemd-socket-activate")
    assert activate is not None, "systemd-socket-activate is needed (Debian package systemd; script/setup test)"

    class ByItsActivator(Stack):
        def start_web(self) -> None:
            config = self.write("web", {"web": self._web, **self._common})
            path = self.listen.removeprefix("unix:")
            self.web = self.run("web", activate, "-l", path, COMMAND, "web", "--config", config)
            wait_until(lambda: Path(path).exists(), "it listens")
            Path(path).chmod(0o666)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(path)  # which is when it starts the program
                self.web.says("ready")

        def stop(self) -> None:
            assert self.web.stop() == 0
            Path(self.listen.removeprefix("unix:")).unlink()  # it stays: the activator made it
            super().stop()

    stack = start(kind=ByItsActivator, application="applications:plain")
    assert stack.ask("/hello").body == b"hello"


def test_plugins_that_listen_and_write_go_on(start: Start, tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out.log"
    plugins = {"metrics": {"listen": f"127.0.0.1:{port}"}, "syslog": {"outputs": [{"file": str(out)}]}}
    stack = start(kind=Successive, application="applications:plain", plugins=plugins)

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            return str(page.read().decode())

    assert stack.ask("/log?text=before").status == 200
    for text in ("first", "second"):
        stack.reload()
        assert "fcgi_" in scrape()
        assert stack.ask(f"/log?text={text}").status == 200
    assert stack.web.wait() == 0
    assert "fcgi_" in scrape()
    wait_until(lambda: "second" in out.read_text(), "lines are written")
    assert re.findall(r"\] (\w+)\n", out.read_text()) == ["before", "first", "second"]
