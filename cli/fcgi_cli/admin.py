"""Questions to the admin sockets of running processes, for the commands of an operator."""

from __future__ import annotations

import argparse
import glob
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fcgi_core import __version__

from .output import complain

__all__ = [
    "NO_PROCESS",
    "AdminClient",
    "AdminError",
    "add_admin_argument",
    "ask_all",
    "ask_once",
    "sockets",
    "understood",
]

ADMIN_VARIABLE = "FCGI_SCTP_ADMIN"
DIRECTORY = "/run/fcgi-sctp"
"""Each systemd unit of an application has a folder DIRECTORY-NAME next to it."""
PATIENCE = 5.0
"""Seconds to wait for an answer; a process that needs longer is in trouble."""
MAX_ANSWER = 64 << 20
"""Bytes."""
NO_PROCESS = "no admin socket found: no process runs here, or you may not read its folder; use --admin PATH"


class AdminError(Exception):
    """A process could not be asked, or its answer not be read; the text is for the operator."""


@contextmanager
def understood() -> Iterator[None]:
    """Raise AdminError where the block reads an answer that does not have the form which this version knows."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise AdminError(f"fcgi-sctp {__version__} does not understand the answer of a process: {error!r}") from error


def add_admin_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--admin",
        action="append",
        metavar="PATH",
        help="admin socket of a process to ask; repeatable "
        f"(${ADMIN_VARIABLE}, separated by colons, or all in {DIRECTORY} and {DIRECTORY}-*)",
    )


def sockets(given: list[str] | None) -> list[str]:
    """The paths to ask: of ``--admin``, else of the environment, else all that exist."""
    if given:
        return given
    named = os.environ.get(ADMIN_VARIABLE)
    if named:
        return [path for path in named.split(":") if path]
    found = [*glob.glob(f"{DIRECTORY}/*.sock"), *glob.glob(f"{DIRECTORY}-*/*.sock")]
    return sorted(path for path in found if os.path.basename(path) != "feed.sock")


class AdminClient:
    """A connection to the admin socket at `path`, opened by the first question."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket: socket.socket | None = None
        self._rest = b""

    def ask(self, what: str, **question: Any) -> Any:
        """Send a question and return the answer. AdminError."""
        try:
            if self._socket is None:
                self._connect()
            assert self._socket is not None
            self._socket.sendall(json.dumps({"ask": what, **question}).encode() + b"\n")
            answer = json.loads(self._line())
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except OSError as error:
            self.close()
            raise AdminError(f"{self.path}: {error.strerror or error}") from None
        except (ValueError, RecursionError):
            self.close()
            raise AdminError(f"{self.path}: not an admin socket of fcgi-sctp") from None
        if answer.get("ok") is not True:
            raise AdminError(f"{self.path}: {answer.get('error')}")
        return answer.get("answer")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rest = b""

    def _connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(PATIENCE)
            made.connect(self.path)
        except OSError:
            made.close()
            raise
        self._socket = made

    def _line(self) -> bytes:
        assert self._socket is not None
        parts = [self._rest]
        size = 0
        while b"\n" not in parts[-1]:
            received = self._socket.recv(1 << 20)
            if not received:
                raise OSError(0, "the process closed the connection")
            size += len(received)
            if size > MAX_ANSWER:
                raise ValueError("too long")
            parts.append(received)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line


def ask_all(clients: list[AdminClient], what: str, **question: Any) -> tuple[list[Any], list[str]]:
    """The answers in the order of the clients, and the errors of the clients without an answer."""
    answers, errors = [], []
    for client in clients:
        try:
            answers.append(client.ask(what, **question))
        except AdminError as error:
            errors.append(str(error))
    return answers, errors


def ask_once(command: str, given: list[str] | None, what: str, *, optional: bool = False, **question: Any) -> list[Any]:
    """Ask each process once and return the answers. Errors are printed as those of `command`; that no process runs is
    an error unless `optional`."""
    clients = [AdminClient(path) for path in sockets(given)]
    if not clients and not optional:
        complain(command, NO_PROCESS)
    try:
        answers, errors = ask_all(clients, what, **question)
    finally:
        for client in clients:
            client.close()
    complain(command, *errors)
    return answers
