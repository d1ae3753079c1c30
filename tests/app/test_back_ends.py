"""The bridge before FastCGI servers that people run: php-fpm, libfcgi programs, uwsgi."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcgi_core.app.fastcgi.bridge import FastcgiBridge
from fcgi_core.protocol.records import ProtocolStatus, Role
from tests.app.harness import Call, Web, serving, until
from tests.app.servers import php_fpm, program, running
from tests.system.stack import free_port

PAGES = {
    "echo": "<?php header('Content-Type: application/octet-stream'); echo file_get_contents('php://input');",
    "hash": "<?php echo hash('sha256', file_get_contents('php://input')), ' ', $_GET['n'] ?? '';",
    "pid": "<?php usleep(2000); echo getmypid();",
    "noisy": "<?php for ($i = 0; $i < 50; $i++) error_log(str_repeat('x', 200) . \" line $i\"); echo 'said';",
    "half": "<?php echo str_repeat('x', 1000); flush(); posix_kill(getmypid(), 9);",
    "dies": "<?php posix_kill(getmypid(), 9);",
    "forever": "<?php register_shutdown_function(fn() => touch(__DIR__ . '/stopped'));"
    " while (true) { echo 'still here '; flush(); usleep(1000); }",
    "headers": "<?php $n = 0; foreach ($_SERVER as $k => $v) if (str_starts_with($k, 'HTTP_X_')) $n += strlen($v);"
    " echo $n, ' ', hash('sha256', $_SERVER['HTTP_X_3']);",
    "late": "<?php ignore_user_abort(true); echo 'early'; fastcgi_finish_request();"
    " if (isset($_GET['go'])) while (!file_exists($_GET['go'])) usleep(1000);"
    " echo 'LATE'; error_log('LATE'); flush(); touch($_GET['done']);",
    "big": "<?php for ($i = 0; $i < 320; $i++) echo str_repeat(chr($i % 256), 32768);",
}


TCP_POOL = """
[tcp]
listen = 127.0.0.1:{port}
pm = static
pm.max_children = {children}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("php")
    for name, text in PAGES.items():
        (made / f"{name}.php").write_text(text)
    return made


@pytest.fixture(scope="module")
def php(folder: Path) -> Iterator[Path]:
    with php_fpm(folder) as socket:
        yield socket


def page(web: Web, folder: Path, name: str, body: bytes | None = None, **more: str) -> Call:
    about = {
        "SCRIPT_FILENAME": f"{folder}/{name}.php",
        "SCRIPT_NAME": f"/{name}.php",
        "REQUEST_URI": f"/{name}.php",
        "REQUEST_METHOD": "GET" if body is None else "POST",
        "CONTENT_LENGTH": "" if body is None else str(len(body)),
        "CONTENT_TYPE": "" if body is None else "application/octet-stream",
    }
    return web.call({**about, **more}, body or b"")


# ---- php-fpm


