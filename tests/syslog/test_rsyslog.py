"""Lines to Debian's real rsyslog over UDP, TCP and TLS."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fcgi_syslog import sinks
from fcgi_syslog.options import Output
from fcgi_syslog.outputs import make_sink
from fcgi_syslog.sinks import Sink

from fcgi_core.plugin import FeedEntry
from tests.syslog.rsyslog import COMMAND, TLS_DRIVER, Rsyslog

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")
pytestmark = pytest.mark.skipif(
    COMMAND is None or TLS_DRIVER is None, reason="rsyslog is not installed (script/setup test)"
)


def entry(message: str) -> FeedEntry:
    fields = {"uri": '/a?b="]\\', "user": "x\ny", "method": "GET"}
    return FeedEntry(1_700_000_000.25, 3, message, "shop.example", "shop", 16, "71", "cart", "req-1", fields, "app1")


PARTS = (
    "131|app1|shop|71|cart|"
    '[fcgi@32473 server_name="shop.example" request="req-1" uri="/a?b=\\"\\]\\\\" method="GET"]'
    '[fields@32473 user="x\\\\ny"]|'
)


@pytest.fixture
def started() -> Iterator[list[Rsyslog | Sink]]:
    running: list[Rsyslog | Sink] = []
    yield running
    for one in reversed(running):
        one.stop() if isinstance(one, Rsyslog) else one.close()


def rsyslog(started: list[Rsyslog | Sink], folder: Path, *, tls: bool = False, client: str = "") -> Rsyslog:
    server = Rsyslog(folder, tls=tls, client=client)
    started.append(server)
    server.start()
    return server


def sink(started: list[Rsyslog | Sink], **options: object) -> Sink:
    made = make_sink(Output.model_validate(options), LOG, acknowledged=True)
    started.append(made)
    return made


def test_every_field_arrives(started: list[Rsyslog | Sink], tmp_path: Path) -> None:
    server = rsyslog(started, tmp_path, tls=True)
    outputs = {
        "udp": sink(started, udp=f"127.0.0.1:{server.udp}"),
        "tcp": sink(started, tcp=f"localhost:{server.tcp}"),
        "tls": sink(started, tls=f"localhost:{server.tls}", ca=f"{tmp_path}/ca.pem"),
    }
    hostile = "one\n<0>1 - - forged - - - two\x1b[31m 7 <14>three"
    for name, output in outputs.items():
        output.write(entry(f"{name}: é {hostile}"))
        output.write(entry(f"{name}: {'x' * 7000}"))
    for name, output in outputs.items():
        assert output.drain()
        first, second = server.lines_with(f"{name}: ", 2)
        assert first == f"{PARTS}{name}: é one\\n<0>1 - - forged - - - two\\x1b[31m 7 <14>three"
        assert second == f"{PARTS}{name}: {'x' * 7000}"
    server.stop()
    assert len(server.lines) == 6


def test_a_client_shows_its_certificate(
    started: list[Rsyslog | Sink], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = rsyslog(started, tmp_path, tls=True, client="web.example")
    known = {"ca": f"{tmp_path}/ca.pem", "certificate": f"{tmp_path}/client.pem", "key": f"{tmp_path}/client.key"}
    good = sink(started, tls=f"127.0.0.1:{server.tls}", peer_name="localhost", **known)
    good.write(entry("known"))
    assert server.lines_with("known")
    wrong_name = sink(started, tls=f"127.0.0.1:{server.tls}", **known)
    wrong_name.write(entry("not to this one"))
    assert not wrong_name.drain(0.3)
    assert "certificate verify failed" in caplog.text
    assert not [line for line in server.lines if "not to this one" in line]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_restarted(
    started: list[Rsyslog | Sink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """All lines arrive; some may come twice."""
    monkeypatch.setattr(sinks, "RETRY_AFTER", 0.02)
    server = rsyslog(started, tmp_path)
    output = sink(started, tcp=f"127.0.0.1:{server.tcp}")
    count = 6000
    for number in range(count // 3):
        output.write(entry(f"number {number};"))
    assert server.lines_with("number")
    for number in range(count // 3, count * 2 // 3):
        output.write(entry(f"number {number};"))
    server.stop(how)
    for number in range(count * 2 // 3, count):
        output.write(entry(f"number {number};"))
    server.start()
    server.lines_with(f"number {count - 1};")
    assert output.drain()
    server.stop()
    arrived = {line.rpartition(" ")[2] for line in server.lines}
    missing = [number for number in range(count) if f"{number};" not in arrived]
    assert missing == []
