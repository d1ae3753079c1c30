"""The syslog plugin on the whole road: nothing is lost when either side is killed, files move, options change."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fcgi_core.hosting.spool import Spool
from tests.system.stack import Stack, wait_until

Start = Callable[..., Stack]
PATIENT = 40.0
"""Seconds; userspace SCTP takes 15 s to learn that a killed peer on this machine is gone."""
NEAR = 4000
"""Lines; one that comes twice was written so shortly before a kill that its acknowledgement was under way."""


def lines_in(out: Path) -> Counter[str]:
    """How often each numbered line stands in the file."""
    text = out.read_text() if out.exists() else ""
    return Counter(re.findall(r"line (\w+\.\d+);\n", text))


def test_nothing_is_lost_when_either_side_is_killed(start: Start, tmp_path: Path) -> None:
    out, note = tmp_path / "out.log", tmp_path / "noted"
    outputs = [{"file": str(out)}]
    stack = start(
        "numbering:application",
        plugins={"syslog": {"delivery": "acknowledged", "spool": f"{tmp_path}/spool", "outputs": outputs}},
    )

    def noted() -> list[str]:
        return note.read_text().splitlines() if note.exists() else []

    def arrived(more: int) -> None:
        goal = len(lines_in(out)) + more
        wait_until(lambda: len(lines_in(out)) >= goal, f"{more} more lines arrive", PATIENT)

    kills: list[int] = []
    assert stack.ask(f"/go?name=a&note={note}").status == 200
    arrived(1000)
    stack.app.kill()
    kills.append(len(noted()))
    stack.apps = [stack.start_app()]
    stack.app.says("is up")
    wait_until(lambda: stack.ask(f"/go?name=b&note={note}").status == 200, "the new application runs")
    arrived(1000)
    stack.web.kill()
    kills.append(len(noted()))
    stack.start_web()
    arrived(1000)
    wait_until(lambda: stack.ask("/stop").status == 200, "the new web side serves")
    wait_until(lambda: set(noted()) <= set(lines_in(out)), "every line arrives", PATIENT)
    order = {line: index for index, line in enumerate(noted())}
    repeated = [line for line, count in lines_in(out).items() if count > 1]
    unexpected = [line for line in repeated if not any(at - NEAR < order.get(line, at) <= at + NEAR for at in kills)]
    assert unexpected == [], (kills, len(order), len(repeated))
    assert max(lines_in(out).values()) <= 3


def test_hosts_held_lines_local_socket_and_files_that_move(start: Start, tmp_path: Path) -> None:
    local = tmp_path / "log"
    options = {
        "listen": str(local),
        "hosts": {"blog.example": {"severity": "debug"}, "shop.example": {"hold": True}},
        "outputs": [{"file": f"{tmp_path}/{{server_name}}.log"}, {"json": f"{tmp_path}/all.json"}],
    }
    stack = start("numbering:application", plugins={"syslog": options})
    for host in ("blog.example", "shop.example"):
        stack.ask(f"/log?level=10&text=quiet-{host}", host=host)
    stack.ask("/log?level=10&text=why&status=503%20Oops&token=abc")
    (quiet,) = stack.lines_with("quiet")
    assert (quiet["server_name"], quiet["severity"]) == ("blog.example", 7)
    (why,) = stack.lines_with("why")
    assert (why["severity"], why["fields"]["severity"]) == (6, "debug")
    assert why["fields"]["uri"].endswith("&token=***")
    assert why["fields"]["application"] == "numbering:application"

    subprocess.run(["logger", "-u", str(local), "-p", "local0.err", "-t", "backup", "no space left"], check=True)
    (backup,) = stack.lines_with("no space left")
    assert (backup["application"], backup["facility"], backup["severity"]) == ("backup", 16, 3)
    assert backup["fields"]["uid"] == str(os.getuid())

    log = tmp_path / "shop.example.log"
    wait_until(lambda: log.exists() and "why" in log.read_text(), "the file is written")
    log.rename(tmp_path / "moved.log")
    stack.web.send(signal.SIGUSR1)
    stack.app.send(signal.SIGUSR1)
    wait_until(lambda: stack.ask("/log?text=after") and log.exists() and "after" in log.read_text(), "it is made anew")
    assert "after" not in (tmp_path / "moved.log").read_text().splitlines()[0]
    assert [json.loads(line) for line in (tmp_path / "all.json").read_text().splitlines()]

    # options change while running
    options["hosts"] = {"shop.example": {"severity": "debug", "redact": [{"match": "card [0-9]+"}]}}
    stack.write("app0", {"app": {**stack._application, "listen": stack.addresses[0]}, **stack._common})
    stack.app.send(signal.SIGHUP)
    stack.app.says("configuration reloaded")
    stack.ask("/log?level=10&text=card%204711%20declined")
    assert stack.lines_with("declined")[0]["message"] == "*** declined"
    stack.ask("/log?level=10&text=unheard", host="blog.example")
    stack.ask("/log?text=heard", host="blog.example")
    stack.lines_with("heard")
    assert [line["message"] for line in stack.lines() if "heard" in line["message"]] == ["heard"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_disk_is_full(start: Start, small_disk: Path) -> None:
    """Stated: requests are answered all the same; lines wait; those that find the queue (16 MiB) full are lost, their
    number is reported; what waits is written when there is room again, and what comes after it."""
    out = small_disk / "out.log"
    stack = start("applications:plain", plugins={"syslog": {"outputs": [{"file": str(out)}]}})
    connection = stack.connect()
    count = 1200
    for number in range(count):
        answer = stack.ask(f"/log?text=begin{number};{'x' * 20_000};", connection=connection)
        assert (answer.status, answer.body) == (200, b"logged")
    connection.close()
    stack.web.says("No space left on device")
    assert "works again" not in stack.web.text
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    stack.web.says("works again")
    stack.web.says("queue full, ")
    assert stack.ask("/log?text=afterwards").status == 200
    wait_until(lambda: "afterwards" in out.read_text(), "lines are written again")
    written = re.findall(r"begin(\d+);", out.read_text())
    lost = sum(int(number) for number in re.findall(r"queue full, (\d+) lines lost", stack.web.text))
    assert len(set(written)) == len(written), "none is written twice"
    assert lost > 0
    assert len(written) + lost == count


def test_a_line_that_an_output_refuses_and_an_output_that_refuses_all(start: Start, tmp_path: Path) -> None:
    """The others get all lines, and `status` shows which fails and why. With acknowledged delivery nothing waits for
    the line that can never go, and it does not come again after a restart of the web side."""
    out = tmp_path / "out.log"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENT)
        options = {
            "delivery": "acknowledged",
            "spool": f"{tmp_path}/spool",
            "outputs": [
                {"file": str(out)},
                {"udp": f"127.0.0.1:{server.getsockname()[1]}"},
                {"file": "/dev/full", "required": False},
            ],
        }
        stack = start("faults:application", plugins={"syslog": options})

        def unacknowledged() -> int:
            copy = shutil.copy(tmp_path / "spool" / "syslog.0.spool", tmp_path / "copy")
            return len(Spool(1 << 24, Path(copy)))

        for asked in (1, 2):
            wait_until(lambda: stack.ask("/lines").body == b"done", "it serves")
            texts = [server.recv(1 << 17).rpartition(b" ")[2] for _ in range(3)]
            assert texts == [b"before", b"datagram", b"after"]
            wait_until(lambda: unacknowledged() == 0, "all is acknowledged")
            assert out.read_text().count("too long") == asked, "and nothing came again"
            file, udp, full = stack.status()["plugins"][0]["outputs"]
            assert (file["state"], file["written"], file["lost"]) == ("idle", 3, 0)
            assert (udp["state"], udp["written"], udp["lost"], udp["cut"]) == ("idle", 3, 0, 1)
            assert (full["state"], full["written"], full["waiting"]) == ("failing", 0, 3)
            assert "No space left on device" in full["last_error"]
            stack.web.stop()
            stack.start_web()


def test_destructors_that_write_hold_up_nothing(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    stack = start("faults:application", plugins={"syslog": {"outputs": [{"file": str(out)}]}})
    assert stack.ask("/destructors").body == b"done"
    wait_until(lambda: out.read_text().count("] written ") == 3000, "all lines are written")
    assert out.read_text().count("] not closed") > 1000
    assert "set aside" not in stack.apps[0].text
