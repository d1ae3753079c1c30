"""Names that a web side makes up: thousands of virtual hosts, headers and parameters, each as long as it can be."""

from __future__ import annotations

import pytest

from fcgi_core.protocol.records import RecordType
from tests.adversary.lab import MIB, Lab

PLUGINS = {"syslog": {}, "metrics": {"listen": None, "interval": 1}}


@pytest.mark.parametrize(
    "application", ["tests.adversary.applications:says", "tests.system.asgi_applications:starlette"]
)
@pytest.mark.parametrize("name", ["SERVER_NAME", "HTTP_X"])
def test_long_names_are_not_kept(lab: Lab, application: str, name: str) -> None:
    """Tables have so many rows; a row had a megabyte."""

    async def attack() -> None:
        app = lab.start_app(application, plugins=PLUGINS)
        await app.status()  # figures of hosts are kept from now on
        web = await lab.web_side(app)

        async def ask(first: int, last: int) -> None:
            for number in range(first, last):
                long = "x" * 500_000 + str(number)
                pairs = {"SERVER_NAME": long} if name == "SERVER_NAME" else {f"HTTP_{long}": "1"}
                web.request(number + 1, {**pairs, "PATH_INFO": "/hello"})
                await web.comes(RecordType.END_REQUEST, number + 1)

        await ask(0, 20)
        before = app.resident()
        await ask(20, 150)
        await app.grown_since(before, 20 * MIB, "130 names of 500,000 characters")
        assert sum(len(host["server_name"]) for host in (await app.status())["hosts"]) < 100_000

    lab.run(attack)


def test_parameters_without_number_cost_their_own_request_alone(lab: Lab) -> None:
    """A megabyte of pairs of five bytes took 30 MB taken apart, in each of a thousand requests."""

    async def attack() -> None:
        app = lab.start_app(plugins=PLUGINS)
        web = await lab.web_side(app)
        many = {f"{number:x}": "" for number in range(100_000)}
        before = app.resident()
        for number in range(1, 11):
            web.request(number, many)
        await web.comes(RecordType.END_REQUEST, 10)
        assert app.resident() - before < 80 * MIB
        await lab.is_served(app)
        await app.reads_its_log_until("at most 10000 are accepted")

    lab.run(attack)
