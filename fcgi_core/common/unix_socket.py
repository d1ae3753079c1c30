"""Listening unix sockets: toward the web server, of the live feed, of the admin, of plugins.

A socket outlives the process that was killed on it, and then nobody can listen there until it is removed; but one on
which another process still listens must stay. The file is made with no rights for others and opened up afterwards, so
that it is never wider open than it is meant to be.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat

from .forks import keep_from_children

__all__ = ["UnixSocket", "somebody_listens"]

BACKLOG = 4096
"""Connections that wait to be accepted; the kernel takes net.core.somaxconn if that is less."""


class UnixSocket:
    """A unix socket that listens at `path`; give `socket` to an event loop, and call `close` at the end.

    OSError if the path cannot be used: EADDRINUSE if another process listens there, EEXIST if something else than a
    socket is there, EINVAL if there is no such group.
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
        _remove_stale(self.path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        keep_from_children(self.socket)
        try:
            os.fchmod(self.socket.fileno(), 0o600)  # Linux makes the file with these bits
            self.socket.bind(self.path)
            status = os.stat(self.path)
            self._inode = status.st_dev, status.st_ino
            os.chown(self.path, -1, group_number)
            os.chmod(self.path, mode)
            self.socket.listen(backlog)
            self.socket.setblocking(False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket, unless an event loop has done so, and remove the file, unless another process has taken
        the path over."""
        self.socket.close()
        if self._inode is None:
            return
        try:
            status = os.stat(self.path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or no longer ours to remove
        self._inode = None


def somebody_listens(path: str) -> bool:
    """Whether a process listens on the unix socket at `path`. It sees a connection that is closed at once."""
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
    """Remove a socket that a process left behind when it died."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "there is something else than a socket", path)
    except FileNotFoundError:
        return
    if somebody_listens(path):
        raise OSError(errno.EADDRINUSE, "another process listens on it", path)
    os.unlink(path)
