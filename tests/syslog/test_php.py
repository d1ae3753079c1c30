"""What a real php-fpm logs, through nginx, the bridge and SCTP: whole events, each with its severity."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.app.servers import php_fpm
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.skipif(
    shutil.which("php-fpm8.2", path="/usr/sbin") is None, reason="php-fpm is not installed (script/setup test)"
)
DEEP = "<?php function deep($n) { if ($n) deep($n - 1); else %s; } deep(3); echo 'said';"
PAGES = {
    "long": "<?php error_log('begin ' . str_repeat('x', 5000) . ' end'); echo 'said';",
    "lines": "<?php error_log(\"first\\n  second\\n  third\"); echo 'said';",
    "warning": DEEP % "trigger_error(str_repeat('w', 3000), E_USER_WARNING)",
    "fatal": DEEP % "throw new LogicException('thrown ' . str_repeat('y', 2000))",
    "many": "<?php error_log('one'); trigger_error('two', E_USER_NOTICE); trigger_error('three', E_USER_ERROR);",
}
LINES = """\
php_admin_flag[log_errors] = on
[global]
log_limit = 65536
"""
"""php-fpm itself cuts what is longer than log_limit, and marks it with three dots; 1,024 if not set."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("php")
    for name, text in PAGES.items():
        (folder / f"{name}.php").write_text(text)
    scripts = f"fastcgi_param SCRIPT_FILENAME {folder}$fastcgi_script_name;"
    with php_fpm(folder, lines=LINES) as socket:
        bridge = {"address": f"unix:{socket}", "connections": 2}
        with Stack(app={"application": None, "fastcgi": bridge}, nginx=scripts, plugins={"syslog": {}}) as stack:
            yield stack


def said_by(stack: Stack, page: str, count: int = 1) -> list[tuple[int, str]]:
    """Severity and text of each line of one request, when there are so many."""
    identity = stack.ask(f"/{page}.php").headers["X-Request-Id"]

    def said() -> list[tuple[int, str]]:
        own = [line for line in stack.lines() if line.get("request") == identity]
        assert all(line["server_name"] == "shop.example" for line in own)
        return [(line["severity"], line["message"]) for line in own]

    wait_until(lambda: len(said()) >= count, f"{count} lines of {page}")
    return said()


def test_a_long_message_is_whole(stack: Stack) -> None:
    assert said_by(stack, "long") == [(5, f"PHP message: begin {'x' * 5000} end")]


def test_several_lines_are_one_event(stack: Stack) -> None:
    assert said_by(stack, "lines") == [(5, "PHP message: first\n  second\n  third")]


def test_a_long_warning_is_a_warning(stack: Stack) -> None:
    ((severity, text),) = said_by(stack, "warning")
    assert severity == 4
    assert text.startswith(f"PHP message: PHP Warning:  {'w' * 3000} in /")


def test_an_exception_and_its_stack_trace_are_one_event(stack: Stack) -> None:
    ((severity, text),) = said_by(stack, "fatal")
    assert severity == 3
    assert text.startswith(f"PHP message: PHP Fatal error:  Uncaught LogicException: thrown {'y' * 2000} in /")
    assert "\nStack trace:\n#0 " in text
    assert "\n#4 {main}\n  thrown in /" in text


def test_messages_of_one_request_are_separated(stack: Stack) -> None:
    lines = said_by(stack, "many", 3)
    assert [severity for severity, _ in lines] == [5, 5, 3]
    assert [text.split(" in /")[0] for _, text in lines] == [
        "PHP message: one",
        "PHP message: PHP Notice:  two",
        "PHP message: PHP Fatal error:  three",
    ]