def test_php_gives_10_mib_back(php: Path, folder: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{php}", connections=2)) as web:
            body = bytes(range(256)) * (10 << 12)
            head, answer = await page(web, folder, "echo", body).over()
            assert "Content-Type: application/octet-stream" in head
            assert hashlib.sha256(answer).digest() == hashlib.sha256(body).digest()

    asyncio.run(test())


def test_phps_children_are_all_used_and_then_left_to_others(php: Path, folder: Path) -> None:
    async def test() -> None:
        async with serving(bridge := FastcgiBridge(f"unix:{php}", connections=2)) as web:
            answers = await asyncio.gather(*(page(web, folder, "pid").over() for _ in range(40)))
            assert len({body for _, body in answers}) == 2  # its two children, and nothing failed
            await until(lambda: bridge.pool.open == 0, "all connections are given up")

    asyncio.run(test())


def test_php_gets_more_headers_than_a_record_holds(php: Path, folder: Path) -> None:
    """php-fpm parses each record of PARAMS by itself."""

    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{php}")) as web:
            for size, count in ((9_000, 6), (40_000, 6), (64_000, 6)):
                values = [chr(65 + number) * (size + number) for number in range(count)]
                more = {f"HTTP_X_{number}": value for number, value in enumerate(values)}
                _, body = await page(web, folder, "headers", **more).over()
                assert body.decode() == f"{len(''.join(values))} {hashlib.sha256(values[3].encode()).hexdigest()}"

    asyncio.run(test())


def test_phps_stderr(php: Path, folder: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{php}")) as web:
            call = page(web, folder, "noisy")
            assert (await call.over())[1] == b"said"
            await until(lambda: b"line 49" in call.err, "the last line comes")
            assert call.err.count(b"xxx line ") == 50

    asyncio.run(test())


def test_php_stops_when_the_client_has_gone(php: Path, folder: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{php}")) as web:
            call = page(web, folder, "forever")
            await until(lambda: b"still here" in call.out, "it begins")
            call.abort()
            await until((folder / "stopped").exists, "php stops")
            assert (await page(web, folder, "pid").over())[1].isdigit()

    asyncio.run(test())


def test_php_dies_in_the_middle(php: Path, folder: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{php}")) as web:
            call = page(web, folder, "half")
            assert (await call.over())[1] == b"x" * 1000
            assert call.status is ProtocolStatus.INCOMPLETE
            call = page(web, folder, "dies")
            await call.over()
            assert (call.out, call.status) == (b"", ProtocolStatus.INCOMPLETE)
            assert (await page(web, folder, "pid").over())[1].isdigit()

    asyncio.run(test())


def test_php_for_a_reader_that_stops(php: Path, folder: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{php}", connections=2)) as web:
            stopped = page(web, folder, "big")
            stopped.hold = True
            await until(lambda: len(stopped.out) > 250_000, "its window fills")
            for _ in range(10):  # others go on
                assert (await page(web, folder, "pid").over())[1].isdigit()
            stopped.release()
            assert len((await stopped.over())[1]) == 320 * 32768

    asyncio.run(test())


def test_php_that_replaces_its_children_often(folder: Path, tmp_path: Path) -> None:
    """pm.max_requests: php closes a connection that it had kept, right behind an answer. No request is lost by it."""

    async def test(socket: Path) -> None:
        async with serving(FastcgiBridge(f"unix:{socket}", connections=2)) as web:

            async def client(number: int) -> None:
                for turn in range(30):
                    name = f"{number}.{turn}"
                    call = page(web, folder, "hash", name.encode(), QUERY_STRING=f"n={name}")
                    right = f"{hashlib.sha256(name.encode()).hexdigest()} {name}"
                    assert (await call.over())[1].decode() == right, (call.status, name)

            await asyncio.gather(*map(client, range(4)))

    with php_fpm(tmp_path, children=2, max_requests=3) as socket:
        asyncio.run(test(socket))


def test_one_child_of_php_for_two_bridges(folder: Path, tmp_path: Path) -> None:
    """Neither knows of the other, nor of the number of children."""

    async def client(web: Web, name: str) -> None:
        for _ in range(4):
            assert (await page(web, folder, "pid").over())[1].isdigit()
            _, answer = await page(web, folder, "hash", name.encode(), QUERY_STRING=f"n={name}").over()
            assert answer.decode() == f"{hashlib.sha256(name.encode()).hexdigest()} {name}"

    async def test(address: str) -> None:
        async with serving(FastcgiBridge(address)) as one, serving(FastcgiBridge(address)) as other:
            await client(one, "alone")
            await client(other, "alone")
            await asyncio.gather(*(client(web, f"{number}") for number in range(4) for web in (one, other)))

    port = free_port()
    with php_fpm(tmp_path, children=1, lines=TCP_POOL.format(port=port, children=1)) as socket:
        asyncio.run(test(f"unix:{socket}"))
        asyncio.run(test(f"127.0.0.1:{port}"))


def test_children_of_php_that_die_between_requests(php: Path, folder: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{php}")) as web:
            for turn in range(20):
                _, pid = await page(web, folder, "pid").over()
                os.kill(int(pid), signal.SIGKILL)
                if turn % 2:
                    assert (await page(web, folder, "echo", b"sent").over())[1] == b"sent"
                else:
                    assert (await page(web, folder, "pid").over())[1].isdigit()

    asyncio.run(test())


def test_php_that_goes_on_after_its_answer(folder: Path, tmp_path: Path) -> None:
    """`fastcgi_finish_request()`: what the script says afterwards comes into no answer, and no request waits for it."""

    async def test(address: str) -> None:
        go, done = tmp_path / "go", tmp_path / "done"
        async with serving(FastcgiBridge(address)) as web:
            for waiting in ("", f"&go={go}"):
                assert (await page(web, folder, "late", QUERY_STRING=f"done={done}{waiting}").over())[1] == b"early"
                if waiting:
                    for _ in range(20):  # while it works
                        assert (await page(web, folder, "pid").over())[1].isdigit()
                        assert (await page(web, folder, "echo", b"sent").over())[1] == b"sent"
                    assert not done.exists()
                    go.touch()
                await until(done.exists, "the script ends")
                for _ in range(20):
                    call = page(web, folder, "pid")
                    assert (await call.over())[1].isdigit()
                    assert call.err == b""
                done.unlink()
        go.unlink()

    port = free_port()
    with php_fpm(tmp_path, children=2, lines=TCP_POOL.format(port=port, children=2)) as socket:
        asyncio.run(test(f"unix:{socket}"))
        asyncio.run(test(f"127.0.0.1:{port}"))


# ---- a program with libfcgi

PROGRAM = r"""
#include <fcgiapp.h>
#include <string.h>
#include <unistd.h>

static long copy(FCGX_Stream *from, FCGX_Stream *to) {
    char buffer[8192];
    long total = 0;
    int count;
    while ((count = FCGX_GetStr(buffer, sizeof buffer, from)) > 0) {
        FCGX_PutStr(buffer, count, to);
        total += count;
    }
    return total;
}

int main(void) {
    FCGX_Request request;
    FCGX_Init();
    FCGX_InitRequest(&request, 0, 0);
    while (FCGX_Accept_r(&request) == 0) {
        const char *role = FCGX_GetParam("FCGI_ROLE", request.envp);
        FCGX_FPrintF(request.out, "Content-Type: text/plain\r\n\r\n%s %d\n", role ? role : "?", (int)getpid());
        FCGX_FPrintF(request.err, "a line\n");
        if (role && strcmp(role, "AUTHORIZER") != 0)
            copy(request.in, request.out);
        if (role && strcmp(role, "FILTER") == 0) {
            FCGX_StartFilterData(request.in);
            FCGX_PutS("|", request.out);
            copy(request.in, request.out);
        }
        FCGX_SetExitStatus(7, request.out);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not Path("/usr/include/fcgiapp.h").exists():
        pytest.skip("libfcgi-dev is not installed (script/setup test)")
    folder = tmp_path_factory.mktemp("libfcgi")
    (folder / "program.c").write_text(PROGRAM)
    command = [program("gcc"), "-O1", "-Wall", "-Werror", "-o", "program", "program.c", "-lfcgi"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "program")


@pytest.mark.parametrize("starter", ["spawn-fcgi", "multiwatch"])
def test_a_libfcgi_program(compiled: str, starter: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{socket}", connections=children)) as web:
            body = bytes(range(256)) * 4000
            call = web.call({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}, body)
            _, answer = await call.over()
            assert answer.partition(b"\n")[2] == body
            assert call.end is not None
            assert call.end.app_status == 7  # type: ignore[union-attr]
            await until(lambda: call.err == b"a line\n", "STDERR comes")
            assert (await web.call(role=Role.AUTHORIZER).over())[1].startswith(b"AUTHORIZER ")
            call = web.call({"CONTENT_LENGTH": "4"}, body=None, role=Role.FILTER)
            call.send(b"form", last=True)
            call.send(b"x" * 300_000, is_data=True, last=True)
            _, answer = await call.over()
            assert answer.startswith(b"FILTER ")
            assert answer.partition(b"\n")[2] == b"form|" + b"x" * 300_000
            answers = await asyncio.gather(*(web.get() for _ in range(30)))
            assert len({body for _, body in answers}) == children

    socket = tmp_path / "s"
    children = 1 if starter == "spawn-fcgi" else 3
    watch = [] if starter == "spawn-fcgi" else [program("multiwatch"), "-f", "3", "--"]
    with running([program("spawn-fcgi"), "-n", "-s", str(socket), "--", *watch, compiled], tmp_path, socket):
        asyncio.run(test())


async def mixed_clients(address: str, clients: int) -> None:
    """GET and POST, one client and then several, through a bridge that does not know how many children there are."""

    async def client(web: Web, name: str) -> None:
        for _ in range(3):
            assert (await web.get())[1]
            assert (await web.post("/", name.encode()))[1].endswith(name.encode())
            assert (await web.get())[1]

    async with serving(FastcgiBridge(address)) as web:
        await client(web, "alone")
        await asyncio.gather(*(client(web, f"{number}") for number in range(clients)))


@pytest.mark.parametrize("children", [1, 2])
def test_a_libfcgi_program_of_few_children(compiled: str, children: int, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    watch = [] if children == 1 else [program("multiwatch"), "-f", "2", "--"]
    with running([program("spawn-fcgi"), "-n", "-s", str(socket), "--", *watch, compiled], tmp_path, socket):
        asyncio.run(mixed_clients(f"unix:{socket}", 5))


PERL = r"""
use FCGI;
my $request = FCGI::Request(\*STDIN, \*STDOUT, \*STDERR, \%ENV, FCGI::OpenSocket($ARGV[0], 5));
while ($request->Accept() >= 0) {
    my $body = do { local $/; <STDIN> };
    print "Content-Type: text/plain\r\n\r\n$$ ", length($ENV{HTTP_X} // ""), " $body";
}
"""


@pytest.mark.parametrize("tcp", [False, True])
def test_a_perl_program_of_one_process(tcp: bool, tmp_path: Path) -> None:
    if subprocess.run([program("perl"), "-MFCGI", "-e", "1"], capture_output=True).returncode:
        pytest.skip("libfcgi-perl is not installed (script/setup test)")
    socket = tmp_path / "s"
    port = free_port()
    made = "" if not tcp else f"$ARGV[0] = ':{port}'; open(my $made, '>', '{socket}');"
    command = [program("perl"), "-e", made + PERL, str(socket)]
    address = f"127.0.0.1:{port}" if tcp else f"unix:{socket}"

    async def test() -> None:
        await mixed_clients(address, 5)
        async with serving(FastcgiBridge(address)) as web:
            for length in (40_000, 200_000):  # longer than a record
                assert (await web.get(HTTP_X="x" * length))[1].split()[1] == str(length).encode()

    with running(command, tmp_path, socket):
        asyncio.run(test())


# ---- uwsgi

UWSGI = """
def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("201 Created", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode(), b" ", str(len(body)).encode()]
"""


def test_uwsgi(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(FastcgiBridge(f"unix:{socket}", connections=1)) as web:
            for _ in range(20):
                head, body = await web.post("/basket", b"x" * 100_000, PATH_INFO="/basket", SCRIPT_NAME="")
                assert head.startswith("Status: 201 Created\r\n")
                assert body == b"/basket 100000"
            answers = await asyncio.gather(*(web.get(PATH_INFO="/x", SCRIPT_NAME="") for _ in range(50)))
            assert {body for _, body in answers} == {b"/x 0"}

    socket = tmp_path / "s"
    (tmp_path / "app.py").write_text(UWSGI)
    command = [program("uwsgi"), "--plugin", "python3", "--fastcgi-socket", str(socket), "--wsgi-file", "app.py"]
    # SIGKILL, for it does not always end at a SIGTERM
    with running(command, tmp_path, socket, stop=signal.SIGKILL):
        asyncio.run(test())
