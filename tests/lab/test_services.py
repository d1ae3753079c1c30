"""Real nginx, web side and application over the lab's cables: what a kernel, and only a kernel, can show."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from fcgi_core.sctp.probe import probe
from tests.lab.namespaces import APP, WEB, scenario
from tests.lab.services import LabStack
from tests.system.sided import SCALE, Load
from tests.system.stack import COMMAND, PATIENCE, Program, wait_until

BOTH = pytest.mark.parametrize("carrier", ["kernel", "userspace"])


@pytest.fixture
def mended() -> Iterator[Callable[[str], None]]:
    """Cuts a cable; in the end, before the programs are, it is whole again."""
    was_cut: set[str] = set()

    def change(word: str) -> None:
        verb, number = word.split()
        scenario(verb, number)
        (was_cut.add if verb == "cut" else was_cut.discard)(number)

    yield change
    for number in was_cut:
        scenario("mend", number)


def paths(stack: LabStack, side: str = "web") -> dict[str, str]:
    (association,) = stack.associations(side)
    return dict(association["sctp"]["paths"])


def went(word: str, program: Program) -> int:
    """How often an association went ``up`` or ``down``."""
    return len(re.findall(rf"association \d+ with .* is {word}", program.text))


@pytest.mark.usefixtures("two_paths")
def test_a_path_is_cut_while_requests_run(start_lab: Callable[..., LabStack], mended: Callable[[str], None]) -> None:
    """None is lost, whichever path it is, and it returns when it is mended."""
    stack = start_lab("applications:plain", sctp={"carrier": "kernel", "dead_after": 5}, hosts=APP)
    whole = dict.fromkeys(APP, "active")
    wait_until(lambda: paths(stack) == whole, "both paths are there", 30)
    with Load(stack) as load:
        load.goes_on(50)
        for number in ("0", "1"):
            mended(f"cut {number}")
            load.goes_on(50)
            cut = {**whole, APP[int(number)]: "inactive"}
            wait_until(lambda cut=cut: paths(stack) == cut, "the web side knows of it", 30)  # type: ignore[misc]
            load.goes_on(50)
            mended(f"mend {number}")
            wait_until(lambda: paths(stack) == whole, "the path is back", 30)
            load.goes_on(50)
    assert load.wrong == []
    assert load.slowest < 5
    assert went("up", stack.web) == 1, "it was one association all the time"
    assert set(paths(stack, "app0")) == set(WEB)


@pytest.mark.usefixtures("lossy")
@BOTH
def test_loss_delay_and_reordering(start_lab: Callable[..., LabStack], carrier: str) -> None:
    stack = start_lab("applications:plain", sctp={"carrier": carrier})
    count = round((2000 if carrier == "kernel" else 1000) * SCALE)
    with Load(stack, threads=48, count=count, sizes=(0, 100, 100, 300, 1000, 3000)) as load:
        pass
    assert load.wrong == []
    assert load.done == count
    shown = subprocess.run(
        ["tc", "-n", "web", "-s", "qdisc", "show", "dev", "web0"], capture_output=True, text=True, check=True
    ).stdout
    dropped = re.search(r"dropped (\d+)", shown)
    assert dropped
    assert int(dropped[1]) > count / 50
    assert went("down", stack.web) == 0, "no association was lost"


@pytest.mark.usefixtures("plain")
@BOTH
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_silent_peer_is_noticed_within_the_configured_time(
    start_lab: Callable[..., LabStack], mended: Callable[[str], None], carrier: str, busy: bool
) -> None:
    dead_after = 4.0
    stack = start_lab(
        "applications:plain",
        sctp={"carrier": carrier, "dead_after": f"{dead_after:g}s"},
        web={"queue_timeout": 0.2},
    )
    alive = time.monotonic()
    assert stack.ask("/hello").status == 200
    mended("cut 0")
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        # a POST is not made twice
        asked = pool.submit(stack.ask, "/upload", "POST", b"x") if busy else None
        wait_until(lambda: went("down", stack.web), "the web side notices it", 4 * dead_after)
        noticed = time.monotonic()
        assert noticed - alive >= dead_after
        assert noticed - began < dead_after * 1.5
        if asked:
            assert asked.result().status in (502, 503)
    # the application side got no notice; it has probed by itself
    wait_until(lambda: went("down", stack.app), "the application's side notices it", 4 * dead_after)
    assert time.monotonic() - began < dead_after * 1.5 + 1
    mended("mend 0")
    wait_until(lambda: stack.ask("/hello").status == 200, "it is found again", 30)


def many_at_once(stack: LabStack, count: int) -> None:
    """So many requests under way at the same time, and all answered."""
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(stack.ask, "/sleep?seconds=2") for _ in range(count)]
        assert [answer.result().status for answer in answers] == [200] * count
    with Load(stack, threads=16, count=round(100 * SCALE)) as load:
        pass
    assert load.wrong == []


@pytest.mark.usefixtures("plain")
@BOTH
def test_streams_are_added_when_they_do_not_suffice(start_lab: Callable[..., LabStack], carrier: str) -> None:
    stack = start_lab(
        "applications:plain", sctp={"carrier": carrier, "streams": 4}, app={"threads": 60}, associations=1
    )
    (association,) = stack.associations()
    first = association["streams"]
    assert first <= 4
    many_at_once(stack, 40)
    for side in ("web", "app0"):
        (association,) = stack.associations(side)
        assert association["streams"] > 4, side
    assert went("up", stack.web) == 1


@pytest.mark.usefixtures("plain")
@BOTH
@pytest.mark.parametrize(("wanted", "app"), [(5000, 5000), (256, 3)])
def test_a_peer_with_fewer_streams_than_wanted(
    start_lab: Callable[..., LabStack], carrier: str, wanted: int, app: int
) -> None:
    """5000 are more than the 2048 that a peer may open; 3 are the least, and the answers' side then adds its own."""
    stack = start_lab(
        "applications:plain",
        sctp={"carrier": carrier, "streams": wanted},
        app_sctp={"streams": app},
        app={"threads": 60},
    )
    (association,) = stack.associations()
    assert association["streams"] == min(wanted, 2048)
    many_at_once(stack, 40)


