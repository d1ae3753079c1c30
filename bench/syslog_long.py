"""What is left of one long line that a FastCGI program writes on STDERR, and of what was known about it.

The programs are real ones: a C program with libfcgi, php-fpm with its own settings and with a higher log_limit, Python
behind uwsgi with its rsyslog plugin. Each is asked once; then the log of who serves it is read: nginx's error log,
rsyslog's file, or our live feed. Called by syslog.py.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.app.servers import php_fpm, running
from tests.syslog.rsyslog import Rsyslog, free_port
from tests.system.stack import Stack

__all__ = ["LONG_LINE", "Remains", "long_lines"]

LONG_LINE = 20_000
"""Characters of the line, without its beginning."""
SETTLE = 1.0
"""Seconds that a log is given to be complete."""
ROOT = Path(__file__).resolve().parent.parent
C_PROGRAM = r"""
#include <fcgiapp.h>
#include <string.h>
int main(void) {
    static char line[%(length)d + 1];
    FCGX_Stream *in, *out, *err;
    FCGX_ParamArray environment;
    memset(line, 'x', %(length)d);
    while (FCGX_Accept(&in, &out, &err, &environment) >= 0) {
        FCGX_FPrintF(err, "WARNING: ");
        FCGX_PutStr(line, %(length)d, err);
        FCGX_PutS("\n", err);
        FCGX_FFlush(err);
        FCGX_PutS("Content-Type: text/plain\r\n\r\nsaid", out);
    }
    return 0;
}
"""
PHP_PROGRAM = "<?php trigger_error(str_repeat('x', %d), E_USER_WARNING); echo 'said';"
PHP_LINES = "php_admin_flag[log_errors] = on\n"
PHP_HIGHER = "[global]\nlog_limit = 65536\n"
UWSGI_PROGRAM = """
import sys
def application(environ, start_response):
    sys.stderr.write("WARNING: " + "x" * %d + chr(10))
    sys.stderr.flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"said"]
"""


@dataclass
class Remains:
    """What one way of serving left."""

    name: str
    pieces: int
    """Lines in the log that have a part of the line."""
    longest: int
    """Characters of the line in the longest of them."""
    severities: list[str]
    """What the log says."""
    knows_host: bool
    """The log says whose line it is: virtual host and request, in the line that begins it."""

    def row(self) -> list[str]:
        known = "yes" if self.knows_host else "no"
        return [self.name, str(self.pieces), f"{self.longest:,}", ", ".join(self.severities), known]


def long_lines() -> list[Remains]:
    """Each program behind nginx alone, or as it logs by itself; then behind ours."""
    found = []
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for program, serve in (
            ("libfcgi", libfcgi),
            ("php-fpm", lambda folder: php(folder, PHP_LINES)),
            ("php-fpm, log_limit 65536", lambda folder: php(folder, PHP_LINES + PHP_HIGHER)),
        ):
            with serve(folder) as address:
                found.append(behind_nginx(f"{program}, nginx's error log", folder, address))
                found.append(behind_ours(f"{program}, ours", folder, address))
        found.append(uwsgi(folder))
    return found


@contextmanager
def libfcgi(folder: Path) -> Iterator[str]:
    source, program, path = folder / "long.c", folder / "long", folder / "c.sock"
    source.write_text(C_PROGRAM % {"length": LONG_LINE})
    subprocess.run(["gcc", "-O1", "-o", str(program), str(source), "-lfcgi"], check=True)
    with running(["spawn-fcgi", "-n", "-s", str(path), "-M", "0666", "--", str(program)], folder, path):
        yield f"unix:{path}"


@contextmanager
def php(folder: Path, lines: str) -> Iterator[str]:
    (folder / "long.php").write_text(PHP_PROGRAM % LONG_LINE)
    with php_fpm(folder, lines=lines) as path:
        path.chmod(0o666)
        yield f"unix:{path}"


def scripts(folder: Path) -> str:
    return f"fastcgi_param SCRIPT_FILENAME {folder}/long.php;"


def behind_nginx(name: str, folder: Path, address: str) -> Remains:
    """nginx hands on to the program itself."""
    with Stack("syslog_load:application", app={"path": str(ROOT / "bench")}, nginx=scripts(folder)) as stack:
        stack.nginx.stop()
        stack.listen = address
        stack.start_nginx()
        assert stack.ask("/long.php").body.endswith(b"said")
        time.sleep(SETTLE)
        lines = (stack.folder / "nginx-error.log").read_text(errors="replace").splitlines()
        return remains(
            name,
            lines,
            r"\[(error|warn|notice|crit|info)\]",
            lambda line: 'server: shop.example, request: "GET /long.php' in line,
        )


def behind_ours(name: str, folder: Path, address: str) -> Remains:
    bridge = {"application": None, "fastcgi": {"address": address, "connections": 2}}
    with Stack(app=bridge, nginx=scripts(folder), plugins={"syslog": {}}) as stack:
        answer = stack.ask("/long.php")
        assert answer.body.endswith(b"said")
        time.sleep(SETTLE + 2)  # what has no end is held for a second or two
        lines = [json.dumps(line) for line in stack.lines()]
        identity = answer.headers["X-Request-Id"]
        return remains(
            name, lines, r'"severity": (\d)', lambda line: identity in line and '"server_name": "shop.example"' in line
        )


def uwsgi(folder: Path) -> Remains:
    """uwsgi's own way to syslog."""
    (folder / "long.py").write_text(UWSGI_PROGRAM % LONG_LINE)
    receiver = folder / "rsyslog"
    receiver.mkdir()
    server = Rsyslog(receiver)
    server.start()
    port = free_port()
    command = [
        *("uwsgi", "--plugin", "python3,rsyslog", "--chdir", str(folder), "--module", "long:application"),
        *(
            "--http-socket",
            f"127.0.0.1:{port}",
            "--need-app",
            "--die-on-term",
            "--logger",
            f"rsyslog:127.0.0.1:{server.udp},app",
        ),
    ]
    log = folder / "uwsgi.log"
    with log.open("wb") as output:
        program = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    client.sendall(b"GET /long HTTP/1.0\r\nHost: shop.example\r\n\r\n")
                    while client.recv(4096):
                        pass
                    break
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.05)
        time.sleep(SETTLE)
    finally:
        program.terminate()
        program.wait(10)
        server.stop()
    return remains("uwsgi, its rsyslog plugin", server.lines, r"^(\d+)\|", lambda line: "shop.example" in line)


def remains(name: str, lines: list[str], severity: str, knows_host: Callable[[str], bool]) -> Remains:
    """What is in the lines of a log."""
    # the line's own run of characters, not an x that stands in some other word
    parts = [(line, max(map(len, re.findall("x{20,}", line)), default=0)) for line in lines]
    own = [(line, length) for line, length in parts if length]
    assert own, f"{name}: nothing of the line is in the log: {lines[-5:]}"
    severities = sorted({found[1] for line, _ in own if (found := re.search(severity, line))})
    return Remains(name, len(own), max(length for _, length in own), severities, knows_host(own[0][0]))


def main() -> None:
    for one in long_lines():
        print(one)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
