"""What docs/production.md and docs/troubleshooting.md show is run as it stands there, on the site of Production: two
web sides behind nginx and three applications, started as the units of examples/systemd start them.

Addresses and paths are this test's own. systemd is played from the unit files, which systemd-analyze verifies; what
would install packages, or ask a journal that is not there, is checked and not run (`Site.checked`). A command that has
no rule here fails the test: give it one.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.system.stack import COMMAND, PATIENCE, Program, Stack, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("production.md", "troubleshooting.md")
UNITS = ROOT / "examples" / "systemd"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
PROGRAMS = {"apt-get", "cp", "curl", "fcgi-sctp", "journalctl", "kill", "ln", "logrotate", "nginx", "pip", "pipx"}
PROGRAMS |= {"promtool", "python3", "sysctl", "systemctl", "usermod"}
WEB, APP = ("web1", "web2"), ("app1", "app2", "app3")
WORKERS = 2
"""Of each application, in place of the page's four, which take a small machine long to start."""
APPLICATION = """\
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"shop"]
"""
NGINX = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/web1/etc/nginx/conf.d/*.conf;
}}
"""


class Block(NamedTuple):
    kind: str
    text: str
    leads_on: bool
    """Nothing stands between it and the next block."""


def blocks(page: str) -> list[Block]:
    text = (ROOT / "docs" / page).read_text()
    found = list(BLOCK.finditer(text))
    ends = [*(one.start() for one in found[1:]), len(text)]
    return [
        Block(one[1], one[2], not text[one.end() : end].strip()) for one, end in zip(found, ends, strict=True) if one[1]
    ]


def spans(page: str) -> list[str]:
    """Commands in the text, each once."""
    text = BLOCK.sub("", (ROOT / "docs" / page).read_text())
    if page == "troubleshooting.md":
        text = re.sub(r"^\| `[^`]+`", "", text, flags=re.M)  # messages
    found = SPAN.findall(text)
    return list(dict.fromkeys(one for one in found if " " in one and one.split()[0] in PROGRAMS))


def unit(name: str) -> configparser.SectionProxy:
    """The section [Service] of the unit: `fcgi-sctp-web@shop` is fcgi-sctp-web@.service."""
    file = UNITS / re.sub("@.*", "@.service", name)
    assert file.exists(), f"there is no unit {name}"
    parsed = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parsed.read(file)
    return parsed["Service"]


def free_ports(kind: socket.SocketKind, number: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        first, held = free_port(kind), []
        try:
            for port in range(first, first + number):
                held.append(socket.socket(socket.AF_INET, kind))
                held[-1].bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        finally:
            for one in held:
                one.close()
        return first


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {**base, **over}
    for name in base.keys() & over.keys():
        if isinstance(base[name], dict) and isinstance(over[name], dict):
            both[name] = merged(base[name], over[name])
    return both


class Site(Stack):
    """The hosts of the page, each with a folder for its paths."""

    def __init__(self) -> None:
        super().__init__()
        self.main: dict[str, int] = {}
        """The main process of each host's unit."""
        self.program: dict[str, Program] = {}
        self.files: dict[str, dict[str, Any]] = {}
        """Of each side, as the page has it."""
        self.nginx_listens = False
        """It has the configuration of the page."""
        self.last_edited = ""
        self.checked: list[str] = []
        """Commands that were not run."""
        self._places: dict[str, str] = {}
        for number in (1, 2):
            for port in (9001, 9464):
                self._places[f"10.0.0.{number}:{port}"] = f"127.0.0.1:{free_port()}"
        for number in (1, 2, 3):
            ports = [free_ports(socket.SOCK_DGRAM, 4) for _ in range(2)]
            self._places[f"10.0.1.{number}:9000"] = "127.0.0.1:{}/{}".format(*ports)
        self.work = self.folder / "work"
        """Where commands are run: as in a checkout, and the files are called site.yaml, web.yaml and app.yaml too."""
        self.work.mkdir()
        (self.work / "examples").symlink_to(ROOT / "examples")
        for name in ("fcgi-sctp.rules.yml", "fcgi-sctp.test.yml"):
            (self.work / name).symlink_to(ROOT / "examples" / "prometheus" / name)
        for host in (*WEB, *APP):
            for name in (
                "etc/fcgi-sctp",
                "etc/systemd/system",
                "etc/sysusers.d",
                "etc/nginx/conf.d",
                "etc/logrotate.d",
            ):
                (self.folder / host / name).mkdir(parents=True)
            for name in ("usr/local/bin", "opt", "run", "srv/shop/shop"):
                (self.folder / host / name).mkdir(parents=True)
        for host in APP:
            (self.folder / host / "srv/shop/shop/wsgi.py").write_text(APPLICATION)
            venv = self.folder / host / "srv/shop/venv"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
            (venv / "bin/fcgi-sctp").symlink_to(COMMAND)

    def __enter__(self) -> Site:
        return self

    def local(self, text: str, host: str) -> str:
        """The text with the paths of this host, and with addresses that are free here."""

        def place(found: re.Match[str]) -> str:
            return self._places[found[0]] if ":" in found[0] else "127.0.0.1"

        text = re.sub(r"\b10\.0\.[01]\.\d(:\d+)?", place, text)
        return re.sub(
            r"(?<![\w./])/(etc/(?!nginx/fastcgi)|var/|opt/|srv/|run/|usr/local/)", rf"{self.folder}/{host}/\1", text
        )

    # ---- the hosts

    def hosts(self, words: str) -> list[str]:
        """Where a line of the page is run: its comment names the host, or `each`; otherwise the first of each side."""
        side = WEB if "-web" in words else APP if "-app" in words else (*WEB, *APP)
        comment = words.partition("#")[2]
        if named := [host for host in side if host in comment]:
            return named
        return list(side) if "each" in comment else [side[0]] if side in (WEB, APP) else [WEB[0], APP[0]]

    def write_file(self, side: str) -> None:
        for number, host in enumerate(WEB if side == "web" else APP, 1):
            text = yaml.safe_dump(self.files[side])
            network = "10.0.0" if side == "web" else "10.0.1"
            data = yaml.safe_load(text)
            own = yaml.safe_dump(data[side]["listen"]).replace(f"{network}.1", f"{network}.{number}")
            data[side]["listen"] = yaml.safe_load(own)
            if side == "app":
                data[side]["workers"] = WORKERS
            else:
                data["plugins"]["metrics"]["listen"] = f"{network}.{number}:9464"
            path = self.folder / host / "etc/fcgi-sctp/shop.yaml"
            path.write_text(self.local(yaml.safe_dump(data), host))
        first = self.folder / ("web1" if side == "web" else "app1") / "etc/fcgi-sctp/shop.yaml"
        for name in ("site.yaml", f"{side}.yaml"):
            shutil.copy(first, self.work / name)

    def start_unit(self, host: str) -> None:
        if host in self.main:
            return
        section = unit(f"fcgi-sctp-{host[:3]}@shop")
        for key, folder in (("RuntimeDirectory", "run"), ("LogsDirectory", "var/log"), ("StateDirectory", "var/lib")):
            made = self.folder / host / folder / section[key].replace("%i", "shop")
            made.mkdir(parents=True, exist_ok=True)
        words = section["ExecStart"].replace("%i", "shop").split()
        program = self.run(host, COMMAND, *shlex.split(self.local(shlex.join(words[1:]), host)))
        self.program[host], self.main[host] = program, program.pid
        program.says("ready" if host in WEB else f"worker {WORKERS - 1} is ready", 4 * PATIENCE)

    def stop_unit(self, host: str) -> None:
        """SIGTERM to the main process, which may be another one than was started."""
        main = self.main.pop(host)
        os.kill(main, signal.SIGTERM)
        self.program[host].process.wait(PATIENCE)
        wait_until(lambda: not is_running(main), f"{host} ends", 3 * PATIENCE)

    def reload(self, host: str) -> None:
        self.signal(host, unit(f"fcgi-sctp-{host[:3]}@shop")["ExecReload"].split()[1].removeprefix("-"))

    def signal(self, host: str, name: str) -> None:
        """Send it to the main process, and wait until it has done what it is to do."""
        done = {
            ("web", "USR2"): r"process (\d+) serves",
            ("web", "HUP"): "configuration reloaded",
            ("app", "HUP"): "all workers are replaced",
        }[host[:3], name]
        program = self.program[host]
        before = len(re.findall(done, program.text))
        os.kill(self.main[host], signal.Signals[f"SIG{name}"])
        wait_until(lambda: len(re.findall(done, program.text)) > before, f"{host}: {done}", 3 * PATIENCE)
        if name == "USR2":
            self.main[host] = int(re.findall(done, program.text)[-1])

    def stop(self) -> None:
        if self.nginx.running:
            assert self.nginx.stop(signal.SIGQUIT) == 0
        for host in list(self.main):
            self.stop_unit(host)
        for program in self.programs:
            assert "Traceback" not in program.text, program.text

    def clean_up(self) -> None:
        for main in self.main.values():
            if is_running(main):
                os.kill(main, signal.SIGKILL)
        super().clean_up()

    def start_nginx(self) -> None:
        path = self.folder / "nginx.conf"
        path.write_text(NGINX.format(folder=self.folder, user="user www-data;" if os.geteuid() == 0 else ""))
        errors = str(self.folder / "nginx-error.log")
        self.nginx = self.run("nginx", shutil.which("nginx", path=PATH) or "", "-e", errors, "-c", str(path))
        wait_until((self.folder / "nginx.pid").exists, "nginx runs")

    def serves(self, after: str) -> None:
        """The site answers, through nginx once that has its configuration."""
        if not self.nginx_listens:
            return
        answer = self.ask("/")
        assert (answer.status, answer.body) == (200, b"shop"), f"after {after!r}"

    # ---- commands

    def shell(self, command: str, host: str = "web1") -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FCGI_SCTP_")}
        admin = sorted(str(one) for one in self.folder.glob("*/run/*/admin*.sock"))
        feed = f"{self.folder}/web1/run/fcgi-sctp-web-shop/feed.sock"
        done = subprocess.run(
            ["bash", "-e", "-c", self.local(command, host)],
            cwd=self.work,
            env={**kept, "PATH": PATH, "FCGI_SCTP_ADMIN": ":".join(admin), "FCGI_SCTP_FEED": feed},
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def do(self, line: str) -> None:
        """Run a line of the page by the first rule that has it."""
        for rule, found in rules(line):
            rule(self, found, line)
            self.serves(found[0])

    def take(self, block: Block) -> None:
        """Run the commands of a block, or check what it holds, and use it."""
        if block.kind == "sh":
            for line in filter(None, block.text.splitlines()):
                self.do(line)
        elif block.kind == "yaml":
            self.take_yaml(yaml.safe_load(block.text), block.leads_on)
        elif block.kind == "ini":
            self.take_drop_in(block.text)
        elif block.kind == "nginx":
            printed = (self.folder / "web1/etc/nginx/conf.d/shop.conf").read_text()
            assert self.local(block.text, "web1") in printed
        else:
            pytest.fail(f"no rule for a block of {block.kind}:\n{block.text}")

    def take_yaml(self, data: dict[str, Any], used: bool) -> None:
        """The file of a side, or a part of one: it goes over what the file has, and is used if commands follow it."""
        side = "web" if "web" in data else "app"
        whole = merged(self.files.get(side, {}), data)
        path = self.work / "part.yaml"
        path.write_text(self.local(yaml.safe_dump(whole), f"{side}1"))
        done = subprocess.run([COMMAND, "check", path], capture_output=True, text=True, cwd=self.work, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), f"{data}\n{done.stdout}{done.stderr}"
        if used or side not in self.files:
            self.files[side] = whole
            self.write_file(side)

    def take_drop_in(self, text: str) -> None:
        """systemd accepts the unit with these lines."""
        folder = self.folder / "units"
        shutil.rmtree(folder, ignore_errors=True)
        name = self.last_edited
        (folder / f"{name}.service.d").mkdir(parents=True)
        for file in UNITS.glob("*@.*"):
            unit_text = self.local(file.read_text(), "app1").replace(
                f"{self.folder}/app1/opt/fcgi-sctp/bin/fcgi-sctp", COMMAND
            )
            (folder / file.name.replace("@", "@shop")).write_text(unit_text)
        (folder / f"{name}.service.d" / "override.conf").write_text(self.local(text, "app1"))
        done = subprocess.run(
            ["systemd-analyze", "verify", str(folder / f"{name}.service")], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), text


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
Rule = Callable[[Site, re.Match[str], str], None]


def run(site: Site, found: re.Match[str], line: str) -> None:
    site.shell(found[0])


def run_if_installed(site: Site, found: re.Match[str], line: str) -> None:
    if shutil.which(found[0].split()[0], path=PATH):
        site.shell(found[0])
    else:
        site.checked.append(found[0])


def on_each(site: Site, found: re.Match[str], line: str) -> None:
    """Each host has its own file of that name."""
    for host in site.hosts(line):
        site.shell(found[0], host)


def fcgi_sctp(site: Site, found: re.Match[str], line: str) -> None:
    """As it stands. A viewer that would follow ends; a command without what it needs says what it takes."""
    words = found[0].split()
    if words[1:] in [[one] for one in ("app", "web", "drain", "undrain", "set", "check")]:
        site.shell(f"{found[0]} --help")
    elif words[1] == "logs" and "--no-follow" not in words:
        site.shell(f"{found[0]} --no-follow")
    elif words[1:] == ["check", "WEB", "APP"]:
        site.shell("fcgi-sctp check web.yaml app.yaml")
    elif "/etc/fcgi-sctp/shop.yaml" in found[0]:
        on_each(site, found, line)
    else:
        site.shell(found[0].replace("ADDRESS", "10.0.1.2:9000"))


def nginx_config(site: Site, found: re.Match[str], line: str) -> None:
    site.shell(found[0])
    path = site.folder / "web1/etc/nginx/conf.d/shop.conf"
    text = path.read_text().replace("listen 80;", f"listen 127.0.0.1:{site.port};")
    path.write_text(text.replace("include fastcgi_params", "include /etc/nginx/fastcgi_params"))


def nginx_t(site: Site, found: re.Match[str], line: str) -> None:
    site.shell(f"{found[0]} -e stderr -c {site.folder}/nginx.conf")


def reload_nginx(site: Site, found: re.Match[str], line: str) -> None:
    site.nginx.send(signal.SIGHUP)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", site.port)) == 0

    wait_until(listens, "nginx listens")
    site.nginx_listens = True


def systemctl(site: Site, found: re.Match[str], line: str) -> None:
    """As systemd does it, by the unit files."""
    verb, names = found[1], found[2].split()
    for name in names:
        if name.endswith(".socket"):
            assert (UNITS / re.sub("@.*", "@.socket", name)).exists()
            continue
        unit(name)
        site.last_edited = name
        if not name.endswith("@shop"):
            site.checked.append(found[0])
            continue
        for host in site.hosts(f"{name} {line.partition('#')[1]} {line.partition('#')[2]}"):
            if verb == "enable --now":
                site.start_unit(host)
            elif verb == "disable --now":
                site.stop_unit(host)
            elif verb == "restart":
                site.stop_unit(host)
                site.start_unit(host)
            elif verb == "reload":
                site.reload(host)
            elif verb.startswith("kill"):
                site.signal(host, verb.partition("--signal=")[2])
            else:
                assert verb == "edit"


def systemctl_alone(site: Site, found: re.Match[str], line: str) -> None:
    """daemon-reload, or `systemctl reload` as a term: units have it."""
    if found[1] == "reload":
        assert "ExecReload" in unit("fcgi-sctp-web@shop")
    site.checked.append(found[0])


def kill(site: Site, found: re.Match[str], line: str) -> None:
    """PID is the web side's."""
    site.signal("web1", found[1])


def pip(site: Site, found: re.Match[str], line: str) -> None:
    """Not run, as it would ask the network: names and extras are this distribution's."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, wanted in re.findall(r"'([^'\[]+)\[([\w,]+)\]'", found[0]):
        assert name in (".", "fcgi-sctp")
        assert set(wanted.split(",")) <= extras.keys()
    site.checked.append(found[0])


def checked(site: Site, found: re.Match[str], line: str) -> None:
    site.checked.append(found[0])


def journalctl(site: Site, found: re.Match[str], line: str) -> None:
    unit(found[1])
    site.checked.append(found[0])


def usermod(site: Site, found: re.Match[str], line: str) -> None:
    assert f"u {found[1]} " in (UNITS / "sysusers.conf").read_text()
    site.checked.append(found[0])


def logrotate(site: Site, found: re.Match[str], line: str) -> None:
    """Without `su`, whose user only systemd-sysusers makes."""
    path = site.folder / "web1/etc/logrotate.d/fcgi-sctp"
    path.write_text(re.sub(" su .*\n", "\n", site.local(path.read_text(), "web1")))
    path.chmod(0o644)
    site.shell(f"{found[0]} --state {site.folder}/logrotate.state")


def sysusers(site: Site, found: re.Match[str], line: str) -> None:
    site.shell(f"systemd-sysusers --root={site.folder}/web1")


RULES: list[tuple[str, Rule]] = [
    (r"fcgi-sctp nginx-config .* > /etc/nginx/.*", nginx_config),
    (r"fcgi-sctp [a-z].*", fcgi_sctp),
    (r"nginx -t", nginx_t),
    (r"systemctl reload nginx", reload_nginx),
    (r"systemctl (daemon-reload|reload)", systemctl_alone),
    (r"systemctl (enable --now|disable --now|reload|restart|edit|kill --kill-whom=main --signal=\w+) (.+)", systemctl),
    (r"kill -(HUP|USR2) PID", kill),
    (r"(?:/\S+/)?pip (?:check|(?:install|wheel) .*)|pipx (?:install|inject) .*", pip),
    (r"apt-get install [a-z0-9 -]+", checked),
    (r"sysctl -w net\.sctp\.(udp_port=9899|intl_enable=1)", checked),
    (r"journalctl -u (\S+) .*", journalctl),
    (r"usermod --append --groups (\S+) \w+", usermod),
    (r"systemd-sysusers", sysusers),
    (r"python3 -m venv /opt/fcgi-sctp", run),
    (r"(?:cp|ln -s) \S+ \S+", run),
    (r"cp examples/systemd/fcgi-sctp-\* \S+", run),
    (r"logrotate --debug \S+", logrotate),
    (r"curl -f \S+", run),
    (r"promtool (?:check|test) rules \S+", run_if_installed),
]


def rules(line: str) -> Iterator[tuple[Rule, re.Match[str]]]:
    """What runs each command of a line."""
    for command in line.partition("#")[0].split(" && "):
        matches = ((rule, re.fullmatch(pattern, command.strip())) for pattern, rule in RULES)
        try:
            yield next((rule, found) for rule, found in matches if found)
        except StopIteration:
            pytest.fail(f"no rule of tests/system/test_documented.py runs {command.strip()!r}: add one to RULES")


@pytest.fixture
def site() -> Iterator[Site]:
    if (
        shutil.which("nginx", path=PATH) is None
        or shutil.which("curl") is None
        or shutil.which("logrotate", path=PATH) is None
    ):
        pytest.skip("nginx, curl and logrotate are needed (script/setup test)")
    with Site() as made:
        made.start_nginx()
        yield made


@pytest.mark.timeout(600)
def test_the_pages_are_run(site: Site) -> None:
    for block in blocks("production.md"):
        site.take(block)
    for host in (*APP, *WEB):
        site.start_unit(host)
    for block in blocks("troubleshooting.md"):
        site.take(block)
    for page in PAGES:
        for command in spans(page):
            site.do(command)
    print("checked, and not run:", *site.checked, sep="\n  ")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_a_rule(page: str) -> None:
    lines = [line for block in blocks(page) if block.kind == "sh" for line in block.text.splitlines() if line]
    assert len([*lines, *spans(page)]) > 10
    for line in [*lines, *spans(page)]:
        assert [*rules(line)]
    with pytest.raises(pytest.fail.Exception, match="no rule"):
        assert [*rules("fcgi-sctp status && fcgi-sctl status")]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    """An indented block would be run by nobody, and a block without a kind is a picture."""
    text = (ROOT / "docs" / page).read_text()
    assert not re.findall(r"^ {4,}\S.*", BLOCK.sub("", text), re.M)
    for kind, content in BLOCK.findall(text):
        assert kind or not any(line.split(" ")[0] in PROGRAMS for line in content.splitlines())


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_limits_of_the_table_fit_each_other() -> None:
    """They are in the order that the table says, and those of the files, the units and the printed configuration."""
    text = (ROOT / "docs" / "production.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)`[^|]* \| [^|]+ \| (\w+) \| ([^|]+) \|", text, re.M)
    values = {name: seconds(value) for name, value, _ in rows}
    assert len(values) == 8
    short = {name.rpartition(".")[2]: value for name, value in values.items()}
    for name, _, rule in rows:
        for other in re.findall("`(\\w+)`", rule):
            if other == "grace":
                assert values[name] > max(values["app.grace"], values["web.grace"])
            else:
                rises = {"below": values[name] < short[other], "above": values[name] > short[other]}
                assert rises.get(rule.split()[0], values[name] >= short[other]), name
    files = [yaml.safe_load(block.text) for block in blocks("production.md") if block.kind == "yaml"]
    web, app = files[0]["web"], files[1]["app"]
    assert values["web.grace"] == seconds(web["grace"])
    assert (values["app.grace"], values["app.request_limit"]) == (seconds(app["grace"]), seconds(app["request_limit"]))
    for side in ("web", "app"):
        assert values["TimeoutStopSec"] == seconds(unit(f"fcgi-sctp-{side}@shop")["TimeoutStopSec"])
    printed = (ROOT / "cli/fcgi_cli/templates/web_servers/nginx.conf").read_text()
    assert f"fastcgi_read_timeout {values['fastcgi_read_timeout']:g}s;" in printed
    reference = (ROOT / "docs" / "configuration.md").read_text()
    for name in ("request_timeout", "dead_after", "queue_timeout"):
        value = short.get(name, 10.0)
        assert f"| `{name}` | time | `{value:g}s` |" in reference
