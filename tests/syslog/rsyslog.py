"""Debian's real rsyslog for tests, on free ports of the loopback, with certificates made on the spot."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
TLS_DRIVER = next(Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so"), None)
PATIENCE = 15.0

CONFIGURATION = """\
global(workDirectory="{folder}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off"{tls_files})
module(load="imudp")
module(load="imtcp" maxSessions="100")
template(name="parts" type="string"
    string="%pri%|%hostname%|%app-name%|%procid%|%msgid%|%structured-data%|%msg%\\n")
ruleset(name="all") {{ action(type="omfile" file="{folder}/out.log" template="parts") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="all")
{tls}
"""
TLS = """\
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all"
    streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="{mode}" {peers})
"""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:g} s"
        time.sleep(0.01)


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """ca.pem, and NAME.pem with NAME.key for a server called localhost and a client."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(
        "req", "-x509", *curve, "-subj", "/CN=test CA", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.pem",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    for name, host in (("server", "localhost"), ("client", "web.example")):
        extension = folder / f"{name}.ext"
        extension.write_text(f"subjectAltName=DNS:{host}\nauthorityKeyIdentifier=keyid\n")
        openssl(
            "req", *curve, "-subj", f"/CN={host}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr"
        )
        openssl(
            "x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", str(extension), "-out", f"{folder}/{name}.pem",
        )  # fmt: skip


class Rsyslog:
    """A server; what it received stands in `lines`, its parts divided by ``|``."""

    def __init__(self, folder: Path, *, tls: bool = False, client: str = "") -> None:
        """`client`: the name that clients' certificates must have; any client if empty."""
        self.folder = folder
        self.udp = free_port(socket.SOCK_DGRAM)
        self.tcp = free_port()
        self.tls = free_port()
        self.out = folder / "out.log"
        files = inputs = ""
        if tls:
            make_certificates(folder)
            files = (
                f' defaultNetstreamDriverCAFile="{folder}/ca.pem" defaultNetstreamDriverCertFile="{folder}/server.pem"'
                f' defaultNetstreamDriverKeyFile="{folder}/server.key"'
            )
            inputs = TLS.format(
                port=self.tls,
                mode="x509/name" if client else "anon",
                peers=f'permittedPeer=["{client}"]' if client else "",
            )
        (folder / "rsyslog.conf").write_text(
            CONFIGURATION.format(folder=folder, udp=self.udp, tcp=self.tcp, tls=inputs, tls_files=files)
        )
        self._ports = [self.tcp, self.tls] if tls else [self.tcp]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert COMMAND is not None
        with (self.folder / "rsyslogd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "-n", "-f", str(self.folder / "rsyslog.conf"), "-i", str(self.folder / "pid")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_until(self._listens, "rsyslogd listens")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None

    @property
    def lines(self) -> list[str]:
        return self.out.read_text().splitlines() if self.out.exists() else []

    def lines_with(self, text: str, count: int = 1) -> list[str]:
        """The lines that contain `text`, when there are so many."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [line for line in self.lines if text in line]
            return len(found) >= count

        wait_until(there, f"{count} lines with {text!r}; there are {len(found)}")
        return found

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "rsyslogd.log").read_text()
        for port in self._ports:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True
