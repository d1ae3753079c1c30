"""A real name server on the loopback: dnsmasq, which a test changes and ends."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.system.stack import Program, Stack, wait_until

__all__ = ["DNSMASQ", "NamedStack", "NameServer"]

DNSMASQ = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
"""None: it is not installed."""
TTL = 1


def free_for_both() -> int:
    """A port on the loopback that is free for UDP and TCP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return int(tcp.getsockname()[1])


class NameServer:
    """Answers for names that it is told."""

    def __init__(self, folder: Path) -> None:
        self.port = free_for_both()
        self._folder = folder
        self._hosts = folder / "dns-hosts"
        self._records: list[str] = []
        self._serial = 0
        self.program: Program

    def start(self) -> None:
        assert DNSMASQ is not None
        self._serial += 1
        options = [
            *("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-facility=-"),
            *(f"--port={self.port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--local=/internal/"),
            *(f"--addn-hosts={self._hosts}", f"--local-ttl={TTL}", "--pid-file=", "--user=", "--log-queries"),
        ]
        self.program = Program(f"dns{self._serial}", [DNSMASQ, *options, *self._records], self._folder)
        self.program.says("read ")

    def says(self, name: str, hosts: Sequence[str]) -> None:
        """Answer with these addresses from now on."""
        self._hosts.write_text("".join(f"{host} {name}\n" for host in hosts))
        self._hosts.chmod(0o644)
        if hasattr(self, "program"):
            reads = self.program.text.count("read ")
            self.program.send(signal.SIGHUP)
            wait_until(lambda: self.program.text.count("read ") > reads, "it has read its file")

    def has_service(self, name: str, target: str, port: int, priority: int, weight: int, host: str) -> None:
        """Have a SRV record, and the target's address, from the next start on."""
        self._records += [f"--srv-host={name},{target},{port},{priority},{weight}", f"--host-record={target},{host}"]


class NamedStack(Stack):
    """Applications on 127.0.0.1, 127.0.0.2, … at one port, which the web side finds by name."""

    def __init__(self, *, endpoints: int, connect: str = "", **options: object) -> None:
        super().__init__("applications:plain", endpoints=endpoints, **options)  # type: ignore[arg-type]
        ports = self.addresses[0].partition(":")[2]
        self.addresses = [f"127.0.0.{number}:{ports}" for number in range(1, endpoints + 1)]
        self.names = NameServer(self.folder)
        self._web["connect"] = [{"dns": f"shop.internal:{ports}"}]
        self._web["nameservers"] = f"127.0.0.1:{self.names.port}"

    def __enter__(self) -> NamedStack:
        self.names.says("shop.internal", [one.partition(":")[0] for one in self.addresses])
        self.names.start()
        super().__enter__()
        return self

    def clean_up(self) -> None:
        self.names.program.kill()
        super().clean_up()
