"""The small commands: doctor, version, set, completion, nginx-config; help, errors and exit statuses of all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli import admin as admin_module
from fcgi_cli.admin import AdminError
from fcgi_cli.main import main, make_parser
from fcgi_cli.webserver import SERVERS, snippet

from fcgi_core.errors import NO_EFFECT
from fcgi_core.sctp import probe
from fcgi_core.sctp.carrier import CarrierError
from fcgi_core.sctp.probe import Finding, State
from tests.cli.conftest import Answer

FINDINGS = [
    Finding("kernel SCTP", State.MISSING, "not in this kernel", "the carrier `kernel`", "modprobe sctp"),
    Finding("net.sctp.x", State.OPTIONAL, "0", "speed", "sysctl -w net.sctp.x=1"),
    Finding("userspace SCTP", State.GOOD, "works \x1b[2J"),
]


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(probe, "probe", lambda: FINDINGS)
    monkeypatch.setattr(probe, "choose", lambda preference: "userspace")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    lines = [line.strip() for line in out.splitlines()]
    assert "$ modprobe sctp" in lines
    assert "$ sysctl -w net.sctp.x=1" in lines
    assert "works \\x1b[2J" in out
    assert "`sctp: auto` uses the carrier `userspace` here." in lines
    assert main(["doctor", "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["carrier"] == "userspace"
    assert [one["state"] for one in printed["findings"]] == ["missing", "optional", "good"]


def test_doctor_without_any_sctp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def choose(preference: str) -> str:
        raise CarrierError("no SCTP: nothing")

    monkeypatch.setattr(probe, "choose", choose)
    assert main(["doctor"]) == os.EX_UNAVAILABLE
    assert "no SCTP: nothing" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("fcgi-sctp ")
    assert main(["version", "-o", "json"]) == 0
    assert {"fcgi-sctp", "Python", "pysctp", "userspace SCTP"} <= set(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "nginx-config" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True, timeout=30)


class Admin:
    """Answers of admin sockets, by path."""

    answers: dict[str, Any]
    asked: list[Any]

    def __init__(self, path: str) -> None:
        self.path = path

    def close(self) -> None:
        pass

    def ask(self, what: str, **question: Any) -> Any:
        self.asked.append((self.path, what, question))
        answer = self.answers[self.path]
        if isinstance(answer, str):
            raise AdminError(f"{self.path}: {answer}")
        return answer


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> type[Admin]:
    Admin.answers, Admin.asked = {}, []
    monkeypatch.setattr(admin_module, "AdminClient", Admin)
    monkeypatch.setattr(admin_module, "sockets", lambda given: list(Admin.answers))
    return Admin


def test_set(admin: type[Admin], capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers = {
        "/web.sock": {"web": {"syslog.severity": ""}, "192.0.2.1:9000": {"syslog.severity": ""}},
        "/app.sock": {"app shop": {"syslog.severity": ""}},
    }
    assert main(["set", "syslog.severity=debug", "syslog.severity@shop.example=a=b"]) == 0
    captured = capsys.readouterr()
    lines = [f"{who}: syslog.severity: changed" for who in ("web", "192.0.2.1:9000", "app shop")]
    assert captured.out.splitlines() == lines
    assert captured.err == ""
    changes = {"syslog.severity": "debug", "syslog.severity@shop.example": "a=b"}
    assert admin.asked[0] == ("/web.sock", "change", {"changes": changes})


def test_set_for_virtual_hosts(admin: type[Admin], capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers = {"/web.sock": {"web": {"syslog.severity@shop.example": ""}}}
    assert main(["set", "syslog.severity=debug", "--server-name", "shop.example"]) == 0
    assert capsys.readouterr().out == "web: syslog.severity@shop.example: changed\n"
    assert main(["set", "-s", "a", "-s", "b", "syslog.severity=debug", "syslog.rate@c=1"]) == 0
    assert [question["changes"] for _, _, question in admin.asked] == [
        {"syslog.severity@shop.example": "debug"},
        {"syslog.severity@a": "debug", "syslog.severity@b": "debug", "syslog.rate@c": "1"},
    ]


def test_set_refused(admin: type[Admin], capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers = {"/web.sock": {"web": {"a.b": "no \x1b such"}}}
    assert main(["set", "a.b=1"]) == 1
    assert capsys.readouterr().out == "web: a.b: refused: no \\x1b such\n"
    assert main(["set", "a.b=1", "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == [{"web": {"a.b": "no \x1b such"}}]


def test_set_an_option_of_one_side(admin: type[Admin], capsys: pytest.CaptureFixture[str]) -> None:
    idle = f"{NO_EFFECT}: not this side"
    admin.answers = {"/web.sock": {"web": {"a.b@c": idle}, "192.0.2.1:9000": {"a.b@c": ""}}}
    assert main(["set", "a.b@c=1"]) == 0
    assert capsys.readouterr().out == "web: a.b@c: no effect here: not this side\n192.0.2.1:9000: a.b@c: changed\n"
    admin.answers = {"/web.sock": {"web": {"a.b@c": idle, "a.d@c": ""}, "192.0.2.1:9000": {"a.b@c": idle}}}
    assert main(["set", "a.b@c=1", "a.d@c=1", "-o", "json"]) == 1, "an effect nowhere"


def web_side(error: str = "", **drained: Any) -> Answer:
    """The admin socket of a web side."""

    def reply(line: bytes) -> bytes:
        if json.loads(line)["ask"] == "status":
            return b'{"ok": true, "answer": {"side": "web"}}\n'
        answer = {"name": "paris", "address": "a:1", "in_flight": 3, "left": 1, "queue_timeout": 10.0} | drained
        return json.dumps({"ok": not error, "error": error, "answer": answer}).encode() + b"\n"

    return reply


def application(line: bytes) -> bytes:
    assert json.loads(line)["ask"] == "status", "it has nothing to drain"
    return b'{"ok": true, "answer": {"side": "app"}}\n'


def test_drain(serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]) -> None:
    paths = [serve(one) for one in (application, web_side("no application 'a:1' is known"), web_side())]
    admin = [word for path in paths for word in ("--admin", path)]
    assert main(["drain", "a:1", *admin]) == 0
    assert capsys.readouterr() == ("web side paris: a:1 gets no new requests; it has 3\n", "")
    assert main(["undrain", "a:1", *admin]) == 0
    assert capsys.readouterr() == ("web side paris: a:1 gets requests\n", "")
    assert main(["drain", "a:1", "-o", "json", *admin]) == 0
    assert json.loads(capsys.readouterr().out)[0]["in_flight"] == 3


def test_drain_the_last_application(serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "a:1", "--admin", serve(web_side(left=0))]) == 0
    told = "web side paris has no application left that gets requests: they wait 10 s and then get 503"
    assert told in capsys.readouterr().err


def test_drain_what_is_not_there(serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "a:1", "--admin", serve(web_side("no application 'a:1' is known; known are: b:1"))]) == 1
    assert "no application 'a:1' is known; known are: b:1" in capsys.readouterr().err
    assert main(["drain", "a:1", "--admin", serve(application)]) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err == "fcgi-sctp drain: no web side answers\n"
    assert main(["undrain", "a:1", "--admin", "/nosuch"]) == os.EX_UNAVAILABLE
    assert "fcgi-sctp undrain: /nosuch: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("answers", [{}, {"/web.sock": "no such file"}])
def test_set_without_a_process(admin: type[Admin], capsys: pytest.CaptureFixture[str], answers: dict[str, str]) -> None:
    admin.answers = answers
    assert main(["set", "a.b=1"]) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err.startswith("fcgi-sctp set: ")


# ---- nginx-config


TWO = "unix:/run/one.sock 192.0.2.1:9001"


@pytest.mark.parametrize(
    ("server", "listen"),
    [
        *(
            (one, where)
            for one in SERVERS
            for where in ("unix:/run/fcgi-sctp-web-shop.sock", "127.0.0.1:9001", "[::1]:9001")
        ),
        ("nginx", TWO),
    ],
)
def test_snippets_are_what_the_servers_take(server: str, listen: str, tmp_path: Path) -> None:
    program = shutil.which({"apache": "apache2"}.get(server, server), path=f"{os.environ['PATH']}:/usr/sbin")
    text = snippet(server, *listen.split(), server_name="shop.example").replace(":80", ":19080")
    if program is None:
        pytest.skip(f"{server} is not installed")
    file = tmp_path / "server.conf"
    if server == "nginx":
        text += snippet(server, "127.0.0.1:9002", server_name="blog.example")  # one nginx has several sites
        shutil.copy("/etc/nginx/fastcgi_params", tmp_path)
        text = f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{text}}}\n"
        text = text.replace("listen 80;", "listen 127.0.0.1:19080;")
        command = [program, "-t", "-e", "stderr", "-c", str(file)]
    elif server == "apache":
        modules = Path("/usr/lib/apache2/modules")
        names = ("mpm_event", "proxy", "proxy_fcgi", "unique_id", "authz_core", "env")
        load = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in names]
        text = "\n".join([f"ServerRoot {tmp_path}", "ServerName x", "ErrorLog error.log", *load, text])
        command = [program, "-t", "-f", str(file)]
    elif server == "lighttpd":
        text = f'server.port = 19080\nserver.document-root = "{tmp_path}"\n{text}'
        command = [program, "-tt", "-f", str(file)]
    else:
        text = f"defaults\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n{text}"
        command = [program, "-c", "-f", str(file)]
    file.write_text(text)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr


def test_the_address_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fcgi-sctp.yaml"
    file.write_text("web: {listen: unix:/srv/web.sock, connect: 192.0.2.1:9000}\n")
    assert main(["nginx-config", "--config", str(file), "--server-name", "blog.example"]) == 0
    out = capsys.readouterr().out
    assert "server unix:/srv/web.sock;" in out
    assert "server_name blog.example;" in out
    file.write_text("app: {application: 'a:b', listen: 192.0.2.1:9000}\n")
    assert main(["nginx-config", "--config", str(file)]) == os.EX_CONFIG
    file.write_text("web: 7\n")
    assert main(["nginx-config", "--config", str(file)]) == os.EX_CONFIG


def test_several_web_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nginx-config", "--web", "unix:/run/one.sock", "--web", "192.0.2.1:9001"]) == 0
    out = capsys.readouterr().out
    assert "server unix:/run/one.sock max_fails=0;\n    server 192.0.2.1:9001 max_fails=0;" in out
    assert "fastcgi_next_upstream error timeout;" in out
    assert main(["nginx-config", "--web", "unix:/run/one.sock"]) == 0
    assert "max_fails" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--web", "9000"],
        ["--web", "unix:/a", "--listen", "unix:/b"],
        ["apache", "--web", "unix:/a"],
        ["--listen", "unix:/a b"],
        ["--listen", "unix:a"],
        ["--listen", "9000"],
        ["--server-name", "a;b"],
    ],
)
def test_invalid_addresses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nginx-config", *words]) == os.EX_USAGE
    assert capsys.readouterr().err.startswith("fcgi-sctp nginx-config: ")


# ---- one style


def all_commands() -> list[str]:
    (action,) = (one for one in make_parser()._actions if hasattr(one, "_name_parser_map"))
    return list(action._name_parser_map)


@pytest.mark.parametrize("command", all_commands())
def test_help_and_errors_have_one_style(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fcgi-sctp {command}")
    with pytest.raises(SystemExit) as ended:
        main([command, "--no-such-option", "x"])
    assert ended.value.code == os.EX_USAGE
    assert "fcgi-sctp" in capsys.readouterr().err.splitlines()[-1]


def test_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs/man/fcgi-sctp.1"
    text = page.read_text()
    for command in all_commands():
        assert f"fcgi\\-sctp {command}".replace("-", "\\-").replace("\\\\", "\\") in text, "run docs/make-man"
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-ww", "-z", page], capture_output=True, text=True, check=True)
        assert done.stderr == ""


# ---- what may answer, and what may be asked

ODD = [
    b"[]",
    b"{}",
    b"null",
    b"3",
    b'"text"',
    b'[{"side": 3}]',
    b'{"web": 3}',
    b'{"web": {"a.b": 3}}',
    b'{"side": "web"}',
]


@pytest.mark.parametrize("odd", ODD, ids=bytes.decode)
@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["top", "-d", "0.05", "--once"],
        ["set", "a.b=1"],
        ["drain", "a:1"],
        ["plugins", "list"],
        ["plugins", "show", "syslog"],
    ],
)
def test_an_answer_that_cannot_be_understood(
    serve: Callable[[Answer], str], words: list[str], odd: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = serve(lambda line: b'{"ok": true, "answer": ' + odd + b"}\n")
    status = main([*words, "--admin", path])
    printed = capsys.readouterr().err
    assert (status, len(printed.splitlines())) in ((os.EX_UNAVAILABLE, 1), (0, 0), (1, 0)), printed


def test_an_answer_that_is_deep(serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]) -> None:
    path = serve(lambda line: b"[" * 200_000 + b"\n")
    assert main(["status", "--admin", path]) == os.EX_UNAVAILABLE
    assert "not an admin socket of fcgi-sctp" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-5", "9" * 30, "many"])
def test_invalid_counts(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", "--count", count, "--admin", "/nosuch"])
    assert ended.value.code == os.EX_USAGE


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "127.0.0.1:0", "a:²", "127.0.0.1:" + "9" * 5000])
def test_invalid_ports(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nginx-config", "--listen", listen]) == os.EX_USAGE
    assert "use unix:/PATH or HOST:PORT" in capsys.readouterr().err


def test_a_plugin_is_written_into_a_folder_with_a_harmful_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "\x1b[2J"
    for expected in (0, 1):
        assert main(["plugins", "new", "x", "--in", str(where)]) == expected
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\\x1b[2J/x exists already" in captured.err


def test_the_default_address_is_no_other_socket_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    """In /run/fcgi-sctp are the admin sockets and the feed, in /run/fcgi-sctp-* those of the units."""
    assert main(["nginx-config"]) == 0
    path = capsys.readouterr().out.partition("server unix:")[2].partition(";")[0]
    units = Path(__file__).parents[2] / "examples" / "systemd"
    assert f"ListenStream={path}\n".replace("-shop", "-%i") in (units / "fcgi-sctp-web@.socket").read_text()
    assert Path(path).parent == Path("/run")
