"""A short, repeatable run of what script/fuzz does for longer."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcgi_core.protocol.records import RecordType, record
from tests.fuzz import loop, wire
from tests.fuzz.make_corpus import CORPUS
from tests.fuzz.targets import MAX_GROWTH, TARGETS, close_loop, flood, join, split


@pytest.fixture(autouse=True, scope="module")
def closed_loop() -> Iterator[None]:
    logging.disable(logging.WARNING)  # each broken input is logged
    yield
    logging.disable(logging.NOTSET)
    close_loop()


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_input(target: str, tmp_path: Path) -> None:
    assert loop.run(target, seconds=60, count=300, seed=1, folder=tmp_path) > 300


REFUSED = record(RecordType.BEGIN_REQUEST, 9, b"\x00\x09" + bytes(6))


@pytest.mark.parametrize(
    ("target", "chunk"),
    [
        ("web", (2, record(200, 7))),
        ("application", (2, REFUSED)),
        ("downstream", (0, record(RecordType.GET_VALUES, 0) * 50)),
        ("downstream", (0, record(200, 0) * 50)),
        ("downstream", (0, REFUSED * 50)),
    ],
)
def test_a_peer_that_reads_no_answers_does_not_fill_the_memory(target: str, chunk: tuple[int, bytes]) -> None:
    assert flood(target, join([chunk])) < MAX_GROWTH


def test_a_mutation_depends_on_its_seed_alone() -> None:
    seeds = loop.corpus("web")
    assert loop.mutate(random.Random(5), seeds) == loop.mutate(random.Random(5), seeds)
    whole = (CORPUS / "web" / "bodies").read_bytes()  # what was found may end in the middle of a chunk
    assert join(split(whole)) == whole


@pytest.mark.skipif(wire.sanitizer() is None, reason="no gcc with AddressSanitizer")
def test_mutated_packets_under_address_sanitizer() -> None:
    result = wire.run(seconds=3, count=8, seed=1)
    assert result.ok, result.text
    assert result.seeds
