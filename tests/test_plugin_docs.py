"""docs/plugins.md, run exactly as printed: its files written, its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "plugins.md"
BLOCK = re.compile(r"```(sh|python|yaml)\n(.*?)```", re.S)
NAMED = re.compile(r"\bin `([\w./]+)`", re.I)


def steps(text: str) -> list[tuple[str, str]]:
    """(file or '' for commands, content), in order: a block that the sentence before it gives a name is a file."""
    found = []
    end = 0
    for block in BLOCK.finditer(text):
        names = NAMED.findall(text[end : block.start()].rsplit("\n## ", 1)[-1])
        end = block.end()
        if block[1] == "sh":
            found.append(("", block[2]))
        elif names:
            found.append((names[-1], block[2]))
    return found


def environment(folder: Path) -> dict[str, str]:
    """An environment of its own that sees all that this one has, so that what is installed here stays here."""
    venv.create(folder, with_pip=True)
    packages = sysconfig.get_path("purelib")
    (folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "outer.pth").write_text(
        f"import site; site.addsitedir({packages!r})\n"
    )
    command = folder / "bin" / "fcgi-sctp"
    command.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m fcgi_cli "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "VIRTUAL_ENV": str(folder)}


def test_the_tutorial(tmp_path: Path) -> None:
    env = environment(tmp_path / "venv")
    work = tmp_path / "work"
    work.mkdir()
    done = steps(DOCUMENT.read_text())
    assert [name for name, _ in done if name] == [
        "fcgi_sctp_bruteforce/plugin.py",
        "tests/test_bruteforce.py",
        "site.yaml",
    ]
    for name, content in done:
        if name:
            (work / "bruteforce" / name).write_text(content)
            continue
        where = work / "bruteforce" if (work / "bruteforce").exists() else work
        run = subprocess.run(
            ["bash", "-e", "-c", content], cwd=where, env=env, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, f"{content}\n{run.stdout}\n{run.stderr}"
        assert " passed" in run.stdout
        assert "bruteforce" in run.stdout
