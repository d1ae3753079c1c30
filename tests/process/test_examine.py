"""What `check` finds outside of the file: on this machine, in plugins, and in the file of the other side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fcgi_core.hosting import discovery
from fcgi_core.plugin import ApplicationHalf, Channel, Plugin, Scope, WebHalf, folder_problem
from fcgi_core.process.config import Config, load_config
from fcgi_core.process.examine import contradictions, doubts, doubts_between, examine

WEB = {"listen": "127.0.0.1:9001", "connect": "192.0.2.1:9000"}
APP = {"application": "json:dumps", "listen": "192.0.2.1:9000"}


def load(tmp_path: Path, **content: Any) -> Config:
    path = tmp_path / "fcgi.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(str(path), {})


def found(tmp_path: Path, **content: Any) -> list[str]:
    return examine(load(tmp_path, **content))


def test_nothing_is_missing(tmp_path: Path) -> None:
    outputs = [{"file": f"{tmp_path}/new/{{server_name}}.log"}, {"json": f"{tmp_path}/all.json"}, {"udp": "192.0.2.9"}]
    syslog = {"outputs": outputs, "delivery": "acknowledged", "spool": f"{tmp_path}/spool", "listen": f"{tmp_path}/log"}
    web = {**WEB, "listen": f"unix:{tmp_path}/web.sock", "feed": "/run/not-yet/feed.sock", "socket_group": "root"}
    plugins = {"syslog": syslog, "metrics": {}}
    assert found(tmp_path, web=web, app={**APP, "path": str(tmp_path)}, plugins=plugins) == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["fcgi.yaml"], "nothing is written"


@pytest.mark.parametrize(
    ("web", "told"),
    [
        ({"listen": ["127.0.0.1:1", "unix:/no/x.sock"]}, "web.listen.1: is '/no/x.sock'; there is no folder /no"),
        ({"feed": "/no/feed.sock"}, "web.feed: is '/no/feed.sock'; there is no folder /no"),
        ({"admin": "/no/web.sock"}, "web.admin: is '/no/web.sock'; there is no folder /no"),
        ({"feed": "/etc/passwd/feed.sock"}, "web.feed: is '/etc/passwd/feed.sock'; there is no folder /etc/passwd"),
        ({"socket_group": "no-such"}, "web.socket_group: is 'no-such'; there is no such group"),
        ({"feed_group": "no-such"}, "web.feed_group: is 'no-such'; there is no such group"),
        ({"admin_group": "no-such"}, "web.admin_group: is 'no-such'; there is no such group"),
    ],
)
def test_of_the_web_side(tmp_path: Path, web: dict[str, Any], told: str) -> None:
    assert found(tmp_path, web={**WEB, **web}) == [told]


@pytest.mark.parametrize(
    ("app", "fragments"),
    [
        ({"path": "/no/such"}, ["app.path: is '/no/such'; there is no such folder"]),
        ({"application": "nosuch:app"}, ["app.application: 'nosuch:app': no module 'nosuch' in "]),
        ({"application": "nosuch.sub:app"}, ["app.application: 'nosuch.sub:app': no module 'nosuch' in "]),
        ({"application": "good:nothing"}, ["app.application: 'good:nothing': module 'good' has no 'nothing'"]),
        ({"application": "good:number"}, ["app.application: 'good:number' is int, which cannot be called"]),
        ({"application": "needs:app"}, ["'needs:app' cannot be imported: ModuleNotFoundError", "needs.py, line 2)"]),
        ({"application": "broken:app"}, ["'broken:app' cannot be imported: SyntaxError"]),
        ({"application": "ends:app"}, ["'ends:app' cannot be imported: SystemExit: 3", "ends.py, line 1)"]),
        ({"admin": "/no/app.sock"}, ["app.admin: is '/no/app.sock'; there is no folder /no"]),
        ({"admin_group": "no-such"}, ["app.admin_group: is 'no-such'; there is no such group"]),
    ],
)
def test_of_the_application(tmp_path: Path, app: dict[str, Any], fragments: list[str]) -> None:
    (tmp_path / "good.py").write_text("number = 3\ndef app(): ...\n")
    (tmp_path / "needs.py").write_text("import os\nimport what_is_not_there\n")
    (tmp_path / "broken.py").write_text("def app(:\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    (problem,) = found(tmp_path, app={**APP, "path": str(tmp_path), **app})
    assert all(fragment in problem for fragment in fragments), problem
    assert examine(load(tmp_path, app={**APP, "path": str(tmp_path), "application": "broken:app"}), imports=False) == []


def test_applications_of_the_same_name(tmp_path: Path) -> None:
    before = list(sys.path)
    for folder, text in (("one", "app = 3"), ("two", "def app(): ...")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(text)
    paths = [str(tmp_path / folder) for folder in ("one", "two", "one")]
    told = [found(tmp_path, app={**APP, "path": path, "application": "same:app"}) for path in paths]
    assert [len(one) for one in told] == [1, 0, 1]
    assert "same" not in sys.modules
    assert sys.path == before
    assert found(tmp_path, app=APP) == []
    assert "json.decoder" in sys.modules, "what was there before stays"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ({"file": "/etc/passwd/x.log"}, "/etc/passwd is not a folder"),
        ({"json": "/etc/passwd/{server_name}/x.log"}, "/etc/passwd is not a folder"),
        ({"tls": "192.0.2.1", "ca": "/no/ca.pem"}, "the files for tls cannot be used: No such file or directory"),
    ],
)
def test_of_outputs(tmp_path: Path, output: dict[str, Any], told: str) -> None:
    plugins = {"syslog": {"outputs": [{"udp": "192.0.2.1"}, output]}}
    assert found(tmp_path, web=WEB, plugins=plugins) == [f"plugins.syslog.outputs.1: {told}"]
    assert found(tmp_path, app=APP, plugins=plugins) == [], "these are the web side's"


def test_of_the_application_sides_folders(tmp_path: Path) -> None:
    syslog = {"delivery": "acknowledged", "spool": "/etc/passwd/spool", "listen": "/etc/passwd/log"}
    assert found(tmp_path, app=APP, plugins={"syslog": syslog}) == [
        "plugins.syslog.spool: /etc/passwd is not a folder",
        "plugins.syslog.listen: /etc/passwd is not a folder",
    ]


def test_a_folder_that_this_user_may_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != "/usr")
    monkeypatch.setattr("getpass.getuser", lambda: "joe")
    assert folder_problem("/usr/not/yet/there") == "user joe may not write in /usr"
    assert folder_problem("/") == ""


def test_an_extra_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("prometheus_client", "prometheus_client.exposition"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in [one for one in sys.modules if one.startswith("fcgi_metrics.")]:
        if module != "fcgi_metrics.plugin":
            monkeypatch.delitem(sys.modules, module)
    (problem,) = found(tmp_path, web=WEB, plugins={"metrics": {}})
    assert problem.startswith("plugins.metrics: its web half cannot be imported: ")
    assert "prometheus_client" in problem


# ---- hooks


class Wrong(WebHalf):
    def feedback(self, channel: str, item: bytes) -> None:  # type: ignore[override]
        pass

    async def tick(self) -> None:  # type: ignore[override]
        pass


class Right(ApplicationHalf):
    @staticmethod
    def tick() -> None:  # type: ignore[override]
        pass


class Odd(Plugin):
    name = "odd"

    def web_half(self, host: Any, options: Any) -> WebHalf:
        return Wrong()

    def application_half(self, host: Any, options: Any) -> ApplicationHalf:
        from tests.process.test_examine import Right as Named

        return Named()

    def missing(self, options: Any, web: bool) -> list[str]:
        return ["file: there is no printer"] if web else options.printers


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_find_entry_point", lambda name: Odd)


@pytest.mark.usefixtures("odd")
def test_hooks_that_cannot_be_called_and_what_a_plugin_misses(tmp_path: Path) -> None:
    told = found(tmp_path, web=WEB, plugins={"odd": {"hosts": {"a": {}}}})
    called, *rest = told
    assert called.startswith("plugins.odd: Wrong: feedback(channel, item, request, association) cannot be called")
    assert rest == [
        "plugins.odd: Wrong: tick() must be a plain function: it is called on the event loop's thread",
        "plugins.odd.file: there is no printer",
    ]
    told = found(tmp_path, app=APP, plugins={"odd": {}})
    assert len(told) == 1
    assert told[0].startswith("plugins.odd.missing: raises AttributeError(")


@pytest.mark.usefixtures("odd")
def test_options_of_hosts_without_configure_are_reported(tmp_path: Path) -> None:
    told = found(tmp_path, web=WEB, app=APP, plugins={"odd": {"hosts": {"a": {}}}})
    assert "plugins.odd.hosts: it takes no options of one virtual host: its halves have no `configure`" in told


# ---- two sides


def told(tmp_path: Path, web: dict[str, Any], app: dict[str, Any]) -> list[str]:
    return contradictions(load(tmp_path, web=WEB, **web), load(tmp_path, **{"app": APP, **app}))


@pytest.mark.parametrize(
    ("connect", "listen"),
    [
        ("192.0.2.1:9000", "192.0.2.1:9000"),
        ("192.0.2.1:9000", "0.0.0.0:9000"),
        ("192.0.2.1,192.0.2.2:9000", "192.0.2.2:9000"),
        ("app.example:9000", "192.0.2.1:9000"),
        (["192.0.2.7:9000", "192.0.2.1:9000"], "192.0.2.1:9000"),
        ("192.0.2.1:9000/9900", "192.0.2.1:9000"),
        ({"dns": "app.example:9000"}, "192.0.2.1:9000"),
        (["192.0.2.7:9000", {"srv": "_fcgi-sctp._udp.app.example"}], "192.0.2.1:9001"),
    ],
)
def test_sides_that_meet(tmp_path: Path, connect: Any, listen: str) -> None:
    web = load(tmp_path, web={**WEB, "connect": connect})
    assert contradictions(web, load(tmp_path, app={**APP, "listen": listen})) == []


@pytest.mark.parametrize(
    ("connect", "listen"),
    [
        ("192.0.2.1:9000", "192.0.2.1:9001"),
        ("192.0.2.1:9000", "192.0.2.2:9000"),
        ("app.example:9000", "0.0.0.0:9001"),
    ],
)
def test_sides_that_do_not_meet(tmp_path: Path, connect: str, listen: str) -> None:
    web = load(tmp_path, web={**WEB, "connect": connect})
    (problem,) = contradictions(web, load(tmp_path, app={**APP, "listen": listen}))
    assert problem == f"web.connect names {connect}, but this application listens at {listen} (app.listen)"


def test_workers_and_udp_ports(tmp_path: Path) -> None:
    web = load(tmp_path, web={**WEB, "connect": "192.0.2.1:9002/9901"}, sctp="userspace")
    app = {**APP, "listen": "192.0.2.1:9000/9899"}
    assert contradictions(web, load(tmp_path, app={**app, "workers": 3}, sctp="userspace")) == []
    assert contradictions(web, load(tmp_path, app={**app, "workers": 2}, sctp="userspace")), "there is no third"
    web = load(tmp_path, web={**WEB, "connect": "192.0.2.1:9000/9901"}, sctp="userspace")
    assert contradictions(web, load(tmp_path, app=app, sctp="userspace")), "another UDP port"
    assert contradictions(web, load(tmp_path, app=app, sctp="kernel")), "another UDP port"


def test_carriers_that_do_not_understand_each_other(tmp_path: Path) -> None:
    (problem,) = told(tmp_path, {"sctp": "kernel"}, {"sctp": "userspace"})
    assert problem.startswith("sctp.carrier: one side has kernel and the other userspace")
    assert told(tmp_path, {"sctp": {"carrier": "kernel", "udp_encapsulation": True}}, {"sctp": "userspace"}) == []
    assert told(tmp_path, {"sctp": "kernel"}, {"sctp": "auto"}) == []


def test_plugins_that_are_not_the_same_on_both_sides(tmp_path: Path) -> None:
    assert told(tmp_path, {"plugins": {"syslog": {}}}, {"plugins": {"syslog": {"severity": "debug"}}}) == []
    assert told(tmp_path, {"plugins": {"syslog": {}}}, {"plugins": {"metrics": {}}}) == [
        "plugins.syslog: is enabled for web only; enable it on both sides",
        "plugins.metrics: is enabled for app only; enable it on both sides",
    ]
    assert told(tmp_path, {"plugins": {"syslog": {}}}, {"plugins": {"syslog": False}}) == [
        "plugins.syslog: is enabled for web only; enable it on both sides"
    ]
    problems = told(tmp_path, {"plugins": {"syslog": {}}}, {"plugins": {"syslog": {"scope": "stream"}}})
    assert all(problem.startswith("plugins.syslog: its options differ so that channel syslog") for problem in problems)
    assert any("is syslog;association;ordinary;counted for web and syslog;request;" in one for one in problems)


def test_a_plugin_without_channels_may_be_on_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone(Plugin):
        name = "alone"

    class Both(Plugin):
        name = "alone"

        def channels(self, options: Any) -> list[Channel]:
            return [Channel("alone", Scope.REQUEST)]

    monkeypatch.setattr(discovery, "_find_entry_point", lambda name: Alone)
    assert told(tmp_path, {"plugins": {"alone": {}}}, {}) == []
    monkeypatch.setattr(discovery, "_find_entry_point", lambda name: Both)
    assert told(tmp_path, {"plugins": {"alone": {}}}, {}) == [
        "plugins.alone: is enabled for web only; enable it on both sides"
    ]


# ---- time limits


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"web": WEB, "app": {**APP, "request_limit": "60s"}}, []),
        (
            {"web": {**WEB, "request_timeout": 10}},
            ["web.request_timeout: is 10 s, not more than sctp.dead_after (10 s)"],
        ),
        ({"app": {**APP, "request_limit": 30, "workers": 2}}, []),
        (
            {"app": {"listen": APP["listen"], "fastcgi": "unix:/php", "request_limit": 30}},
            ["app.fastcgi.timeout: is 60 s, more than app.request_limit (30 s)"],
        ),
    ],
)
def test_time_limits_of_a_file_that_work_against_each_other(
    tmp_path: Path, content: dict[str, Any], told: list[str]
) -> None:
    found = list(doubts(load(tmp_path, **content)))
    assert [doubt.partition(":")[0] for doubt in found] == [one.partition(":")[0] for one in told]
    assert all(doubt.startswith(one) for doubt, one in zip(found, told, strict=True)), found


def test_time_limits_that_the_web_side_does_not_wait_for(tmp_path: Path) -> None:
    web = load(tmp_path, web={**WEB, "request_timeout": 30})
    app = {"listen": APP["listen"], "fastcgi": "unix:/php", "request_limit": 31}
    limit, timeout = doubts_between(web, load(tmp_path, app=app))
    assert limit.startswith("app.request_limit: is 31 s, more than web.request_timeout (30 s)")
    assert timeout.startswith("app.fastcgi.timeout: is 60 s, more than web.request_timeout (30 s)")
    assert not list(doubts_between(web, load(tmp_path, app={**APP, "request_limit": 30})))
