"""Web servers beside nginx in front of the web side: HAProxy's multiplexer, lighttpd, Apache httpd's mod_proxy_fcgi."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.app.servers import program
from tests.system.applications import content, digest
from tests.system.stack import Stack, free_port, wait_until

HAPROXY = """\
global
    maxconn 200
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
fcgi-app application
    docroot /srv
    option keep-conn
    option mpxs-conns
frontend web
    bind 127.0.0.1:{port}
    default_backend application
backend application
    use-fcgi-app application
    http-reuse always
    server one {address} proto fcgi
"""

LIGHTTPD = """\
server.modules = ("mod_fastcgi")
server.document-root = "{folder}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/lighttpd-error.log"
server.stream-request-body = 2
server.stream-response-body = 2
fastcgi.server = ("/" => ((
    "host" => "{host}", "port" => {back_end}, "check-local" => "disable", "fix-root-scriptname" => "enable"
)))
"""

APACHE = """\
ServerRoot {folder}
ServerName shop.example
PidFile {folder}/httpd.pid
Mutex file:{folder}
ErrorLog {folder}/httpd-error.log
{user}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
Listen 127.0.0.1:{port}
ProxyPass / fcgi://{address}/ enablereuse=on flushpackets=on
"""


class WebServer:
    """One of them, in front of a stack's web side."""

    def __init__(self, name: str, stack: Stack) -> None:
        self.name = name
        self.stack = stack
        self.port = free_port()
        text = {"haproxy": HAPROXY, "lighttpd": LIGHTTPD, "apache2": APACHE}[name]
        host, _, back_end = stack.listen.rpartition(":")
        configuration = stack.folder / f"{name}.conf"
        configuration.write_text(
            text.format(
                folder=stack.folder,
                port=self.port,
                address=stack.listen,
                host=host,
                back_end=back_end,
                user="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
            )
        )
        command = {
            "haproxy": [program("haproxy"), "-db", "-f"],
            "lighttpd": [program("lighttpd"), "-D", "-f"],
            "apache2": [program("apache2"), "-DFOREGROUND", "-f"],
        }[name]
        self.program = stack.run(name, *command, str(configuration))
        wait_until(self._listens, f"{name} listens")

    def _listens(self) -> bool:
        assert self.program.running, self.program.text
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)


@pytest.fixture(scope="module", params=["haproxy", "lighttpd", "apache2"])
def server(request: pytest.FixtureRequest, start_for_module: Callable[..., Stack]) -> Iterator[WebServer]:
    program(request.param)
    running = WebServer(request.param, start_for_module("applications:plain", tcp=True, throws=True))
    yield running
    running.program.stop(signal.SIGTERM)


def ask(server: WebServer, *what: object, on: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
    connection = on or server.connect()
    try:
        connection.request(*what, headers={"Host": "shop.example"})  # type: ignore[arg-type]
        with connection.getresponse() as response:
            return response.status, response.read()
    finally:
        if on is None:
            connection.close()


def test_get(server: WebServer) -> None:
    assert ask(server, "GET", "/hello") == (200, b"hello")
    assert ask(server, "GET", "/nowhere")[0] == 404
    assert ask(server, "HEAD", "/hello") == (200, b"")
    assert ask(server, "GET", "/no-content") == (204, b"")


def test_error_pages_have_no_body_on_head(server: WebServer) -> None:
    """HAProxy takes one for an error and answers 502."""
    assert ask(server, "HEAD", "/crash") == (500, b"")
    assert ask(server, "GET", "/crash") == (500, b"500 Internal Server Error\n")
    assert ask(server, "HEAD", "/hello") == (200, b"")


def test_post(server: WebServer) -> None:
    body = random.Random(1).randbytes(1 << 20)
    status, answer = ask(server, "POST", "/upload", body)
    assert (status, hashlib.sha256(body).hexdigest().encode() in answer) == (200, True)


def test_download(server: WebServer) -> None:
    status, body = ask(server, "GET", f"/big?size={5 << 20}&seed=x")
    assert (status, digest([body])) == (200, digest(content(5 << 20, "x")))


def test_many_on_kept_connections(server: WebServer) -> None:
    def work(worker: int) -> None:
        connection = server.connect()
        for number in range(20):
            name = f"{worker}.{number}"
            status, body = ask(server, "GET", f"/big?size={number * 3000}&seed={name}", on=connection)
            assert (status, digest([body])) == (200, digest(content(number * 3000, name)))
        connection.close()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(work, range(10)))


def test_a_client_that_leaves(server: WebServer) -> None:
    """The application is told, and requests beside it go on, on HAProxy's one connection too."""
    before = server.stack.seen("forever closed")
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(ask, server, "GET", f"/big?size={5 << 20}&seed=y")
        for _ in range(3):
            connection = server.connect()
            connection.request("GET", "/forever", headers={"Host": "shop.example"})
            response = connection.getresponse()
            assert response.read(11) == b"still here\n"
            response.close()
            connection.close()
        assert digest([beside.result()[1]]) == digest(content(5 << 20, "y"))
    server.stack.saw("forever closed", before + 3)


def test_clients_that_leave_long_downloads(server: WebServer) -> None:
    """A client that goes in the middle of a large response does not stall what comes after it."""
    for _ in range(5):
        connection = server.connect()
        connection.request("GET", f"/cheap?size={50 << 20}", headers={"Host": "shop.example"})
        response = connection.getresponse()
        assert len(response.read(200_000)) == 200_000
        response.close()
        connection.close()
    for _ in range(5):
        assert ask(server, "GET", "/hello") == (200, b"hello")


def upload(server: WebServer, path: str, body: bytes) -> tuple[int, bytes]:
    """Send and read at the same time: when the answer is there, HAProxy reads no more, and Apache reads all."""
    connection = server.connect()
    connection.putrequest("POST", path, skip_host=True)
    connection.putheader("Host", "shop.example")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    link: socket.socket = connection.sock

    def send() -> None:
        with suppress(OSError):  # the answer has come, and the connection is closed
            link.sendall(body)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with connection.getresponse() as response:
            return response.status, response.read()
    finally:
        with suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
        sender.join()
        connection.close()


def test_answers_that_do_not_wait_for_the_upload(server: WebServer) -> None:
    """They reach the client, and the connection, if the web server keeps it, carries the next request."""
    body = bytes(4 << 20)
    for _ in range(10):
        assert upload(server, "/refuse", body) == (401, b"who are you?")
        assert ask(server, "GET", "/hello") == (200, b"hello")


def test_an_answer_that_breaks_off(server: WebServer) -> None:
    """Cut, or an error; never whole."""
    try:
        status, body = ask(server, "GET", "/crash-late?length=5000")
    except (http.client.HTTPException, ConnectionError):
        pass
    else:
        assert status >= 500, (status, len(body))
    assert ask(server, "GET", "/hello") == (200, b"hello")
