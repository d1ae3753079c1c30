"""A real application that nobody here wrote: httpbin, as it comes from PyPI. The demo's visits, and heavier ones."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from tests.system.stack import Stack

pytest.importorskip("httpbin", reason="script/setup test installs it")
TRAFFIC = Path(__file__).parents[2] / "examples" / "demo" / "traffic.py"


def load_traffic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_traffic", TRAFFIC)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stack(start_for_module: Callable[..., Stack]) -> Stack:
    return start_for_module("httpbin:app", throws=True)


def test_the_demos_visits(stack: Stack) -> None:
    traffic = load_traffic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda visit: traffic.make(stack.port, visit), traffic.visits()))
    assert [(answer.visit.path, answer.problem) for answer in answers if answer.problem] == []
    assert len({answer.request for answer in answers}) == len(answers)


def test_a_20_mib_upload(stack: Stack) -> None:
    """httpbin sends back in base64 what it got: 27 MiB."""
    body = random.Random(2).randbytes(20 << 20)
    answer = stack.ask("/post", "POST", body, {"Content-Type": "application/octet-stream"})
    returned = json.loads(answer.body)["data"].removeprefix("data:application/octet-stream;base64,")
    assert hashlib.sha256(base64.b64decode(returned)).digest() == hashlib.sha256(body).digest()


def test_streams(stack: Stack) -> None:
    answer = stack.ask("/stream/100")
    assert [json.loads(line)["id"] for line in answer.body.splitlines()] == list(range(100))


def test_delays_run_beside_each_other(stack: Stack) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: stack.ask("/delay/1").status, range(12)))
    assert statuses == [200] * 12
    assert time.monotonic() - began < 8, "twelve seconds if one waited for the other"
