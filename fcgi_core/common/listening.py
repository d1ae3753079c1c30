"""Listening sockets that outlive a process: systemd or the process before this one passes them in, and the process
after this one gets them.

Like signals and forks they are the process's affair: whoever listens takes a socket that was passed in for its address,
or else makes one, and need not know which. While a socket is passed on it never closes, so that connections wait in its
backlog and none is refused. Two processes have it then, and one of them accepts: `accept` sees to that.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import weakref
from typing import Any

__all__ = [
    "accept",
    "accept_now",
    "adopt",
    "another_serves",
    "cease",
    "hand_over",
    "hold_back",
    "keep",
    "listen_tcp",
    "name_of",
    "release_unused",
    "strangers",
    "take",
]

_Place = str | tuple[str, int]
_given: dict[_Place, tuple[socket.socket, bool]] = {}
"""Sockets that were passed in and not taken yet, and whether this program made them."""
_open: weakref.WeakKeyDictionary[socket.socket, bool] = weakref.WeakKeyDictionary()
"""Sockets that are used here, and whether this program made them."""
_servers: weakref.WeakSet[asyncio.Server] = weakref.WeakSet()
"""Those that accept while this process does."""
_waits = False
"""The process before this one still accepts."""
_handed_over = False
"""The process after this one accepts."""


def adopt(descriptor: int, *, made_here: bool) -> None:
    """Make a socket that was passed in available to `take`. `made_here`: this program made it, not systemd. ValueError
    if it is not a stream socket that listens, or is an abstract one."""
    try:
        given = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ValueError(f"descriptor {descriptor} is not a socket: {error.strerror}") from None
    given.set_inheritable(False)
    given.setblocking(False)
    if given.type != socket.SOCK_STREAM or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        where = name_of(given)
        given.close()
        raise ValueError(f"the socket at {where} is not a stream socket that listens")
    if given.family == socket.AF_UNIX and given.getsockname()[:1] == b"\0":
        where = name_of(given)
        given.close()
        raise ValueError(f"the socket {where} is abstract, and web servers use paths")
    _given[_place(given)] = given, made_here


def take(place: _Place) -> tuple[socket.socket, bool] | None:
    """Return the socket that was passed in for a path or (host, port), and whether this program made it."""
    found = _given.pop(place, None)
    if found is not None:
        keep(*found)
    return found


def keep(sock: socket.socket, made_here: bool = True) -> None:
    """Pass this listening socket on to the next process, if it is still open then."""
    _open[sock] = made_here


def strangers() -> list[str]:
    """Return the addresses of the sockets that this program has not made and nobody has taken yet."""
    return [name_of(given) for given, made_here in _given.values() if not made_here]


def release_unused() -> list[str]:
    """Close the sockets that nobody has taken, and return `strangers`: whoever passed them in expects that they are
    used. If there are none, the files of the others go."""
    strange = strangers()
    for place, (given, _) in _given.items():
        if isinstance(place, str) and not strange:
            try:
                os.unlink(place)
            except OSError:
                pass  # gone already
        given.close()
    _given.clear()
    return strange


def hand_over() -> list[tuple[socket.socket, bool]]:
    """Return the listening sockets that are open, and whether this program made each."""
    return [(sock, made_here) for sock, made_here in _open.items() if sock.fileno() >= 0]


async def accept(server: asyncio.Server) -> None:
    """Have a server, which does not yet, accept connections: as long as this process does, not the one before or after
    it."""
    _servers.add(server)
    if not _waits:
        await server.start_serving()


def hold_back() -> None:
    """Accept nothing until `accept_now`: the process before this one does."""
    global _waits
    _waits = True


async def accept_now() -> None:
    """Have the servers accept: the process before this one does no more, or there is none."""
    global _waits
    _waits = False
    for server in list(_servers):
        if server.sockets:  # it is not closed
            await server.start_serving()


def cease() -> None:
    """Close the servers: the process after this one accepts. It has the sockets, so their files stay."""
    global _handed_over
    _handed_over = True
    for server in list(_servers):
        server.close()


def another_serves() -> bool:
    """Return whether another process serves at the sockets: the one before this one, or the one after it. Their files
    stay then, whatever becomes of this process."""
    return _waits or _handed_over


def listen_tcp(host: str, port: int, backlog: int = 128, *, shared: bool = False) -> list[socket.socket]:
    """Return sockets that listen at all addresses of a host: those that were passed in, and new ones. `shared`: other
    processes of the same user may listen there too. OSError, of which socket.gaierror is one."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    problem = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, _, _, _, address in dict.fromkeys(found):
        given = take((str(address[0]), int(address[1])))
        try:
            listening.append(given[0] if given is not None else _listen(family, address, backlog, shared))
        except OSError as error:
            problem = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # the host has no such address: IPv6
                for one in listening:
                    one.close()
                raise
    if not listening:
        raise problem
    return listening


def _listen(family: int, address: tuple[Any, ...], backlog: int, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(backlog)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    keep(made)
    return made


def name_of(sock: socket.socket) -> str:
    """Return the address of a socket as the configuration writes it."""
    place = _place(sock)
    if isinstance(place, str):
        return f"unix:{place}".replace("\0", "@", 1)
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"


def _place(sock: socket.socket) -> _Place:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return os.fsdecode(name)
    return str(name[0]), int(name[1])
