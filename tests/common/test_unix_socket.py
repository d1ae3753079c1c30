from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from fcgi_core.common.unix_socket import UnixSocket, has_listener


def left_behind(path: Path) -> None:
    """What a process leaves that was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_listens_with_the_mode_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    unix = UnixSocket(path, mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert has_listener(str(path))
    unix.close()
    assert not path.exists()
    unix.close()


def test_a_group_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    group = grp.getgrgid(os.getgid()).gr_name
    unix = UnixSocket(path, group=group)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == os.getgid()
    unix.close()


def test_unknown_group_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="there is no group 'no-such-group-here'"):
        UnixSocket(tmp_path / "a.sock", group="no-such-group-here")
    assert not (tmp_path / "a.sock").exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    left_behind(path)
    assert not has_listener(str(path))
    unix = UnixSocket(path)
    assert has_listener(str(path))
    unix.close()


def test_a_socket_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first = UnixSocket(path)
    with pytest.raises(OSError, match="another process listens") as caught:
        UnixSocket(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert has_listener(str(path))
    first.close()


def test_something_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        UnixSocket(path)
    assert path.read_text() == "precious"


def test_a_path_that_another_process_uses_now_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    unix = UnixSocket(path)
    path.unlink()
    other = UnixSocket(path)
    unix.close()
    assert has_listener(str(path))
    other.close()


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        UnixSocket(tmp_path / "none" / "a.sock")


def test_full_backlog_counts_as_listening(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    unix = UnixSocket(path, backlog=0)
    clients = []
    try:
        while True:
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            client.connect(str(path))
    except BlockingIOError:
        pass
    assert has_listener(str(path))
    for client in clients:
        client.close()
    unix.close()
