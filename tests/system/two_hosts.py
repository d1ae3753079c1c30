"""A site as an operator has it: a web host and two application hosts, each a network namespace with a cable between,
and on them the program as a release installs it, nginx, php-fpm, rsyslog, a name server, and applications.

Three sites, each with a web side of its own: shop.example (Django, the syslog plugin), live.example (Starlette) and
blog.example (php-fpm).
"""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fcgi_cli.admin import ask_once

from bench.streams.network import enter, inside, run
from tests.app.servers import PHP_FPM, program
from tests.system.dns import NameServer
from tests.system.stack import PATIENCE, Program, in_background, wait_until
from tests.system.test_succession import ACTIVATE, is_running

ROOT = Path(__file__).resolve().parents[2]
APPLICATIONS = ROOT / "tests" / "system" / "day_applications"
SITES = ("shop", "live", "blog")
HOSTS = {"web": "", "app1": "10.77.1", "app2": "10.77.2"}
"""Where the cable from the web host to each of the others has its addresses: .1 and .2."""
PORTS = {"shop": "9000/9900", "live": "9010/9910", "blog": "9020/9920"}
DEAD_AFTER = 3
REQUEST_LIMIT = 3
GETS, POSTS = 2, 1
"""Clients of each site: each has one request at a time."""
PAUSE = 0.02
"""Seconds between two requests of a client."""

PATIENT = 4 * PATIENCE
"""Seconds that anything may take: several programs start at once."""

NGINX = """\
daemon off;
worker_processes 1;
user root;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log info;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    include {folder}/sites/*.conf;
}}
"""


def until(ready: Callable[[], Any], what: str) -> Any:
    return wait_until(ready, what, PATIENT)


