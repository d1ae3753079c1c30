"""The whole road with a path in it: nginx and the web side in one network namespace, the applications in another."""

from __future__ import annotations

import http.client
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

from bench.streams.network import inside
from tests.system.applications import content, digest
from tests.system.stack import Program, Stack, wait_until

SCALE = float(os.environ.get("FCGI_SCTP_LAB_SCALE", "1"))
"""How much of their requests the tests make; for slow machines."""
AGAIN = 0.05
"""Seconds that a client waits after a failure, as one does."""


def is_download(number: int) -> bool:
    """Whether the request of that number is one, and no upload."""
    return number % 3 != 0


class SidedConnection(http.client.HTTPConnection):
    """A client's connection in a namespace, whenever it is opened."""

    space = ""

    def connect(self) -> None:
        with inside(self.space):
            super().connect()


class SidedStack(Stack):
    """See `Stack`. `spaces` are the namespaces of the web side and of the applications, which listen on `hosts`. `sctp`
    is a section, its carrier included; `app_sctp` goes over it for the application's side. `associations`: with each
    application, in the place of ``auto``."""

    def __init__(
        self,
        *args: Any,
        spaces: tuple[str, str],
        hosts: tuple[str, ...],
        sctp: dict[str, Any],
        app_sctp: dict[str, Any] | None = None,
        associations: int | str = "auto",
        **named: Any,
    ) -> None:
        super().__init__(*args, sctp=sctp, **named)
        self._web_space, self._app_space = spaces
        self._app_sctp = {**sctp, **(app_sctp or {})}
        self.addresses[:] = [f"{','.join(hosts)}:{9000 + n}/{9900 + n}" for n in range(len(self.addresses))]
        self._web["connect"] = [{"address": one, "associations": associations} for one in self.addresses]

    def run(self, name: str, *command: str) -> Program:
        space = self._app_space if name == "app" else self._web_space
        return super().run(name, "/sbin/ip", "netns", "exec", space, *command)

    def write(self, name: str, configuration: dict[str, Any]) -> str:
        if name.startswith("app"):
            configuration = {**configuration, "sctp": self._app_sctp}
        return super().write(name, configuration)

    def _nginx_listens(self) -> bool:
        assert self.nginx.running, self.logs()
        with inside(self._web_space):
            probe = socket.socket()
        with probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        connection = SidedConnection("127.0.0.1", self.port, timeout=timeout)
        connection.space = self._web_space
        return connection

    def associations(self, side: str = "web") -> list[dict[str, Any]]:
        """What `fcgi-sctp status` tells of them; sides are ``web`` and ``app0``."""
        return list(self.status(side)["associations"])


class Load:
    """Uploads and downloads from several threads, until `count` are done or the block ends. `wrong` tells those that
    were not answered with 200 and the right bytes. Where an answer may fail, `fails` are the statuses that it may then
    have, 0 for one that is cut off.

    With `lines` each download has the application log two lines, ``ordinary N.M;`` and ``urgent N.M;``: the download M
    of thread N, which begins its downloads by their numbers, each after the one before it has ended."""

    def __init__(
        self,
        stack: Stack,
        *,
        threads: int = 8,
        count: int = 1 << 30,
        sizes: tuple[int, ...] = (0, 200, 5000),
        lines: bool = False,
        fails: Collection[int] = (),
    ):
        self.wrong: list[str] = []
        self.failed: list[tuple[int, int]] = []
        """The numbers of requests that failed as they may, and how."""
        self.logged: list[str] = []
        """N.M of the lines of all downloads that were answered."""
        self.slowest = 0.0
        self._stack = stack
        self._sizes = sizes
        self._lines = lines
        self._fails = fails
        self._count = count
        self.begun = 0
        """The number of the next request."""
        self._done: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    @property
    def done(self) -> int:
        return sum(self._done.values())

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None or self._count == 1 << 30:
            self._stop.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, count: int, patience: float = 60.0) -> None:
        """Wait until `count` more are answered."""
        wanted = self.done + max(1, round(count * SCALE))
        wait_until(lambda: self.done >= wanted or self.wrong, f"{count} more requests are answered", patience)
        assert self.wrong == [], self.wrong[:9]

    def _run(self, worker: int) -> None:
        connection = self._stack.connect()
        while not self._stop.is_set():
            with self._lock:
                number = self.begun
                self.begun += 1
            if number >= self._count:
                break
            size = random.Random(number).choice(self._sizes)
            began = time.monotonic()
            words = ""
            try:
                status, right = self._one(connection, worker, number, size)
            except (OSError, http.client.HTTPException) as error:
                status, right, words = 0, False, repr(error)
            self.slowest = max(self.slowest, time.monotonic() - began)
            if right:
                self._done[worker] += 1
                continue
            connection.close()  # the next request opens it again
            if status in self._fails:
                self.failed.append((number, status))
                time.sleep(AGAIN)
            else:
                self.wrong.append(f"request {number} of {size} bytes: status {status} {words}")
        connection.close()

    def _one(self, connection: http.client.HTTPConnection, worker: int, number: int, size: int) -> tuple[int, bool]:
        """The status of the answer, and whether all of it is right."""
        if is_download(number):
            line = f"{worker}.{number}" if self._lines else ""
            answer = self._stack.ask(f"/big?size={size}&seed={number}&lines={line}", connection=connection)
            found = digest([answer.body])
            if line and answer.status == 200:
                self.logged.append(line)
        else:
            body = b"".join(content(size, str(number)))
            answer = self._stack.ask("/upload", "POST", body, connection=connection)
            found = answer.json()["sha256"] if answer.status == 200 else ""
        return answer.status, answer.status == 200 and found == digest(content(size, str(number)))
