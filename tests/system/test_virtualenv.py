"""An application whose packages are in a virtual environment of its own."""

from __future__ import annotations

import os
import signal
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from fcgi_core.app.virtual_environment import HERE
from tests.system.stack import COMMAND, Stack, free_address

APPLICATION = """\
import os, shelf
def application(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return [shelf.TEXT, os.environ["VIRTUAL_ENV"].encode()]
"""


@pytest.mark.parametrize("workers", [None, 2])
def test_its_packages_are_imported(start: Callable[..., Stack], tmp_path: Path, workers: int | None) -> None:
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    packages = folder / "lib" / f"python{HERE}" / "site-packages"
    (packages / "shelf.py").write_text("TEXT = b'books in '\n")
    (packages / "yaml.py").write_text("raise RuntimeError('it takes the place of what this program imports')\n")
    (tmp_path / "library.py").write_text(APPLICATION)
    section = {"path": str(tmp_path), "virtualenv": str(folder)} | ({} if workers is None else {"workers": workers})
    stack = start(application="library:application", app=section, plugins={"syslog": {}})
    assert stack.ask("/").body.decode() == f"books in {folder}"


def test_one_of_another_python_is_an_error(start: Callable[..., Stack], tmp_path: Path) -> None:
    stack = start(application="applications:plain")
    (tmp_path / "pyvenv.cfg").write_text("version = 3.1.0\n")
    section = {"application": "applications:plain", "listen": free_address(), "virtualenv": str(tmp_path)}
    program = stack.run("other", COMMAND, "app", "--config", stack.write("other", {"app": section}))
    assert program.wait() == os.EX_CONFIG
    assert "was made with Python 3.1.0, and fcgi-sctp runs in" in program.text


def test_a_release_that_a_link_names_is_used_after_a_reload(start: Callable[..., Stack], tmp_path: Path) -> None:
    current = tmp_path / "current"
    for name in ("one", "two"):
        release = tmp_path / name
        venv.create(release / "venv", with_pip=False)
        packages = release / "venv" / "lib" / f"python{HERE}" / "site-packages"
        (packages / "shelf.py").write_text(f"TEXT = b'packages of {name} in '\n")
        (release / "library.py").write_text(APPLICATION)
    current.symlink_to("one")
    section = {"path": str(current), "virtualenv": str(current / "venv"), "workers": 2}
    stack = start(application="library:application", app=section)
    assert stack.ask("/").body.decode() == f"packages of one in {current}/venv"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(current)
    stack.app.send(signal.SIGHUP)
    stack.app.says("all workers are replaced")
    assert {stack.ask("/").body.decode() for _ in range(10)} == {f"packages of two in {current}/venv"}
