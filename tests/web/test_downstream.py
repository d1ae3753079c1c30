"""FastCGI from web servers: every shape of request, and the bounds of incomplete ones. No sockets."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.hosting.byte_stream import KEEP_CONN
from fcgi_core.protocol.records import (
    MAX_PARAMS,
    ProtocolStatus,
    RecordType,
    Role,
    begin_request,
    decode_pairs,
    encode_pairs,
    record,
    stream_records,
)
from fcgi_core.web import downstream as module
from fcgi_core.web.exchange import State, WebExchange
from tests.byte_stream import Record
from tests.web.web_server import PARAMS, Client, padded, request, run

# ---- requests of all shapes


@pytest.mark.parametrize(
    ("params", "identity"),
    [({"REQUEST_ID": "abc"}, "abc"), ({"HTTP_X_REQUEST_ID": "abc"}, "unsent.1"), ({"A": "REQUEST_ID"}, "unsent.1")],
)
@run
async def test_the_web_server_may_name_a_request(params: dict[str, str], identity: str) -> None:
    exchange = WebExchange(Client().connection, 1, Role.RESPONDER, KEEP_CONN)
    exchange.raw_params = encode_pairs(params)
    assert exchange.identity == identity


@run
async def test_a_body_is_let_go_at_the_end_however_long_the_request_is_remembered() -> None:
    exchange = Client().request(body=b"body")
    assert exchange.body
    exchange.end()
    assert exchange.body == []


@run
async def test_a_request_and_its_answer() -> None:
    client = Client()
    exchange = client.request(7, b"body")
    assert exchange.params == PARAMS
    assert (client.dispatcher.input_of(exchange), exchange.input_closed) == (b"body", True)
    exchange.send_output(b"Status: 201 Created\r\n\r\nmade")
    exchange.end(3)
    assert await client.answered() == [
        Record(RecordType.STDOUT, 7, b"Status: 201 Created\r\n\r\nmade"),
        Record(RecordType.STDOUT, 7, b""),
        Record(RecordType.END_REQUEST, 7, b"\0\0\0\3\0\0\0\0"),
    ]
    assert exchange.status == 201
    assert not client.wire.closing


@given(st.lists(st.integers(1, 400)), st.data())
def test_any_cut_of_the_bytes_is_the_same_request(cuts: list[int], data: st.DataObject) -> None:
    paddings = data.draw(st.lists(st.integers(0, 255), min_size=6, max_size=6))
    encoded = encode_pairs({**PARAMS, "HTTP_COOKIE": "c" * 300})
    body = bytes(range(256))
    records = [
        (RecordType.BEGIN_REQUEST, bytes((0, 1, 1, 0, 0, 0, 0, 0))),
        (RecordType.PARAMS, encoded[:100]),
        (RecordType.PARAMS, encoded[100:]),
        (RecordType.PARAMS, b""),
        (RecordType.STDIN, body),
        (RecordType.STDIN, b""),
    ]
    stream = b"".join(padded(kind, 5, content, size) for (kind, content), size in zip(records, paddings, strict=True))

    async def test() -> None:
        client = Client()
        position = 0
        for cut in [*cuts, len(stream)]:
            client.send(stream[position : position + cut])
            position += cut
        (exchange,) = client.dispatcher.begun
        assert exchange.params["HTTP_COOKIE"] == "c" * 300
        assert (client.dispatcher.input_of(exchange), exchange.input_closed) == (body, True)

    asyncio.run(test())


@run
async def test_params_over_64_kib_in_many_records() -> None:
    client = Client()
    params = {**PARAMS, **{f"HTTP_X_{number}": str(number) * 40_000 for number in range(5)}}
    for size in (65535, 8, 1000):
        exchange = client.request(params=params, size=size)
        assert exchange.params == params
        exchange.end()


@run
async def test_params_without_end_are_431() -> None:
    client = Client()
    piece = record(RecordType.PARAMS, 1, b"x" * 65535)
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), piece * (MAX_PARAMS // 65535 + 2))
    answer = await client.answered()
    assert b"Status: 431 " in b"".join(content for kind, _, content in answer if kind == RecordType.STDOUT)
    client.send(piece * 100)  # what follows is ignored, and kept nowhere
    assert client.request().params == PARAMS


@run
async def test_records_of_65535_bytes() -> None:
    client = Client()
    body = bytes(range(255)) * 1028  # 4 records of the largest size
    assert client.dispatcher.input_of(client.request(body=body, size=65535)) == body


@run
async def test_roles() -> None:
    client = Client()
    client.send(request(1, role=Role.AUTHORIZER))
    client.send(request(2, b"form", role=Role.FILTER))
    client.send(*stream_records(RecordType.DATA, 2, b"data"), record(RecordType.DATA, 2))
    authorizer, a_filter = client.dispatcher.begun
    assert (authorizer.role, authorizer.input_closed) == (Role.AUTHORIZER, True)
    assert (a_filter.role, a_filter.input_closed) == (Role.FILTER, True)
    assert client.dispatcher.input_of(a_filter) == b"form"
    assert client.dispatcher.input_of(a_filter, RecordType.DATA) == b"data"
    client.send(request(3, role=4))
    (end,) = await client.answered()
    assert (end.type, end.content[4]) == (RecordType.END_REQUEST, ProtocolStatus.UNKNOWN_ROLE)


@run
async def test_many_requests_at_once_are_kept_apart() -> None:
    client = Client()
    for request_id in range(1, 101):
        client.send(request(request_id, str(request_id).encode() * 100))
    for exchange in reversed(client.dispatcher.begun):
        exchange.send_output(client.dispatcher.input_of(exchange))
        exchange.end()
    output: dict[int, bytes] = {}
    for kind, request_id, content in await client.answered():
        if kind == RecordType.STDOUT:
            output[request_id] = output.get(request_id, b"") + content
    assert output == {request_id: str(request_id).encode() * 100 for request_id in range(1, 101)}


@run
async def test_more_requests_than_a_connection_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS_PER_CONNECTION", 2)
    client = Client()
    client.send(request(1), request(2), request(3))
    (end,) = await client.answered()
    assert (end.request_id, end.content[4]) == (3, ProtocolStatus.OVERLOADED)


# ---- management, and what is unknown


@run
async def test_get_values() -> None:
    client = Client()
    asked = {"FCGI_MAX_CONNS": "", "FCGI_MAX_REQS": "", "FCGI_MPXS_CONNS": "", "FCGI_SOMETHING": ""}
    client.send(record(RecordType.GET_VALUES, 0, encode_pairs(asked)))
    (answer,) = await client.answered()
    assert (answer.type, answer.request_id) == (RecordType.GET_VALUES_RESULT, 0)
    assert decode_pairs(answer.content) == {
        "FCGI_MAX_CONNS": "1000",
        "FCGI_MAX_REQS": "1000",
        "FCGI_MPXS_CONNS": "1",
    }
    assert client.request().params == PARAMS  # the connection goes on


@run
async def test_unknown_types_are_answered_and_harm_nothing() -> None:
    client = Client()
    client.send(record(77, 0, b"what"))
    (answer,) = await client.answered()
    assert answer == Record(RecordType.UNKNOWN_TYPE, 0, bytes((77, 0, 0, 0, 0, 0, 0, 0)))
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), record(99, 1, b"what"), request(2))
    assert [one.type for one in await client.answered()] == [RecordType.UNKNOWN_TYPE]
    assert client.dispatcher.begun[0].id == 2


@pytest.mark.parametrize(
    "wrong",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x02\x01\x00\x01\x00\x08\x00\x00",
        request(1)[:16] + begin_request(1, 1, 0),
        record(RecordType.BEGIN_REQUEST, 1, b"short"),
        begin_request(1, 1, 0) + record(RecordType.STDIN, 1, b"before PARAMS"),
        request(1) + record(RecordType.STDIN, 1, b"after its end"),
        record(RecordType.GET_VALUES, 0, b"\x80"),
    ],
)
@run
async def test_broken_protocol_ends_the_connection(wrong: bytes) -> None:
    client = Client()
    client.send(wrong)
    assert client.wire.closing == "aborted"


@run
async def test_records_for_no_request_are_ignored() -> None:
    client = Client()
    client.send(record(RecordType.STDIN, 9, b"late"), record(RecordType.ABORT_REQUEST, 9), request(1))
    assert client.dispatcher.begun[0].id == 1
    assert await client.answered() == []


# ---- input that says nothing new, and input without end


@run
async def test_input_that_is_closed_again_is_no_news() -> None:
    """Its body stays what it was, for another application may be given it, and nothing grows."""
    client = Client()
    exchange = client.request(1, b"order")
    body = list(exchange.body)
    client.send(record(RecordType.STDIN, 1) * 1000)
    assert exchange.body == body
    assert client.dispatcher.more == []
    authorizer = client.request(2, role=Role.AUTHORIZER)
    assert authorizer.body == []


@pytest.mark.parametrize("ends", ["whole", "abort", "connection", "too long"])
@run
async def test_params_that_are_not_whole_are_accounted_for(ends: str) -> None:
    client = Client()
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, 1, b"\x01\x01"))
    assert client.connections.unfinished_params == 2
    client.send(record(RecordType.PARAMS, 1, b"AB"))
    assert (client.connections.unfinished_params, client.connection.unfinished_params()) == (4, 4)
    if ends == "whole":
        client.send(record(RecordType.PARAMS, 1))
    elif ends == "abort":
        client.send(record(RecordType.ABORT_REQUEST, 1))
    elif ends == "connection":
        client.connection.connection_lost(None)
    else:
        client.send(record(RecordType.PARAMS, 1, b"x" * 65535) * (MAX_PARAMS // 65535 + 1))
    assert client.connections.unfinished_params == 0


@run
async def test_params_of_all_connections_have_a_bound_and_who_holds_most_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_UNFINISHED_PARAMS", 200_000)
    rogue = Client()
    lawful = Client(rogue.connections)
    for number in (1, 2, 3):
        rogue.send(begin_request(number, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, number, b"x" * 60_000))
    lawful.send(request(1, size=30)[:-16])
    lawful.send(begin_request(2, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, 2, b"x" * 30_000))
    answers = b"".join(content for kind, _, content in await rogue.answered() if kind == RecordType.STDOUT)
    assert answers.count(b"Status: 503 ") == 3
    assert await lawful.answered() == []
    assert rogue.connections.unfinished_params < 40_000
    lawful.send(request(1)[-16:])
    assert lawful.dispatcher.begun[0].params == PARAMS
    assert rogue.request(1).params == PARAMS, "the connection goes on"


@run
async def test_params_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, 1, b"x"))
    client.send(begin_request(2, Role.RESPONDER, KEEP_CONN))
    whole = client.request(3)
    client.connections.refuse_late()
    assert await client.answered() == []
    monkeypatch.setattr(module, "PARAMS_WITHIN", -1.0)
    client.connections.refuse_late()
    answer = await client.answered()
    assert {one.request_id for one in answer if one.type == RecordType.END_REQUEST} == {1, 2}
    assert b"Status: 408 " in answer[1].content
    assert whole.state is State.WAITING
    client.connections.refuse_late()
