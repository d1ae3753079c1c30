"""The C extension under AddressSanitizer: an association through a proxy that mutates packets.

`run()` builds the extension beside the checkout and starts this module with the sanitizer's library loaded before
anything else (libusrsctp itself is Debian's and not instrumented; what it does to memory from malloc() through the
functions of libc is seen all the same). Half of the mutated packets have their checksum corrected, so that the parsers
behind it are reached. An association that does not go through the proxy must go on working beside.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import runpy
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CHECKSUM = slice(8, 12)
COMMON_HEADER = 12
PATIENCE = 30.0


class Result(NamedTuple):
    ok: bool
    seeds: int
    text: str


# ---- the parent: build and start


def sanitizer() -> str | None:
    """Where the compiler has its AddressSanitizer library; None if it has none, or if there is no compiler."""
    try:
        done = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    path = done.stdout.strip()
    return path if os.path.isabs(path) and os.path.exists(path) else None


def build(folder: Path) -> Path:
    """The extension with the sanitizer, in `folder`; the one in the checkout is left alone."""
    source, result = folder / "_usrsctp.c", folder / "_usrsctp.so"
    carrier = ROOT / "fcgi_core" / "sctp" / "userspace"
    runpy.run_path(str(carrier / "_usrsctp_build.py"))["ffibuilder"].emit_c_code(str(source))
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g", "-O1"]
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{carrier}"]
    files = [str(source), *map(str, carrier.glob("[!_]*.c"))]
    subprocess.run(
        ["gcc", "-shared", "-fPIC", *flags, *includes, *files, "-lusrsctp", "-o", str(result)],
        check=True,
        capture_output=True,
    )
    return result


def run(*, seconds: float, count: int, seed: int) -> Result:
    """So many seeds from `seed` on, or seconds, what ends first."""
    library = sanitizer()
    assert library is not None
    with tempfile.TemporaryDirectory() as name:
        extension = build(Path(name))
        environment = {
            **os.environ,
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
        }
        command = [sys.executable, "-m", "tests.fuzz.wire", str(extension), str(seconds), str(count), str(seed)]
        # what is hung is ended too
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds + 4 * PATIENCE
        )
    begun = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
    text = "" if done.returncode == 0 else "\n".join([*begun[-1:], done.stderr[-8000:]])
    return Result(done.returncode == 0, len(begun), text or done.stdout.splitlines()[-1])


# ---- the child


class Proxy:
    """Two UDP sockets between a client and `target`; it mutates what passes, as its random numbers have it."""

    def __init__(self, chosen: random.Random, checksum: Any, target: tuple[str, int]) -> None:
        self.chosen = chosen
        self.checksum = checksum
        self.rate = chosen.choice((0.05, 0.2, 0.5))
        self.spared = chosen.choice((0, 0, 1, 2, 4, 8))
        """So many packets pass as they are: the handshake has four."""
        self.client: tuple[str, int] | None = None
        self.target = target
        self.passed = 0
        self.mutated = 0
        self._held: dict[bool, bytes] = {}
        self._recent: list[bytes] = []
        self.front: asyncio.DatagramTransport
        self.back: asyncio.DatagramTransport
        self.stranger: asyncio.DatagramTransport
        """At another address, which may not be allowed: it sends the client's packets, too."""

    @classmethod
    async def start(cls, *parameters: Any) -> Proxy:
        proxy = cls(*parameters)
        loop = asyncio.get_running_loop()
        proxy.front, _ = await loop.create_datagram_endpoint(lambda: Side(proxy, True), ("127.0.0.1", 0))
        proxy.back, _ = await loop.create_datagram_endpoint(lambda: Side(proxy, False), ("127.0.0.1", 0))
        proxy.stranger, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.3", 0))
        return proxy

    @property
    def port(self) -> int:
        port: int = self.front.get_extra_info("sockname")[1]
        return port

    def close(self) -> None:
        self.front.close()
        self.back.close()
        self.stranger.close()

    def packet(self, to_target: bool, data: bytes, source: tuple[str, int]) -> None:
        if to_target and data:
            self.client = source  # the empty datagrams come from another socket
        self.passed += bool(data)
        packets = [data]
        if data and self.passed > self.spared and self.chosen.random() < self.rate:
            self.mutated += 1
            packets = self._mutated(to_target, data)
        if data:
            self._recent = [*self._recent[-15:], data]
        if held := self._held.pop(to_target, b""):
            packets.append(held)
        for packet in packets:
            self._pass_on(to_target, packet[:60000])
            if to_target and self.chosen.random() < 0.3:
                self.stranger.sendto(packet[:60000], self.target)

    def hold(self, to_target: bool, data: bytes) -> list[bytes]:
        """It goes after the next one."""
        self._held[to_target] = data
        return []

    def _pass_on(self, to_target: bool, data: bytes) -> None:
        if to_target:
            self.back.sendto(data, self.target)
        elif self.client is not None:
            self.front.sendto(data, self.client)

    def _mutated(self, to_target: bool, data: bytes) -> list[bytes]:
        chosen = self.chosen
        how = chosen.randrange(10)
        if how == 0:
            return [data, data]
        if how == 1 and to_target not in self._held:
            return self.hold(to_target, data)
        if how == 2:
            return [data, chosen.choice(self._recent or [data])]
        changed = bytearray(data)
        body = len(changed) - COMMON_HEADER
        if body <= 0:
            return [data]
        for _ in range(chosen.randint(1, 4)):
            # chunk headers and parameters are near the beginning
            at = COMMON_HEADER + min(int(chosen.expovariate(1 / 20)), max(len(changed) - COMMON_HEADER - 1, 0))
            if at >= len(changed):
                break
            match chosen.randrange(7):
                case 0:
                    changed[at] ^= 1 << chosen.randrange(8)
                case 1:
                    changed[at] = chosen.choice((0, 1, 3, 4, 5, 6, 64, 127, 128, 130, 192, 194, 255))
                case 2:
                    del changed[chosen.randrange(at, len(changed)) :]
                case 3:
                    changed[at:at] = chosen.randbytes(4 * chosen.randint(1, 8))
                case 4:
                    other = chosen.choice(self._recent or [data])
                    changed[at:] = other[chosen.randrange(len(other)) :]
                case 5:  # another chunk of a packet of this association behind, or before, its own
                    other = chosen.choice(self._recent or [data])[COMMON_HEADER:]
                    changed[COMMON_HEADER:COMMON_HEADER] = other
                case _:  # a length
                    aligned = at - at % 4 + 2
                    changed[aligned : aligned + 2] = struct.pack(">H", chosen.choice((0, 1, 3, 4, 5, 8, 20, 65535)))
        if chosen.random() < 0.5 and len(changed) >= COMMON_HEADER:
            changed[CHECKSUM] = bytes(4)
            changed[CHECKSUM] = self.checksum(bytes(changed))
        return [bytes(changed)]


