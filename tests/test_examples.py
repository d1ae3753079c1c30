"""What stands in examples/ works as it stands there."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fcgi_cli.main import make_parser

from fcgi_core.process.config import load_config

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("name", ["web.yaml", "app.yaml"])
def test_configurations_are_good(name: str) -> None:
    load_config(str(EXAMPLES / name), {})


UNITS = ["fcgi-sctp-web@.service", "fcgi-sctp-web@.socket", "fcgi-sctp-app@.service"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_units(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "systemd-analyze is needed (Debian package systemd; script/setup test)"
    command = str(Path(sys.executable).with_name("fcgi-sctp"))
    for one in UNITS:
        text = (EXAMPLES / "systemd" / one).read_text().replace("/opt/fcgi-sctp/bin/fcgi-sctp", command)
        (tmp_path / one.replace("@", "@shop")).write_text(text)
    unit = tmp_path / name.replace("@", "@shop")
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("side", ["web", "app"])
def test_the_units_say_what_the_program_does(side: str) -> None:
    """Exit statuses that no restart cures, paths that the unit makes, and the address of the socket."""
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    unit.read(EXAMPLES / "systemd" / f"fcgi-sctp-{side}@.service")
    service = unit["Service"]
    assert service["RestartPreventExitStatus"] == f"{os.EX_USAGE} {os.EX_CONFIG}"
    args = make_parser().parse_args(service["ExecStart"].replace("%i", "shop").split()[1:])
    made = "/run/" + service["RuntimeDirectory"].replace("%i", "shop")
    for path in (args.admin, *([args.feed] if side == "web" else ())):
        assert os.path.dirname(path) == made
    config = load_config(str(EXAMPLES / f"{side}.yaml"), {})
    if side == "web":
        unit.read(EXAMPLES / "systemd" / "fcgi-sctp-web@.socket")
        assert config.web is not None
        assert config.web.listen == ["unix:" + unit["Socket"]["ListenStream"].replace("%i", "shop")]


def test_sysusers_makes_the_user(tmp_path: Path) -> None:
    sysusers = shutil.which("systemd-sysusers")
    assert sysusers is not None, "systemd-sysusers is needed (Debian package systemd; script/setup test)"
    (tmp_path / "etc").mkdir()
    subprocess.run(
        [sysusers, f"--root={tmp_path}", str(EXAMPLES / "systemd" / "sysusers.conf")], check=True, timeout=60
    )
    assert "fcgi-sctp:" in (tmp_path / "etc" / "passwd").read_text()


@pytest.mark.parametrize("name", ["access", "maintenance", "sqltrace"])
def test_plugins_pass_their_own_tests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = EXAMPLES / "plugins" / name
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    monkeypatch.setenv("PYTHONPATH", str(folder))
    done = subprocess.run([*command, str(folder / "tests")], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def imported(source: str) -> set[str]:
    """Modules of the core that a source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.partition(".")[0] == "fcgi_core"}


def test_one_module_is_all_that_plugins_import() -> None:
    """Those that ship too: what they need and others could not have would be no plugin system."""
    sources = [*ROOT.glob("plugins/*/fcgi_*/*.py"), *ROOT.glob("examples/plugins/*/fcgi_*/*.py")]
    assert len(sources) > 30
    strange = {str(path): names for path in sources if (names := imported(path.read_text()) - {"fcgi_core.plugin"})}
    assert strange == {}
    template = sorted((ROOT / "cli/fcgi_cli/templates/plugin").rglob("*.py"))
    texts = [(ROOT / "docs/plugins.md").read_text(), "\n".join(path.read_text() for path in template)]
    for text in texts:
        modules = set(re.findall(r"^(?:from|import) (fcgi_core[.\w]*)", text, re.M))
        assert modules == {"fcgi_core.plugin", "fcgi_core.testing"}
