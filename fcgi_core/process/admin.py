"""The admin socket: a running process answers its operator and accepts changes.

A line is a JSON object. A client asks, and gets one line for each it sends, in order::

    -> {"ask": "status", "streams": true}
    <- {"ok": true, "answer": {"side": "web", …}}
    -> {"ask": "nonsense"}
    <- {"ok": false, "error": "unknown question 'nonsense'; ask one of: plugins, status"}

Nothing of this delays content: clients are few and their lines short, and a client that does not read its answers is
not read either. The file's mode decides who may connect: 0600, or 0660 with a group.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any, cast

from ..common.unix_socket import UnixSocket

__all__ = ["AdminServer", "Commands", "open_admin"]

log = logging.getLogger("fcgi_sctp.admin")

Commands = Mapping[str, Callable[[Mapping[str, Any]], Any]]
"""By the name of a question: takes the whole question and returns the answer or an awaitable of it. The text of a
ValueError goes to the client."""
MAX_CLIENTS = 16
"""Clients at once; a further one takes the place of the client that has asked nothing for longest."""
MAX_LINE = 64 * 1024
"""Bytes of a question."""
PATIENCE = 60.0
"""Seconds that a client may be silent."""


class AdminServer:
    """Answers on a unix socket at `path`. Everything runs on the event loop's thread."""

    def __init__(self, path: str, commands: Commands, *, group: str | None = None) -> None:
        self.path = path
        self._commands = commands
        self._group = group
        self._clients: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """Clients that ask nothing now, in the order in which they became silent."""
        self._socket: UnixSocket | None = None
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Listen. It raises the OSErrors of `UnixSocket`."""
        self._socket = UnixSocket(self.path, group=self._group)
        self._server = await self._socket.serve(self._protocol)

    def close(self) -> None:
        """Stop listening, remove the socket, and disconnect all clients."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        for client in tuple(self._clients):
            client.cancel()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=MAX_LINE)
        return asyncio.StreamReaderProtocol(reader, self._accepted)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            if not self._silent:
                writer.write(_error(f"{MAX_CLIENTS} clients are being answered; try again"))
                writer.close()
                return
            longest = next(iter(self._silent))
            self._clients.discard(longest)
            self._silent.pop(longest).transport.abort()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(task)
        self._silent[task] = writer
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._clients.discard(task)
        self._silent.pop(task, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                async with asyncio.timeout(PATIENCE):
                    line = await reader.readline()
                    if not line:
                        break
                    self._silent.pop(task, None)
                    writer.write(await self.answer(line))
                    await writer.drain()
                    self._silent[task] = writer
        except ValueError:
            writer.write(_error(f"a question is one line of {MAX_LINE} bytes at most"))
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client is gone or silent for too long, or this process ends
        finally:
            writer.close()

    async def answer(self, line: bytes) -> bytes:
        """Return the answer to a line; it never raises."""
        try:
            question = json.loads(line)
        except (ValueError, RecursionError) as error:
            return _error(f"the question is not JSON: {error}")
        asked = question.get("ask") if isinstance(question, dict) else None
        command = self._commands.get(asked) if isinstance(asked, str) else None
        if command is None:
            known = ", ".join(sorted(self._commands))
            return _error(f"unknown question {asked!r}; ask one of: {known}")
        try:
            answer = command(cast(Mapping[str, Any], question))
            if isawaitable(answer):
                answer = await answer
            return _line({"ok": True, "answer": answer})
        except ValueError as error:
            return _error(str(error))
        except Exception:
            log.exception("%s could not be answered", asked)
            return _error(f"{asked} could not be answered; the log of process {os.getpid()} says why")


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _error(text: str) -> bytes:
    return _line({"ok": False, "error": text[:1000]})


async def open_admin(
    path: str, commands: Commands, group: str | None = None, *, needed: bool = True
) -> AdminServer | None:
    """Return an admin socket that listens at `path`. OSError if it cannot; if it is not `needed`, the folder is made
    first, and an error is logged and None returned."""
    server = AdminServer(path, commands, group=group)
    try:
        if not needed:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        await server.start()
    except OSError as error:
        if needed:
            raise
        log.info("no admin socket at %s: %s", path, error)
        return None
    return server
