"""A target under atheris: `python -m tests.fuzz.guided TARGET` and libFuzzer's arguments."""

from __future__ import annotations

import random
import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)

import atheris  # type: ignore[import-not-found,unused-ignore]

# A module that is compiled shows atheris nothing: here its source goes first.
sys.path_hooks.insert(
    0, FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES))
)
sys.path_importer_cache.clear()

with atheris.instrument_imports(include=["fcgi_core"]):
    from tests.fuzz import loop
    from tests.fuzz.targets import TARGETS


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """By chunks and records as often as by libFuzzer, which knows neither."""
    chosen = random.Random(seed)
    if chosen.random() < 0.5:
        changed = loop.mutate(chosen, [data])
        if 0 < len(changed) <= max_size:
            return changed
    return bytes(atheris.Mutate(data, max_size))


if __name__ == "__main__":
    name = sys.argv.pop(1)
    sys.argv[0] = f"{sys.executable} -m tests.fuzz.guided {name}"  # by which libFuzzer calls itself when it merges
    atheris.Setup(sys.argv, TARGETS[name], custom_mutator=mutate)
    atheris.Fuzz()
