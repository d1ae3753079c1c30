"""Lines to systemd's journal in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): named fields.

A field whose value holds a newline carries its length, so no value can pretend to be another field. An entry that is
too long for a datagram goes into a sealed file in memory, whose descriptor is sent.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import re
import socket
import struct

from fcgi_core.plugin import FeedEntry, escape

from .datagram_sink import DatagramSink
from .message import clip

__all__ = ["JournalSink", "format_fields"]

_LENGTH = struct.Struct("<Q")
_NOT_FIELD = re.compile(r"[^A-Z0-9_]")
PREFIX = "FCGI_"
"""Begins the names of our fields; the journal's trusted fields begin with an underscore."""
LONGEST_NAME = 64


def format_fields(entry: FeedEntry) -> bytes:
    """Return the datagram of an entry. Its text keeps newlines and no other control character."""
    fields = {
        "MESSAGE": "\n".join(escape(line) for line in entry.message.split("\n")),
        "PRIORITY": str(entry.severity),
        "SYSLOG_FACILITY": str(entry.facility),
        "SYSLOG_IDENTIFIER": escape(entry.application),
        "SYSLOG_PID": escape(entry.process),
        "SYSLOG_TIMESTAMP": f"{entry.time:.6f}",
        f"{PREFIX}SERVER_NAME": escape(entry.server_name),
        f"{PREFIX}REQUEST": escape(entry.request),
        f"{PREFIX}KIND": escape(entry.kind),
        f"{PREFIX}HOST": escape(entry.host),
    }
    for name, value in (entry.fields or {}).items():
        fields.setdefault(PREFIX + _NOT_FIELD.sub("_", name.upper())[: LONGEST_NAME - len(PREFIX)], escape(value))
    parts: list[bytes] = []
    for name, value in fields.items():
        data = value.encode()
        if not data:
            continue
        if b"\n" in data:
            parts += (name.encode(), b"\n", _LENGTH.pack(len(data)), data, b"\n")
        else:
            parts += (name.encode(), b"=", data, b"\n")
    return b"".join(parts)


class JournalSink(DatagramSink):
    """Writes to the journal's socket at `path`."""

    def __init__(self, path: str, log: logging.Logger) -> None:
        super().__init__(f"journal {path}", log)
        self._path = path

    def format(self, entry: FeedEntry, limit: int | None) -> bytes:
        return format_fields(entry if limit is None else entry._replace(message=clip(entry.message, limit)))

    def send(self, data: bytes) -> None:
        try:
            used = self._socket or self.connect(socket.AF_UNIX, self._path)
            try:
                used.send(data)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                _send_sealed(used, data)
        except TimeoutError:
            raise  # the journal is there, but does not read
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                self.release()
            raise


def _send_sealed(used: socket.socket, data: bytes) -> None:
    """Send the descriptor of a file in memory that holds the datagram."""
    descriptor = os.memfd_create("syslog", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        rights = array.array("i", [descriptor])
        used.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