def install(folder: Path) -> Path:
    """Build a wheel of this checkout and install it, with its dependencies and those of the applications, in a new
    virtual environment; that."""
    source, wheels, environment = folder / "source", folder / "wheels", folder / "venv"
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "-co", "--exclude-standard"], capture_output=True, check=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _quietly(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source))
    (wheel,) = wheels.glob("*.whl")
    _quietly(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = str(environment / "bin" / "python")
    _quietly(*pip, "--python", python, "install", f"{wheel}[speed,metrics,dns]", "django", "starlette")
    return environment


def _quietly(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Done:
    """A request that was made."""

    step: str
    site: str
    method: str
    number: int
    began: float
    took: float
    status: int
    """0: the connection broke off."""
    right: bool
    """The answer is the one to this very request."""
    version: str
    """Of the application."""


class Load:
    """Requests to all sites, one after the other from each client, until it is ended."""

    def __init__(self, space: str) -> None:
        self.done: list[Done] = []
        self.step = ""
        """The name under which requests are noted that begin now."""
        self._space = space
        self._ends = threading.Event()
        self._numbers = iter(range(1, 1 << 62))
        clients = [(site, method) for site in SITES for method in ["GET"] * GETS + ["POST"] * POSTS]
        self._threads = [threading.Thread(target=self._run, args=one) for one in clients]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self, site: str, method: str) -> None:
        enter(self._space)
        connection = None
        while not self._ends.wait(PAUSE):
            step, number, began = self.step, next(self._numbers), time.monotonic()
            again = connection is not None
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=60)
            try:
                try:
                    status, text = self.ask(connection, site, method, number)
                except (http.client.RemoteDisconnected, ConnectionError):
                    # nginx may end an idle connection at any time: a client makes the request again on another one
                    connection.close()
                    if not again:
                        raise
                    status, text = self.ask(connection, site, method, number)
            except (OSError, http.client.HTTPException):
                status, text = 0, ""
            took = time.monotonic() - began
            version, _, rest = text.partition(" ")
            right = status == 200 and rest == f"{number} {'x' * 100 if method == 'POST' else ''}"
            self.done.append(Done(step, site, method, number, began, took, status, right, version))
            if method == "POST" or not right:
                connection.close()  # not made again, so never on a connection that may be ended meanwhile
                connection = None
        if connection is not None:
            connection.close()

    @staticmethod
    def ask(
        connection: http.client.HTTPConnection, site: str, method: str, number: int, path: str = "/page.php"
    ) -> tuple[int, str]:
        path = path if site == "blog" else path.removesuffix(".php")
        body = "x" * 100 if method == "POST" else None
        connection.request(method, f"{path}?n={number}", body, {"Host": f"{site}.example"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")

    def goes_on(self, count: int = 15, version: str = "") -> None:
        """Wait until each client of each site has made requests that began from now on, and were answered well, `count`
        in all for each site and method; by `version` of the shop."""
        now, start = time.monotonic(), len(self.done)

        def enough() -> bool:
            seen = Counter(
                (one.site, one.method)
                for one in self.done[start:]
                if one.right and one.began >= now and (not version or one.site != "shop" or one.version == version)
            )
            return all(seen[site, method] >= count for site in SITES for method in ("GET", "POST"))

        until(enough, "requests are answered")


class WebSide:
    """A web side, as `fcgi-sctp-web@.service` and its socket run it."""

    def __init__(self, day: TwoHosts, site: str) -> None:
        self.day, self.site = day, site
        self.path = day.folder / f"{site}.sock"
        self.given = socket.socket(socket.AF_UNIX)
        self.given.bind(str(self.path))
        self.given.listen(512)
        day.callback(self.given.close)
        self.config: dict[str, Any] = {
            "web": {
                "listen": f"unix:{self.path}",
                "connect": [day.address(site)],
                "feed": f"{day.folder}/{site}.feed",
                "admin": f"{day.folder}/{site}-web.admin",
            },
            "sctp": {"carrier": "userspace", "dead_after": DEAD_AFTER},
            "plugins": {"syslog": day.syslog} if site == "shop" else {},
        }
        self.file = day.write(f"{site}-web", self.config)
        self.pid = 0

    @property
    def text(self) -> str:
        return self.log.text

    def start(self) -> None:
        copy = fcntl.fcntl(self.given, fcntl.F_DUPFD, 20)
        command = [sys.executable, "-c", ACTIVATE, str(copy), "web.socket", self.day.command, "web", "-c", self.file]
        self.log = self.day.start("web", f"{self.site}-web", *command, pass_fds=[copy])
        os.close(copy)
        self.pid = self.log.pid
        self.log.says("ready", PATIENT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(self.pid, number)
        until(lambda: not is_running(self.pid), f"the web side of {self.site} ends")

    def reload(self) -> None:
        """Have another process take its place."""
        before, self_pid = len(re.findall(r"process (\d+) serves", self.text)), self.pid
        os.kill(self.pid, signal.SIGUSR2)
        until(lambda: len(re.findall(r"process (\d+) serves", self.text)) > before, "another process serves")
        self.pid = int(re.findall(r"process (\d+) serves", self.text)[-1])
        until(lambda: not is_running(self_pid), "the first one ends")

    def read_again(self, **changed: Any) -> None:
        """Change options of its section, and have it read its file again."""
        self.config["web"] |= changed
        self.day.write(f"{self.site}-web", self.config)
        self.signal(signal.SIGHUP, "configuration reloaded")

    def says(self, text: str, count: int = 1) -> None:
        """Wait until its log, since its last start, has the text so often."""
        until(lambda: self.text.count(text) >= count, f"the web side of {self.site} says {text!r}")

    def signal(self, number: signal.Signals, says: str) -> None:
        before = self.text.count(says)
        os.kill(self.pid, number)
        self.says(says, before + 1)

    def states(self) -> dict[str, str]:
        return {one["address"]: one["state"] for one in self.status()["upstreams"]}

    def status(self) -> dict[str, Any]:
        """What `fcgi-sctp status` asks for, without a process for each question."""
        (told,) = ask_once("the day", [self.config["web"]["admin"]], "status", streams=False)
        return dict(told)


class TwoHosts:
    """All of it. A context manager: after it nothing runs and nothing is left."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="day-", dir="/tmp"))
        self.folder.chmod(0o711)
        self.spaces = {host: f"day-{os.getpid()}-{host}" for host in HOSTS}
        self.programs: list[Program] = []
        self.apps: dict[tuple[str, str], Program] = {}
        self.log_disk = self.folder / "log-disk"
        self.syslog = {
            "delivery": "acknowledged",
            "spool": f"{self.folder}/spool",
            "outputs": [{"tcp": "127.0.0.1:601"}, {"file": f"{self.log_disk}/{{server_name}}.log"}],
        }
        self._serial = 0
        self._last = ExitStack()
        self.callback = self._last.callback

    def __enter__(self) -> TwoHosts:
        try:
            self._set_up()
        except BaseException as error:
            error.add_note(self.logs())
            self.clean_up()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(self.logs())
        self.clean_up()

    def _set_up(self) -> None:
        for space in self.spaces.values():
            run("ip", "netns", "add", space)
            self._last.callback(run, "ip", "netns", "del", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        for host, net in HOSTS.items():
            if net:
                here, there = self.spaces["web"], self.spaces[host]
                run("ip", "link", "add", host, "netns", here, "type", "veth", "peer", "name", "web", "netns", there)
                for space, device, number in ((here, host, 1), (there, "web", 2)):
                    run("ip", "-n", space, "addr", "add", f"{net}.{number}/24", "dev", device)
                    run("ip", "-n", space, "link", "set", device, "up")
        self.log_disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=2m", "log-disk", str(self.log_disk))
        self._last.callback(run, "umount", str(self.log_disk))

    def clean_up(self) -> None:
        load = getattr(self, "load", None)
        if load is not None:
            load.end()
        for one in self.programs:
            one.kill()
            _kill_session(one.pid)
        self._last.close()
        shutil.rmtree(self.folder)

    def logs(self) -> str:
        """The ends of all logs, for the reader of a failure."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"----- {file.name}\n{file.read_text(errors='replace')[-4000:]}" for file in files)

    # ---- programs

    @property
    def command(self) -> str:
        return str(self.folder / "venv" / "bin" / "fcgi-sctp")

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the installed command."""
        return subprocess.run([self.command, *words], capture_output=True, text=True, timeout=PATIENT)

    def start(self, host: str, name: str, *command: str, pass_fds: Any = ()) -> Program:
        self._serial += 1
        with inside(self.spaces[host]):
            one = Program(f"{self._serial:02}-{name}", command, self.folder, pass_fds)
        self.programs.append(one)
        return one

    def write(self, name: str, configuration: dict[str, Any] | str) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(configuration if isinstance(configuration, str) else yaml.safe_dump(configuration))
        return str(path)

    @staticmethod
    def address(site: str, host: str = "app1") -> str:
        return f"{HOSTS[host]}.2:{PORTS[site]}"

    def deploy(self, site: str, version: str, text: str = "") -> None:
        """Put a version of the application where it runs; `text` goes below its first lines."""
        folder = self.folder / site
        folder.mkdir(exist_ok=True)
        for file in APPLICATIONS.iterdir():
            if file.is_file():
                shutil.copy(file, folder)
        for name, line in (("release.py", f"VERSION = {version!r}\n{text}\n"), ("release", f"{version}\n")):
            new = folder / f"{name}.new"
            new.write_text(line)
            new.rename(folder / name)

    def app_config(self, site: str, host: str = "app1") -> dict[str, Any]:
        section: dict[str, Any] = {
            "listen": self.address(site, host),
            "path": f"{self.folder}/{site}",
            "admin": f"{self.folder}/{site}-{host}.admin",
        }
        if site == "blog":
            section |= {"fastcgi": {"address": f"unix:{self.folder}/php.sock", "connections": 3}}
        else:
            section |= {"application": f"{site}:application", "workers": 2}
        if site == "shop":
            section |= {"request_limit": REQUEST_LIMIT}
        return {
            "app": section,
            "sctp": {"carrier": "userspace", "dead_after": DEAD_AFTER},
            "plugins": {"syslog": {**self.syslog, "spool": f"{self.folder}/spool-{host}"}} if site == "shop" else {},
        }

    def start_app(self, site: str, host: str = "app1") -> None:
        file = self.write(f"{site}-{host}", self.app_config(site, host))
        self.apps[site, host] = self.start(host, f"{site}-{host}", self.command, "app", "--config", file)
        self.apps[site, host].says("ready", PATIENT)

    def start_php(self) -> None:
        socket_path = self.folder / "php.sock"
        text = PHP_FPM.format(
            folder=self.folder, user="root", socket=socket_path, children=3, max_requests=0, lines=""
        ).replace("daemonize = no", "daemonize = no\nprocess_control_timeout = 10s")
        (self.folder / "php-fpm.conf").write_text(text)
        command = [program("php-fpm8.2"), "--nodaemonize", "-R", "--fpm-config", str(self.folder / "php-fpm.conf")]
        self.php = self.start("app1", "php-fpm", *command)
        until(socket_path.exists, "php-fpm listens")

    def start_rsyslog(self) -> None:
        text = (ROOT / "examples" / "rsyslog" / "fcgi-sctp.conf").read_text()
        config = self.folder / "rsyslog.conf"
        text = text.replace("/var/log/fcgi-sctp/", f"{self.folder}/logs/")
        config.write_text(f'global(workDirectory="{self.folder}")\n{text}')
        rsyslogd = program("rsyslogd")
        self.rsyslog = self.start("web", "rsyslog", rsyslogd, "-n", "-f", str(config), "-i", f"{self.folder}/rs.pid")
        self.listens(601, self.rsyslog)

    def start_nginx(self) -> None:
        """With what `fcgi-sctp nginx-config` prints for each site."""
        (self.folder / "sites").mkdir()
        (self.folder / "nginx.conf").write_text(NGINX.format(folder=self.folder))
        shutil.copy("/etc/nginx/fastcgi_params", self.folder)
        for site, web in self.web.items():
            printed = self.call("nginx-config", "--config", web.file, "--server-name", f"{site}.example").stdout
            script = f"fastcgi_param SCRIPT_FILENAME {self.folder}/{site}$fastcgi_script_name;"
            printed = printed.replace("fastcgi_keep_conn on;", f"fastcgi_keep_conn on; {script}")
            (self.folder / "sites" / f"{site}.conf").write_text(printed)
        errors, config = str(self.folder / "nginx-error.log"), str(self.folder / "nginx.conf")
        self.nginx = self.start("web", "nginx", program("nginx"), "-e", errors, "-c", config)
        self.listens(80, self.nginx)

    def listens(self, port: int, one: Program) -> None:
        def connects() -> bool:
            assert one.running, one.text
            with inside(self.spaces["web"]), socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(connects, f"{one.name} listens")

    def start_all(self) -> None:
        """What the first morning ends with; the load runs."""
        for site in SITES:
            self.deploy(site, "1")
        with inside(self.spaces["web"]):
            self.names = NameServer(self.folder)
            self.names.says("shop.internal", [f"{HOSTS['app1']}.2"])
            self.names.start()
        self.programs.append(self.names.program)
        self.start_rsyslog()
        self.start_php()
        self.web = {site: WebSide(self, site) for site in SITES}
        at_once(*[lambda site=site: self.start_app(site) for site in SITES])
        at_once(*[web.start for web in self.web.values()])
        self.start_nginx()
        for web in self.web.values():
            until(lambda web=web: set(web.states().values()) == {"up"}, "the web side is connected")
        self.load = Load(self.spaces["web"])

    @contextmanager
    def cut(self, host: str) -> Iterator[None]:
        """Pull the cable of an application host while the block runs."""
        run("ip", "-n", self.spaces[host], "link", "set", "web", "down")
        try:
            yield
        finally:
            run("ip", "-n", self.spaces[host], "link", "set", "web", "up")


def at_once(*work: Callable[[], Any]) -> None:
    with in_background(*work) as ended:
        ended()


def _kill_session(number: int) -> None:
    """A successor is in the session of the process that started it."""

    def gone() -> bool:
        try:
            os.killpg(number, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False

    until(gone, f"the processes of session {number} end")
