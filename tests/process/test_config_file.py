"""Files that include others, and variables of the environment."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.common.plain_yaml import MAX_VALUE, parse_value
from fcgi_core.errors import ConfigError
from fcgi_core.process.config import load_config
from fcgi_core.process.config_file import read_files


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


def test_later_files_override_earlier_files(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main="{include: [b.yaml, a.yaml], web: {listen: [x, y], connect: m}, sctp: kernel,"
        " plugins: {metrics: {keep: 1}}}",
        b="{web: {listen: [b], name: b}, sctp: {streams: 64}, plugins: {metrics: }}",
        a="{include: deep.yaml, web: {name: a, feed: null}}",
        deep="web: {health: null}",
    )
    assert read(path) == {
        "web": {"listen": ["b"], "connect": "m", "name": "a", "feed": None, "health": None},
        "sctp": {"carrier": "kernel", "streams": 64},
        "plugins": {"metrics": {"keep": 1}},
    }


@pytest.mark.parametrize(
    ("short", "options", "merged"),
    [
        ("sctp: kernel", "sctp: {streams: 64}", {"sctp": {"carrier": "kernel", "streams": 64}}),
        ("web: {health: /up}", "web: {health: {interval: 2}}", {"web": {"health": {"uri": "/up", "interval": 2}}}),
        (
            "app: {fastcgi: 'unix:/php'}",
            "app: {fastcgi: {timeout: 9}}",
            {"app": {"fastcgi": {"address": "unix:/php", "timeout": 9}}},
        ),
    ],
)
def test_options_are_merged_into_a_section_written_as_one_text(
    short: str, options: str, merged: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path, main=f"include: more.yaml\n{short}", more=options)
    written = read_files(path, {})
    assert (written.content, written.problems) == (merged, [])


def test_an_option_of_a_plugin_is_not_such_a_section(tmp_path: Path) -> None:
    path = write(tmp_path, main="{include: b.yaml, plugins: {mine: {health: good}}}", b="plugins: {mine: {health: {}}}")
    (problem,) = read_files(path, {}).problems
    assert problem == "plugins.mine.health: is 'good'; names with values were expected"


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


def test_all_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
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
    assert loop == f"{tmp_path}/loop.yaml: include: {tmp_path}/main.yaml includes this file or is this file"
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


def test_all_variables_that_are_not_set_are_reported(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("text", "value"),
    [("debug", "debug"), ("10", 10), ("1.5", 1.5), ("off", False), ("", None), ("null", None), ('"a: b"', "a: b")],
)
def test_a_value_that_is_set(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[a]", "expected one value"),
        ("a: b", "expected one value"),
        ("- a", "expected one value"),
        ("[" * 30_000, "at most 1,024"),
        ("[" * 999, "expected one value"),
        ("{a: " * 100, "expected one value"),
        ("é" * 513, "the value has 1,026 bytes; at most 1,024 are allowed"),
        ("*a", "not defined"),
        ("&a [*a]", "expected one value"),
        ("!!python/name:os.system x", "the tag"),
        ("2026-01-31", "put it in quotes"),
        ("0660", "put it in quotes"),
        ("a\n---\nb", "another document"),
        ("\x1b]0;x", "is not YAML"),
    ],
)
def test_invalid_values_to_set(text: str, fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment) as caught:
        parse_value(text)
    assert "\n" not in str(caught.value)


def test_a_value_may_fill_its_bound() -> None:
    assert parse_value("x" * MAX_VALUE) == "x" * MAX_VALUE


def test_a_name_that_stands_twice_is_an_error_in_every_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main="include: more.yaml\nplugins: {syslog: {redact: [{match: card}]}}\nplugins: {metrics: }",
        more="sctp:\n  allowed_peers: [10.0.0.0/8]\n  allowed_peers: []\n",
    )
    assert problems(path) == [
        f"{path}: plugins: stands twice, in lines 2 and 3; keep one",
        f"{tmp_path}/more.yaml: sctp.allowed_peers: stands twice, in lines 2 and 3; keep one",
    ]


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 9)]
    (told,) = problems(write(tmp_path, main="\n".join(lines)))
    assert "holds more than" in told


def test_files_that_include_others_again_and_again_are_refused(tmp_path: Path) -> None:
    files = {f"f{number}": f"include: [{', '.join([f'f{number + 1}.yaml'] * 9)}]" for number in range(15)}
    told = problems(write(tmp_path, main="include: f0.yaml", f15="log_level: info", **files))
    assert len(told) == 1
    assert "holds more than" in told[0]


def test_files_that_include_each_other_in_a_row_have_an_end(tmp_path: Path) -> None:
    files = {f"f{number}": f"include: f{number + 1}.yaml" for number in range(2000)}
    assert problems(write(tmp_path, main="include: f0.yaml", **files)) == [
        f"{tmp_path}/f15.yaml: include: the files include each other more than 16 deep"
    ]


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    path = write(tmp_path, main="include: [loop.yaml, '..', \"a\\0b\", \"*\\0\", '/dev/zero']")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert problems(path) == [
        f"{tmp_path}/loop.yaml: cannot be read: Too many levels of symbolic links",
        f"{tmp_path}/..: cannot be read: Is a directory",
        f"{path}: include: is 'a\\x00b'; a path must not contain NUL",
        f"{path}: include: is '*\\x00'; a path must not contain NUL",
        "/dev/zero: holds more than 1,048,576 characters",
    ]
