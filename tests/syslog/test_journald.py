"""Lines to systemd's real journald: an instance of its own, in a namespace, as its manual page has it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fcgi_syslog.journal_sink import JournalSink

from fcgi_core.plugin import FeedEntry
from tests.syslog.rsyslog import wait_until

LOG = logging.getLogger("fcgi_sctp.plugin.syslog")
JOURNALD = Path("/lib/systemd/systemd-journald")
pytestmark = pytest.mark.skipif(
    not JOURNALD.exists() or os.geteuid() != 0, reason="journald can be started here by root alone"
)


class Journal:
    def __init__(self) -> None:
        self.name = f"fcgi{os.getpid()}"
        self.folder = Path(f"/run/systemd/journal.{self.name}")
        self.socket = self.folder / "socket"
        self.process = subprocess.Popen(
            [JOURNALD, self.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.socket.exists, "journald listens")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        shutil.rmtree(self.folder)
        for left in (
            *Path("/run/log/journal").glob(f"*.{self.name}"),
            *Path("/var/log/journal").glob(f"*.{self.name}"),
        ):
            shutil.rmtree(left)

    def entries(self) -> list[dict[str, Any]]:
        done = subprocess.run(
            ["journalctl", f"--namespace={self.name}", "--all", "--output=json", "--no-pager", "FCGI_KIND=cart"],
            capture_output=True,
            check=False,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal()
    yield journal
    journal.stop()


def test_every_field_arrives(journal: Journal) -> None:
    sink = JournalSink(str(journal.socket), LOG)
    fields = {"uri": "/a\n_UID=0", "user": "é"}
    long = "x" * 500_000
    try:
        for text in ("one\nPRIORITY=0\n_PID=1\x1b[0m", long):
            sink.write(FeedEntry(1.5, 4, text, "shop.example", "shop", 16, "71", "cart", "req-1", fields, "app1"))
        wait_until(lambda: len(journal.entries()) == 2, "both entries are in the journal")
    finally:
        sink.close()
    first, second = journal.entries()
    assert first["MESSAGE"] == "one\nPRIORITY=0\n_PID=1\\x1b[0m"
    assert (first["PRIORITY"], first["SYSLOG_FACILITY"], first["SYSLOG_IDENTIFIER"]) == ("4", "16", "shop")
    assert (first["FCGI_SERVER_NAME"], first["FCGI_REQUEST"], first["FCGI_USER"]) == ("shop.example", "req-1", "é")
    assert (first["FCGI_URI"], first["_UID"], first["_PID"]) == ("/a\\n_UID=0", str(os.getuid()), str(os.getpid()))
    assert second["MESSAGE"] == long
