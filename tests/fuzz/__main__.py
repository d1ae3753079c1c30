"""`script/fuzz`: the core, then the C extension, for so many seconds each. Exit status 1 if something broke."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from pathlib import Path

from tests.fuzz import loop, wire
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each of the two parts (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="of the random numbers; the default is another one each time")
    parser.add_argument("--only", choices=["core", "wire"], help="one part alone")
    parser.add_argument("--no-atheris", action="store_true", help="mutate the corpus at random even if it is there")
    parser.add_argument("--grow", action="store_true", help="what atheris found new ways with goes into the corpus")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where inputs go that break")
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "FILE"), help="run one input again, and nothing else")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.again:
        target, file = options.again
        data = Path(file).read_bytes()
        TARGETS[target](data)
        print(f"{target}: ok; repeated by a peer that takes nothing, {loop.flood(target, data):,} bytes stay")
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    passed = True
    if options.only != "wire":
        passed = fuzz_core(options, seed)
    if options.only != "core":
        passed = fuzz_wire(options.seconds, seed) and passed
    return 0 if passed else 1


def fuzz_core(options: argparse.Namespace, seed: int) -> bool:
    """Of each target's time atheris has three fifths, with the source; the rest goes to the modules as they are
    installed, compiled or not."""
    share = options.seconds / len(TARGETS)
    passed = True
    for target in TARGETS:
        blind = 0.7
        if loop.have_atheris() and not options.no_atheris:
            blind = 0.1
            limits = {"seconds": share * 0.6, "seed": seed, "folder": options.findings, "grow": options.grow}
            passed &= loop.run_atheris(target, **limits) == 0
        began = time.monotonic()
        count = loop.run(target, seconds=share * blind, count=1 << 40, seed=seed, folder=options.findings)
        tried = f"{count} inputs in {time.monotonic() - began:.1f} s"
        most = loop.run_floods(target, options.findings, seconds=share * 0.3, seed=seed)
        print(f"{target}: {tried}; at most {most:,} bytes stay for a peer that takes nothing", flush=True)
    return passed


def fuzz_wire(seconds: float, seed: int) -> bool:
    if wire.sanitizer() is None:
        print("C extension: left out, there is no gcc with AddressSanitizer")
        return True
    result = wire.run(seconds=seconds, count=1 << 31, seed=seed)
    print(f"C extension: {'ok' if result.ok else 'BROKE'}, {result.seeds} associations: {result.text}")
    return result.ok


if __name__ == "__main__":
    sys.exit(main())
