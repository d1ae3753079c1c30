"""The SCTP carriers beside asyncio's TCP, from process to process over loopback: messages and CPU.

    python bench/carrier.py [--rounds 5] [--megabytes 64] [--sizes 256 1024 ...] [--json] [--uvloop]
    script/lab run .venv/bin/python bench/carrier.py --kinds kernel sctp tcp-protocol    # kernel SCTP: in the lab

Each turn starts a receiver and a sender anew and moves whole messages of one size one way; over TCP each has a length
before it. The kinds take turns within a round, and medians are printed: on a shared machine trust ratios, not figures.
CPU is user and system time of both processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fcgi_core.sctp import open_carrier
from fcgi_core.sctp.carrier import Address, Association, Carrier, CarrierOptions, Message
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier

KINDS = ("sctp", "tcp-streams", "tcp-protocol")
"""`sctp` is the userspace carrier. `kernel` is measured where it is asked for."""
SIZES = (256, 1024, 8192, 16384)
STREAMS = 64
BATCH = 64
HEAD = struct.Struct("!I")


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """Counts messages at the receiver, from the first to the last."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.count = 0
        self.begin = 0.0
        self.cpu = cpu()
        self.done = asyncio.Event()

    def add(self, count: int) -> None:
        if not self.count:
            self.begin = time.perf_counter()
            self.cpu = cpu()
        self.count += count
        if self.count >= self.expected:
            self.seconds = time.perf_counter() - self.begin
            self.cpu = cpu() - self.cpu
            self.done.set()

    def report(self) -> None:
        print(json.dumps({"seconds": self.seconds, "cpu": self.cpu}), flush=True)


# -- SCTP


class SctpEnd:
    def __init__(self, meter: Meter | None, messages: int = 0, size: int = 0) -> None:
        self.meter = meter
        self.left = messages
        self.payload = bytes(size)
        self.down = asyncio.Event()
        self.batch = [Message(number % STREAMS, self.payload) for number in range(BATCH)]

    def association_up(self, association: Association) -> None:
        self.association = association
        self.pump()

    def pump(self) -> None:
        while self.left:
            wanted = self.batch if self.left >= BATCH else self.batch[: self.left]
            taken = self.association.send(wanted)
            self.left -= taken
            if taken < len(wanted):
                return
        if self.meter is None:
            self.association.shutdown()

    def writable(self) -> None:
        self.pump()

    def messages_received(self, messages: Sequence[Message]) -> None:
        assert self.meter is not None
        self.meter.add(len(messages))

    def streams_changed(self) -> None:
        pass

    def association_down(self, reason: str) -> None:
        self.down.set()


async def receive_sctp(meter: Meter) -> None:
    await receive_on(UserspaceCarrier(CarrierOptions()), meter)


async def send_sctp(port: int, messages: int, size: int) -> None:
    await send_on(UserspaceCarrier(CarrierOptions()), port, messages, size)


async def receive_kernel(meter: Meter) -> None:
    await receive_on(open_carrier("kernel", CarrierOptions()), meter)


async def send_kernel(port: int, messages: int, size: int) -> None:
    await send_on(open_carrier("kernel", CarrierOptions()), port, messages, size)


async def receive_on(carrier: Carrier, meter: Meter) -> None:
    end = SctpEnd(meter)
    end.left = -1
    end.pump = lambda: None  # type: ignore[method-assign]
    print(carrier.listen(Address(("127.0.0.1",), 9000, 0), lambda peer: end).address.udp_port, flush=True)
    await meter.done.wait()
    meter.report()
    await end.down.wait()
    carrier.close()


async def send_on(carrier: Carrier, port: int, messages: int, size: int) -> None:
    end = SctpEnd(None, messages, size)
    carrier.connect(Address(("127.0.0.1",), 9000, port), end)
    await end.down.wait()
    carrier.close()


# -- TCP, the way most programs use asyncio


