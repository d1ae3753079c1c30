"""What `fcgi-sctp nginx-config` prints, with the real servers: an upload reaches PHP whole, whether its client says how
long it is or not. PHP reads nothing of one that has no CONTENT_LENGTH."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fcgi_cli.webserver import SERVERS, snippet

from tests.app.servers import php_fpm, program
from tests.system.load import Load
from tests.system.stack import COMMAND, Program, Stack, free_port, wait_until

PAGE = "<?php $body = file_get_contents('php://input'); echo strlen($body), ' ', md5($body);"
NGINX = """\
daemon off;
{user}
pid {folder}/printed.pid;
error_log {folder}/printed-error.log info;
events {{}}
http {{
access_log off;
client_body_temp_path {folder}/printed-body;
fastcgi_temp_path {folder}/printed-fastcgi;
{text}
}}
"""
APACHE = """\
ServerRoot {folder}
ServerName shop.example
PidFile {folder}/httpd.pid
Mutex file:{folder}
ErrorLog {folder}/httpd-error.log
{user}
{modules}
Listen 127.0.0.1:{port}
{text}
"""
LIGHTTPD = """\
server.modules = ()
server.document-root = "{php}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/lighttpd-error.log"
server.upload-dirs = ("{folder}")
{text}
"""
HAPROXY = """\
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
{text}
"""
MODULES = ("mpm_event", "authz_core", "proxy", "proxy_fcgi", "unique_id", "env")


def run_server(name: str, stack: Stack, php: Path) -> tuple[Program, int]:
    """One that runs with what is printed; its port. What PHP needs besides, SCRIPT_FILENAME, is added to it."""
    port, script = free_port(), f"{php}/upload.php"
    text = snippet(name, stack.listen, server_name="shop.example")
    directory = "/usr/lib/apache2/modules"
    modules = "\n".join(f"LoadModule {one}_module {directory}/mod_{one}.so" for one in MODULES)
    if name == "nginx":
        text = text.replace("listen 80;", f"listen 127.0.0.1:{port};").replace(
            "include fastcgi", "include /etc/nginx/fastcgi"
        )
        text = text.replace("fastcgi_pass", f"fastcgi_param SCRIPT_FILENAME {script}; fastcgi_pass")
    elif name == "apache":
        text = text.replace("*:80", f"*:{port}")
        text = text.replace("ProxyPass ", f'ProxyFCGISetEnvIf "true" SCRIPT_FILENAME "{script}"\n    ProxyPass ')
    elif name == "lighttpd":
        text = text.replace('"fix-root-scriptname" => "enable",', "")
    elif name == "haproxy":
        text = text.replace("bind :80", f"bind 127.0.0.1:{port}")
        text = text.replace("option keep-conn", f"option keep-conn\n    set-param SCRIPT_FILENAME {script}")
    user = {"nginx": "user www-data;", "apache": "User www-data\nGroup www-data"}.get(name, "")
    whole = {"nginx": NGINX, "apache": APACHE, "lighttpd": LIGHTTPD, "haproxy": HAPROXY}[name].format(
        text=text, folder=stack.folder, port=port, php=php, modules=modules, user=user if os.geteuid() == 0 else ""
    )
    file = stack.folder / f"printed-{name}.conf"
    file.write_text(whole)
    command = {
        "nginx": [program("nginx"), "-c"],
        "apache": [program("apache2"), "-DFOREGROUND", "-f"],
        "lighttpd": [program("lighttpd"), "-D", "-f"],
        "haproxy": [program("haproxy"), "-db", "-f"],
    }[name]
    running = stack.run(name, *command, str(file))

    def listens() -> bool:
        assert running.running, running.text
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, f"{name} listens")
    return running, port


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, start_for_module: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    program({"apache": "apache2"}.get(request.param, request.param))
    folder = tmp_path_factory.mktemp("php")
    (folder / "upload.php").write_text(PAGE)
    with php_fpm(folder) as php:
        stack = start_for_module(app={"application": None, "fastcgi": f"unix:{php}"}, tcp=True)
        running, port = run_server(request.param, stack, folder)
        yield request.param, port
        running.stop(signal.SIGTERM)


HEADERS = {"Host": "shop.example", "Content-Type": "application/octet-stream"}


@pytest.fixture
def connection(server: tuple[str, int]) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection("127.0.0.1", server[1], timeout=30)
    yield made
    made.close()


def test_an_upload_reaches_php_whole(connection: http.client.HTTPConnection) -> None:
    body = os.urandom(1 << 20)
    connection.request("POST", "/upload.php", body, HEADERS)
    answer = connection.getresponse()
    assert (answer.status, answer.read().decode()) == (200, f"{len(body)} {hashlib.md5(body).hexdigest()}")


def test_an_upload_of_unknown_length(server: tuple[str, int], connection: http.client.HTTPConnection) -> None:
    """It reaches PHP whole; or its client hears that it does not: HAProxy cannot tell how long it is."""
    refused = server[0] == "haproxy"
    connection.putrequest("POST", "/upload.php", skip_host=True)
    for header, value in {**HEADERS, "Transfer-Encoding": "chunked"}.items():
        connection.putheader(header, value)
    body = b"" if refused else os.urandom(1 << 20)
    pieces = [body[begin : begin + 10_000] for begin in range(0, len(body), 10_000)]
    connection.endheaders(None if refused else iter(pieces), encode_chunked=True)
    answer = connection.getresponse()
    if refused:
        assert answer.status == 411
    else:
        assert (answer.status, answer.read().decode()) == (200, f"{len(body)} {hashlib.md5(body).hexdigest()}")


def test_one_of_two_web_sides_is_restarted_under_load(start: Callable[..., Stack]) -> None:
    stack = start(application="applications:plain")
    other = f"unix:{stack.folder}/other.sock"
    names = {"listen": other, "feed": f"{stack.folder}/other.feed", "admin": f"{stack.folder}/other.admin"}
    config = stack.write("other", {"web": {**stack._web, **names}, **stack._common})

    def start_other() -> Program:
        started = stack.run("web", COMMAND, "web", "--config", config)
        started.says("ready")
        return started

    running = start_other()
    nginx, port = run_nginx(stack, snippet("nginx", stack.listen, other, server_name="shop.example"))
    stack.port = port
    with Load(stack) as load:
        for _ in range(3):
            wait_for_more(load)
            assert running.stop() == 0
            wait_for_more(load)
            running = start_other()
        wait_for_more(load)
        running.kill()
        wait_for_more(load)
    assert set(load.seen) == {200}
    assert nginx.stop(signal.SIGQUIT) == 0


def wait_for_more(load: Load) -> None:
    before = load.seen.total()
    wait_until(lambda: load.seen.total() > before + 100, "requests are answered")


def run_nginx(stack: Stack, text: str) -> tuple[Program, int]:
    """nginx with what is printed; its port."""
    port = free_port()
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};").replace(
        "include fastcgi", "include /etc/nginx/fastcgi"
    )
    user = "user www-data;" if os.geteuid() == 0 else ""
    file = stack.folder / "printed-nginx.conf"
    file.write_text(NGINX.format(text=text, folder=stack.folder, user=user))
    running = stack.run("nginx", program("nginx"), "-c", str(file))

    def listens() -> bool:
        assert running.running, running.text
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, "nginx listens")
    return running, port
