#!/usr/bin/env python3
"""What the Python of the main road costs, without sockets, SCTP or threads: CPU microseconds a request, least of many.

    .venv/bin/python bench/path.py [--case short,answer,upload] [--requests 5000] [--profile]

A web server's bytes go into the real FastCGI server, through both services and protocol connections, and the answer's
bytes come out, 32 requests at a time: short ones, answers of 1 MiB, or uploads of 1 MiB, whose records are nginx's of
32 KiB. The carrier hands messages over within the process. What this shows is the floor that the code sets;
`bench/throughput.py` has the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.protocol.records import VERSION, RecordType, begin_request, encode_pairs, record, stream_records
from fcgi_core.sctp.carrier import LARGE_MESSAGE, Address, Message
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
MIB = 1 << 20
END = bytes((VERSION, RecordType.END_REQUEST))
"""How the last record of an answer begins, 16 bytes before its end."""
READ = 256 << 10
"""Bytes of an upload that come at once: as many as uvloop reads."""


@dataclass(frozen=True)
class Case:
    """One kind of request."""

    answer: int
    upload: int
    share: int
    """Of the requests of a round, one in so many: these take longer."""


CASES = {"short": Case(12, 0, 1), "answer": Case(MIB, 0, 50), "upload": Case(12, MIB, 50)}


class Side:
    """An association within the process: what is sent arrives on the next turn of the loop."""

    peer = "here"
    outgoing_streams = incoming_streams = 256
    message_size = LARGE_MESSAGE

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


class Answering:
    """An application that takes the request's body as it comes, and answers at once when it has all."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.head = b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % case.answer
        self.body = (b"Hello world\n" * (case.answer // 12 + 1))[: case.answer]

    async def start(self, service: AppService) -> None:
        pass

    def request(self, exchange: AppExchange) -> None:
        if not exchange.input_closed:
            exchange.on_input = lambda: self.answer(exchange)
        self.answer(exchange)

    def answer(self, exchange: AppExchange) -> None:
        exchange.take_body()
        if not exchange.input_closed:
            return
        if self.case.answer == 12:
            exchange.send(self.head + self.body)
        else:
            exchange.send(self.head)
            exchange.send(self.body)
        exchange.end()

    async def stop(self) -> None:
        pass


class WebServer(asyncio.Transport):
    """A web server's connection: sends the next request when the answer is whole."""

    def __init__(self, owner: Load) -> None:
        super().__init__()
        self.owner = owner
        self.server: DownstreamConnection
        self.parts: list[bytes] = []
        """The rest of the request, the next part last."""
        self.due = 0
        """Bytes of the answer that have not come."""
        self.reading = True
        self.scheduled = False

    def begin(self) -> None:
        self.parts = list(self.owner.parts)
        self.due = self.owner.due
        self.send_soon()

    def send_soon(self) -> None:
        if self.parts and self.reading and not self.scheduled:
            self.scheduled = True
            self.owner.loop.call_soon(self.send)

    def send(self) -> None:
        self.scheduled = False
        if self.reading:
            self.server.data_received(self.parts.pop())
            self.send_soon()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.send_soon()

    def write(self, data: Any) -> None:
        self.due -= len(data)
        if data[-16:-14] == END:
            self.owner.answered(self)

    def writelines(self, data: Any) -> None:
        self.due -= sum(map(len, data[:-1]))
        self.write(data[-1])

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

    def __init__(self, loop: asyncio.AbstractEventLoop, case: Case) -> None:
        self.loop = loop
        request = b"".join(
            [
                begin_request(1, 1, 1),
                record(RecordType.PARAMS, 1, encode_pairs(PARAMS)),
                record(RecordType.PARAMS, 1),
                *stream_records(RecordType.STDIN, 1, bytes(case.upload), size=32 << 10),
                record(RecordType.STDIN, 1),
            ]
        )
        self.parts = [request[start : start + READ] for start in range(0, len(request), READ)][::-1]
        """A request as it comes, the first part last."""
        self.due = case.answer
        self.left = 0
        self.under_way = 0
        self.done: asyncio.Future[None]

    def send(self, transport: WebServer) -> None:
        self.left -= 1
        self.under_way += 1
        transport.begin()

    def answered(self, transport: WebServer) -> None:
        if transport.due > 0 or transport.parts:
            raise AssertionError(
                f"the answer ends {transport.due} bytes early, {len(transport.parts)} parts are unsent"
            )
        self.under_way -= 1
        if self.left > 0:
            self.send(transport)
        elif self.under_way == 0:
            self.done.set_result(None)


async def measure(name: str, requests: int, rounds: int, profile: bool) -> None:
    loop = asyncio.get_running_loop()
    case = CASES[name]
    requests = max(CONCURRENCY, requests // case.share)
    carrier: Any = DirectCarrier(loop)
    app = AppService(Answering(case), carrier, [Address(("127.0.0.1",), 9000)])
    await app.start()
    web = WebService(carrier, [], [BackEndOptions(Address(("127.0.0.1",), 9000))])
    await web.start()
    load = Load(loop, case)
    connections = Connections()
    transports = []
    for _ in range(CONCURRENCY):
        transport = WebServer(load)
        transport.server = DownstreamConnection(web.sites[""], connections)
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
    least, median = min(times), sorted(times)[len(times) // 2]
    print(f"{name}: {least:.1f} us a request at least, median {median:.1f}, {rounds} rounds of {requests}")
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(32)
    await web.stop(0)
    await app.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", choices=CASES, default="short")
    parser.add_argument("--requests", type=int, default=5000, help="of a round; of the long ones a fiftieth")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="where the time goes, in the last round")
    options = parser.parse_args()
    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(options.case, options.requests, options.rounds, options.profile))


if __name__ == "__main__":
    main()