@pytest.mark.usefixtures("plain")
@BOTH
def test_the_clock_jumps_while_requests_run(start_lab: Callable[..., LabStack], carrier: str) -> None:
    """An hour forward, an hour back: nothing fails, nothing waits, the association stays."""
    stack = start_lab("applications:plain", sctp={"carrier": carrier, "dead_after": 5})
    jumped = 0
    try:
        with Load(stack) as load:
            load.goes_on(50)
            for hours in (1, -1, -1, 1):
                jump(hours)
                jumped += hours
                load.goes_on(50)
                time.sleep(1)
            load.goes_on(50)
        assert load.wrong == []
        assert load.slowest < 3
        time.sleep(7)  # idle, with heartbeats
        assert went("down", stack.web) == went("down", stack.app) == 0
    finally:
        jump(-jumped)


def jump(hours: int) -> None:
    """Set the guest's clock."""
    with open("/proc/sys/kernel/hostname") as name:
        assert name.read() == "guest\n"
    time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600 * hours)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("chosen", "carrier"), [("auto", "kernel"), ("kernel", "kernel"), ("userspace", "userspace")])
def test_each_choice_uses_its_carrier(start_lab: Callable[..., LabStack], chosen: str, carrier: str) -> None:
    stack = start_lab("applications:plain", sctp={"carrier": chosen})
    assert f"({carrier} SCTP)" in stack.app.text
    assert stack.ask("/hello").status == 200
    assert len(paths(stack)) == 1


@pytest.mark.usefixtures("plain")
def test_the_doctor_shows_what_there_is() -> None:
    done = subprocess.run([COMMAND, "doctor", "-o", "json"], capture_output=True, check=True, timeout=PATIENCE)
    told = json.loads(done.stdout)
    assert told["carrier"] == "kernel"
    assert told["findings"] == [{**asdict(one), "state": one.state.value} for one in probe()]
    names = {one["name"] for one in told["findings"]}
    assert {
        "kernel SCTP",
        "userspace SCTP",
        "net.sctp.intl_enable",
        "net.sctp.udp_port",
        "net.sctp.reconf_enable",
    } <= names
    table = subprocess.run([COMMAND, "doctor"], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    assert "sysctl -w net.sctp.udp_port=9899" in table
    assert "`sctp: auto` uses the carrier `kernel` here." in table


@pytest.mark.usefixtures("plain", "udp")
def test_one_side_on_the_kernel_and_one_in_userspace(start_lab: Callable[..., LabStack]) -> None:
    """Over UDP, by the configuration alone."""
    stack = start_lab(
        "applications:plain",
        sctp={"carrier": "kernel", "udp_encapsulation": True},
        app_sctp={"carrier": "userspace", "udp_encapsulation": False, "udp_segmentation": False},
    )
    assert "(userspace SCTP)" in stack.app.text
    with Load(stack, count=round(200 * SCALE), sizes=(0, 200, 5000, 300_000)) as load:
        pass
    assert load.wrong == []


@pytest.mark.usefixtures("plain")
@BOTH
def test_peers_that_are_not_allowed(start_lab: Callable[..., LabStack], carrier: str) -> None:
    stack = start_lab(sctp={"carrier": carrier, "allowed_peers": "10.9.0.0/24"})
    assert stack.ask("/hello").status == 200
    stack.addresses.append(f"{APP[0]}:9001/9901")
    stack._app_sctp["allowed_peers"] = ["10.8.0.0/16"]
    stack.apps.append(stack.start_app(1))
    stack.apps[1].says("ready")
    path = stack.write(
        "web2",
        {
            "web": {
                **stack._web,
                "listen": "unix:/tmp/not-allowed.sock",
                "connect": stack.addresses[1],
                "feed": None,
                "admin": None,
            },
            **stack._common,
        },
    )
    other = stack.run("web", COMMAND, "web", "--config", path)
    other.says("no association with", 30)
    assert went("up", stack.apps[1]) == 0
    assert other.stop() == 0
