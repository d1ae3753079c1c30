"""The routes that are measured on, and the lanes that have them: namespaces app<n> and web<n> with a path between.

Rate, delay and loss are on the path, outside of both hosts, as networks are; both ways are the same. In the lab guest a
router's netem makes them (`NetemLane`), elsewhere a process of ours (`emulator.py`). Segmentation offload is off, so
that a packet there is a packet of the MTU.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NetemLane", "Route", "enter", "inside", "run", "without_offload"]

_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_OFFLOADS = (0x1F, 0x24, 0x2C)  # ETHTOOL_STSO, SGSO, SGRO
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Route:
    """What the path between the sides is like."""

    mbits: float = 5.0
    delay: float = 50.0
    """One way, milliseconds."""
    loss: float = 0.0
    """Per cent of packets, at random, each way."""
    queue: float = 100.0
    """Milliseconds that a packet may wait for the line; beyond it is dropped."""

    @property
    def bytes_per_second(self) -> float:
        return self.mbits * 125_000

    @property
    def queue_seconds(self) -> float:
        return self.queue / 1000

    @property
    def packets(self) -> int:
        """What netem may hold: its limit counts what is under way as well."""
        return round((self.delay + self.queue) / 1000 * self.bytes_per_second / 1500)


def run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def inside(space: str) -> Iterator[None]:
    """What is opened here belongs to a namespace."""
    with open("/proc/thread-self/ns/net") as here:
        enter(space)
        try:
            yield
        finally:
            _setns(here.fileno())


def enter(space: str) -> None:
    """Put this process into a namespace."""
    with Path("/run/netns", space).open() as file:
        _setns(file.fileno())


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def without_offload() -> None:
    """Switch off what would put several packets into one on this namespace's device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            request = struct.pack("16sP8x", b"path", ctypes.addressof(value))
            with contextlib.suppress(OSError):  # a device that has none
                fcntl.ioctl(sock.fileno(), _SIOCETHTOOL, request)


class NetemLane:
    """app -- router -- web, in the guest."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.spaces = (f"app{number}", f"web{number}")
        router = f"router{number}"
        run("ip", "netns", "add", router)
        for end, net in (("app", 8), ("web", 7)):
            space = f"{end}{number}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", "path", "netns", space, "type", "veth", "peer", "name", end, "netns", router)
            run("ip", "-n", space, "addr", "add", f"10.{net}.{number}.2/24", "dev", "path")
            run("ip", "-n", router, "addr", "add", f"10.{net}.{number}.1/24", "dev", end)
            for name, device in ((space, "path"), (space, "lo"), (router, end)):
                run("ip", "-n", name, "link", "set", device, "up")
            run("ip", "-n", space, "route", "add", "default", "via", f"10.{net}.{number}.1")
            with inside(space):
                without_offload()
                for name in ("sctp/intl_enable", "sctp/reconf_enable", "ipv4/tcp_no_metrics_save"):
                    Path("/proc/sys/net", name).write_text("1")
        run("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def set_route(self, route: Route, seed: int) -> None:
        """Give the path its properties, with empty queues; netem's losses know no seed."""
        words = ["netem", "delay", f"{route.delay}ms", "rate", f"{route.mbits}mbit", "limit", str(route.packets)]
        if route.loss:
            words += ["loss", f"{route.loss}%"]
        for end in ("app", "web"):
            subprocess.run(
                ("tc", "-n", f"router{self.number}", "qdisc", "del", "dev", end, "root"),
                check=False,
                stderr=subprocess.DEVNULL,
            )
            run("tc", "-n", f"router{self.number}", "qdisc", "add", "dev", end, "root", *words)

    def close(self) -> None:
        """The guest ends and takes them along."""
