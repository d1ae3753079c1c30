"""An operator's day, as a script: install, deploy, add and remove hosts, restart and lose each part, wrong files.
Requests run all day, and a table says how many each step lost.

    .venv/bin/python -m tests.system.operators_day    # as root; 1 if a step lost more than it may
    .venv/bin/python -m tests.system.operators_day "wrong files" deploy      # only steps that begin so
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.streams.network import enter, inside
from tests.system.stack import Program, in_background
from tests.system.two_hosts import (
    DEAD_AFTER,
    GETS,
    HOSTS,
    PATIENT,
    POSTS,
    SITES,
    Done,
    Load,
    TwoHosts,
    WebSide,
    at_once,
    install,
    until,
)

HANGING = 4
OUTAGE_SHORT, OUTAGE_LONG = 1.5, DEAD_AFTER * 1.25 + 1.5
"""Seconds; the association stands, and is given up."""


@dataclass(frozen=True)
class Step:
    name: str
    work: Callable[[TwoHosts], None]
    may_lose: Callable[[Done], bool]
    most: int
    """Largest number of requests that may be lost, all as `may_lose` says."""
    why: str


@dataclass(frozen=True)
class Row:
    step: Step
    requests: int
    lost: list[Done]
    slowest: float
    """Seconds that the slowest request took."""

    @property
    def good(self) -> bool:
        return len(self.lost) <= self.step.most and all(self.step.may_lose(one) for one in self.lost)


STEPS: list[Step] = []


def step(
    name: str, why: str = "", most: int = 0, may_lose: Callable[[Done], bool] = lambda one: True
) -> Callable[[Callable[[TwoHosts], None]], Callable[[TwoHosts], None]]:
    """A step of the day; `why` says why it may lose requests, or what they wait for."""

    def add(work: Callable[[TwoHosts], None]) -> Callable[[TwoHosts], None]:
        STEPS.append(Step(name, work, may_lose, most, why))
        return work

    return add


def upload_at(site: str) -> Callable[[Done], bool]:
    return lambda one: one.site == site and one.method == "POST" and one.status in (502, 504)


def inside_at(site: str) -> Callable[[Done], bool]:
    return lambda one: one.site == site and one.status in (502, 504)


# ---- deploy


@step("nothing happens")
def _(day: TwoHosts) -> None:
    pass


@step("deploy a new version (HUP to the application)", "each worker ends its requests; the other serves")
def _(day: TwoHosts) -> None:
    for site in SITES:
        day.deploy(site, "2")
    at_once(lambda: replaced(day, "shop"), lambda: replaced(day, "live"))
    day.load.goes_on(version="2")


def replaced(day: TwoHosts, site: str, host: str = "app1") -> None:
    """Have the workers replaced."""
    says(day.apps[site, host], signal.SIGHUP, "all workers are replaced")


def says(one: Program, number: signal.Signals, text: str) -> None:
    """Send a signal and wait for what the program says of it."""
    before = one.text.count(text)
    one.send(number)
    until(lambda: one.text.count(text) > before, f"{one.name} says {text!r}")


# ---- hosts


@step("add an application host (web.connect, HUP to the web side)")
def _(day: TwoHosts) -> None:
    day.start_app("shop", "app2")
    day.web["shop"].read_again(connect=[day.address("shop"), day.address("shop", "app2")])
    both_are_up(day)


def both_are_up(day: TwoHosts) -> None:
    def up() -> bool:
        states = day.web["shop"].states()
        return all(states.get(day.address("shop", host)) == "up" for host in ("app1", "app2"))

    until(up, "both hosts are up")


@step("from addresses to a name of the DNS (web.connect, HUP)", "requests wait for the first answer of the DNS")
def _(day: TwoHosts) -> None:
    both = [f"{HOSTS[host]}.2" for host in ("app1", "app2")]
    day.names.says("shop.internal", both)
    port = day.address("shop").partition(":")[2]
    nameservers = f"127.0.0.1:{day.names.port}"
    day.web["shop"].config["web"]["nameservers"] = nameservers
    day.write("shop-web", day.web["shop"].config)
    day.web["shop"].reload()  # `nameservers` takes another process
    day.web["shop"].read_again(connect=[{"dns": f"shop.internal:{port}"}])
    both_are_up(day)


@step("remove a host (from its name), and stop it")
def _(day: TwoHosts) -> None:
    day.names.says("shop.internal", [f"{HOSTS['app1']}.2"])
    gone = HOSTS["app2"]
    until(lambda: not [one for one in day.web["shop"].states() if one.startswith(gone)], "the second host is gone")
    assert day.apps["shop", "app2"].stop() == 0


@step("add a host (to its name)")
def _(day: TwoHosts) -> None:
    day.start_app("shop", "app2")
    day.names.says("shop.internal", [f"{HOSTS[host]}.2" for host in ("app1", "app2")])
    both_are_up(day)


@step("the name server is away")
def _(day: TwoHosts) -> None:
    assert day.names.program.stop() == 0
    day.web["shop"].says("cannot look up shop.internal")
    day.load.goes_on()
    with inside(day.spaces["web"]):
        day.names.start()
    day.programs.append(day.names.program)
    day.web["shop"].says("shop.internal can be looked up again")


@step("drain a host, restart it, undrain it")
def _(day: TwoHosts) -> None:
    address, admin = day.address("shop", "app2"), day.web["shop"].config["web"]["admin"]

    def upstream() -> dict[str, Any]:
        return next(one for one in day.web["shop"].status()["upstreams"] if one["address"] == address)

    assert day.call("drain", address, "--admin", admin).returncode == 0
    until(lambda: not upstream()["in_flight"], "it has no more requests")
    assert day.apps["shop", "app2"].stop() == 0
    day.start_app("shop", "app2")
    until(lambda: upstream()["up"], "it is back")
    assert day.call("undrain", address, "--admin", admin).returncode == 0
    both_are_up(day)


# ---- what fails in the application


@step(
    f"{HANGING} requests hang for ever",
    "they are the hung ones: `request_limit` ends each with 504",
    HANGING,
    lambda one: one.method == "HANG" and one.status == 504,
)
def _(day: TwoHosts) -> None:
    with in_background(*[lambda number=number: hang(day, -number) for number in range(1, HANGING + 1)]) as ended:
        ended()


def hang(day: TwoHosts, number: int) -> None:
    import http.client

    enter(day.spaces["web"])
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=60)
    status, _ = Load.ask(connection, "shop", "GET", number, "/hang")
    connection.close()
    took = time.monotonic() - began
    day.load.done.append(Done(day.load.step, "shop", "HANG", number, began, took, status, False, ""))


@step(
    "a worker is killed (SIGKILL)",
    "a POST inside it, which may have been begun; a GET is made again by another worker",
    POSTS,
    upload_at("shop"),
)
def _(day: TwoHosts) -> None:
    app = day.apps["shop", "app1"]
    ready = len(re.findall(r"worker \d+ is ready", app.text))
    os.kill(int(re.findall(r"worker \d+ is ready, process (\d+)", app.text)[-1]), signal.SIGKILL)
    until(lambda: len(re.findall(r"worker \d+ is ready", app.text)) > ready, "another one is started")


@step("an application restarts; there is another host")
def _(day: TwoHosts) -> None:
    restart(day, "shop")


@step("an application restarts; there is no other", "requests wait for it, up to `queue_timeout`")
def _(day: TwoHosts) -> None:
    at_once(lambda: restart(day, "live"), lambda: restart(day, "blog"))


def restart(day: TwoHosts, site: str) -> None:
    assert day.apps[site, "app1"].stop() == 0
    day.start_app(site)


@step("an application's parent is killed", "its workers end their requests; the next ones are waited for")
def _(day: TwoHosts) -> None:
    day.apps["live", "app1"].send(signal.SIGKILL)
    day.apps["live", "app1"].wait()
    day.start_app("live")


@step("php-fpm reloads (USR2)")
def _(day: TwoHosts) -> None:
    log = day.folder / "php-fpm.log"
    before = log.read_text().count("ready to handle connections")
    day.php.send(signal.SIGUSR2)
    until(lambda: log.read_text().count("ready to handle connections") > before, "php-fpm is back")


@step(
    "php-fpm restarts (TERM)",
    "what its children had begun, for TERM ends them at once",
    POSTS + GETS,
    inside_at("blog"),
)
def _(day: TwoHosts) -> None:
    day.php.send(signal.SIGTERM)
    day.php.wait()
    day.start_php()


# ---- the web host


@step("the web side reloads (USR2)", "the connections of nginx are passed on")
def _(day: TwoHosts) -> None:
    at_once(*[web.reload for web in day.web.values()])


@step(
    "the web side restarts (its socket is systemd's)",
    "a POST for which nginx used a kept connection just then; a reload passes them on",
    POSTS * len(SITES),
    lambda one: one.method == "POST" and one.status == 502,
)
def _(day: TwoHosts) -> None:
    def restart(web: WebSide) -> None:
        web.stop()
        web.start()

    at_once(*[lambda web=web: restart(web) for web in day.web.values()])


@step("the web side is killed (SIGKILL)", "the requests inside it", GETS + POSTS, inside_at("shop"))
def _(day: TwoHosts) -> None:
    day.web["shop"].stop(signal.SIGKILL)
    day.web["shop"].start()


@step("nginx reloads (HUP)")
def _(day: TwoHosts) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/{day.nginx.pid}/task/{day.nginx.pid}/children").read_text().split())

    before = children()
    day.nginx.send(signal.SIGHUP)
    until(lambda: children() and not children() & before, "it has other workers")


@step("rsyslog restarts")
def _(day: TwoHosts) -> None:
    assert day.rsyslog.stop() == 0
    day.load.goes_on()
    day.start_rsyslog()


@step("the disk of the log is full, and has room again")
def _(day: TwoHosts) -> None:
    ballast = day.log_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    until(lambda: "No space left" in day.web["shop"].text, "the web side says so")
    day.load.goes_on()
    ballast.unlink()


# ---- the network


@step(f"the cable of a host is out for {OUTAGE_SHORT:g} s", "requests wait: SCTP sends again")
def _(day: TwoHosts) -> None:
    with day.cut("app1"):
        time.sleep(OUTAGE_SHORT)


@step(
    f"the cable of a host is out for {OUTAGE_LONG:.1f} s, longer than `dead_after`",
    "what was inside when the association was given up: a POST may have been begun, and a GET is made again only where"
    " another application is up",
    (GETS + POSTS) * len(SITES),
    lambda one: one.status in (502, 504),
)
def _(day: TwoHosts) -> None:
    with day.cut("app1"):
        time.sleep(OUTAGE_LONG)
    for web in day.web.values():
        until(lambda web=web: set(web.states().values()) == {"up"}, "all are up again")


# ---- wrong files

WRONG = {
    "no YAML": ("web: [", "web.yaml"),
    "unknown key": ({"web": {"conect": "10.77.1.2:9000"}}, "web.conect"),
    "wrong type": ({"web": {"queue_length": "many"}}, "web.queue_length: is 'many'"),
    "wrong address": ({"web": {"connect": "10.77.1.2"}}, "web.connect"),
    "two that contradict each other": ({"sctp": {"max_message": "2M"}}, "max_message"),
    "missing include": ({"include": "missing.yaml"}, "missing.yaml"),
    "unset variable": ({"web": {"name": "${NOBODY_SET_THIS}"}}, "NOBODY_SET_THIS"),
    "unknown plugin": ({"plugins": {"sislog": {}}}, "sislog"),
    "wrong option of a plugin": ({"plugins": {"syslog": {"severity": "loud"}}}, "severity"),
}
"""What is wrong with a file, and what the error must name."""


def merged(section: Any, change: Any) -> Any:
    return {**(section or {}), **change} if isinstance(change, dict) else change


def wrong_files(day: TwoHosts) -> dict[str, tuple[str, str]]:
    """Of each kind one for the web side of the shop, and what the error must name."""
    good = day.web["shop"].config
    found = {}
    for number, (kind, (change, names)) in enumerate(WRONG.items()):
        if isinstance(change, dict):
            change = {**good, **{key: merged(good.get(key), value) for key, value in change.items()}}
        found[kind] = (day.write(f"wrong{number}", change), names.replace("web.yaml", f"wrong{number}.yaml"))
    return found


@step("wrong files: the start ends with 78 and says why", "nothing else is started")
def _(day: TwoHosts) -> None:
    wrong = wrong_files(day).items()
    started = [(kind, day.start("web", "wrong", day.command, "web", "-c", file), says) for kind, (file, says) in wrong]
    app = day.app_config("live", "app2")
    app["app"]["application"] = "lively:application"
    file = day.write("wrong-app", app)
    app2 = day.start("app2", "wrong", day.command, "app", "-c", file)
    started.append(("an application that is not there", app2, "no module 'lively'"))
    for kind, begun, names in started:
        assert begun.wait(PATIENT) == os.EX_CONFIG, f"{kind}: {begun.process.returncode}\n{begun.text}"
        assert names in begun.text, f"{kind}:\n{begun.text}"
        assert "Traceback" not in begun.text, f"{kind}:\n{begun.text}"


@step("wrong files: HUP and USR2 change nothing", "the old process serves on")
def _(day: TwoHosts) -> None:
    web = day.web["shop"]
    good, wrong = Path(web.file).read_text(), wrong_files(day)
    pid = web.pid
    for kind, (file, names) in wrong.items():
        shutil.copy(file, web.file)
        before = len(web.text)
        web.signal(signal.SIGHUP, "configuration not reloaded")
        assert names.replace(Path(file).name, Path(web.file).name) in web.text[before:], f"{kind}: {web.text[before:]}"
    web.signal(signal.SIGUSR2, "not reloaded, this process serves on")
    Path(web.file).write_text(good)
    app = day.apps["shop", "app1"]
    file = day.folder / "shop-app1.yaml"
    good = file.read_text()
    file.write_text(good.replace("workers: 2", "workers: two"))
    says(app, signal.SIGHUP, "configuration not reloaded")
    file.write_text(good)
    assert web.pid == pid
    assert web.states()


@step("a new version that cannot be imported (HUP)", "the old version serves on")
def _(day: TwoHosts) -> None:
    app = day.apps["live", "app1"]
    day.deploy("live", "3", "import nothing_of_that_name")
    says(app, signal.SIGHUP, "not reloaded, the workers serve on")
    assert "nothing_of_that_name" in app.text
    day.load.goes_on()
    versions = {one.version for one in day.load.done if one.site == "live" and one.step == day.load.step}
    assert len(versions) == 1, versions
    day.deploy("live", "3")
    replaced(day, "live")


# ---- the day


def rows_of(day: TwoHosts, steps: list[Step]) -> list[Row]:
    rows = []
    for one in steps:
        done = [request for request in day.load.done if request.step == one.name]
        lost = [request for request in done if not request.right]
        rows.append(Row(one, len(done), lost, max((request.took for request in done), default=0.0)))
    return rows


def lines_lost(day: TwoHosts) -> dict[str, int]:
    """Of the lines that answered requests logged: how many each output does not have. All are waited for."""
    logged = {one.number for one in day.load.done if one.site == "shop" and one.right}

    def missing(path: Path) -> set[int]:
        return logged - set(map(int, re.findall(r"page (\d+);", path.read_text(errors="replace"))))

    outputs = {"rsyslog": day.folder / "logs" / "shop.example.log", "file": day.log_disk / "shop.example.log"}
    until(lambda: not missing(outputs["file"]), "all lines are in the file")
    return {name: len(missing(path)) for name, path in outputs.items()}


@dataclass
class Result:
    rows: list[Row]
    seconds_to_install: float
    lines: int
    lines_lost: dict[str, int]


def run_day(say: Callable[[str], None] = lambda text: None, only: Sequence[str] = ()) -> Result:
    """Run all steps, or those whose names begin with one of `only`; `say` hears of each when it begins."""
    steps = [one for one in STEPS if not only or one.name.startswith(tuple(only))]
    with TwoHosts() as day:
        began = time.monotonic()
        say("install")
        day_installs(day)
        seconds = time.monotonic() - began
        day.start_all()
        day.load.goes_on()
        for one in steps:
            say(one.name)
            day.load.step = one.name
            at = time.monotonic()
            try:
                one.work(day)
                day.load.goes_on()
            except BaseException as error:
                error.add_note(f"in the step: {one.name}")
                raise
            say(f"    {time.monotonic() - at:.1f} s")
        day.load.end()
        rows, lost = rows_of(day, steps), lines_lost(day)
        ends_in_order(day)
        lines = sum(one.site == "shop" and one.right for one in day.load.done)
        return Result(rows, seconds, lines, lost)


def day_installs(day: TwoHosts) -> None:
    install(day.folder)
    done = day.call("doctor")
    assert done.returncode == 0, done.stdout + done.stderr


def ends_in_order(day: TwoHosts) -> None:
    assert day.nginx.stop(signal.SIGQUIT) == 0
    for web in day.web.values():
        web.stop()
    for app in day.apps.values():
        assert app.stop() == 0, app.text
    for one in day.programs:
        throws = "shop-app" in one.name or "live-app" in one.name  # hung, and not to be imported
        assert throws or "Traceback" not in one.text, one.text


def table(result: Result) -> str:
    """The result as an operator reads it, in Markdown."""
    lines = ["| step | requests | lost | slowest | why |", "| --- | --- | --- | --- | --- |"]
    for row in result.rows:
        kinds = Counter(f"{one.method} {one.site} {one.status or 'broken off'}" for one in row.lost)
        lost = f"{len(row.lost)}" + (f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})" if kinds else "")
        lines.append(f"| {row.step.name} | {row.requests} | {lost} | {row.slowest:.1f} s | {row.step.why} |")
    whole = sum(row.requests for row in result.rows)
    lines.append(f"| the whole day | {whole} | {sum(len(row.lost) for row in result.rows)} | | |")
    told = ", ".join(f"{name} lacks {count}" for name, count in result.lines_lost.items())
    lines.append(f"\nInstalled in {result.seconds_to_install:.0f} s. Of {result.lines} log lines {told}.")
    return "\n".join(lines)


def main() -> int:
    result = run_day(lambda text: print(text, file=sys.stderr, flush=True), sys.argv[1:])
    print(table(result))
    bad = [row.step.name for row in result.rows if not row.good]
    for name in bad:
        print(f"lost more than it may: {name}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
