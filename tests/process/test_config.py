"""The configuration: accepted files; each problem names the file, the path in it, the value, and what is right."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError, field_validator

from fcgi_core.errors import ConfigError
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.plugin import Plugin
from fcgi_core.process.config import (
    Config,
    HealthConfig,
    SctpConfig,
    Seconds,
    Size,
    WebConfig,
    load_config,
)
from fcgi_core.process.examine import examine
from fcgi_core.process.schema import schema
from fcgi_core.sctp.carrier import CarrierOptions, Scheduler
from fcgi_core.sctp.silence import silence
from fcgi_core.web import resolver
from fcgi_core.web.probe import ProbeOptions
from fcgi_core.web.service import WebOptions

WEB = {"listen": "unix:/run/web.sock", "connect": "192.0.2.1:9000"}
APP = {"application": "shop:app", "listen": "0.0.0.0:9000"}


def load(tmp_path: Path, configuration: Any, **overrides: Any) -> Config:
    path = tmp_path / "fcgi.yaml"
    path.write_text(configuration if isinstance(configuration, str) else yaml.safe_dump(configuration))
    return load_config(str(path), overrides)


def problems(tmp_path: Path, configuration: Any, **overrides: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, configuration, **overrides)
    found = caught.value.problems
    path = str(tmp_path / "fcgi.yaml")
    assert all(problem.startswith(f"{path}: ") for problem in found), found
    return [problem.removeprefix(f"{path}: ") for problem in found]


def test_little_is_enough(tmp_path: Path) -> None:
    config = load(tmp_path, {"web": WEB, "app": APP})
    assert config.web is not None
    assert config.app is not None
    assert config.web.listen == ["unix:/run/web.sock"]
    assert [one.address for one in config.web.connect] == ["192.0.2.1:9000"]
    assert config.app.listen == ["0.0.0.0:9000"]
    assert config.sctp.carrier == "auto"
    assert config.plugins == {}
    assert config.log_level == "info"
    assert config.hook_limit == 1.0


def test_an_empty_file_is_a_configuration(tmp_path: Path) -> None:
    assert load(tmp_path, "").web is None


def test_lists_of_addresses(tmp_path: Path) -> None:
    web = {"listen": ["unix:/a", "127.0.0.1:9001"], "connect": ["192.0.2.1,192.0.2.2:9000/9900", "[2001:db8::1]:9000"]}
    config = load(tmp_path, {"web": web})
    assert config.web is not None
    assert config.web.listen == web["listen"]
    assert [one.address for one in config.web.connect] == web["connect"]


@pytest.mark.parametrize(
    ("text", "size"), [("64K", 65536), ("1 MiB", 1 << 20), ("2m", 2 << 20), ("1gb", 1 << 30), ("512", 512), (7, 7)]
)
def test_sizes(text: object, size: int) -> None:
    assert TypeAdapter(Size).validate_python(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1.5 m", 90), ("2h", 7200), (3, 3), (0.25, 0.25)]
)
def test_times(text: object, seconds: float) -> None:
    assert TypeAdapter(Seconds).validate_python(text) == seconds


@pytest.mark.parametrize("text", ["", "K", "10 parsecs", "-3s", "1.5.2s", "ten", None])
def test_invalid_times(text: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Seconds).validate_python(text)


def test_the_short_forms(tmp_path: Path) -> None:
    config = load(tmp_path, {"sctp": "userspace", "plugins": {"syslog": None}})
    assert config.sctp.carrier == "userspace"
    assert config.plugins == {"syslog": {}}
    assert [plugin.plugin.name for plugin in config.load_plugins()] == ["syslog"]


def test_every_sctp_setting_reaches_the_carrier() -> None:
    config = SctpConfig.model_validate(
        {
            "streams": 7,
            "scheduler": "round-robin",
            "interleaving": False,
            "mtu": 1280,
            "dead_after": "20s",
            "connect_timeout": "500ms",
            "send_buffer": "2M",
            "receive_buffer": "3M",
            "allowed_peers": "10.0.0.0/8",
            "udp_encapsulation": True,
            "udp_segmentation": False,
        }
    )
    options = config.carrier_options()
    assert (options.outgoing_streams, options.scheduler) == (7, Scheduler.ROUND_ROBIN)
    assert (options.interleaving, options.mtu, options.connect_timeout) == (False, 1280, 0.5)
    assert (options.send_buffer, options.receive_buffer) == (2 << 20, 3 << 20)
    assert options.allowed_peers == ("10.0.0.0/8",)
    assert (options.udp_encapsulation, options.udp_segmentation) == (True, False)
    for name, value in silence(20)._asdict().items():
        assert getattr(options, name) == value


def test_carrier_defaults_are_the_carriers_own_but_for_silence() -> None:
    assert SctpConfig().carrier_options() == replace(CarrierOptions(), **silence(10)._asdict())


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {"web": WEB, "sctp": {"window": "64K"}, "plugins": {"syslog": {"scope": "association"}}},
        web={"listen": ["127.0.0.1:9001"], "connect": None},
        sctp={"carrier": "userspace"},
        plugins={"syslog": {}},
        log_level=None,
    )
    assert config.web is not None
    assert config.web.listen == ["127.0.0.1:9001"]
    assert [one.address for one in config.web.connect] == ["192.0.2.1:9000"]
    assert (config.sctp.carrier, config.sctp.window) == ("userspace", 65536)
    assert config.plugins == {"syslog": {"scope": "association"}}, "--plugin syslog does not undo its options"


def test_flags_go_over_a_short_form(tmp_path: Path) -> None:
    config = load(tmp_path, {"sctp": "kernel"}, sctp={"streams": 64})
    assert config.sctp.carrier == "kernel"
    assert config.sctp.streams == 64
    app = {"fastcgi": "unix:/run/php.sock", "listen": "0.0.0.0:9000"}
    config = load(tmp_path, {"app": app}, app={"fastcgi": {"address": None, "connections": 7}})
    assert config.app is not None
    assert config.app.fastcgi is not None
    assert (config.app.fastcgi.address, config.app.fastcgi.connections) == ("unix:/run/php.sock", 7)


def test_who_may_connect_to_the_socket_toward_the_web_server(tmp_path: Path) -> None:
    def mode(**web: str) -> int:
        config = load(tmp_path, {"web": {**WEB, **web}})
        assert config.web is not None
        return config.web.mode

    assert mode() == 0o666
    assert mode(socket_group="www-data") == 0o660
    assert mode(socket_group="www-data", socket_mode="0666") == 0o666
    assert mode(socket_mode="600") == 0o600


def test_health(tmp_path: Path) -> None:
    config = load(tmp_path, {"web": {**WEB, "health": "/healthz"}})
    assert config.web is not None
    health = config.web.health
    assert health is not None
    assert ProbeOptions(**health.model_dump()) == ProbeOptions("/healthz"), "the defaults stand in one place"
    config = load(tmp_path, {"web": {**WEB, "health": {"uri": "/x?y", "interval": "500ms", "timeout": "500ms"}}})
    assert config.web is not None
    assert config.web.health is not None
    assert (config.web.health.interval, config.web.health.timeout) == (0.5, 0.5)
    assert load(tmp_path, {"web": WEB}).web == load(tmp_path, {"web": {**WEB, "health": None}}).web


def test_flags_alone() -> None:
    config = load_config(None, {"app": APP, "sctp": None})
    assert config.app is not None
    assert config.app.application == "shop:app"
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"app": {**APP, "threads": 0}})
    assert caught.value.problems[0].startswith("flags: app.threads: is 0; ")


@pytest.mark.parametrize(
    ("configuration", "fragments"),
    [
        ({"web": {"connect": "a:1"}}, ["web.listen", "missing"]),
        ({"web": {**WEB, "listen": "/run/web.sock"}}, ["web.listen", "'/run/web.sock'", "unix:/PATH"]),
        ({"web": {**WEB, "listen": "unix:"}}, ["web.listen", "'unix:'", "unix:/PATH"]),
        ({"web": {**WEB, "listen": []}}, ["web.listen", "[]", "at least one"]),
        ({"web": {**WEB, "connect": "nowhere"}}, ["web.connect.0", "'nowhere'", "HOST:PORT"]),
        ({"web": {**WEB, "connect": ["a:1", "b:99999"]}}, ["web.connect.1", "'b:99999'", "1 to 65535"]),
        ({"web": {**WEB, "request_timeout": "soon"}}, ["web.request_timeout", "'soon'", "number"]),
        ({"web": {**WEB, "request_timeout": 0}}, ["web.request_timeout", "0", "more than 0"]),
        ({"web": {**WEB, "socket_mode": "rw"}}, ["web.socket_mode", "'rw'"]),
        ({"web": {**WEB, "health": "healthz"}}, ["web.health.uri", "'healthz'"]),
        ({"web": {**WEB, "health": {"uri": "/", "timeout": 9}}}, ["web.health", "timeout must not be longer"]),
        ({"web": {**WEB, "health": {"uri": "/", "server_name": "shöp"}}}, ["web.health.server_name", "'shöp'"]),
        ({"web": {**WEB, "health": {"uri": "/", "params": {"X": "\n"}}}}, ["web.health.params.X"]),
        ({"web": {**WEB, "sites": {"Shop": {"connect": "a:1"}}}}, ["web.sites.Shop"]),
        (
            {"web": {**WEB, "sites": {"a": {"server_name": "a b", "connect": "a:1"}}}},
            ["web.sites.a.server_name.0", "*.D"],
        ),
        ({"web": {**WEB, "sites": {"a": {"server_name": "a*.x", "connect": "a:1"}}}}, ["web.sites.a.server_name.0"]),
        ({"web": {**WEB, "sites": {"a": {"server_name": "a"}}}}, ["web.sites.a.connect", "missing"]),
        ({"web": {**WEB, "sites": {"a": {"connect": "a:1"}}}}, ["web.sites.a: give server_name, listen or both"]),
        ({"web": {**WEB, "sites": {"a": {"conect": "a:1", "connect": "a:1"}}}}, ["web.sites.a.conect", "no such name"]),
        ({"web": {"sites": {"a": {"server_name": "a", "connect": "a:1"}}}}, ["web.sites.a.listen: is missing"]),
        ({"web": {"listen": "unix:/a"}}, ["web.connect: is missing"]),
        ({"web": {**WEB, "lisen": 1}}, ["web.lisen", "no such name", "listen", "connect", "request_timeout"]),
        (
            {"sctp": {"max_message": "1M", "send_buffer": "64K"}},
            ["sctp", "max_message (1048576)", "send_buffer (65536)"],
        ),
        ({"sctp": {"max_associations_per_address": 0}}, ["sctp.max_associations_per_address", "0", "at least 1"]),
        ({"web": {**WEB, "max_workers": 5000}}, ["web.max_workers", "5000", "1024"]),
        ({"web": 5}, ["web", "5"]),
        ({"app": {**APP, "application": "shop"}}, ["app.application", "'shop'"]),
        ({"app": {**APP, "threads": "many"}}, ["app.threads", "'many'", "whole number"]),
        ({"app": {**APP, "threads": 0}}, ["app.threads", "0", "at least 1"]),
        ({"app": {**APP, "script_name": "shop/"}}, ["app.script_name", "'shop/'"]),
        ({"sctp": "tcp"}, ["sctp.carrier", "'tcp'", "auto", "kernel", "userspace"]),
        ({"sctp": {"plan": "per-channel"}}, ["sctp: plan was removed", "delete it"]),
        ({"sctp": {"window": 1}}, ["sctp.window", "1", "4096"]),
        ({"sctp": {"dead_after": "1s"}}, ["sctp.dead_after", "1.0", "at least 2 was"]),
        ({"sctp": {"dead_after": 600}}, ["sctp.dead_after", "600", "at most 300 was"]),
        ({"sctp": {"allowed_peers": "10.0.0"}}, ["sctp.allowed_peers.0", "'10.0.0'", "IPv4 or IPv6 network"]),
        ({"webb": WEB}, ["webb", "no such name", "web", "app", "sctp", "plugins"]),
        ({"hook_limit": "10ms"}, ["hook_limit", "'10ms'", "at least 0.1"]),
        ({"log_level": "loud"}, ["log_level", "'loud'", "debug"]),
        ({"plugins": {"sislog": {}}}, ["plugins.sislog", "no such plugin", "syslog"]),
        ({"plugins": {"syslog": {"scope": "world"}}}, ["plugins.syslog.scope", "'world'", "request", "association"]),
        ({"plugins": {"syslog": {"scop": "request"}}}, ["plugins.syslog.scop", "scope"]),
        ({"plugins": ["syslog"]}, ["plugins", "['syslog']"]),
        ({"plugins": {"syslog": 3}}, ["plugins.syslog: is 3; names with values were expected"]),
        ({"plugins": {"syslog": ["debug"]}}, ["plugins.syslog: is ['debug']; names with values were expected"]),
        ({"plugins": {"syslog": "debug"}}, ["plugins.syslog: is 'debug'; names with values were expected"]),
        ({"plugins": {"": {}}}, ["plugins.'': no such plugin"]),
        ({"plugins": {"syslgo": {}}}, ["plugins.syslgo: no such plugin is installed; did you mean syslog?"]),
        ({"plugins": {"syslog": {"hosts": {"a": 3}}}}, ["plugins.syslog.hosts.a: is 3; options were expected"]),
        ({"plugins": {"syslog": {"hosts": [3]}}}, ["plugins.syslog.hosts: is [3]; SERVER_NAMEs"]),
        ({"plugins": {"syslog": {"severty": "err"}}}, ["plugins.syslog.severty", "did you mean severity?", "enabled"]),
        (
            {"plugins": {"syslog": {"outputs": [{"fil": "/x"}]}}},
            ["plugins.syslog.outputs.0.fil", "did you mean file?; names are: file, json, socket, journal, udp,"],
        ),
        ({"web": {**WEB, "health": {"uri": "/", "interval_": 1}}}, ["web.health.interval_", "did you mean interval?"]),
        ({"web": {**WEB, "connect": {"address": "a:1", "wight": 1}}}, ["web.connect.0.wight", "names are: address, d"]),
        ({"web": {**WEB, "connect": {"weight": 1}}}, ["web.connect.0: give one of address (HOST:PORT), dns"]),
        ({"web": {**WEB, "connect": {"address": "a:1", "dns": "b:1"}}}, ["web.connect.0: give one of address"]),
        ({"web": {**WEB, "connect": {"dns": "192.0.2.1:9000"}}}, ["web.connect.0.dns", "write the name of one host"]),
        ({"web": {**WEB, "connect": {"dns": "a,b:9000"}}}, ["web.connect.0.dns", "write the name of one host"]),
        ({"web": {**WEB, "connect": {"dns": "shop"}}}, ["web.connect.0.dns", "use HOST:PORT"]),
        ({"web": {**WEB, "connect": {"srv": "shop"}}}, ["web.connect.0.srv", "write _SERVICE._PROTOCOL.DOMAIN"]),
        ({"web": {**WEB, "connect": {"srv": "_a._udp.b/x"}}}, ["web.connect.0.srv", "with /UDPPORT after it"]),
        ({"web": {**WEB, "nameservers": "dns.internal"}}, ["web.nameservers.0", "write the IP address of a name serv"]),
        ({"web": {**WEB, "nameservers": ["::1", "1.1.1.1:0"]}}, ["web.nameservers.1", "write the IP address"]),
        ({"app": {**APP, "interface": "asig"}}, ["app.interface: is 'asig'", "did you mean asgi?"]),
        ({"app": {"listen": "a:1"}}, ["app: give either application (MODULE:CALLABLE) or fastcgi"]),
        ({"app": {**APP, "listen": "a:65534", "workers": 3}}, ["app: listen: a:65534: 3 workers need as many ports"]),
        ({"app": {**APP, "application": "shop"}}, ["app.application", "write it as in 'shop.wsgi:application'"]),
        ({"web": {**WEB, "name": False}}, ["web.name: is false; a text was expected: put it in quotes"]),
        ({"web": {**WEB, "name": 3}}, ["web.name: is 3; a text was expected: put it in quotes"]),
        ({"web": {**WEB, "socket_mode": 660}}, ["web.socket_mode: is 660; write permissions in octal and in quotes"]),
        ({"web": {**WEB, "socket_mode": "0999"}}, ["web.socket_mode: is '0999'; write permissions in octal"]),
        ({"web": {**WEB, "grace": "10 sec"}}, ["web.grace: is '10 sec'; write seconds as a number, or with a unit"]),
        ({"web": {**WEB, "grace": float("inf")}}, ["web.grace: is inf; at most 315360000"]),
        ({"web": {**WEB, "grace": float("nan")}}, ["web.grace: is nan; "]),
        ({"web": {**WEB, "grace": "9" * 21}}, ["web.grace: is '999", "write seconds"]),
        ({"web": {**WEB, "feed": ""}}, ["web.feed: is ''; the path of a unix socket has 1 to 107 bytes"]),
        ({"web": {**WEB, "admin": "/" + "x" * 107}}, ["web.admin: is '/xxx", "1 to 107 bytes"]),
        ({"web": {**WEB, "listen": "unix:/a\0b"}}, ["web.listen.0: is ", "no NUL"]),
        ({"web": {**WEB, "connect": "a\nb:1"}}, ["web.connect.0.address: is 'a\\nb:1'", "control characters"]),
        ({"sctp": {"window": "64X"}}, ["sctp.window: is '64X'; write bytes as a number, with K, M or G after it"]),
        ({"sctp": {"window": 10**30}}, ["sctp.window: is 1000", "at most"]),
        ({"sctp": {"window": "1" * 5000}}, ["sctp.window: is '111", "write bytes"]),
    ],
)
def test_each_problem_says_where_what_and_what_is_right(
    tmp_path: Path, configuration: Any, fragments: list[str]
) -> None:
    (problem,) = problems(tmp_path, configuration)
    assert problem.startswith(fragments[0]), problem
    assert all(fragment in problem for fragment in fragments), problem


def test_options_that_a_plugin_cannot_check() -> None:
    class Hasty(Plugin):
        name = "hasty"

        class Options(Plugin.Options):
            level: int = 0

            @field_validator("level", mode="before")
            @classmethod
            def _level(cls, value: Any) -> int:
                return len(value)

    with pytest.raises(ConfigError) as caught:
        load_plugins({"hasty": {"level": 3}}, {"hasty": Hasty}.__getitem__)
    assert caught.value.problems == [
        "plugins.hasty: the options cannot be checked: TypeError(\"object of type 'int' has no len()\")"
    ]


@pytest.mark.parametrize("text", ["web: {listen: '${NAME}'}", "web: {connect: 'a:1', name: w}"])
def test_a_fault_of_the_file_is_not_blamed_on_flags(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "unix:/a")
    (problem,) = problems(tmp_path, text, web={"feed": "/f.sock", "admin": None})
    assert problem in ("web.connect: is missing", "web.listen: is missing")


def test_a_flag_does_not_hide_an_error_in_the_file(tmp_path: Path) -> None:
    assert problems(tmp_path, {"web": 3}, web=WEB) == ["web: is 3; names with values were expected"]
    assert problems(tmp_path, {"web": 3}, web={"feed": None}) == ["web: is 3; names with values were expected"]


def test_a_fault_of_flags_is_blamed_on_flags(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^flags: web\.listen\.0: is 'x'"):
        load(tmp_path, {"web": WEB}, web={"listen": ["x"]})


def test_the_side_that_is_to_run_has_to_be_there(tmp_path: Path) -> None:
    path = tmp_path / "fcgi.yaml"
    path.write_text(yaml.safe_dump({"app": APP}))
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), {"web": {"listen": None}}, "web")
    assert caught.value.problems == [f"{path}: web: is missing; `fcgi-sctp web` needs it"]
    config = load_config(str(path), {}, "app")
    path.write_text("")
    assert config.read_again is not None
    with pytest.raises(ConfigError, match="app: is missing"):
        config.read_again()


def test_names_of_the_dns_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = ["a:1", {"dns": "b:1"}, {"srv": "_a._udp.b/9900"}]
    web = {**WEB, "connect": connect, "nameservers": ["::1", "[::1]:5353", "127.0.0.1:5353"]}
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"web": web}))
    loaded = load_config(str(path), {}, "web")
    assert loaded.web is not None
    assert [str(one) for one in loaded.web.connect] == ["a:1", "b:1", "_a._udp.b/9900"]
    assert not examine(loaded)
    monkeypatch.setattr(resolver, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        load_config(str(path), {}, "web")
    needs = "needs the Python package dnspython: pip install 'fcgi-sctp[dns]'"
    assert error.value.problems == [f"{path}: web.connect.1.dns: {needs}", f"{path}: web.connect.2.srv: {needs}"]
    assert examine(loaded) == [f"web.connect.1.dns: {needs}", f"web.connect.2.srv: {needs}"]
    assert load_config(str(path), {}).web, "the other side's file needs nothing"


def test_names_of_virtual_hosts_have_small_letters(tmp_path: Path) -> None:
    hosts = "plugins: {syslog: {hosts: {Shop.Example: {severity: debug}, blog.example: }}}"
    (syslog,) = load(tmp_path, hosts).load_plugins()
    assert {name: one.severity for name, one in syslog.hosts.items()} == {
        "shop.example": "debug",
        "blog.example": "info",
    }
    assert syslog.raw_hosts == {"shop.example": {"severity": "debug"}, "blog.example": {}}
    twice = "plugins: {syslog: {hosts: {Shop.Example: {severity: debug}, shop.example: {severity: err}}}}"
    assert problems(tmp_path, twice) == [
        "plugins.syslog.hosts.shop.example: stands twice, in upper and lower case; keep one"
    ]


def test_all_problems_are_reported(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        {"web": {"listen": "x"}, "app": {**APP, "threads": -1}, "plugins": {"sislog": {}, "syslog": {"severity": "?"}}},
    )
    starts = ("web.listen", "web.connect", "app.threads", "plugins.sislog", "plugins.syslog.severity")
    assert all(any(problem.startswith(start) for problem in found) for start in starts), found
    assert len(found) == len(starts)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("web: [", "is not YAML"),
        ("- web\n- app\n", "list"),
        ("just words", "str"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, fragment: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert fragment in problem


def test_the_line_of_broken_yaml(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "web:\n  listen: 'unix:/a\n")
    assert "line 2" in problem or "line 3" in problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "nothing.yaml"), {})
    assert caught.value.problems == [f"{tmp_path}/nothing.yaml: cannot be read: No such file or directory"]
    (tmp_path / "latin.yaml").write_bytes(b"log_level: \xe4")
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "latin.yaml"), {})
    assert "is not UTF-8 text" in caught.value.problems[0]


def test_every_name_is_described() -> None:
    """The JSON Schema is the reference: nothing in it goes without saying."""
    definitions = Config.model_json_schema()["$defs"]
    nameless = [
        f"{model}.{name}"
        for model, definition in definitions.items()
        for name, field in definition.get("properties", {}).items()
        if "description" not in field
    ]
    assert nameless == []


# ---- the schema, as an editor uses it

EXAMPLES = Path(__file__).parents[2] / "examples"


def complaints(content: Any) -> list[str]:
    jsonschema.Draft202012Validator.check_schema(schema())
    return [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(content)]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_editor_has_nothing_against_the_examples(path: Path) -> None:
    assert complaints(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "sctp: userspace",
        "sctp: {window: 64K, dead_after: 10s, allowed_peers: 10.0.0.0/8, streams: 64}",
        "web: {listen: 'unix:/a', connect: '192.0.2.1:9000', request_timeout: 10s, health: /h}",
        "web: {listen: ['a:1'], connect: ['b:1', {address: 'c:1', weight: 2}], health: null}",
        "app: {fastcgi: 'unix:/a', listen: '0.0.0.0:1', max_memory: 64M, workers: 2}",
        "app: {application: 'a:b', listen: 'a:1', workers: '${WORKERS}', threads: '${THREADS:-4}'}",
        "plugins: {syslog: , metrics: false}",
        "plugins: {syslog: {outputs: [{journal: true}], enabled: false, hosts: {shop.example: {severity: debug}}}}",
        "plugins:",
        "{include: 'conf.d/*.yaml', log_level: '${LEVEL:-info}'}",
    ],
)
def test_the_schema_accepts_valid_files(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "2")
    assert complaints(yaml.safe_load(text)) == []
    load(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "web: {listen: a, connect: b, x: 1}",
        "app: {application: 'a:b', listen: 'a:1', workers: some}",
        "plugins: {sislog: }",
        "plugins: {syslog: {hosts: {shop.example: {serverity: debug}}}}",
        "plugins: {syslog: {severity: loud}}",
        "plugins: {syslog: {enabled: perhaps}}",
        "sctp: tcp",
        "include: 5",
    ],
)
def test_the_schema_refuses_invalid_files(text: str, tmp_path: Path) -> None:
    assert complaints(yaml.safe_load(text)) != []
    problems(tmp_path, text)


@pytest.mark.parametrize(("config", "options"), [(WebConfig, WebOptions), (HealthConfig, ProbeOptions)])
def test_a_service_has_the_defaults_of_the_file(config: Any, options: Any) -> None:
    keys = {name: key for name, key in config.model_fields.items() if name != "socket_mode" and not key.is_required()}
    common = [one for one in fields(options) if one.name in keys]
    assert len(common) >= 5
    for one in common:
        default = one.default if one.default_factory is MISSING else one.default_factory()
        assert default == keys[one.name].get_default(call_default_factory=True), one.name


# ---- sites


SITES = {
    "shop": {"server_name": ["Shop.example", "*.shop.example"], "connect": "192.0.2.1:9000", "request_timeout": "30s"},
    "blog": {"listen": "unix:/b", "connect": [{"dns": "blog.internal:9000"}], "subset": 2, "health": "/healthz"},
}


def test_a_site_has_what_the_web_side_has_where_it_says_nothing() -> None:
    web = WebConfig.model_validate({"listen": "unix:/a", "queue_length": 5, "subset": 7, "sites": SITES})
    shop, blog = web.sites["shop"], web.sites["blog"]
    assert shop.server_name == ["shop.example", "*.shop.example"]
    assert [web.of(shop, name) for name in ("request_timeout", "queue_length", "subset", "health")] == [30, 5, 7, None]
    assert [web.of(blog, name) for name in ("request_timeout", "subset")] == [60, 2]
    assert web.of(blog, "health").uri == "/healthz"
    assert [path for path, _ in web.all_connect()] == ["web.sites.shop.connect.0", "web.sites.blog.connect.0"]
    assert list(web.contradictions()) == []


@pytest.mark.parametrize(
    ("web", "told"),
    [
        (
            {
                "sites": {
                    "a": {"server_name": "x", "connect": "a:1"},
                    "b": {"server_name": ["y", "X"], "connect": "a:1"},
                }
            },
            "web.sites.b: has x at unix:/a, and web.sites.a has it too",
        ),
        (
            {"connect": "a:1", "sites": {"a": {"listen": "unix:/a", "connect": "a:1"}}},
            "web.sites.a: has the other SERVER_NAMEs at unix:/a, and web.connect has it too",
        ),
        (
            {"sites": {"a": {"listen": "unix:/b", "connect": "a:1"}}},
            "web.listen: no site listens there: each has its own `listen`, and web.connect is missing",
        ),
    ],
)
def test_sites_that_contradict_each_other(web: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"web": {"listen": "unix:/a", **web}})
    assert caught.value.problems == [f"flags: {told}"]


def test_the_same_names_at_two_sockets_are_two_sites() -> None:
    there = {"listen": "unix:/b", "server_name": "x", "connect": "a:1"}
    load_config(
        None, {"web": {"listen": "unix:/a", "sites": {"a": {"server_name": "x", "connect": "a:1"}, "b": there}}}
    )


def test_options_of_plugins_for_a_site_are_those_of_its_hosts() -> None:
    site = {"server_name": ["a.example", "b.example"], "connect": "a:1", "plugins": {"syslog": {"severity": "error"}}}
    hosts = {"hosts": {"b.example": {"severity": "debug"}, "c.example": {"severity": "alert"}}}
    config = load_config(None, {"web": {"listen": "unix:/a", "sites": {"a": site}}, "plugins": {"syslog": hosts}})
    (syslog,) = config.load_plugins()
    assert {name: one["severity"] for name, one in syslog.raw_hosts.items()} == {
        "a.example": "error",
        "b.example": "debug",
        "c.example": "alert",
    }

    def told(**changes: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_config(
                None, {"web": {"listen": "unix:/a", "sites": {"a": {**site, **changes}}}, "plugins": {"syslog": {}}}
            )
        return caught.value.problems

    (problem,) = told(plugins={"syslog": {"severity": "loud"}})
    assert problem.startswith("flags: web.sites.a.plugins.syslog.severity: is 'loud'; ")
    assert told(plugins={"metrics": {}}) == [
        "flags: web.sites.a.plugins.metrics: is not enabled; name it in `plugins`, too"
    ]
    assert told(server_name="*.example") == [
        "flags: web.sites.a.plugins.syslog: options are by SERVER_NAME; this needs server_name, each without *"
    ]


def test_what_differs_in_sites() -> None:
    one = Config.model_validate({"web": {"listen": "unix:/a", "sites": SITES}})
    changed = {"shop": {**SITES["shop"], "queue_length": 3, "plugins": {"syslog": {}}}, "more": SITES["blog"]}
    other = Config.model_validate({"web": {"listen": "unix:/a", "sites": changed}})
    assert one.differences(other) == ["web.sites.shop.queue_length", "web.sites.blog", "web.sites.more"]
