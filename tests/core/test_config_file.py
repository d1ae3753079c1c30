"""Files that include others, and variables of the environment."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.config import load_config
from fcgi_core.config_file import read_files
from fcgi_core.errors import ConfigError


def write(folder: Path, **files: str) -> str:
    """Files by name, `__` for a slash; the path of the one called main."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(folder / "main.yaml")


def read(path: str, **environment: str) -> dict[str, Any]:
    return read_files(path, environment).content


def problems(path: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_files(path, environment)
    return caught.value.problems


def test_a_file_for_each_virtual_host(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main="include: hosts/*.yaml\nplugins: {syslog: {severity: err, hosts: {shop.example: {hold: true}}}}",
        hosts__shop="plugins: {syslog: {hosts: {shop.example: {severity: debug}}}}",
        hosts__blog="plugins: {syslog: {hosts: {blog.example: {severity: info}}}}",
    )
    hosts = {"shop.example": {"hold": True, "severity": "debug"}, "blog.example": {"severity": "info"}}
    assert read(path) == {"plugins": {"syslog": {"severity": "err", "hosts": hosts}}}
    (syslog,) = load_config(path, {}).load_plugins()
    assert {name: options.severity for name, options in syslog.hosts.items()} == {
        "shop.example": "debug",
        "blog.example": "info",
    }


def test_a_file_for_each_machine(tmp_path: Path) -> None:
    path = write(tmp_path, main="{include: 'machines/{hostname}.yaml', log_level: info}")
    assert read(path) == {"log_level": "info"}, "this one has none"
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines" / f"{socket.gethostname()}.yaml").write_text("log_level: debug")
    assert read(path) == {"log_level": "debug"}


def test_what_comes_later_goes_over_what_came_before(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main="{include: [b.yaml, a.yaml], web: {listen: [x, y], connect: m}, sctp: kernel,"
        " plugins: {metrics: {keep: 1}}}",
        b="{web: {listen: [b], name: b}, sctp: {plan: single}, plugins: {metrics: }}",
        a="{include: deep.yaml, web: {name: a, feed: null}}",
        deep="web: {health: null}",
    )
    assert read(path) == {
        "web": {"listen": ["b"], "connect": "m", "name": "a", "feed": None, "health": None},
        "sctp": {"carrier": "kernel", "plan": "single"},
        "plugins": {"metrics": {"keep": 1}},
    }


def test_each_problem_names_the_file_it_is_in(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main="{include: conf.d/*.yaml, web: {listen: 'unix:/a', connect: 'a:1'}, sctp: {window: 1}}",
        **{
            "conf.d__one": "web: {request_timeout: soon}",
            "conf.d__two": "plugins: {syslog: {hosts: {shop.example: {severity: loud}, a.b: {rate: -1}}}}",
            "conf.d__three": "plugins: {syslog: {hosts: {blog.example: {severity: loud}}}}",
        },
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, {"log_level": "loud"})
    told = {problem.removeprefix(f"{tmp_path}/").partition(": is ")[0] for problem in caught.value.problems}
    assert told == {
        "main.yaml: sctp.window",
        "conf.d/one.yaml: web.request_timeout",
        "conf.d/two.yaml: plugins.syslog.hosts.shop.example.severity",
        "conf.d/two.yaml: plugins.syslog.hosts.a.b.rate",
        "conf.d/three.yaml: plugins.syslog.hosts.blog.example.severity",
        "flags: log_level",
    }


def test_what_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main="include: [none.yaml, bad.yaml, list.yaml, loop.yaml, deep.yaml, nothing/*.yaml]",
        bad="web: [",
        list="- web",
        loop="include: main.yaml",
        deep="include: {}",
    )
    none, bad, listed, loop, deep = problems(path)
    assert none == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"
    assert bad.startswith(f"{tmp_path}/bad.yaml: is not YAML")
    assert listed == f"{tmp_path}/list.yaml: the file holds list; names with values were expected"
    assert loop == f"{tmp_path}/loop.yaml: include: {tmp_path}/main.yaml includes this file, or is it"
    assert deep.startswith(f"{tmp_path}/deep.yaml: include: is {{}}")


def test_variables(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main="web: {listen: ['unix:${DIR}/web.sock', '${HOST:-127.0.0.1}:90${N:-01}'], name: '$${DIR} is $5'}",
    )
    listen = ["unix:/run/x/web.sock", "127.0.0.1:9001"]
    assert read(path, DIR="/run/x", HOST="") == {"web": {"listen": listen, "name": "${DIR} is $5"}}
    assert read(path, DIR="", HOST="::1", N="99")["web"]["listen"] == ["unix:/web.sock", "::1:9099"]


def test_a_variable_cannot_change_what_is_around_it(tmp_path: Path) -> None:
    path = write(tmp_path, main="{log_level: '${LEVEL}', web: {name: '${NAME}'}}")
    assert read(path, LEVEL="debug, web: {}", NAME="a\nb: c") == {
        "log_level": "debug, web: {}",
        "web": {"name": "a\nb: c"},
    }


def test_variables_that_are_not_set_are_all_told(tmp_path: Path) -> None:
    path = write(tmp_path, main="{include: '${PLACE}/x.yaml', web: {listen: ['a', '${NOWHERE}']}}", x="log_level: info")
    place, nowhere = problems(path, LEVEL="info")[:2]
    assert place.startswith(f"{path}: include: the variable PLACE is not set")
    assert nowhere.startswith(f"{path}: web.listen.1: the variable NOWHERE is not set")


def test_numbers_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNT", "3")
    monkeypatch.setenv("GRACE", "2m")
    path = write(
        tmp_path,
        main="{app: {application: 'a:b', listen: 'a:1', workers: '${COUNT}', grace: '${GRACE}'},"
        " plugins: {syslog: {rate: '${COUNT}', hold: '${HOLD:-true}'}}}",
    )
    config = load_config(path, {})
    assert config.app is not None
    assert (config.app.workers, config.app.grace) == (3, 120)
    (syslog,) = config.load_plugins()
    assert (syslog.options.rate, syslog.options.hold) == (3, True)


def test_a_file_is_read_again_with_what_it_includes(tmp_path: Path) -> None:
    path = write(tmp_path, main="include: more.yaml", more="log_level: info")
    config = load_config(path, {})
    (tmp_path / "more.yaml").write_text("log_level: error")
    assert config.read_again is not None
    assert config.read_again().log_level == "error"
