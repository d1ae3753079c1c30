"""The sockets on which the web server connects."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import cast

from ..common.listening import listen_tcp, strangers
from ..common.unix_socket import BACKLOG, UnixSocket
from ..errors import FcgiSctpError
from ..sctp.carrier import Address
from .downstream import DownstreamConnection

__all__ = ["ListenError", "Listeners"]

log = logging.getLogger("fcgi_sctp.web")


class ListenError(FcgiSctpError):
    """The web side cannot listen at an address."""


class Listeners:
    """Listens at addresses, ``unix:/PATH`` or ``HOST:PORT``; each connection gets what `make` returns."""

    def __init__(self, make: Callable[[], DownstreamConnection], *, mode: int, group: str | None) -> None:
        """`mode`: permissions of unix sockets; `group` (a name) may connect too."""
        self._make = make
        self._mode = mode
        self._group = group
        self._servers: list[asyncio.Server] = []
        self._unix_sockets: list[UnixSocket] = []

    async def open(self, where: str) -> None:
        """Listen at `where`. ListenError."""
        make = cast(Callable[[], asyncio.Protocol], self._make)
        loop = asyncio.get_running_loop()
        try:
            if where.startswith("unix:"):
                unix = UnixSocket(where.removeprefix("unix:"), mode=self._mode, group=self._group)
                self._unix_sockets.append(unix)
                self._servers.append(await unix.serve(make))
            else:
                address = Address.parse(where)
                for host in address.hosts:
                    for one in await loop.run_in_executor(None, listen_tcp, host, address.port, BACKLOG):
                        self._servers.append(await loop.create_server(make, sock=one, backlog=BACKLOG))
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE and (given := strangers()):
                why += f"; systemd passed a socket at {given[0]}: if it is meant, write that in web.listen"
            raise ListenError(f"cannot listen at {where}: {why}") from error
        log.info("listening for the web server at %s", where)

    @property
    def are_open(self) -> bool:
        """Whether connections are accepted at each address."""
        return bool(self._servers) and all(server.is_serving() for server in self._servers)

    def close(self) -> None:
        """Accept no more connections, and remove the unix sockets."""
        for server in self._servers:
            server.close()
        for unix in self._unix_sockets:
            unix.close()
