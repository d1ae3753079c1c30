"""Listening unix sockets: for the web server, the live feed, the admin, plugins.

The file of a socket outlives a killed process, and no process can listen there until it is removed; but if another
process still listens on it, it must stay. The file is made without rights for others, which it gets afterwards, so that
it is never more open than intended. Who may connect is the configuration's choice (`fcgi_core.process.config`).
"""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any, cast

from . import listening
from .forks import keep_from_children

__all__ = ["UnixSocket", "has_listener"]

BACKLOG = 4096
"""Connections that wait to be accepted; the kernel takes net.core.somaxconn if that is less."""

_KEEP_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class UnixSocket:
    """A unix socket that listens at `path`; call `serve`, and `close` at the end. It is the one
    that was passed in for the path (`listening`), or a new one. The mode of systemd's is the affair of its unit.

    OSError if the path cannot be used: EADDRINUSE if another process listens there, EEXIST if the path is not a socket,
    EINVAL if there is no such group.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, mode: int = 0o600, group: str | None = None, backlog: int = BACKLOG
    ) -> None:
        """`mode` is the file's; a `group` (a name) may connect too."""
        self.path = os.fspath(path)
        self._inode: tuple[int, int] | None = None
        group_number = -1
        if group is not None:
            mode |= 0o060  # to connect takes the right to write
            try:
                group_number = grp.getgrnam(group).gr_gid
            except KeyError:
                raise OSError(errno.EINVAL, f"there is no group {group!r}", self.path) from None
        given = listening.take(self.path)
        if given is not None and given[1] and not os.path.exists(self.path):
            given[0].close()  # its file was removed, so nobody can connect there
            given = None
        if given is None:
            _remove_stale(self.path)
        self.socket = given[0] if given is not None else socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        keep_from_children(self.socket)
        if given is not None and not given[1]:
            return
        try:
            if given is None:
                os.fchmod(self.socket.fileno(), 0o600)  # Linux makes the file with these bits
                self.socket.bind(self.path)
            status = os.stat(self.path)
            self._inode = status.st_dev, status.st_ino
            os.chown(self.path, -1, group_number)
            os.chmod(self.path, mode)
            self.socket.listen(backlog)
            self.socket.setblocking(False)
            listening.keep(self.socket)
        except BaseException:
            self.close()
            raise

    async def serve(self, make: Callable[[], asyncio.BaseProtocol], *, backlog: int = BACKLOG) -> asyncio.Server:
        """Accept connections on the running loop, when `listening.accept` lets it. The server closes without removing
        the file: that is `close`'s."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(
            cast(Any, make), sock=self.socket, backlog=backlog, start_serving=False, **_KEEP_FILE
        )
        await listening.accept(server)
        return server

    def close(self) -> None:
        """Close the socket, which an event loop may have done, and remove the file, unless another process listens at
        the path now, or serves at the same socket."""
        self.socket.close()
        if self._inode is None or listening.another_serves():
            return
        try:
            status = os.stat(self.path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or no longer ours to remove
        self._inode = None


def has_listener(path: str) -> bool:
    """Returns whether a process listens on the unix socket at `path`, which sees a connection that ends at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass  # its backlog is full, or it is not for us
        return True


def _remove_stale(path: str) -> None:
    """Remove a socket that a process left when it was killed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "the path is not a socket", path)
    except FileNotFoundError:
        return
    if has_listener(path):
        raise OSError(errno.EADDRINUSE, "another process listens on it", path)
    os.unlink(path)
