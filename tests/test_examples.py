"""What stands in examples/ works as it stands there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fcgi_core.config import load_config

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.parametrize("name", ["web.yaml", "app.yaml"])
def test_configurations_are_good(name: str) -> None:
    load_config(str(EXAMPLES / name), {})


@pytest.mark.parametrize("name", ["fcgi-sctp-web.service", "fcgi-sctp-app@.service"])
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "systemd-analyze is needed (Debian package systemd; script/setup test)"
    command = str(Path(sys.executable).with_name("fcgi-sctp"))
    text = (EXAMPLES / "systemd" / name).read_text().replace("/opt/fcgi-sctp/bin/fcgi-sctp", command)
    unit = tmp_path / name.replace("@", "@shop")
    unit.write_text(text)
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["access", "maintenance"])
def test_plugins_pass_their_own_tests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = EXAMPLES / "plugins" / name
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    monkeypatch.setenv("PYTHONPATH", str(folder))
    done = subprocess.run([*command, str(folder / "tests")], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
