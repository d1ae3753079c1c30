"""Heads of CGI responses: those that come, and our own."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.hosting.exchange import MAX_HEAD, end_of_head, error_page, header_value, status_of
from fcgi_core.protocol.records import encode_pairs
from fcgi_core.web.probe import Probe


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Status: 404 Not Found\r\n\r\n", 404),
        (b"Content-Type: text/plain\r\nstatus:503\r\n\r\n", 503),
        (b"Content-Type: text/plain\r\n\r\n", 200),
        (b"Location: /elsewhere\r\n\r\n", 302),
        (b"Status: soon\r\n\r\n", 200),
        (b"Status: soon\r\nLocation: /x\r\n\r\n", 200),
        (b"Status:\r\nLOCATION: /x\r\n\r\n", 302),
        (b"Status:404 Not Found\r\nContent-Type: text/plain\r\n\r\n", 404),
        (b"X-A: b\r\nstatus:\t404\r\n\r\n", 404),
        (b"STATUS : 404\r\n\r\n", 200),
        (b"Status: 404", 404),
        (b"Status: 503 A\r\nStatus: 200 B\r\n\r\n", 503),
        (b"X: y\r\nLocation: http://a/\r\n\r\n", 302),
        (b"Location: /x\r\nStatus: 201\r\n\r\n", 201),
        (b"X-Status: 404\nA: Status: 405\n\n", 200),
        (b"Content-Type: text/yaml\r\n\r\nname: x\nstatus: 502\n", 200),
        (b"Content-Type: text/yaml\n\nstatus: 502\n\r\n", 200),
        (b"A: b\r\n\nstatus: 502\r\n\r\n", 200),
        (b"\nStatus: 404\n\n", 200),
        (b"\r\nStatus: 404\n\n", 200),
    ],
)
def test_the_status_of_a_response(head: bytes, status: int) -> None:
    assert status_in(head) == status


def status_in(response: bytes) -> int:
    end = end_of_head(response)
    return status_of(response if end < 0 else response[:end])


def exchange(method: str = "GET") -> Probe:
    return Probe(encode_pairs({"REQUEST_METHOD": method}), lambda probe, error: None)


def pieces(response: bytes, method: str = "GET", size: int = 1) -> Probe:
    """An exchange that got `response` in pieces of `size` bytes."""
    made = exchange(method)
    for start in range(0, len(response), size):
        if not made.head_size:
            made.read_head(response[start : start + size])
        made.bytes_out += len(response[start : start + size])
    return made


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_head_in_pieces(end: bytes, size: int) -> None:
    head = end.join([b"Content-Type: text/html", b"Status: 502 Bad Gateway", b"", b""])
    made = pieces(head + b"status: 200" + end + end, size=size)
    assert (made.status, made.head_size) == (502, len(head))


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b"Status: 404"]), max_size=12), st.integers(1, 4))
def test_pieces_are_read_as_the_whole_is(parts: list[bytes], size: int) -> None:
    response = b"".join(parts)
    end = end_of_head(response)
    made = pieces(response, size=size)
    assert (made.head_size or -1) == end
    assert made.status == (status_in(response) if end > 0 else 0)


def test_a_head_without_end_is_looked_at_no_further_than_max_head() -> None:
    made = exchange()
    for _ in range(MAX_HEAD // 8):
        assert made.status == 0
        made.read_head(b"Status: ")
    assert (made.status, made.head_size) == (200, MAX_HEAD)
    made = exchange()
    made.read_head(b"A: b\r\n" * MAX_HEAD + b"Status: 404\r\n\r\n")
    assert (made.status, made.head_size) == (200, MAX_HEAD)


def test_the_value_of_a_header() -> None:
    head = b"Content-Type: Text/HTML \r\ncontent-LENGTH:5\r\n\r\n"
    assert header_value(head, b"content-type") == b"text/html"
    assert header_value(head, b"content-length") == b"5"
    assert header_value(head, b"length") == b""
    assert header_value(b"A: b", b"a") == b"b"


@pytest.mark.parametrize(
    ("response", "method", "whole"),
    [
        (b"Content-Length: 5\r\n\r\n12345", "GET", True),
        (b"Content-Length: 5\r\n\r\n1234", "GET", False),
        (b"Content-Length: 5\r\n\r\n", "HEAD", True),
        (b"Content-Type: text/plain\r\n\r\n12345", "GET", False),
        (b"Content-Length: five\r\n\r\n12345", "GET", False),
        (b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n12345", "GET", False),
        (b"Status: 204 No Content\r\n\r\n", "GET", True),
        (b"Status: 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", True),
        (b"Content-Length: 0\r\n", "GET", False),
        (b"", "HEAD", False),
    ],
)
def test_a_response_is_whole_by_its_head(response: bytes, method: str, whole: bool) -> None:
    made = pieces(response, method, 1000)
    assert made.is_whole() is whole
    outcome = made.outcome(aborted=True, error="the client went away")
    assert (outcome.aborted, outcome.error) == ((False, "") if whole else (True, "the client went away"))
    assert made.outcome(error="it crashed").error == "it crashed"


def test_an_error_page() -> None:
    page = error_page(HTTPStatus.SERVICE_UNAVAILABLE, "GET", retry_after=3)
    head, _, body = page.partition(b"\r\n\r\n")
    assert status_in(page) == 503
    assert b"\r\nRetry-After: 3" in head
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    assert body == b"503 Service Unavailable\n"


def test_on_head_it_has_no_body() -> None:
    page = error_page(HTTPStatus.INTERNAL_SERVER_ERROR, "GET")
    head = error_page(HTTPStatus.INTERNAL_SERVER_ERROR, "HEAD")
    assert page.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" == head
    assert b"Content-Length: 26" in head
