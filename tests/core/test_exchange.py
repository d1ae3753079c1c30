"""Heads of CGI responses: those that come, and our own."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from fcgi_core.exchange import error_page, status_of


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Status: 404 Not Found\r\n\r\n", 404),
        (b"Content-Type: text/plain\r\nstatus:503\r\n\r\n", 503),
        (b"Content-Type: text/plain\r\n\r\n", 200),
        (b"Location: /elsewhere\r\n\r\n", 302),
        (b"Status: soon\r\n\r\n", 200),
    ],
)
def test_the_status_of_a_response(head: bytes, status: int) -> None:
    assert status_of(head) == status


def test_a_page_of_our_own() -> None:
    page = error_page(HTTPStatus.SERVICE_UNAVAILABLE, "GET", retry_after=3)
    head, _, body = page.partition(b"\r\n\r\n")
    assert status_of(page) == 503
    assert b"\r\nRetry-After: 3" in head
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    assert body == b"503 Service Unavailable\n"


def test_on_head_it_has_no_body() -> None:
    page = error_page(HTTPStatus.INTERNAL_SERVER_ERROR, "GET")
    head = error_page(HTTPStatus.INTERNAL_SERVER_ERROR, "HEAD")
    assert page.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" == head
    assert b"Content-Length: 26" in head
