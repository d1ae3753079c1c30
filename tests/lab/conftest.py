"""The kernel suite: only script/lab runs it. Elsewhere it is not collected, and where it is collected it must work."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.namespaces import scenario, sysctl
from tests.lab.services import LabStack

collect_ignore_glob = [] if os.environ.get("FCGI_SCTP_LAB") == "1" else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session", autouse=True)
def _kernel_sctp() -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, 132).close()
    except OSError as error:
        pytest.exit(f"no kernel SCTP here ({error.strerror}): run this suite with script/lab test", returncode=1)


_current = ""


def _scenario(name: str) -> None:
    """Change to a scenario; a test that cuts a cable mends it, so the one that is up will do."""
    global _current
    if name != _current:
        scenario("up", name)
        _current = name


@pytest.fixture
def plain() -> None:
    _scenario("plain")


@pytest.fixture
def udp() -> Iterator[None]:
    """The kernel has UDP port 9899 for SCTP in both namespaces. After the scenario's fixture."""
    for side in ("web", "app"):
        sysctl(side, "net.sctp.udp_port", 9899)
    yield
    for side in ("web", "app"):
        sysctl(side, "net.sctp.udp_port", 0)


@pytest.fixture
def lossy() -> None:
    _scenario("lossy")


@pytest.fixture
def slow() -> None:
    _scenario("slow")


@pytest.fixture
def two_paths() -> None:
    _scenario("two-paths")


@pytest.fixture
def start_lab() -> Iterator[Callable[..., LabStack]]:
    with ExitStack() as stack:
        yield lambda *args, **named: stack.enter_context(LabStack(*args, **named))
