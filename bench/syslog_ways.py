"""The ways that bench/syslog.py compares: each starts a sender, a receiver and what stands between them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fcgi_core.protocol.records import RecordType, begin_request, encode_pairs, record
from tests.syslog.rsyslog import COMMAND as RSYSLOGD
from tests.syslog.rsyslog import Rsyslog, free_port
from tests.system.stack import CARRIER, COMMAND, free_address

ROOT = Path(__file__).resolve().parent.parent
WAIT = 40.0
"""Seconds that a program may take to start or to end its work."""
# omrelp's own window, 128 frames, lets 680 lines a second through here
RELP_SENDER = """\
global(workDirectory="{folder}" maxMessageSize="64k")
module(load="imtcp") module(load="omrelp")
main_queue(queue.size="1000000")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
action(type="omrelp" target="127.0.0.1" port="{relp}" template="RSYSLOG_SyslogProtocol23Format" windowSize="5000"
    action.resumeRetryCount="-1" action.resumeInterval="1")
"""
RELP_RECEIVER = """\
module(load="imrelp")
input(type="imrelp" address="127.0.0.1" port="{relp}" ruleset="all" maxDataSize="64k")
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(ready: Callable[[], bool], what: str, patience: float = WAIT) -> None:
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience:g} s")
        time.sleep(0.02)


