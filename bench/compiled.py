#!/usr/bin/env python3
"""Which of the modules that setup.py compiles a request or a line of a log passes through: their calls, by module.

    .venv/bin/python bench/compiled.py [--requests 300] [--lines 3000]

The calls of Python functions, comprehensions and generators are counted, of each module for one short request without
an application interface, through WSGI and through ASGI, and for one line of the syslog plugin. A call costs some 0.1 us
interpreted and next to nothing compiled. A module without calls stays in setup.py's list for one of three reasons:
compiled modules read its enumerations (protocol/states: 24 a request, 600 instructions each) or the attributes of its
classes all the time (protocol/settings, hosting/links), it derives from a compiled class (web/probe, testing_request),
or its calls come with load that is not measured here: SCTP itself, several associations, requests that wait, a
program's STDERR. The loops of the syslog plugin stand in few calls. Needs a tree that is not compiled
(script/setup pure).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `bench` is not an installed package

from fcgi_syslog import plugin as syslog  # noqa: E402
from fcgi_syslog.sinks import finish  # noqa: E402

from bench import path  # noqa: E402
from fcgi_core.app.asgi import AsgiApplication  # noqa: E402
from fcgi_core.app.service import AppService  # noqa: E402
from fcgi_core.app.wsgi import WsgiApplication  # noqa: E402
from fcgi_core.protocol import records  # noqa: E402
from fcgi_core.testing import PluginHarness  # noqa: E402

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "12")]
FOLDERS = {str(ROOT / "fcgi_core"): "", str(ROOT / "plugins" / "syslog" / "fcgi_syslog"): "syslog: "}
LINES_A_REQUEST = 30


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return [b"Hello world\n"]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope["type"] == "http":
        headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"Hello world\n"})


def calls_of(work: Callable[[], None]) -> Counter[str]:
    """Returns the calls that `work` makes, by module."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            counts[frame.f_code.co_filename] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    by_module: Counter[str] = Counter()
    for name, number in counts.items():
        for folder, prefix in FOLDERS.items():
            if name.startswith(folder):
                by_module[prefix + str(Path(name).relative_to(folder).with_suffix(""))] += number
    return by_module


def requests(application: Any, count: int) -> None:
    """Send `count` short requests through `bench/path.py` to an application, None: to its own."""
    if application is not None:
        vars(path)["AppService"] = lambda own, *rest: AppService(application, *rest)
    sys.argv[1:] = ["--requests", str(count), "--rounds", "1"]
    path.main()
    vars(path)["AppService"] = AppService


def lines(count: int) -> None:
    """Log `count` lines on the way to a file of the web side."""
    log = logging.getLogger("shop.cart")
    log.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        with PluginHarness(syslog(), {"outputs": [{"file": str(Path(folder, "log"))}]}) as harness:
            for _ in range(max(1, count // LINES_A_REQUEST)):
                request = harness.begin()
                with harness.bound(request):
                    for number in range(LINES_A_REQUEST):
                        log.info("item %d is in the cart", number)
                harness.run(0.1)
                harness.end(request)
            harness.run(2)
        finish()  # the thread of the file writes the last lines
        written = sum(len(file.read_bytes().splitlines()) for file in Path(folder).iterdir())
    if written < count // LINES_A_REQUEST * LINES_A_REQUEST:
        raise AssertionError(f"{written} of {count} lines were written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--lines", type=int, default=3000)
    options = parser.parse_args()
    if not str(records.__file__).endswith(".py"):
        parser.exit(1, "the tree is compiled: call script/setup pure first\n")

    columns: dict[str, dict[str, float]] = {}
    works: dict[str, tuple[Callable[[int], None], int]] = {
        "short": (lambda count: requests(None, count), options.requests),
        "wsgi": (lambda count: requests(WsgiApplication(wsgi), count), options.requests),
        "asgi": (lambda count: requests(AsgiApplication(asgi), count), options.requests),
        "line": (lines, options.lines),
    }
    for name, (work, count) in works.items():
        once, thrice = calls_of(partial(work, count)), calls_of(partial(work, 3 * count))
        columns[name] = {one: (thrice[one] - once[one]) / 2 / count for one in thrice}
    listed = set(listed_modules())
    print(f"{'calls a …':36}" + "".join(f"{name:>8}" for name in columns))
    for module in sorted(listed | {one for column in columns.values() for one in column if column[one] >= 0.5}):
        row = "".join(f"{column.get(module, 0.0):8.1f}" for column in columns.values())
        print(f"{'' if module in listed else '(not compiled) '}{module}".ljust(36) + row)


def listed_modules() -> list[str]:
    """Returns the modules that setup.py compiles."""
    names: dict[str, Any] = {}
    source = (ROOT / "setup.py").read_text().partition("def compiled")[0].replace("from setuptools import setup", "")
    exec(compile(source, "setup.py", "exec"), names)
    return [*names["COMPILED"], *(f"syslog: {one}" for one in names["COMPILED_SYSLOG"])]


if __name__ == "__main__":
    main()
