"""The corpus, from real exchanges: `python -m tests.fuzz.make_corpus` writes it anew in tests/fuzz/corpus.

What `script/fuzz --grow` found is there too, under hashes for names, and stays."""

from __future__ import annotations

from pathlib import Path

from fcgi_core.protocol.events import RequestReceived
from fcgi_core.protocol.records import HEADER, RecordType, Role, record
from fcgi_core.sctp.carrier import Message
from tests.fuzz.targets import CHANNELS, PARAMS, SMALL, join
from tests.protocol.helpers import ROOM, Pair, of
from tests.web.web_server import padded, request

CORPUS = Path(__file__).with_name("corpus")
HASH = 40
"""Letters of the names that libFuzzer gives: SHA-1."""


class Overheard(Pair):
    """A pair whose messages are kept, for each receiver."""

    def __init__(self) -> None:
        self.heard: dict[str, list[Message]] = {"web": [], "application": []}
        super().__init__(SMALL, SMALL, channels=CHANNELS, streams=8)

    def run(self) -> None:
        moving = True
        while moving:
            to_app, to_web = self.web.take(ROOM), self.app.take(ROOM)
            moving = bool(to_app or to_web)
            self.heard["application"] += to_app
            self.heard["web"] += to_web
            self.app_events += self.app.receive(to_app, self.now)
            self.web_events += self.web.receive(to_web, self.now)


def short(pair: Overheard) -> None:
    pair.web.begin_request(PARAMS, body=b"")
    pair.run()
    (received,) = of(pair.take_app(), RequestReceived)
    pair.app.send_output(received.request, b"Content-Type: text/plain\r\n\r\nhello\n")
    pair.app.send_stderr(received.request, b"a line\n")
    pair.app.end_request(received.request)
    pair.run()


def bodies(pair: Overheard) -> None:
    sent = pair.web.begin_request(PARAMS)
    pair.web.send_input(sent, b"i" * 6000)
    pair.web.end_input(sent)
    pair.run()
    (received,) = of(pair.take_app(), RequestReceived)
    pair.app.consumed(received.request, 4096)
    pair.app.send_output(received.request, b"o" * 6000)
    pair.app.end_request(received.request, 1)
    pair.run()
    pair.web.consumed(sent, 4096)
    pair.run()


def roles(pair: Overheard) -> None:
    filtered = pair.web.begin_request(PARAMS, role=Role.FILTER)
    pair.web.send_input(filtered, b"stdin")
    pair.web.end_input(filtered)
    pair.web.send_input(filtered, b"data", is_data=True)
    pair.web.end_input(filtered, is_data=True)
    pair.web.begin_request(PARAMS, role=Role.AUTHORIZER)
    aborted = pair.web.begin_request(PARAMS)
    pair.run()
    pair.web.abort(aborted)
    pair.run()
    for event in of(pair.take_app(), RequestReceived):
        pair.app.end_request(event.request)
    pair.run()


def beside(pair: Overheard) -> None:
    """Feedback, configuration, acknowledgements, the end."""
    sent = pair.web.begin_request(PARAMS, body=b"")
    pair.run()
    (received,) = of(pair.take_app(), RequestReceived)
    for connection, name, each in ((pair.web, "application", sent), (pair.app, "web", received.request)):
        connection.send_feedback(f"{name}.request", b"f" * 5000, each)
        connection.send_feedback(f"{name}.association", b"item")
        connection.send_feedback(f"{name}.loose", b"loose")
        connection.send_config(7, {"level": "info"})
        connection.answer_config(7, {"level": ""})
    pair.web.acknowledge("web.association", 1)
    pair.app.acknowledge("application.association", 1)
    pair.app.drain()
    pair.run()


def main() -> None:
    for old in CORPUS.glob("*/*"):
        if len(old.name) != HASH:
            old.unlink()
    for exchange in (short, bodies, roles, beside):
        pair = Overheard()
        exchange(pair)
        for side, messages in pair.heard.items():
            write(side, exchange.__name__, [(each.stream, each.data) for each in messages])
            # the fuzzed connection has its peer's SETTINGS
            write(side, f"{exchange.__name__}-ready", [(each.stream, each.data) for each in messages[1:]])
        pair.app.fail("broken")
        write("web", "error", [(each.stream, each.data) for each in pair.app.take(ROOM)])
    asked = record(RecordType.GET_VALUES, 0, b"\x0e\x00FCGI_MAX_CONNS\x0f\x00FCGI_MPXS_CONNS")
    served = {
        "get": [request(1)],
        "post": [request(1, b"b" * 3000, size=1000)],
        "multiplexed": [request(1), request(2, b"two"), request(3, flags=0)],
        "padded": [padded(1, 1, bytes((0, 1, 1, 0, 0, 0, 0, 0)), 255), padded(4, 1, PARAMS, 3), padded(4, 1, b"", 0)],
        "cut": [request(1, b"body")[:30], request(1, b"body")[30:]],
        "filter": [request(1, b"in", role=Role.FILTER), record(8, 1, b"data") + record(8, 1)],
        "authorizer": [request(1, role=Role.AUTHORIZER)],
        "values": [asked, record(200, 0)],
        "abort": [request(1, b"body")[:-8], record(RecordType.ABORT_REQUEST, 1)],
        "odd": [HEADER.pack(1, 99, 1, 0, 0, 0), request(9, role=77)],
    }
    for name, chunks in served.items():
        write("downstream", name, [(0, chunk) for chunk in chunks])


def write(target: str, name: str, chunks: list[tuple[int, bytes]]) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(join(chunks))


if __name__ == "__main__":
    main()
