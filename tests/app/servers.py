"""Real FastCGI servers for tests: started in a folder of their own, ended by their process id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 20.0
"""Seconds for a server to start or end: for slow machines, not a promise."""

PHP_FPM = """\
[global]
error_log = {folder}/php-fpm.log
daemonize = no
[test]
user = {user}
listen = {socket}
listen.mode = 0666
listen.backlog = 511
pm = static
pm.max_children = {children}
pm.max_requests = {max_requests}
catch_workers_output = yes
php_admin_value[output_buffering] = 0
php_admin_value[post_max_size] = 64M
php_admin_flag[log_errors] = on
{lines}
"""


def program(name: str) -> str:
    """Where a program is; the test is skipped if it is not installed (script/setup test)."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ.get("PATH", ""))
    if found is None:
        pytest.skip(f"{name} is not installed (script/setup test)")
    return found


@contextmanager
def running(command: Sequence[str], folder: Path, socket: Path, stop: int = signal.SIGTERM) -> Iterator[int]:
    """Run a server until the block ends; its process id, once its socket is there."""
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not socket.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"no {socket}\n{log.read_text()}"
            time.sleep(0.01)
        yield process.pid
        if process.poll() is None:
            process.send_signal(stop)
            process.wait(PATIENCE)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # its session is its alone: children go too
        except ProcessLookupError:
            pass
        process.wait()
        socket.unlink(missing_ok=True)


@contextmanager
def php_fpm(folder: Path, *, children: int = 2, max_requests: int = 0, lines: str = "") -> Iterator[Path]:
    """php-fpm with a configuration of its own, and more `lines` for its pool; its socket."""
    import pwd

    socket = folder / "php.sock"
    text = PHP_FPM.format(
        folder=folder,
        user=pwd.getpwuid(os.geteuid()).pw_name,
        socket=socket,
        children=children,
        max_requests=max_requests,
        lines=lines,
    )
    (folder / "php-fpm.conf").write_text(text)
    command = [program("php-fpm8.2"), "--nodaemonize", "--fpm-config", str(folder / "php-fpm.conf")]
    with running([*command, "-R"] if os.geteuid() == 0 else command, folder, socket):
        yield socket
