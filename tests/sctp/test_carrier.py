"""The interface's own code: addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.sctp.carrier import DEFAULT_UDP_PORT, LARGE_MESSAGE, MESSAGE_SIZE, Address, message_size

PORTS = st.integers(1, 65535)
HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9-]{0,20}){0,3}", fullmatch=True),
)


@given(st.lists(HOSTS, min_size=1, max_size=4).map(tuple), PORTS, PORTS)
def test_an_address_is_parsed_as_it_was_written(hosts: tuple[str, ...], port: int, udp_port: int) -> None:
    address = Address(hosts, port, udp_port)
    assert Address.parse(str(address)) == address


@given(st.text(alphabet="0123456789abc:.[],/ %-\u0661", max_size=30) | st.text(max_size=30))
def test_an_invalid_address_is_refused_with_the_right_form(text: str) -> None:
    problem = ""
    try:
        address = Address.parse(text)
    except ValueError as error:
        problem = str(error)
    if problem:
        assert "use HOST:PORT" in problem
        assert repr(text) in problem
    else:
        assert address.hosts
        assert all(address.hosts)
        assert 1 <= address.port <= 65535
        assert 1 <= address.udp_port <= 65535


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:9000", Address(("192.0.2.1",), 9000)),
        ("192.0.2.1, 198.51.100.1:9000", Address(("192.0.2.1", "198.51.100.1"), 9000)),
        ("[2001:db8::1]:9000/9001", Address(("2001:db8::1",), 9000, 9001)),
        ("[2001:DB8:0::0001]:9000", Address(("2001:db8::1",), 9000)),
        ("[fe80::1%eth0]:9000", Address(("fe80::1%eth0",), 9000)),
    ],
)
def test_examples(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9000",
        ":9000",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:9000/",
        "host:9000/0",
        "::1:9000",
        "[]:9000",
        "a,:9000",
        "host:9000/1/2",
        "host:+9000",
        "host:\u0661",
    ],
)
def test_mistakes(text: str) -> None:
    with pytest.raises(ValueError, match="use HOST:PORT"):
        Address.parse(text)


def test_the_usual_udp_port_is_not_written() -> None:
    assert str(Address(("::1", "192.0.2.1"), 9000)) == "[::1],192.0.2.1:9000"
    assert Address.parse("h:1").udp_port == DEFAULT_UDP_PORT


def test_a_message_is_as_large_as_a_packet_where_messages_interleave() -> None:
    assert message_size(True, 1352) == message_size(False, 64_932) == MESSAGE_SIZE
    assert message_size(True, 64_932) == LARGE_MESSAGE
    assert message_size(True, 32_000) == 32_000
