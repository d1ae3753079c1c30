"""What is attacked, and who attacks it: the real programs as processes, and hostile ends that speak records to them
over the real carrier.

    def test_that(lab):
        async def attack():
            app = lab.start_app()
            web = await lab.web_side(app)                  # a hostile web side on an association with it
            web.send(control(RecordType.SETTINGS, …))
            await web.end()

        lab.run(attack)

The attackers run in the test's own process, so that `app.resident()` measures the victim alone. A test says what the
victim may pay, and that another still gets its answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml
from fcgi_cli.admin import AdminClient

from fcgi_core.hosting.byte_stream import RecordReader
from fcgi_core.protocol.records import RecordType, begin_request, decode_pairs, encode_pairs, record, stream_records
from fcgi_core.protocol.settings import Settings
from fcgi_core.sctp.carrier import Address, Carrier, CarrierOptions, Message
from fcgi_core.sctp.userspace.carrier import UserspaceCarrier
from tests.protocol.helpers import control, cut, message, settings_message
from tests.sctp.contract import Recorder
from tests.system.stack import COMMAND, PATIENCE, Program, free_address

GET = {
    "REQUEST_METHOD": "GET",
    "SERVER_NAME": "shop.example",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "QUERY_STRING": "",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/hello",
    "REQUEST_URI": "/hello",
}
MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


class Victim(Program):
    """`fcgi-sctp web` or `fcgi-sctp app`, with what it can be asked."""

    def __init__(self, name: str, command: list[str], folder: Path, address: str) -> None:
        super().__init__(name, command, folder)
        self.folder = folder
        self.address = address
        """An application's: where it listens. A web side's: the path of its socket toward the web server."""

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def ask(self, what: str, **question: Any) -> Any:
        """What it answers on its admin socket."""

        def ask() -> Any:
            client = AdminClient(str(self.folder / f"{self.name}.admin"))
            try:
                return client.ask(what, **question)
            finally:
                client.close()

        return await asyncio.to_thread(ask)

    async def status(self) -> dict[str, Any]:
        return dict(await self.ask("status"))

    async def feed(self) -> list[dict[str, Any]]:
        """The lines of its live feed up to now."""
        reader, writer = await asyncio.open_unix_connection(str(self.folder / f"{self.name}.feed"))
        writer.write(b'{"since": 1}\n')
        writer.write_eof()
        lines = [json.loads(line) for line in (await reader.read()).splitlines()]
        writer.close()
        return lines[1:]

    async def feeds(self, text: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many lines of its live feed hold `text`; those lines."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [line for line in await self.feed() if text in line["message"]]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.02)

    async def reads_its_log_until(self, text: str, count: int = 1) -> None:
        await until(lambda: self.text.count(text) >= count, f"{self.name} logs {text!r}", self)

    async def grown_since(self, before: int, most: int, why: str) -> None:
        """Wait until its memory is at most `most` bytes more than `before`; free memory is given back in its time."""
        try:
            await until(lambda: self.resident() - before <= most, why, self)
        except AssertionError:
            grown = (self.resident() - before) / MIB
            raise AssertionError(f"{why}: {self.name} grew by {grown:.1f} MiB, {most / MIB:.1f} are allowed") from None


class End(Recorder):
    """A hostile end of an association: it sends whatever it is told, and keeps what comes."""

    def tell(self, *messages: Message) -> None:
        self.send(messages)

    def settle(self, settings: Settings | None = None, *, instance: str = "hostile", **named: Any) -> None:
        """SETTINGS as any peer would send them, but for what is named."""
        self.send([settings_message(settings or Settings(instance=instance, **named))])

    def request(self, request_id: int = 1, params: dict[str, str] | None = None, generation: int = 0) -> None:
        """A web side's: a whole request without a body."""
        encoded = encode_pairs(GET | (params or {}))
        ends = (
            record(RecordType.PARAMS, request_id, b"", generation),
            record(RecordType.STDIN, request_id, b"", generation),
        )
        parts = stream_records(RecordType.PARAMS, request_id, encoded, generation)
        first = begin_request(request_id, 1, 0, generation)
        if len(encoded) < 16_000:
            self.send([Message(2, b"".join((first, *parts, *ends)))])
        else:
            self.send([Message(2, one) for one in (first, *parts, b"".join(ends))])

    def answer(self, request_id: int, generation: int, text: bytes = b"hello") -> None:
        """An application's: a whole answer."""
        head = b"Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n"
        self.send(
            [
                message(RecordType.STDOUT, request_id, head + text, generation),
                message(RecordType.STDOUT, request_id, b"", generation),
                message(RecordType.END_REQUEST, request_id, bytes(8), generation),
            ]
        )

    def item(self, item: bytes, channel: int = 0, stream: int = 2, request: int = 0, generation: int = 0) -> None:
        """An item of feedback, in parts where it is long."""
        parts = [item[at : at + 16_000] for at in range(0, len(item), 16_000)]
        for part in parts[:-1]:
            self.send([message(RecordType.FEEDBACK_MORE + channel, request, part, generation, stream)])
        self.send([message(RecordType.FEEDBACK + channel, request, parts[-1], generation, stream)])

    def records(self, kind: int | None = None) -> list[Any]:
        """What has come, cut into records; those of one type if it is named."""
        return [one for one in cut(*self.messages) if kind is None or one.type == kind]

    async def comes(self, kind: int, count: int = 1) -> list[Any]:
        """Wait for so many records of a type."""
        await self.until(lambda: len(self.records(kind)) >= count or bool(self.down))
        assert len(self.records(kind)) >= count, f"down: {self.down}"
        return self.records(kind)

    async def reason(self) -> str:
        """Why the victim gave the association up, in its own words: the ERROR record, else SCTP's."""
        down = await self.end()
        errors = self.records(RecordType.ERROR)
        return errors[-1].content.decode() if errors else down

    def configure(self, number: int, pairs: dict[str, str]) -> None:
        self.send([control(RecordType.CONFIG, encode_pairs({"FCGI_SCTP_ID": str(number), **pairs}))])

    async def configured(self, number: int) -> dict[str, str]:
        """The answer to the change of that number."""

        def answers() -> list[dict[str, str]]:
            pairs = [decode_pairs(one.content) for one in self.records(RecordType.CONFIG_RESULT)]
            return [one for one in pairs if one["FCGI_SCTP_ID"] == str(number)]

        await self.until(lambda: bool(answers() or self.down))
        assert answers(), f"down: {self.down}"
        return {name: value for name, value in answers()[0].items() if name != "FCGI_SCTP_ID"}


