"""The whole road for a test: real nginx, `fcgi-sctp web`, `fcgi-sctp app`, in a folder of its own, on free ports."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
COMMAND = str(Path(sys.executable).with_name("fcgi-sctp"))
CARRIER = os.environ.get("FCGI_SCTP_TEST_CARRIER", "auto")
SLOWNESS = float(os.environ.get("FCGI_SCTP_TEST_SLOWNESS", "1"))
"""How much slower than others this machine is."""
PATIENCE = 15.0 * SLOWNESS
"""Seconds that anything may take which should take a moment: for slow machines, not a promise."""

NGINX = """\
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log info;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    large_client_header_buffers 8 128k;
    keepalive_requests 1000000000;
    upstream applications {{
        server {address};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    include /etc/nginx/fastcgi_params;
    fastcgi_param REQUEST_ID $request_id;
    fastcgi_keep_conn on;
    fastcgi_request_buffering off;
    # what the client does not take is not taken from the application: nothing goes to the disk
    fastcgi_max_temp_file_size 0;
    fastcgi_read_timeout 60s;
    add_header X-Request-Id $request_id always;
    {lines}
    server {{
        listen 127.0.0.1:{port} default_server backlog=1024 sndbuf=64k;
        server_name shop.example;
        location / {{ fastcgi_pass applications; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name blog.example;
        location / {{ fastcgi_pass applications; }}
    }}
}}
"""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on the loopback that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_address() -> str:
    """An SCTP address on the loopback, with a UDP port of its own."""
    return f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}/{free_port(socket.SOCK_DGRAM)}"


def wait_until(ready: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Ask until `ready` returns something true, and return that. AssertionError naming `what` if it takes too long."""
    deadline = time.monotonic() + patience
    while not (result := ready()):
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"
        time.sleep(0.02)
    return result


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Program:
    """A process of ours, ended by its id. What it prints is in `log`."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, pass_fds: Sequence[int] = ()) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self.pid = self.process.pid

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def says(self, text: str, patience: float = PATIENCE) -> None:
        """Wait until it has printed `text`."""

        def said() -> bool:
            assert text in self.text or self.running, f"{self.name} ended:\n{self.text}"
            return text in self.text

        wait_until(said, f"{self.name} says {text!r}", patience)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait; the exit status."""
        if self.running:
            self.send(number)
        return self.wait()

    def kill(self) -> None:
        """Whatever it does. Its session is its alone: nginx's worker goes too."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Stack:
    """nginx, the web side, and applications. A context manager: after it nothing runs and nothing is left.

    `application` names a callable of applications.py (or of any module); `web` and `app` go over the sections of the
    YAML file; `sctp` is its section. When all is ended in order each program must have returned 0, and nothing must
    have been thrown.
    """

    web_throws = False
    """The web side is expected to show frames, too, if `throws`."""

    def __init__(
        self,
        application: str = "applications:validated",
        *,
        endpoints: int = 1,
        web: dict[str, Any] | None = None,
        app: dict[str, Any] | None = None,
        plugins: dict[str, Any] | None = None,
        sctp: dict[str, Any] | None = None,
        tcp: bool = False,
        throws: bool = False,
        nginx: str = "",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fs-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self.folder.chmod(0o711)  # nginx's worker is another user if we are root
        self.port = free_port()
        self.addresses = [free_address() for _ in range(endpoints)]
        self.listen = f"127.0.0.1:{free_port()}" if tcp else f"unix:{self.folder}/web.sock"
        self.feed = self.folder / "feed.sock"
        self.throws = throws
        """The application is expected to throw."""
        self._nginx_lines = nginx
        """More lines for nginx's http block."""
        self.programs: list[Program] = []
        self._serial = 0
        self._application = {"application": application, "path": str(HERE), "grace": 5, **(app or {})}
        self._web = {
            "listen": self.listen,
            "connect": self.addresses,
            "feed": str(self.feed),
            "admin": f"{self.folder}/web.admin",
            "grace": 5,
            **(web or {}),
        }
        self._common: dict[str, Any] = {
            "sctp": sctp or CARRIER,
            "plugins": plugins or {},
            "log_level": "debug",
        }
        self.web: Program
        self.nginx: Program
        self.apps: list[Program] = []

    def __enter__(self) -> Stack:
        try:
            for number in range(len(self.addresses)):
                self.apps.append(self.start_app(number))
            self.start_web()
            self.start_nginx()
            for app in self.apps:
                app.says("is up")
        except BaseException as error:
            error.add_note(self.logs())
            self.clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.stop()
        except BaseException as wrong:
            wrong.add_note(self.logs())
            raise
        finally:
            self.clean_up()

    @property
    def app(self) -> Program:
        return self.apps[0]

    def run(self, name: str, *command: str) -> Program:
        self._serial += 1
        program = Program(f"{self._serial}-{name}", command, self.folder)
        self.programs.append(program)
        return program

    def start_app(self, number: int = 0) -> Program:
        """An application at the address of that number; it does not wait until it is ready."""
        section = {
            "admin": f"{self.folder}/app{number}.admin",
            **self._application,
            "listen": self.addresses[number],
        }
        return self.run("app", COMMAND, "app", "--config", self.write(f"app{number}", {"app": section, **self._common}))

    def start_web(self) -> None:
        self.web = self.run("web", COMMAND, "web", "--config", self.write("web", {"web": self._web, **self._common}))
        self.web.says("ready")

    def start_nginx(self) -> None:
        text = NGINX.format(
            user="user www-data;" if os.geteuid() == 0 else "",
            folder=self.folder,
            address=self.listen,
            port=self.port,
            lines=self._nginx_lines,
        )
        (self.folder / "nginx.conf").write_text(text)
        errors = str(self.folder / "nginx-error.log")
        self.nginx = self.run("nginx", "/usr/sbin/nginx", "-e", errors, "-c", str(self.folder / "nginx.conf"))
        wait_until(self._nginx_listens, "nginx listens")

    def _nginx_listens(self) -> bool:
        assert self.nginx.running, self.logs()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def write(self, name: str, configuration: dict[str, Any]) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(configuration))
        return str(path)

    def stop(self) -> None:
        """End everything in order; all must have gone well."""
        if self.nginx.running:
            assert self.nginx.stop(signal.SIGQUIT) == 0
        for program in (self.web, *self.apps):
            if program.running:
                assert program.stop() == 0, program.text
        for program in self.programs:
            if not self.throws or (program.name.endswith("-web") and not self.web_throws):
                assert "Traceback" not in program.text, program.text
        assert not (self.folder / "web.sock").exists()
        assert not self.feed.exists()

    def clean_up(self) -> None:
        for program in self.programs:
            program.kill()
        shutil.rmtree(self.folder)

    def logs(self) -> str:
        """The ends of all logs, for the reader of a failure."""
        files = [*sorted(self.folder.glob("*.log"))]
        return "\n".join(f"----- {file.name}\n{file.read_text(errors='replace')[-6000:]}" for file in files)

    # ---- requests

    def connect(self, timeout: float = 30.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
        host: str = "shop.example",
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        """One request through nginx; on `connection`, if given, which stays open."""
        used = connection or self.connect()
        try:
            used.request(method, path, body, {"Host": host, **(headers or {})})
            response = used.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            if connection is None:
                used.close()

    def seen(self, what: str) -> int:
        """How often the application noted `what` (applications.py)."""
        return self.ask("/seen").json().get(what, 0)

    def saw(self, what: str, count: int = 1) -> None:
        """Wait until the application has noted `what` so often."""
        wait_until(lambda: self.seen(what) >= count, f"the application notes {what!r}")

    # ---- what the programs tell

    def status(self, side: str = "web", worker: int | None = None) -> dict[str, Any]:
        """What `fcgi-sctp status` tells; sides are ``web`` and ``app0``, ``app1``, …"""
        path = f"{self.folder}/{side}.admin" + (f".{worker}.sock" if worker is not None else "")
        done = subprocess.run(
            [COMMAND, "status", "-o", "json", "--admin", path],
            capture_output=True,
            check=True,
            timeout=2 * PATIENCE,
        )
        (told,) = json.loads(done.stdout)
        return dict(told)

    def lines(self) -> list[dict[str, Any]]:
        """All lines of the live feed up to now, by `fcgi-sctp logs`."""
        done = subprocess.run(
            [COMMAND, "logs", "--feed", self.feed, "--no-follow", "--tail", "10000", "-o", "json"],
            capture_output=True,
            check=True,
            timeout=PATIENCE,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def lines_with(self, text: str, count: int = 1) -> list[dict[str, Any]]:
        """The lines that contain `text`, when there are so many."""

        def found() -> list[dict[str, Any]]:
            lines = [line for line in self.lines() if text in line["message"]]
            return lines if len(lines) >= count else []

        return wait_until(found, f"{count} lines with {text!r} in the feed")


@contextmanager
def in_background(*work: Callable[[], Any]) -> Any:
    """Run each on a thread; yields a function that waits for all and returns what they returned."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(one) for one in work]
        yield lambda: [future.result(60) for future in futures]
