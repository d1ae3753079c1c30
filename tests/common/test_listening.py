"""Listening sockets that come from outside and go on to the next process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcgi_core.common import listening
from fcgi_core.common.unix_socket import UnixSocket


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(listening, "_handed_over", False)
    monkeypatch.setattr(listening, "_waits", False)
    yield
    listening.release_unused()


def given_tcp(*, made_here: bool = False) -> int:
    """A socket that was passed in; its port."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        port = int(made.getsockname()[1])
        listening.adopt(made.detach(), made_here=made_here)
    return port


def given_unix(path: Path, *, made_here: bool) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        listening.adopt(made.detach(), made_here=made_here)


def test_a_socket_that_was_passed_in_is_taken_for_its_address() -> None:
    port = given_tcp()
    (taken,) = listening.listen_tcp("127.0.0.1", port)
    with taken, socket.create_connection(("127.0.0.1", port)) as client, taken.accept()[0] as server:
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        assert (taken, False) in listening.hand_over()
    assert listening.release_unused() == []
    assert all(sock is not taken for sock, _ in listening.hand_over()), "it is closed"


def test_others_are_made(tmp_path: Path) -> None:
    for one in (made := listening.listen_tcp("127.0.0.1", 0)):
        assert (one, True) in listening.hand_over()
        one.close()
    assert len(made) == 1
    with pytest.raises(OSError, match="assign requested address"):
        listening.listen_tcp("192.0.2.1", 0)


@pytest.mark.parametrize("made_here", [True, False])
def test_the_file_of_a_unix_socket_is_its_makers(tmp_path: Path, made_here: bool) -> None:
    path = tmp_path / "a.sock"
    given_unix(path, made_here=made_here)
    path.chmod(0o600)
    unix = UnixSocket(path, mode=0o666)
    assert path.stat().st_mode & 0o777 == (0o666 if made_here else 0o600)
    unix.close()
    assert path.exists() is not made_here


def test_a_socket_whose_file_is_gone_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    given_unix(path, made_here=True)
    path.unlink()
    unix = UnixSocket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    unix.close()
    assert not path.exists()


def test_the_file_stays_when_another_process_has_the_socket(tmp_path: Path) -> None:
    unix = UnixSocket(tmp_path / "a.sock")
    listening.cease()
    unix.close()
    assert (tmp_path / "a.sock").exists()


def test_what_nobody_takes_goes_with_its_file(tmp_path: Path) -> None:
    given_unix(tmp_path / "ours.sock", made_here=True)
    assert listening.release_unused() == []
    assert not (tmp_path / "ours.sock").exists()


def test_what_nobody_takes_of_systemd_is_closed_and_told(tmp_path: Path) -> None:
    given_unix(tmp_path / "ours.sock", made_here=True)
    given_unix(tmp_path / "systemds.sock", made_here=False)
    port = given_tcp()
    assert listening.release_unused() == [f"unix:{tmp_path}/systemds.sock", f"127.0.0.1:{port}"]
    assert (tmp_path / "ours.sock").exists(), "this process ends with an error, and the one before it serves on"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_only_stream_sockets_that_listen_are_adopted() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+ is not a stream socket that listens"):
            listening.adopt(silent.detach(), made_here=False)
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0fcgi-sctp-test")
        abstract.listen()
        with pytest.raises(ValueError, match=r"^the socket unix:@fcgi-sctp-test is abstract"):
            listening.adopt(abstract.detach(), made_here=False)
    with open("/dev/null") as file, pytest.raises(ValueError, match="is not a socket"):
        listening.adopt(file.fileno(), made_here=False)


def test_names() -> None:
    with socket.socket(socket.AF_INET6) as made:
        made.bind(("::1", 0))
        assert listening.name_of(made) == f"[::1]:{made.getsockname()[1]}"


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])
def test_of_two_processes_with_a_socket_one_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unix: bool
) -> None:
    monkeypatch.setattr(listening, "_waits", False)

    async def test() -> None:
        async def make() -> asyncio.Server:
            if unix:
                return await UnixSocket(tmp_path / "a.sock").serve(asyncio.Protocol)
            (sock,) = listening.listen_tcp("127.0.0.1", 0)
            server = await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=sock, start_serving=False)
            await listening.accept(server)
            return server

        listening.hold_back()
        closed = await make()
        closed.close()
        server = await make()
        assert not server.is_serving()
        await listening.accept_now()
        assert server.is_serving()
        assert not closed.is_serving()
        listening.cease()
        assert not server.is_serving()

    asyncio.run(test())
