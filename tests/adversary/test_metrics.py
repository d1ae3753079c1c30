"""Applications whose figures are none, and users of the network who hold the metrics page without asking for it."""

from __future__ import annotations

import asyncio
import re
import time

from fcgi_metrics.endpoint import MAX_CONNECTIONS
from fcgi_metrics.snapshot import split
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fcgi_core.protocol.records import RecordType
from tests.adversary.lab import Lab, Victim, until
from tests.system.stack import PATIENCE, free_port

FIGURES = """\
* # type hostile counter
* hostile_total -5
shop.example fcgi_app_requests_total{status="2xx"} -1017
* fcgi_app_process_cpu_seconds_total nan
* fcgi_app_process_resident_memory_bytes inf
* # type hostile_level gauge
* hostile_level{kind="inf"} inf
* hostile_level{kind="minus"} -inf
* hostile_level{kind="nan"} nan
shop.example fcgi_app_request_seconds 0.1=3,+Inf=3,sum=nan"""


async def page(port: int) -> str:
    """What Prometheus gets."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body.decode()


def test_silent_connections_do_not_keep_the_page_from_prometheus(lab: Lab) -> None:
    async def attack() -> None:
        port = free_port()
        lab.start_web(lab.application(), plugins={"metrics": {"listen": f"127.0.0.1:{port}"}})
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * MAX_CONNECTIONS)]
        for number, (_, writer) in enumerate(silent):
            if number % 2:
                writer.write(b"GET /metrics HTT")
        assert (await page(port)).endswith("# EOF\n")
        for reader, _ in silent[:MAX_CONNECTIONS]:
            try:
                assert await reader.read() == b"", "the oldest made room"
            except ConnectionError:
                pass
        for _, writer in silent:
            writer.close()

    lab.run(attack)


def test_figures_that_are_none_harm_no_page_and_no_report(lab: Lab) -> None:
    """One inf or nan stopped all reports to statsd; a strict parser refused the page for one negative counter."""

    async def attack() -> None:
        port, statsd = free_port(), Datagrams()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: statsd, ("127.0.0.1", 0))
        address = "{}:{}".format(*transport.get_extra_info("sockname"))
        metrics = {"listen": f"127.0.0.1:{port}", "interval": 1, "statsd": address}
        hostile = lab.application()
        lawful = lab.start_app(plugins={"metrics": {"interval": 1}})
        web = lab.start_web(hostile, lawful, plugins={"metrics": metrics})
        end = await hostile.next()
        end.settle(name="hostile", channels=("metrics;association;background",))
        await end.comes(RecordType.SETTINGS)
        for part in split(1, time.time(), FIGURES.split("\n")):
            end.item(part)
        await snapshots_come(web, port)
        samples = [sample for family in text_string_to_metric_families(await page(port)) for sample in family.samples]
        cpu = [one for one in samples if one.name == "fcgi_app_process_cpu_seconds_total"]
        assert [one.value > 0 for one in cpu] == [True], cpu
        counts = [one for one in samples if one.name in ("fcgi_app_requests_total", "hostile_total")]
        assert all(one.value >= 0 for one in counts), counts
        (omitted,) = [one for one in samples if one.labels.get("reason") == "malformed"]
        assert omitted.value == 5, "what no counter and no figure of ours can be"
        statsd.lines.clear()
        await until(lambda: any("fcgi_app_process" in line for line in statsd.lines), "reports go on", web)
        assert not [line for line in statsd.lines if re.search(":[+-]?(inf|nan)", line, re.IGNORECASE)]
        transport.close()

    lab.run(attack)


class Datagrams(asyncio.DatagramProtocol):
    """A statsd server."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def datagram_received(self, data: bytes, address: object) -> None:
        self.lines += data.decode().split("\n")


async def snapshots_come(web: Victim, port: int) -> None:
    """Wait until the page has the snapshots of two processes."""
    async with asyncio.timeout(PATIENCE):
        while (await page(port)).count("fcgi_metrics_snapshot_age_seconds{") < 2:
            await asyncio.sleep(0.05)
