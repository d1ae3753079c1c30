"""How long `fcgi-sctp logs` takes from its start to the first line, on a terminal and in a pipe, beside Python's own.

    .venv/bin/python bench/logs_start.py [RUNS]

The aim is 300 ms (issue: the live log viewer). The median of the runs is told, and the quickest: other work on the
machine makes a start slower, never quicker. Exit status 1 if not even the quickest reaches the aim.
"""

from __future__ import annotations

import asyncio
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from fcgi_core.plugin import FeedEntry
from fcgi_core.web.feed import Feed

AIM = 0.3
"""Seconds."""
COMMAND = str(Path(sys.executable).with_name("fcgi-sctp"))


def start(words: list[str], wanted: bytes, *, terminal: bool) -> float:
    """Seconds until `wanted` has been written."""
    if terminal:
        ours, theirs = pty.openpty()
    else:
        ours, theirs = os.pipe()
    began = time.perf_counter()
    process = subprocess.Popen(words, stdin=theirs if terminal else subprocess.DEVNULL, stdout=theirs)
    os.close(theirs)
    written = b""
    while wanted not in written:
        data = os.read(ours, 65536)
        if not data:
            raise SystemExit(f"{words[0]} ended without a line")
        written += data
    took = time.perf_counter() - began
    process.terminate()
    process.wait()
    os.close(ours)
    return took


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        feed = Feed(f"{folder}/feed.sock")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        asyncio.run_coroutine_threadsafe(feed.start(), loop).result()
        entries = [FeedEntry(time.time(), 6, f"line {number}.", "shop.example", "cart") for number in range(1000)]
        loop.call_soon_threadsafe(lambda: [feed.publish(entry) for entry in entries])
        logs = [COMMAND, "logs", "--feed", feed.path]
        quickest = 0.0
        for name, words, wanted, terminal in (
            ("Python itself", [sys.executable, "-c", "print('up', flush=True)"], b"up", False),
            ("in a pipe", logs, b"line 999.", False),
            ("on a terminal", logs, b"line 999.", True),
            ("on a terminal, 1,000 lines", [*logs, "-n", "1000"], b"line 999.", True),
            ("on a terminal, filtered", [*logs, "-e", "999"], b"999", True),
        ):
            times = [start(words, wanted, terminal=terminal) for _ in range(runs)]
            print(f"{name:28} median {statistics.median(times) * 1e3:4.0f} ms, quickest {min(times) * 1e3:4.0f} ms")
            if words == logs:
                quickest = max(quickest, min(times))
        feed.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    return int(quickest > AIM)


if __name__ == "__main__":
    raise SystemExit(main())
