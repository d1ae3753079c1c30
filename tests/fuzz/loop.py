"""Runs the targets: with atheris (coverage leads it) where it is installed, else mutating the corpus at random."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.make_corpus import CORPUS
from tests.fuzz.targets import MAX_GROWTH, TARGETS, flood, join, split

INTERESTING = (0, 1, 2, 3, 4, 5, 7, 8, 9, 32, 35, 64, 127, 128, 160, 255)
SIZES = ("-max_len=32768",)
ROOT = Path(__file__).resolve().parents[2]


def corpus(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def mutate(chosen: random.Random, seeds: list[bytes]) -> bytes:
    """One input after a few changes, of bytes and of chunks."""
    chunks = [(stream, bytearray(data)) for stream, data in split(chosen.choice(seeds))]
    for _ in range(chosen.randint(1, 6)):
        if not chunks:
            break
        at = chosen.randrange(len(chunks))
        stream, data = chunks[at]
        place = min(int(chosen.expovariate(1 / 12)), len(data) - 1) if data else 0  # headers are at the beginning
        match chosen.randrange(9):
            case 0 | 1 if data:
                data[place] = chosen.choice(INTERESTING)
            case 2 if data:
                data[place] ^= 1 << chosen.randrange(8)
            case 3:
                del data[place : place + chosen.randint(1, 16)]
            case 4:
                data[place:place] = chosen.randbytes(chosen.randint(1, 16))
            case 5:
                chunks.insert(chosen.randrange(len(chunks) + 1), (stream, bytearray(data)))
            case 6:
                del chunks[at]
            case 7:
                other = split(chosen.choice(seeds))
                if other:
                    stream, data = chosen.choice(other)
                    chunks.insert(at, (stream, bytearray(data)))
            case _:
                chunks[at] = (chosen.randrange(8), data)
    return join((stream, bytes(data[:65535])) for stream, data in chunks)


def run_one(target: str, data: bytes, folder: Path) -> None:
    """The input is kept in `folder` if it breaks an invariant."""
    try:
        TARGETS[target](data)
    except BaseException as error:
        keep(target, data, folder, error)
        raise


def keep(target: str, data: bytes, folder: Path, error: BaseException) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target}-broke"
    path.write_bytes(data)
    error.add_note(f"the input is in {path}; again: script/fuzz --again {target} {path}")


def run(target: str, *, seconds: float, count: int, seed: int, folder: Path) -> int:
    """So many mutations or seconds, what comes first; returns how many inputs were tried."""
    seeds = corpus(target)
    for data in seeds:
        run_one(target, data, folder)
    chosen = random.Random(seed)
    deadline = time.monotonic() + seconds
    for done in range(count):
        if time.monotonic() > deadline:
            return len(seeds) + done
        run_one(target, mutate(chosen, seeds), folder)
    return len(seeds) + count


def run_floods(target: str, folder: Path, *, seconds: float, seed: int) -> int:
    """Inputs repeated by a peer that takes nothing: of the corpus all, then mutated ones. The most that was kept."""
    seeds = corpus(target)
    chosen = random.Random(seed)
    deadline = time.monotonic() + seconds
    most = 0
    for number in range(1000):
        if time.monotonic() > deadline:
            break
        data = seeds[number] if number < len(seeds) else mutate(chosen, seeds)
        growth = flood(target, data)
        most = max(most, growth)
        if growth > MAX_GROWTH:
            error = AssertionError(f"{growth} bytes are kept for a peer that repeats an input and takes nothing")
            keep(target, data, folder, error)
            raise error
    return most


def have_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def run_atheris(target: str, *, seconds: float, seed: int, folder: Path, grow: bool = False) -> int:
    """In a process of its own, for libFuzzer ends it. Its exit status. `grow`: what led to new places, as few inputs as
    will do, goes into the corpus; their names are hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as found:
        command = [sys.executable, "-m", "tests.fuzz.guided", target]
        limits = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed}", f"-artifact_prefix={folder}/"]
        folders = [found, str(CORPUS / target)]
        status = subprocess.run([*command, *folders, *limits, *SIZES, "-print_final_stats=1"], cwd=ROOT).returncode
        if grow and status == 0:
            status = subprocess.run([*command, "-set_cover_merge=1", *SIZES, *reversed(folders)], cwd=ROOT).returncode
    return status
