"""What an application says beside its requests: from its import to the end of its process, nothing is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.system.stack import COMMAND, HERE, Stack, free_address, wait_until

Start = Callable[..., Stack]
AT_IMPORT = ["said before logging was configured", "said at import", "warned at import"]
AT_END = ["said by a thread at the end", "said at exit"]


@pytest.mark.parametrize("configures", ["", "yes"])
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize("workers", [None, 1])
def test_lines_of_an_application_outside_of_requests(
    start: Start, monkeypatch: pytest.MonkeyPatch, interface: str, configures: str, workers: int | None
) -> None:
    if configures:
        monkeypatch.setenv("CONFIGURES", configures)
    app = {} if workers is None else {"workers": workers}
    stack = start(application=f"life_applications:{interface}", app=app, plugins={"syslog": {}})
    assert stack.ask("/").body == b"hello"
    assert stack.app.stop() == 0
    said = AT_IMPORT + AT_END
    if interface == "asgi":
        said += ["said at lifespan.startup", "said at lifespan.shutdown"]
    for text in said:
        assert len(stack.lines_with(text)) == 1
    # the operator's log goes on, whatever the application does to logging
    assert "stopping" in stack.app.text
    wait_until(lambda: "is down" in stack.web.text, "the association went down last")


def test_an_application_that_cannot_start_writes_to_stderr(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = start(application="life_applications:wsgi", plugins={"syslog": {}}, throws=True)
    monkeypatch.setenv("FAILS", "yes")
    other = stack.start_app()
    assert other.wait() == 1
    assert "no database" in other.text
    for text in AT_IMPORT[:2]:
        assert text in other.text


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize(("application", "status"), [("at_import", -signal.SIGTERM), ("asgi", 0)])
def test_an_application_that_never_comes_to_serve_can_be_stopped(
    start: Start, application: str, status: int, workers: int | None
) -> None:
    stack = start(application="life_applications:wsgi")
    section = {"application": f"stuck_applications:{application}", "path": str(HERE), "listen": free_address()}
    if workers:
        section["workers"] = workers
    program = stack.run("stuck", COMMAND, "app", "--config", stack.write("stuck", {"app": section}))
    wait_until(lambda: program.text.count("it waits at") == (workers or 1), "it starts")
    assert program.stop() == (0 if workers else status)
    assert "Traceback" not in program.text


SLOWLY = """\
import pathlib, time
here = pathlib.Path(__file__).parent
(here / "begun").touch()
while not (here / "go").exists():
    time.sleep(0.01)
def application(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""


@pytest.mark.parametrize("workers", [None, 1])
def test_signals_during_the_start_take_effect_after_it(start: Start, workers: int | None) -> None:
    """logrotate or a deploy may send them at any moment."""
    stack = start(application="life_applications:wsgi")
    (stack.folder / "slowly.py").write_text(SLOWLY)
    section = {"application": "slowly:application", "path": str(stack.folder), "listen": free_address()}
    if workers:
        section["workers"] = workers
    program = stack.run("slowly", COMMAND, "app", "--config", stack.write("slowly", {"app": section}))
    wait_until((stack.folder / "begun").exists, "it is being imported")
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        program.send(number)
    (stack.folder / "go").touch()
    program.says("SIGUSR2 ignored: it is for a web side")
    program.says("all workers are replaced" if workers else "configuration reloaded")
    assert "ended with status" not in program.text
    assert program.stop() == 0
