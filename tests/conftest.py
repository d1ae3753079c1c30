"""Hypothesis without deadlines: a slow machine is no bug. Under CI every run tries the same examples."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell that starts a job in the background makes it ignore SIGINT, and what it starts inherits that: Ctrl-C in the
# terminals that tests open would do nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    """A compiled module goes before its source: what would be tested is not what stands there."""
    root = Path(__file__).parent.parent
    compiled = max((library.stat().st_mtime for library in (root / "fcgi_core").glob("*__mypyc*.so")), default=0.0)
    for module in (root / "fcgi_core").rglob("*.cpython-*.so"):
        source = module.with_name(module.name.split(".")[0] + ".py")
        if source.exists() and source.stat().st_mtime > compiled:
            pytest.exit(f"{source.name} is newer than its compiled module: script/setup compiled makes it again", 2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report what a test printed as text that can be encoded: with `-n` it travels between processes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def operators_log() -> Iterator[None]:
    """Leave the operator's log as it was, where a test starts a side in this process."""
    log, application = logging.getLogger("fcgi_sctp"), logging.getLogger("fcgi_sctp.application")
    level, before = log.level, (log.propagate, log.handlers[:], application.parent, application.handlers[:])
    yield
    if before != (log.propagate, log.handlers, application.parent, application.handlers) or level != log.level:
        log.setLevel(level)
        log.propagate, log.handlers[:], application.parent, application.handlers[:] = before