class Way:
    """A sender and a receiver with its file."""

    name: str
    text: str

    def __init__(self, folder: Path, settings: dict[str, str], one_core: bool) -> None:
        self.folder = folder
        self.go, self.done = folder / "go", folder / "done"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "LOAD_GO": str(self.go),
            "LOAD_DONE": str(self.done),
            **settings,
        }
        self.programs: list[subprocess.Popen[bytes]] = []
        self.cores = sorted(os.sched_getaffinity(0))[: 1 if one_core else 2]

    @property
    def out(self) -> Path:
        return self.folder / "out.log"

    def run(self, *command: str, core: int) -> subprocess.Popen[bytes]:
        with (self.folder / "programs.log").open("ab") as log:
            program = subprocess.Popen(
                ["taskset", "-c", str(self.cores[core % len(self.cores)]), *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.programs.append(program)
        return program

    def start(self) -> None:
        raise NotImplementedError

    sender: subprocess.Popen[bytes]

    def senders(self) -> list[int]:
        """Ids of the processes on the sending side."""
        return [self.sender.pid]

    def begin(self) -> None:
        """Let the sender go."""
        self.go.touch()

    def told_lost(self) -> int:
        """Lines that the program itself says are lost."""
        return 0

    def receiver(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        for program in reversed(self.programs):
            if program.poll() is None:
                program.terminate()
        for program in reversed(self.programs):
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


class Handler(Way):
    """The standard library's handler, and rsyslog."""

    kind: str

    def start(self) -> None:
        self.server = self.make_server()
        self.server.start()
        self._pin()
        self.environment |= {"LOAD_KIND": self.kind, "LOAD_PORT": str(getattr(self.server, self.kind))}
        self.start_sender()

    def make_server(self) -> Rsyslog:
        return Rsyslog(self.folder)

    def start_sender(self) -> None:
        self.sender = self.run(sys.executable, str(ROOT / "bench" / "syslog_load.py"), core=0)

    def _pin(self) -> None:
        for thread in os.listdir(f"/proc/{self.receiver().pid}/task"):
            os.sched_setaffinity(int(thread), {self.cores[1 % len(self.cores)]})

    def receiver(self) -> subprocess.Popen[bytes]:
        assert self.server.process is not None
        return self.server.process

    def restart(self) -> None:
        self.server.stop()
        self.server.start()
        self._pin()

    def stop(self) -> None:
        super().stop()
        self.server.stop()


class HandlerUdp(Handler):
    name, text, kind = "handler-udp", "SysLogHandler, UDP, rsyslog", "udp"


class HandlerTcp(Handler):
    name, text, kind = "handler-tcp", "SysLogHandler, TCP, rsyslog", "tcp"


class Relp(HandlerTcp):
    """Two rsyslogs: what the first one gets over TCP goes on over RELP, from a queue in memory."""

    name, text = "relp", "SysLogHandler, TCP, rsyslog, RELP, rsyslog"

    def start(self) -> None:
        self.near = Rsyslog(self.folder)
        self.relp = free_port()
        (self.folder / "near.conf").write_text(
            RELP_SENDER.format(folder=self.folder, tcp=self.near.tcp, relp=self.relp)
        )
        super().start()
        self.environment["LOAD_PORT"] = str(self.near.tcp)
        assert RSYSLOGD is not None
        self.forwarder = self.run(
            RSYSLOGD, "-n", "-f", str(self.folder / "near.conf"), "-i", str(self.folder / "near.pid"), core=0
        )
        wait_for(lambda: listens(self.near.tcp), "the first rsyslog listens")
        self.start_sender()

    def make_server(self) -> Rsyslog:
        server = Rsyslog(self.folder)
        with (self.folder / "rsyslog.conf").open("a") as configuration:
            configuration.write(RELP_RECEIVER.format(relp=self.relp))
        return server

    def start_sender(self) -> None:
        if hasattr(self, "forwarder"):  # it can connect only when that one listens
            super().start_sender()

    def senders(self) -> list[int]:
        return [self.sender.pid, self.forwarder.pid]


class Ours(Way):
    options: ClassVar[dict[str, Any]] = {}
    name, text = "ours", "ours, plain, file"

    def outputs(self) -> list[dict[str, Any]]:
        return [{"file": str(self.out)}]

    def start(self) -> None:
        self.address = free_address()
        syslog = {"scope": "association", **self.options, "outputs": self.outputs()}
        if syslog.get("delivery"):
            syslog["spool_bytes"] = 64 << 20
        if syslog.get("spool"):
            syslog["spool"] = str(self.folder / "spool")
        common = {"sctp": CARRIER, "plugins": {"syslog": syslog}}
        web = {"listen": f"unix:{self.folder}/web.sock", "connect": [self.address]}
        app = {"application": "syslog_load:application", "path": str(ROOT / "bench"), "listen": self.address}
        (self.folder / "app.yaml").write_text(yaml.safe_dump({"app": app, **common}))
        (self.folder / "web.yaml").write_text(yaml.safe_dump({"web": web, **common}))
        self.sender = self.run(COMMAND, "app", "--config", "app.yaml", core=0)
        self.start_web()

    def start_web(self) -> None:
        before = self.log().count("is up")
        self.web = self.run(COMMAND, "web", "--config", "web.yaml", core=1)
        wait_for(lambda: self.log().count("is up") > before, "the association is up")

    def log(self) -> str:
        return (self.folder / "programs.log").read_text(errors="replace")

    def receiver(self) -> subprocess.Popen[bytes]:
        return self.web

    def restart(self) -> None:
        self.web.terminate()
        self.web.wait(20)
        self.start_web()


class OursTcp(Ours):
    name, text = "ours-tcp", "ours, plain, on to rsyslog over TCP"

    def outputs(self) -> list[dict[str, Any]]:
        return [{"tcp": f"127.0.0.1:{self.server.tcp}"}]

    def start(self) -> None:
        self.server = Rsyslog(self.folder)
        self.server.start()
        super().start()

    def receiver(self) -> subprocess.Popen[bytes]:
        assert self.server.process is not None
        return self.server.process

    def restart(self) -> None:
        self.server.stop()
        self.server.start()

    def stop(self) -> None:
        super().stop()
        self.server.stop()


class OursSure(Ours):
    name, text = "ours-sure", "ours, acknowledged, file"
    options: ClassVar[dict[str, Any]] = {"delivery": "acknowledged"}


class OursDisk(Ours):
    name, text = "ours-disk", "ours, acknowledged, kept on disk, file"
    options: ClassVar[dict[str, Any]] = {"delivery": "acknowledged", "spool": True}


class OursSlow(Ours):
    """The output is a pipe that is read at a tenth of 100,000 lines a second."""

    name, text = "ours-slow", "ours, plain, output takes 10,000 lines/s"
    PACE = 10_000 * 270
    """Bytes a second."""

    def outputs(self) -> list[dict[str, Any]]:
        return [{"file": str(self.folder / "pipe")}]

    def start(self) -> None:
        os.mkfifo(self.folder / "pipe")
        threading.Thread(target=self._read, daemon=True).start()
        super().start()

    def _read(self) -> None:
        with (self.folder / "pipe").open("rb", buffering=0) as pipe, self.out.open("wb", buffering=0) as out:
            while data := pipe.read(self.PACE // 100):
                out.write(data)
                time.sleep(len(data) / self.PACE)

    def told_lost(self) -> int:
        return sum(map(int, re.findall(r"queue full, (\d+) lines lost", self.log())))


class OursStderr(Ours):
    """One request that writes all lines to its error output."""

    name, text = "ours-stderr", "ours, STDERR of one request, file"
    options: ClassVar[dict[str, Any]] = {"scope": "request"}

    def begin(self) -> None:
        about = {"REQUEST_METHOD": "GET", "SERVER_NAME": "shop.example", "REQUEST_ID": "r", "PATH_INFO": "/load"}
        about |= {"SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_PORT": "80"}
        self.request = socket.socket(socket.AF_UNIX)
        self.request.connect(str(self.folder / "web.sock"))
        self.request.sendall(
            b"".join(
                [
                    begin_request(1, 1, 1),
                    record(RecordType.PARAMS, 1, encode_pairs(about)),
                    record(RecordType.PARAMS, 1),
                    record(RecordType.STDIN, 1),
                ]
            )
        )
        super().begin()

    def stop(self) -> None:
        super().stop()
        self.request.close()


WAYS: dict[str, type[Way]] = {
    way.name: way for way in (HandlerUdp, HandlerTcp, Relp, Ours, OursTcp, OursSure, OursDisk, OursStderr, OursSlow)
}
