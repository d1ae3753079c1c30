"""The operator's end of the admin sockets: which there are, and how to ask."""

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

__all__ = ["AdminClient", "AdminError", "add_admin_argument", "ask_all", "ask_once", "sockets", "understood"]

ADMIN_VARIABLE = "FCGI_SCTP_ADMIN"
DIRECTORY = "/run/fcgi-sctp"
"""Beside it each systemd unit of an application has one of its own, DIRECTORY-NAME."""
PATIENCE = 5.0
"""Seconds for an answer; a process that needs longer for this is in trouble."""
MAX_ANSWER = 64 << 20


class AdminError(Exception):
    """A process could not be asked; the text is for people."""


@contextmanager
def understood() -> Iterator[None]:
    """While answers are read that may come from anything: AdminError where they are not as this version has them."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise AdminError(f"a process answers what fcgi-sctp {__version__} does not understand: {error!r}") from error


def add_admin_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--admin",
        action="append",
        metavar="PATH",
        help=f"admin socket of a process, repeatable "
        f"(${ADMIN_VARIABLE}, separated by colons; else all in {DIRECTORY} and {DIRECTORY}-*)",
    )


def sockets(given: list[str] | None) -> list[str]:
    """The paths to ask: those given, those of the environment, or those that are there."""
    if given:
        return given
    named = os.environ.get(ADMIN_VARIABLE)
    if named:
        return [path for path in named.split(":") if path]
    found = [*glob.glob(f"{DIRECTORY}/*.sock"), *glob.glob(f"{DIRECTORY}-*/*.sock")]
    return sorted(path for path in found if os.path.basename(path) != "feed.sock")


class AdminClient:
    """A connection with one process, made when it is needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket: socket.socket | None = None
        self._rest = b""

    def ask(self, what: str, **question: Any) -> Any:
        """The answer. AdminError."""
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
            raise AdminError(f"{self.path}: what answers there is no admin socket of fcgi-sctp") from None
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
                raise OSError(0, "it closed the connection")
            size += len(received)
            if size > MAX_ANSWER:
                raise ValueError("too long")
            parts.append(received)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line


def ask_once(clients: list[AdminClient], what: str, **question: Any) -> tuple[list[Any], list[str]]:
    """As `ask_all`, for clients that are not asked again."""
    try:
        return ask_all(clients, what, **question)
    finally:
        for client in clients:
            client.close()


def ask_all(clients: list[AdminClient], what: str, **question: Any) -> tuple[list[Any], list[str]]:
    """Answers in the order of the clients, and what went wrong with the others."""
    answers, errors = [], []
    for client in clients:
        try:
            answers.append(client.ask(what, **question))
        except AdminError as error:
            errors.append(str(error))
    return answers, errors
