"""Requests of all shapes through nginx to a WSGI application whose every step wsgiref.validate checks."""

from __future__ import annotations

import hashlib
import json
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fcgi_core.hosting.byte_stream import RecordReader
from fcgi_core.protocol.records import RecordType, Role, encode_pairs, record
from tests.system.applications import content, digest
from tests.system.stack import Stack


@pytest.fixture(scope="module", params=["validated", "plain"])
def stack(request: pytest.FixtureRequest, start_for_module: Callable[..., Stack]) -> Stack:
    return start_for_module(f"applications:{request.param}")


def test_hello(stack: Stack) -> None:
    answer = stack.ask("/hello")
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["Content-Type"] == "text/plain"


def test_head_has_no_body(stack: Stack) -> None:
    connection = stack.connect()
    for _ in range(3):  # a body that came all the same would be taken for the next answer
        answer = stack.ask("/hello", "HEAD", connection=connection)
        assert (answer.status, answer.body) == (200, b"")
    assert stack.ask("/hello", connection=connection).body == b"hello"
    connection.close()


def test_no_content(stack: Stack) -> None:
    answer = stack.ask("/no-content")
    assert (answer.status, answer.body) == (204, b"")


def test_an_unknown_page(stack: Stack) -> None:
    assert stack.ask("/nowhere").status == 404


def test_environ(stack: Stack) -> None:
    answer = stack.ask(
        "/environ?a=1&b=%20c", "POST", b"body", {"X-Colour": "blue", "Content-Type": "text/x", "Proxy": "http://evil/"}
    )
    environ = answer.json()
    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == "/environ"
    assert environ["QUERY_STRING"] == "a=1&b=%20c"
    assert environ["CONTENT_TYPE"] == "text/x"
    assert environ["CONTENT_LENGTH"] == "4"
    assert environ["SERVER_NAME"] == "shop.example"
    assert environ["SERVER_PORT"] == str(stack.port)
    assert environ["HTTP_X_COLOUR"] == "blue"
    assert environ["REQUEST_ID"] == answer.headers["X-Request-Id"]
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multithread"] is True
    assert "HTTP_PROXY" not in environ
    assert stack.ask("/environ", host="blog.example").json()["SERVER_NAME"] == "blog.example"


def test_post(stack: Stack) -> None:
    answer = stack.ask("/upload", "POST", b"a small body")
    assert answer.json() == {"size": 12, "sha256": hashlib.sha256(b"a small body").hexdigest()}


def test_an_empty_post(stack: Stack) -> None:
    assert stack.ask("/upload", "POST", b"").json()["size"] == 0


def test_all_ways_to_read_the_body(stack: Stack) -> None:
    assert stack.ask("/shout", "POST", b"abcd\nef\ngh\nij").body == b"abc|d\n|ef\n|gh\n|ij"


def test_a_large_upload(stack: Stack) -> None:
    body = random.Random(1).randbytes(20 << 20)
    answer = stack.ask("/upload", "POST", body)
    assert answer.json() == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_an_upload_in_chunks(stack: Stack) -> None:
    pieces = list(content(1 << 20, "chunks"))
    connection = stack.connect()
    connection.request("POST", "/upload", iter(pieces), {"Host": "shop.example"}, encode_chunked=True)
    response = connection.getresponse()
    assert digest(pieces).encode() in response.read()
    connection.close()


def test_a_large_download(stack: Stack) -> None:
    answer = stack.ask(f"/big?size={20 << 20}&seed=download")
    assert len(answer.body) == 20 << 20
    assert digest([answer.body]) == digest(content(20 << 20, "download"))


def test_streaming_both_ways(stack: Stack) -> None:
    """Each line is answered before the next is sent."""
    with socket.create_connection(("127.0.0.1", stack.port), 10) as client:
        head = "POST /echo HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        for number in range(20):
            line = f"line {number}\n".encode()
            client.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            came = b""
            while line not in came:
                piece = client.recv(4096)
                assert piece, came
                came += piece
        client.sendall(b"0\r\n\r\n")
        rest = b""
        while piece := client.recv(4096):
            rest += piece
        assert rest == b"0\r\n\r\n"


