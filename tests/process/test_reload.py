"""What a signal does with the configuration."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.process.config import Config, WebConfig, load_config
from fcgi_core.process.reload import reload_plugins
from tests.hosting.supervised import VirtualLoop

WEB = {"listen": "unix:/run/web.sock", "connect": "192.0.2.1:9000"}


class Side:
    """A web side that runs with the file of `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write({"web": WEB})
        self.config = load_config(str(path), {}, "web")
        self.members: list[list[str]] = []
        self.left: list[str] = []
        """What it cannot adopt."""
        self.supervisor = Supervisor(self.config.load_plugins(), VirtualLoop(), lambda call: call(), web=True)

    def write(self, content: Any) -> None:
        self.path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))

    def hang_up(self) -> None:
        reload_plugins(self.config, self.supervisor, self.adopt)

    def adopt(self, web: WebConfig) -> list[str]:
        self.members.append([str(one) for _, one in web.all_connect()])
        return self.left

    def plugins(self) -> list[str]:
        return [one["name"] for one in self.supervisor.statistics()]


@pytest.fixture
def side(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Side:
    monkeypatch.setattr(logging.getLogger("fcgi_sctp"), "propagate", True)
    caplog.set_level(logging.INFO, "fcgi_sctp")
    return Side(tmp_path / "web.yaml")


def test_plugins_are_adopted(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    side.write({"web": WEB, "plugins": {"syslog": {}}})
    side.hang_up()
    assert side.plugins() == ["syslog"]
    assert caplog.messages[-1] == "configuration reloaded"
    assert "restart" not in caplog.text


def test_options_that_need_a_restart_are_logged(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    web = {**WEB, "connect": [WEB["connect"], "192.0.2.2:9000"], "health": "/h", "grace": "10s", "subset": 1}
    side.write({"web": web, "sctp": {"window": "64K"}, "log_level": "debug", "plugins": {"syslog": {}}})
    side.hang_up()
    waiting = "these options have changed in the file and need a restart: web.health, sctp.window, log_level"
    assert caplog.messages[-2:] == [waiting, "configuration reloaded"]
    assert side.plugins() == ["syslog"]
    assert side.members == [["192.0.2.1:9000", "192.0.2.2:9000"]]
    side.write({"web": WEB})
    caplog.clear()
    side.hang_up()
    assert caplog.messages[-1] == "configuration reloaded"
    assert "restart" not in caplog.text, "it is as it runs"


def test_sites_are_adopted_but_for_their_limits_and_sockets(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    shop = {"server_name": "shop.example", "connect": "192.0.2.3:9000"}
    side.write({"web": {**WEB, "sites": {"shop": shop, "gone": {**shop, "server_name": "gone.example"}}}})
    side.config = load_config(str(side.path), {}, "web")
    changed = {**shop, "server_name": ["a.example"], "connect": "192.0.2.4:9000", "subset": 1, "queue_length": 5}
    blog = {"listen": "unix:/run/blog.sock", "connect": "192.0.2.5:9000"}
    side.write({"web": {**WEB, "sites": {"shop": {**changed, "health": "/h"}, "new": shop, "blog": blog}}})
    side.left = ["web.sites.blog"]
    side.hang_up()
    waiting = "web.sites.shop.health, web.sites.shop.queue_length, web.sites.blog"
    assert f"these options have changed in the file and need a restart: {waiting}" in caplog.messages
    assert side.members == [[f"192.0.2.{number}:9000" for number in (1, 5, 3, 4)]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "web: is missing"),
        ("web: [", "is not YAML"),
        ({"web": {**WEB, "grace": "long"}}, "web.grace: is 'long'"),
        ({"web": WEB, "plugins": {"nosuch": {}}}, "plugins.nosuch: no such plugin"),
        ({"web": WEB, "plugins": {"syslog": 3}}, "plugins.syslog: is 3"),
    ],
)
def test_a_file_with_an_error_changes_nothing(
    side: Side, caplog: pytest.LogCaptureFixture, content: Any, told: str
) -> None:
    side.write({"web": WEB, "plugins": {"syslog": {}}})
    side.hang_up()
    side.write(content)
    side.hang_up()
    assert caplog.messages[-1].startswith("configuration not reloaded: ")
    assert told in caplog.messages[-1]
    assert side.plugins() == ["syslog"]


def test_no_file(caplog: pytest.LogCaptureFixture, side: Side) -> None:
    reload_plugins(Config(), side.supervisor)
    assert caplog.messages[-1] == "SIGHUP ignored: this process was started without a configuration file"
