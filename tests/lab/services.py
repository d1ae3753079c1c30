"""The whole road with a cable in it: nginx and the web side in namespace `web`, the application's side in `app`."""

from __future__ import annotations

import http.client
import os
import random
import socket
import threading
import time
from collections import Counter
from typing import Any

from tests.lab.namespaces import APP, inside
from tests.system.applications import content, digest
from tests.system.stack import Program, Stack, wait_until

SCALE = float(os.environ.get("FCGI_SCTP_LAB_SCALE", "1"))
"""How much of their requests the tests make; for slow machines."""


class LabStack(Stack):
    """See `Stack`. `sctp` is a section, its carrier included; `app_sctp` goes over it for the application's side."""

    def __init__(
        self,
        *args: Any,
        sctp: dict[str, Any],
        app_sctp: dict[str, Any] | None = None,
        hosts: tuple[str, ...] = APP[:1],
        **named: Any,
    ) -> None:
        super().__init__(*args, sctp=sctp, **named)
        self._app_sctp = {**sctp, **(app_sctp or {})}
        self.addresses[:] = [f"{','.join(hosts)}:{9000 + n}/{9900 + n}" for n in range(len(self.addresses))]

    def __enter__(self) -> LabStack:
        super().__enter__()
        return self

    def run(self, name: str, *command: str) -> Program:
        return super().run(name, "/sbin/ip", "netns", "exec", "app" if name == "app" else "web", *command)

    def write(self, name: str, configuration: dict[str, Any]) -> str:
        if name.startswith("app"):
            configuration = {**configuration, "sctp": self._app_sctp}
        return super().write(name, configuration)

    def _nginx_listens(self) -> bool:
        assert self.nginx.running, self.logs()
        with inside("web"):
            probe = socket.socket()
        with probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        connection = super().connect(timeout)
        with inside("web"):
            connection.connect()
        return connection

    def associations(self, side: str = "web") -> list[dict[str, Any]]:
        """What `fcgi-sctp status` tells of them; sides are ``web`` and ``app0``."""
        return list(self.status(side)["associations"])


class Load:
    """Uploads and downloads from several threads, until `count` are done or `stop` is called. `wrong` tells those that
    were not answered with 200 and the right bytes."""

    def __init__(
        self, stack: Stack, *, threads: int = 8, count: int = 1 << 30, sizes: tuple[int, ...] = (0, 200, 5000)
    ):
        self.wrong: list[str] = []
        self.slowest = 0.0
        self._stack = stack
        self._sizes = sizes
        self._count = count
        self._begun = 0
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
        """Wait until `count` more are done."""
        wanted = self.done + max(1, round(count * SCALE))
        wait_until(lambda: self.done >= wanted or self.wrong, f"{count} more requests are answered", patience)
        assert not self.wrong

    def _run(self, worker: int) -> None:
        connection = self._stack.connect()
        while not self._stop.is_set():
            with self._lock:
                number = self._begun
                self._begun += 1
            if number >= self._count:
                break
            size = random.Random(number).choice(self._sizes)
            began = time.monotonic()
            try:
                self._one(connection, number, size)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.wrong.append(f"request {number} of {size} bytes: {error!r}")
                connection.close()
                connection = self._stack.connect()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self._done[worker] += 1
        connection.close()

    def _one(self, connection: http.client.HTTPConnection, number: int, size: int) -> None:
        wanted = digest(content(size, str(number)))
        if number % 3:
            answer = self._stack.ask(f"/big?size={size}&seed={number}", connection=connection)
            assert (answer.status, digest([answer.body])) == (200, wanted)
        else:
            body = b"".join(content(size, str(number)))
            answer = self._stack.ask("/upload", "POST", body, connection=connection)
            assert (answer.status, answer.json()["sha256"] if answer.status == 200 else "") == (200, wanted)
