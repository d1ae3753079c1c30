"""The application's own virtual environment, made with the real `venv`."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcgi_core.app import virtual_environment as module
from fcgi_core.app.imported_application import load_application
from fcgi_core.app.virtual_environment import HERE, adopt_environment
from fcgi_core.errors import ConfigError


@pytest.fixture(autouse=True)
def path_of_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("VIRTUAL_ENV", "")
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith("shopfloor"):
            del sys.modules[name]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with a package and one that is installed as editable."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    packages = folder / "lib" / f"python{HERE}" / "site-packages"
    (packages / "shopfloor.py").write_text(
        "import shopfloor_dev\napplication = lambda environ, start: [shopfloor_dev.X]\n"
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "shopfloor_dev.py").write_text("X = b'editable'\n")
    (packages / "dev.pth").write_text(f"{tmp_path}/src\n")
    return folder


def packages_of(environment: Path) -> Path:
    return environment / "lib" / f"python{HERE}" / "site-packages"


def test_its_packages_come_first(environment: Path, tmp_path: Path) -> None:
    before = list(sys.path)
    adopt_environment(str(environment))
    assert sys.path == [str(packages_of(environment)), str(tmp_path / "src"), *before]
    assert load_application("shopfloor:application")(None, None) == [b"editable"]
    assert os.environ["VIRTUAL_ENV"] == str(environment)


def test_packages_of_the_system_come_last(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = environment / "system"
    system.mkdir()
    monkeypatch.setattr(
        module.site, "getsitepackages", lambda prefixes: [str(system.parent.parent / "away"), "/usr/lib"]
    )
    config = environment / "pyvenv.cfg"
    config.write_text(config.read_text().replace("site-packages = false", "site-packages = true"))
    before = list(sys.path)
    adopt_environment(str(environment))
    assert sys.path[0] == str(packages_of(environment))
    assert sys.path[-1] == "/usr/lib"
    assert sys.path[2:-1] == before


def test_no_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"app.virtualenv: is '/no/such'; there is no such folder"):
        adopt_environment("/no/such")
    with pytest.raises(ConfigError, match=r"which is no virtual environment: it has no pyvenv.cfg"):
        adopt_environment(str(tmp_path))
    (tmp_path / "pyvenv.cfg").write_text(f"version = {HERE}.1\n")
    with pytest.raises(ConfigError, match=re.escape(f"has no folder lib/python{HERE}/site-packages")):
        adopt_environment(str(tmp_path))


@pytest.mark.parametrize("line", ["version = 3.1.7", "version_info = 3.1.7.final.0", "home = /usr/bin"])
def test_another_version_of_python(environment: Path, line: str) -> None:
    (environment / "pyvenv.cfg").write_text(f"{line}\n")
    with pytest.raises(ConfigError) as told:
        adopt_environment(str(environment))
    (problem,) = told.value.problems
    assert f"was made with Python {line.split()[2] if 'version' in line else 'of unknown version'}" in problem
    assert f"fcgi-sctp runs in {HERE} ({sys.executable}): make it with Python {HERE}" in problem


def test_a_version_that_is_written_as_others_do(environment: Path) -> None:
    (environment / "pyvenv.cfg").write_text(f"version_info = {HERE}.2.final.0\n")
    adopt_environment(str(environment))
    assert sys.path[0] == str(packages_of(environment))


@pytest.mark.parametrize(
    "text", ["import shopfloor_dev._fast", "from shopfloor_dev import _fast", "import _shopfloor_fast"]
)
def test_a_module_that_was_compiled_for_another_python(environment: Path, text: str) -> None:
    packages = packages_of(environment)
    (packages / "shopfloor_dev").mkdir()
    (packages / "shopfloor_dev" / "__init__.py").write_text("")
    (packages / "shopfloor_dev" / "_fast.cpython-30-x86_64-linux-gnu.so").touch()
    (packages / "_shopfloor_fast.cpython-30-x86_64-linux-gnu.so").touch()
    (packages / "shopfloor.py").write_text(f"{text}\n")
    adopt_environment(str(environment))
    with pytest.raises(ConfigError, match=r"_fast\.cpython-30-x86_64-linux-gnu\.so was compiled for another Python"):
        load_application("shopfloor:application")


def test_a_package_that_the_program_has_imported(
    environment: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    monkeypatch.setattr(logging.getLogger("fcgi_sctp"), "propagate", True)
    for name, version in (("PyYAML", "1.0"), ("pydantic", "1.0"), ("requests", "1.0")):
        about = packages_of(environment) / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (packages_of(environment) / "PyYAML-1.0.dist-info" / "top_level.txt").write_text("_yaml\nyaml\n")
    adopt_environment(str(environment))
    assert sorted(message.split(", ")[0] for message in caplog.messages) == sorted(
        [
            f"the application gets PyYAML {yaml.__version__}",
            f"the application gets pydantic {sys.modules['pydantic'].VERSION}",
        ]
    )
    assert "and not 1.0 of its virtual environment; install fcgi-sctp in that" in caplog.text


def test_the_program_serves_from_it(environment: Path, tmp_path: Path) -> None:
    """`check` reports what the start would, with the real command."""
    file = tmp_path / "site.yaml"
    text = f"app: {{application: 'shopfloor:application', listen: '127.0.0.1:9000', virtualenv: {environment}}}"
    file.write_text(text)
    command = [str(Path(sys.executable).with_name("fcgi-sctp")), "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    file.write_text(text.replace(str(environment), "/no/such"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == os.EX_CONFIG
    assert "app.virtualenv: is '/no/such'; there is no such folder" in done.stdout + done.stderr