def test_the_write_callable(stack: Stack) -> None:
    assert stack.ask("/write").body == b"one two three"


def test_close_is_called(stack: Stack) -> None:
    before = stack.seen("close closed")
    assert stack.ask("/close").body == b"ab"
    stack.saw("close closed", before + 1)


def test_exc_info_before_anything_was_sent(stack: Stack) -> None:
    answer = stack.ask("/exc-info")
    assert (answer.status, answer.body) == (500, b"sorry")
    assert answer.headers["X-Second"] == "yes"
    assert answer.headers["X-First"] is None


def test_wsgi_errors_reach_nginxs_log(stack: Stack) -> None:
    assert stack.ask("/errors?text=remember").body == b"told"
    assert "remember one" in (stack.folder / "nginx-error.log").read_text()


def test_large_params(stack: Stack) -> None:
    """Nearly the 64 KiB of one record, which is all that nginx sends."""
    value = "v" * 31_000
    environ = stack.ask("/environ", headers={"X-One": value + "1", "X-Two": value + "2"}).json()
    assert [environ[f"HTTP_X_{name}"][30_999:] for name in ("ONE", "TWO")] == ["v1", "v2"]


def test_params_beyond_64_kib(stack: Stack) -> None:
    """In several records, as other web servers send them."""
    value = "v" * 40_000
    params = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/environ",
        "QUERY_STRING": "",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        **{f"HTTP_X_{name}": value + name for name in ("ONE", "TWO", "THREE")},
    }
    body = fastcgi(stack, params).partition(b"\r\n\r\n")[2]
    environ = json.loads(body)
    assert [environ[f"HTTP_X_{name}"][40_000:] for name in ("ONE", "TWO", "THREE")] == ["ONE", "TWO", "THREE"]


def fastcgi(stack: Stack, params: dict[str, str]) -> bytes:
    """The STDOUT of a request without nginx."""
    encoded = encode_pairs(params)
    begin = record(RecordType.BEGIN_REQUEST, 1, bytes((0, Role.RESPONDER, 0, 0, 0, 0, 0, 0)))
    pieces = [record(RecordType.PARAMS, 1, encoded[start : start + 50_000]) for start in range(0, len(encoded), 50_000)]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(stack.listen.removeprefix("unix:"))
        client.sendall(begin + b"".join(pieces) + record(RecordType.PARAMS, 1) + record(RecordType.STDIN, 1))
        reader = RecordReader()
        output = b""
        while piece := client.recv(65536):
            output += b"".join(data for kind, _, data in reader.feed(piece) if kind == RecordType.STDOUT)
        return output


def test_many_at_once_are_not_mixed_up(stack: Stack) -> None:
    sizes = [0, 1, 100, 8_191, 70_000, 300_000, 1_500_000]

    def work(worker: int) -> list[str]:
        wrong = []
        connection = stack.connect()
        for number in range(15):
            size = sizes[(worker + number) % len(sizes)]
            name = f"{worker}.{number}"
            if number % 2:
                body = b"".join(content(size, name))
                right = stack.ask("/upload", "POST", body, connection=connection).json()["sha256"] == digest([body])
            else:
                answer = stack.ask(f"/big?size={size}&seed={name}", connection=connection)
                right = digest([answer.body]) == digest(content(size, name))
            if not right:
                wrong.append(name)
        connection.close()
        return wrong

    with ThreadPoolExecutor(24) as pool:
        assert [name for wrong in pool.map(work, range(24)) for name in wrong] == []


def test_the_servers_own_steps_were_right(stack: Stack) -> None:
    """What wsgiref.validate says of an iterator that nobody closed goes to the process's stderr."""
    assert "garbage collected without being closed" not in stack.app.text
    assert "AssertionError" not in stack.app.text