async def receive_streams(meter: Meter) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not meter.done.is_set():
            (length,) = HEAD.unpack(await reader.readexactly(4))
            await reader.readexactly(length)
            meter.add(1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await meter.done.wait()
    meter.report()
    server.close()


async def send_streams(port: int, messages: int, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head, payload = HEAD.pack(size), bytes(size)
    for _ in range(messages):
        writer.write(head + payload)
        await writer.drain()
    await reader.read()
    writer.close()
    await writer.wait_closed()


# -- TCP, tuned: a protocol that parses what came at once, a sender that writes batches


class Receiver(asyncio.Protocol):
    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        data = self.rest + data if self.rest else data
        at, end, messages = 0, len(data), []
        while end - at >= 4:
            (length,) = HEAD.unpack_from(data, at)
            if end - at < 4 + length:
                break
            messages.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        self.rest = data[at:]
        if messages:
            self.meter.add(len(messages))
        if self.meter.done.is_set():
            self.transport.close()


class Sender(asyncio.Protocol):
    def __init__(self, messages: int, size: int) -> None:
        self.left = messages
        self.pieces = [HEAD.pack(size), bytes(size)]
        self.paused = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.pump()

    def pump(self) -> None:
        while self.left and not self.paused:
            count = min(self.left, BATCH)
            self.transport.write(b"".join(self.pieces * count))
            self.left -= count

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pump()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


async def receive_protocol(meter: Meter) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Receiver(meter), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await meter.done.wait()
    meter.report()
    server.close()


async def send_protocol(port: int, messages: int, size: int) -> None:
    loop = asyncio.get_running_loop()
    _transport, sender = await loop.create_connection(lambda: Sender(messages, size), "127.0.0.1", port)
    await sender.lost.wait()


RECEIVE = {
    "sctp": receive_sctp,
    "kernel": receive_kernel,
    "tcp-streams": receive_streams,
    "tcp-protocol": receive_protocol,
}
SEND = {"sctp": send_sctp, "kernel": send_kernel, "tcp-streams": send_streams, "tcp-protocol": send_protocol}


async def receive_main(kind: str, messages: int) -> None:
    await RECEIVE[kind](Meter(messages))


async def send_main(kind: str, port: int, messages: int, size: int) -> None:
    begin = cpu()
    await SEND[kind](port, messages, size)
    print(json.dumps({"cpu": cpu() - begin}), flush=True)


def run(coroutine: Any, uvloop_wanted: bool) -> None:
    if uvloop_wanted:
        import uvloop

        uvloop.run(coroutine)
    else:
        asyncio.run(coroutine)


def turn(kind: str, size: int, megabytes: int, extra: list[str]) -> dict[str, float]:
    """One receiver, one sender, one size."""
    messages = max(200, min(150_000, megabytes * 1_000_000 // size))
    command = [sys.executable, __file__, *extra]
    with subprocess.Popen([*command, "--receive", kind, str(messages)], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        port = receiver.stdout.readline().strip()
        sender = subprocess.run(
            [*command, "--send", kind, port, str(messages), str(size)], capture_output=True, text=True, check=True
        )
        received = json.loads(receiver.stdout.readline())
    seconds = received["seconds"]
    return {
        "messages_per_second": messages / seconds,
        "megabytes_per_second": messages * size / seconds / 1e6,
        "cpu_microseconds_per_message": (received["cpu"] + json.loads(sender.stdout)["cpu"]) / messages * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64, help="moved in each turn (150,000 messages at most)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=RECEIVE)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--json", action="store_true", help="every turn, as JSON")
    parser.add_argument("--receive", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        kind, messages = options.receive
        return run(receive_main(kind, int(messages)), options.uvloop)
    if options.send:
        kind, port, messages, size = options.send
        return run(send_main(kind, int(port), int(messages), int(size)), options.uvloop)

    extra = ["--uvloop"] if options.uvloop else []
    turns: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for size in options.sizes:
            for kind in options.kinds:
                turns.setdefault((size, kind), []).append(turn(kind, size, options.megabytes, extra))
    if options.json:
        rows = [{"size": size, "kind": kind, "turns": results} for (size, kind), results in turns.items()]
        print(json.dumps(rows, indent=1))
        return None
    print(f"{'bytes':>6}  {'kind':<13} {'messages/s':>11} {'MB/s':>7} {'CPU us/message':>15}")
    for (size, kind), results in turns.items():
        rate, volume, used = (
            median(result[name] for result in results)
            for name in ("messages_per_second", "megabytes_per_second", "cpu_microseconds_per_message")
        )
        print(f"{size:>6}  {kind:<13} {rate:>11,.0f} {volume:>7.0f} {used:>15.2f}")
    return None


if __name__ == "__main__":
    main()
