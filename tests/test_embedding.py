"""docs/embedding.md: the example runs, and every name that `import fcgi_core` hands on is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fcgi_core

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "embedding.md").read_text()


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(example, "docs/embedding.md", "exec"), {})
    assert capsys.readouterr().out == "b'hello /basket'\n"


@pytest.mark.parametrize("name", fcgi_core.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(fcgi_core, name) is not None


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = fcgi_core.Nothing


def test_nothing_is_loaded_before_it_is_used() -> None:
    source = "import fcgi_core, sys; print([name for name in sys.modules if name.startswith('fcgi_core.')])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