class Fleet:
    """A hostile application: every association that the victim makes with it, in their order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ends: list[End] = []

    def accept(self, peer: str) -> End:
        self.ends.append(End())
        return self.ends[-1]

    async def next(self, number: int = 0) -> End:
        """The association of that number, once it is up."""
        await until(lambda: len(self.ends) > number, f"the web side opens association {number}")
        end = self.ends[number]
        await end.until(lambda: end.association is not None)
        return end


class Lab:
    """The programs and the hostile ends of one test."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fa-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self.victims: list[Victim] = []
        self._carriers: list[Carrier] = []

    def run(self, attack: Callable[[], Awaitable[None]], *, throws: bool = False) -> None:
        """Run the attack; then every victim must still run and end in order, and nothing may have been thrown in it,
        unless its application `throws`."""

        async def whole() -> None:
            try:
                await attack()
            finally:
                for carrier in self._carriers:
                    carrier.close()

        try:
            asyncio.run(whole())
            for victim in self.victims:
                assert victim.running, f"{victim.name} ended:\n{victim.text[-4000:]}"
                assert throws or "Traceback" not in victim.text, victim.text[-4000:]
                assert victim.stop() == 0, victim.text[-4000:]
        except BaseException as error:
            for victim in self.victims:
                error.add_note(f"----- {victim.name}\n{victim.text[-4000:]}")
            raise
        finally:
            self.close()

    async def stop(self, victim: Victim) -> None:
        """Stop a victim while the attackers are still there; it must end in order."""
        assert await asyncio.to_thread(victim.stop) == 0
        assert "Traceback" not in victim.text
        self.victims.remove(victim)

    def close(self) -> None:
        for victim in self.victims:
            victim.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- victims

    def start_app(
        self,
        application: str | None = "tests.system.applications:plain",
        *,
        plugins: dict[str, Any] | None = None,
        name: str = "app",
        sctp: dict[str, Any] | None = None,
        **app: Any,
    ) -> Victim:
        address = free_address()
        section = {
            "application": application,
            "path": str(ROOT),
            "listen": address,
            "admin": f"{self.folder}/{name}.admin",
            "grace": 0,
            **app,
        }
        return self._start(name, "app", section, plugins, sctp, address)

    def start_web(
        self,
        *connect: Any,
        plugins: dict[str, Any] | None = None,
        name: str = "web",
        sctp: dict[str, Any] | None = None,
        **web: Any,
    ) -> Victim:
        """A web side whose applications are at these addresses: of a `Fleet`, of a `Victim`, or written."""
        section = {
            "listen": f"unix:{self.folder}/{name}.sock",
            "connect": [getattr(one, "address", one) for one in connect],
            "admin": f"{self.folder}/{name}.admin",
            "feed": f"{self.folder}/{name}.feed",
            "grace": 0,
            **web,
        }
        return self._start(name, "web", section, plugins, sctp, f"{self.folder}/{name}.sock")

    def _start(
        self,
        name: str,
        side: str,
        section: dict[str, Any],
        plugins: dict[str, Any] | None,
        sctp: dict[str, Any] | None,
        address: str,
    ) -> Victim:
        path = self.folder / f"{name}.yaml"
        common = {"sctp": {"carrier": "userspace", **(sctp or {})}, "plugins": plugins or {}}
        path.write_text(yaml.safe_dump({side: section, **common}))
        victim = Victim(name, [COMMAND, side, "--config", str(path)], self.folder, address)
        self.victims.append(victim)
        victim.says("ready")
        return victim

    # ---- attackers

    def _carrier(self, **options: Any) -> UserspaceCarrier:
        carrier = UserspaceCarrier(CarrierOptions(**{"connect_timeout": PATIENCE, **options}))
        self._carriers.append(carrier)
        return carrier

    async def web_side(self, app: Victim, *, settle: bool = True, **options: Any) -> End:
        """A hostile web side's association with an application; with SETTINGS exchanged, if it is to `settle`."""
        end = End()
        self._carrier(**options).connect(Address.parse(app.address), end)
        await end.until(lambda: bool(end.association or end.down))
        assert not end.down, end.down
        if settle:
            end.settle()
            await end.comes(RecordType.SETTINGS)
        return end

    def application(self, address: str = "", **options: Any) -> Fleet:
        """A hostile application that web sides can be told to connect to."""
        fleet = Fleet(address or free_address())
        self._carrier(**options).listen(Address.parse(fleet.address), fleet.accept)
        return fleet

    async def is_served(self, app: Victim) -> None:
        """Somebody else, who means well, still gets an answer of this application."""
        other = await self.web_side(app)
        other.request()
        (answer,) = await other.comes(RecordType.END_REQUEST)
        assert answer.content == bytes(8)
        other.up.shutdown()
        await other.end()


async def ask_web(web: Victim, params: dict[str, str] | None = None) -> bytes:
    """What a web side answers a web server's request with; b'' if it breaks off."""
    reader, writer = await asyncio.open_unix_connection(web.address)
    encoded = encode_pairs(GET | (params or {}))
    writer.write(
        begin_request(1, 1, 0)
        + record(RecordType.PARAMS, 1, encoded)
        + record(RecordType.PARAMS, 1)
        + record(RecordType.STDIN, 1)
    )
    records = RecordReader()
    answer = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while piece := await reader.read(65536):
                answer += b"".join(content for kind, _, content in records.feed(piece) if kind == RecordType.STDOUT)
    finally:
        writer.close()
    return answer


def stranger() -> socket.socket:
    """A UDP socket of somebody who has nothing to do with it."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


async def until(ready: Callable[[], Any], what: str, *running: Program) -> Any:
    """Ask until `ready` returns something true, and return that; the loop goes on meanwhile."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not (result := ready()):
                for program in running:
                    assert program.running, f"{program.name} ended:\n{program.text[-4000:]}"
                await asyncio.sleep(0.02)
            return result
    except TimeoutError:
        raise AssertionError(f"{what}: not within {PATIENCE:g} s") from None
