#!/usr/bin/env python3
"""What the Python of the main road costs, without sockets, SCTP or threads: CPU microseconds a request, least of many.

    .venv/bin/python bench/path.py [--requests 20000] [--profile]

A web server's bytes go into the real FastCGI server, through both services and protocol connections, and the answer's
bytes come out, 32 requests at a time. The carrier hands messages over within the process. What this shows is the floor
that the code sets; `bench/throughput.py` has the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import time
from collections.abc import Callable, Sequence
from typing import Any

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.protocol.records import RecordType, begin_request, encode_pairs, record
from fcgi_core.sctp.carrier import Address, Message
from fcgi_core.sctp.statistics import AssociationStatistics
from fcgi_core.web.downstream import Connections, DownstreamConnection
from fcgi_core.web.service import BackEndOptions, WebService

PARAMS = {
    "QUERY_STRING": "", "REQUEST_METHOD": "GET", "CONTENT_TYPE": "", "CONTENT_LENGTH": "", "SCRIPT_NAME": "/",
    "REQUEST_URI": "/", "DOCUMENT_URI": "/", "DOCUMENT_ROOT": "/usr/share/nginx/html", "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http", "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "nginx/1.22.1",
    "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "45678", "REMOTE_USER": "", "SERVER_ADDR": "127.0.0.1",
    "SERVER_PORT": "8080", "SERVER_NAME": "a.test", "REDIRECT_STATUS": "200",
    "REQUEST_ID": "16a75d1741bfa27deb04f135f6d22b28", "HTTP_HOST": "127.0.0.1:8080",
}  # fmt: skip
"""What nginx's own fastcgi_params send for a GET of wrk."""
CONCURRENCY = 32


class Side:
    """An association within the process: what is sent arrives on the next turn of the loop."""

    peer = "here"
    outgoing_streams = incoming_streams = 256

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.handler: Any = None
        self.other: Side
        self.waiting: list[Message] = []

    def room(self, urgent: bool = False) -> int:
        return 1 << 20

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        if not self.other.waiting:
            self.loop.call_soon(self.other.deliver)
        self.other.waiting.extend(messages)
        return len(messages)

    def deliver(self) -> None:
        waiting, self.waiting = self.waiting, []
        self.handler.messages_received(waiting)

    def set_priority(self, stream: int, priority: int) -> None:
        pass

    def add_streams(self, count: int) -> bool:
        return False

    def shutdown(self) -> None:
        pass

    def abort(self, reason: str = "") -> None:
        pass

    def statistics(self) -> AssociationStatistics:
        return AssociationStatistics()


class DirectCarrier:
    """Joins the two services."""

    name = "direct"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.accept: Callable[[str], Any]

    def listen(self, address: Address, accept: Callable[[str], Any]) -> Any:
        self.accept = accept

        class Listener:
            def close(self) -> None:
                pass

        listener: Any = Listener()
        listener.address = address
        return listener

    def connect(self, address: Address, handler: Any) -> Any:
        here, there = Side(self.loop), Side(self.loop)
        here.other, there.other = there, here
        here.handler, there.handler = handler, self.accept("here")
        self.loop.call_soon(there.handler.association_up, there)
        self.loop.call_soon(here.handler.association_up, here)
        return here

    def close(self) -> None:
        pass


class Hello:
    """An application that answers at once."""

    async def start(self, service: AppService) -> None:
        pass

    def request(self, exchange: AppExchange) -> None:
        exchange.take_body()
        exchange.send(b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nHello world\n")
        exchange.end()

    async def stop(self) -> None:
        pass


class WebServer(asyncio.Transport):
    """A web server's connection: sends the next request when the answer is whole."""

    def __init__(self, owner: Load) -> None:
        super().__init__()
        self.owner = owner
        self.server: DownstreamConnection

    def write(self, data: Any) -> None:
        self.owner.answered(self, data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def abort(self) -> None:
        pass


class Load:
    """So many requests, CONCURRENCY at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.request = b"".join(
            [
                begin_request(1, 1, 1),
                record(RecordType.PARAMS, 1, encode_pairs(PARAMS)),
                record(RecordType.PARAMS, 1),
                record(RecordType.STDIN, 1),
            ]
        )
        self.left = 0
        self.under_way = 0
        self.done: asyncio.Future[None]

    def send(self, transport: WebServer) -> None:
        self.left -= 1
        self.under_way += 1
        self.loop.call_soon(transport.server.data_received, self.request)

    def answered(self, transport: WebServer, data: bytes) -> None:
        if b"Hello world" not in data:
            raise AssertionError(data)
        self.under_way -= 1
        if self.left > 0:
            self.send(transport)
        elif self.under_way == 0:
            self.done.set_result(None)


async def measure(requests: int, rounds: int, profile: bool) -> None:
    loop = asyncio.get_running_loop()
    carrier: Any = DirectCarrier(loop)
    app = AppService(Hello(), carrier, [Address(("127.0.0.1",), 9000)])
    await app.start()
    web = WebService(carrier, [], [BackEndOptions(Address(("127.0.0.1",), 9000))])
    await web.start()
    load = Load(loop)
    connections = Connections()
    transports = []
    for _ in range(CONCURRENCY):
        transport = WebServer(load)
        transport.server = DownstreamConnection(web, connections)
        transport.server.connection_made(transport)
        transports.append(transport)
    gc.set_threshold(20_000, 20, 20)  # as the program does
    await asyncio.sleep(0.1)
    times = []
    profiler = cProfile.Profile()
    for number in range(rounds):
        load.left = requests
        load.done = loop.create_future()
        before = time.process_time()
        if profile and number == rounds - 1:
            profiler.enable()
        for transport in transports:
            load.send(transport)
        await load.done
        profiler.disable()
        times.append((time.process_time() - before) / requests * 1e6)
    print(f"{min(times):.1f} us a request at least, median {sorted(times)[len(times) // 2]:.1f}, {rounds} rounds")
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(32)
    await web.stop(0)
    await app.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="where the time goes, in the last round")
    options = parser.parse_args()
    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(options.requests, options.rounds, options.profile))


if __name__ == "__main__":
    main()
