"""What stands in examples/ works as it stands there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fcgi_core.process.config import load_config

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("name", ["web.yaml", "app.yaml"])
def test_configurations_are_good(name: str) -> None:
    load_config(str(EXAMPLES / name), {})


@pytest.mark.parametrize("name", ["fcgi-sctp-web.service", "fcgi-sctp-app@.service"])
def test_systemd_accepts_the_units(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "systemd-analyze is needed (Debian package systemd; script/setup test)"
    command = str(Path(sys.executable).with_name("fcgi-sctp"))
    text = (EXAMPLES / "systemd" / name).read_text().replace("/opt/fcgi-sctp/bin/fcgi-sctp", command)
    unit = tmp_path / name.replace("@", "@shop")
    unit.write_text(text)
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


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
