"""A path between two namespaces, in user space: rate, delay, a drop-tail queue, and loss that a seed repeats.

Two TUN devices, one in either namespace; this process carries whole IP packets from one to the other, whatever is in
them. For kernels that have no netem.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import signal
import struct
import time
from collections import deque
from pathlib import Path

from .children import settle
from .network import Route, inside, run

__all__ = ["EmulatedLane"]

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
PACKET = 2048


def open_tun(space: str) -> int:
    """A TUN device `path` in a namespace; the descriptor that stands for its other end."""
    with inside(space):
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH14x", b"path", IFF_TUN_NO_PI))
        return descriptor


class Direction:
    """Packets one way."""

    def __init__(self, source: int, target: int, route: Route, seed: int) -> None:
        self.source, self.target = source, target
        self.route = route
        self.random = random.Random(seed)
        self.free = 0.0
        """When the line has sent all that was accepted."""
        self.under_way: deque[tuple[float, bytes]] = deque()

    def read(self) -> None:
        route = self.route
        for _ in range(64):
            try:
                packet = os.read(self.source, PACKET)
            except BlockingIOError:
                return
            now = time.monotonic()
            if self.random.random() < route.loss / 100:
                continue
            begin = max(now, self.free)
            if begin - now > route.queue_seconds:
                continue
            self.free = begin + len(packet) / route.bytes_per_second
            self.under_way.append((self.free + route.delay / 1000, packet))

    def write(self, now: float) -> float | None:
        """Deliver what is due; when the next is."""
        while self.under_way:
            due, packet = self.under_way[0]
            if due > now:
                return due
            self.under_way.popleft()
            with contextlib.suppress(OSError):  # the device is down: the measurement is over
                os.write(self.target, packet)
        return None


def emulate(left: int, right: int, route: Route, seed: int) -> None:
    """Carry packets until the process is ended."""
    directions = Direction(left, right, route, 2 * seed), Direction(right, left, route, 2 * seed + 1)
    by_source = {direction.source: direction for direction in directions}
    while True:
        now = time.monotonic()
        due = [at for direction in directions if (at := direction.write(now)) is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select(list(by_source), (), (), timeout)
        for source in readable:
            by_source[source].read()


class EmulatedLane:
    """app -- this process's child -- web."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.spaces = (f"bench-{os.getpid()}-app{number}", f"bench-{os.getpid()}-web{number}")
        self.child = 0
        self.tuns: list[int] = []
        for space, near, far in zip(self.spaces, (8, 7), (7, 8), strict=True):
            run("ip", "netns", "add", space)
            self.tuns.append(open_tun(space))
            run(
                "ip", "-n", space, "addr", "add", f"10.{near}.{number}.2", "peer", f"10.{far}.{number}.2", "dev", "path"
            )
            for device in ("path", "lo"):
                run("ip", "-n", space, "link", "set", device, "up")
            with inside(space):
                Path("/proc/sys/net/ipv4/tcp_no_metrics_save").write_text("1")

    def set_route(self, route: Route, seed: int) -> None:
        """Begin anew, with empty queues."""
        self._stop()
        for tun in self.tuns:
            with contextlib.suppress(BlockingIOError):
                while os.read(tun, PACKET):
                    pass
        self.child = os.fork()
        if self.child == 0:
            try:
                settle()
                emulate(*self.tuns, route, seed)
            finally:
                os._exit(1)

    def _stop(self) -> None:
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
            self.child = 0

    def close(self) -> None:
        """Take everything away."""
        self._stop()
        for tun in self.tuns:
            os.close(tun)
        for space in self.spaces:
            run("ip", "netns", "del", space)