class Side(asyncio.DatagramProtocol):
    def __init__(self, proxy: Proxy, to_target: bool) -> None:
        self.proxy = proxy
        self.to_target = to_target

    def datagram_received(self, data: bytes, source: Any) -> None:
        self.proxy.packet(self.to_target, data, source)

    def error_received(self, error: Exception) -> None:
        pass  # a refusal; the association is told in its own way


def load(extension: str) -> None:
    """The extension of that file in the place of the checkout's."""
    name = "fcgi_core.sctp.userspace._usrsctp"
    spec = importlib.util.spec_from_file_location(name, extension)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


async def one(seed: int, deadline: float) -> Proxy:
    """Traffic both ways through the proxy, and beside it; everything is released in the end."""
    from fcgi_core.sctp.carrier import Address, CarrierOptions, Message, Scheduler
    from fcgi_core.sctp.userspace.carrier import UserspaceCarrier
    from fcgi_core.sctp.userspace.stack import ffi, lib
    from tests.sctp.contract import Recorder

    def checksum(data: bytes) -> bytes:
        return int(lib.carrier_crc32c(ffi.from_buffer(data), len(data), 0)).to_bytes(4, "little")

    chosen = random.Random(seed)
    options = CarrierOptions(
        rto_initial=0.05,
        rto_min=0.02,
        rto_max=0.1,
        heartbeat_interval=0.05,
        connect_timeout=1.0,
        interleaving=chosen.random() < 0.5,
        scheduler=chosen.choice(list(Scheduler)),
        outgoing_streams=chosen.choice((3, 16, 256)),
        mtu=chosen.choice((None, 1400)),
        allowed_peers=chosen.choice(((), ("127.0.0.1",))),
    )
    web, app = UserspaceCarrier(options), UserspaceCarrier(options)
    loop = asyncio.get_running_loop()
    try:
        listener = app.listen(Address(("127.0.0.1",), 9000, 0), lambda peer: Recorder(echo=True, keep=False))
        proxy = await Proxy.start(chosen, checksum, ("127.0.0.1", listener.address.udp_port))
        beside, near = Recorder(), Recorder(keep=False)
        web.connect(listener.address, beside)
        web.connect(listener.address._replace(udp_port=proxy.port), near)
        ends = loop.time() + min(1.0, max(deadline - time.monotonic(), 0.1))
        sent = 0
        await beside.until(lambda: beside.association is not None)
        while loop.time() < ends and not near.down:
            if near.association is not None and sent < 30:
                if sent == 10:
                    near.up.add_streams(2)
                stream, size = chosen.randrange(3), chosen.choice((1, 20, 300, 5000, 40_000))
                lifetime = chosen.choice((None, None, 0.01))
                near.send([Message(stream, bytes(size), 0, chosen.random() < 0.3, lifetime)])
                sent += 1
            elif sent == 30 and near.received >= 25:
                near.up.shutdown()
                sent += 1
            await asyncio.sleep(0.002)
        beside.send([Message(0, b"x" * 10_000)])
        await asyncio.wait_for(beside.until(lambda: beside.received == 1), PATIENCE)
        assert beside.messages[0].data == b"x" * 10_000
        assert not beside.down
        proxy.close()
    finally:
        web.close()
        app.close()
    counters = web.counters()
    assert (counters["associations"], counters["peers"]) == (0, 0), counters
    return proxy


def main(extension: str, seconds: float, count: int, first: int) -> None:
    load(extension)
    deadline = time.monotonic() + seconds
    passed = mutated = 0
    for seed in range(first, first + count):
        if time.monotonic() > deadline:
            break
        print(f"seed {seed}", flush=True)
        proxy = asyncio.run(one(seed, deadline))
        passed, mutated = passed + proxy.passed, mutated + proxy.mutated
    print(f"{passed} packets, {mutated} of them mutated", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
