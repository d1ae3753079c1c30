from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.protocol.flow import ReceiveWindow, SendWindow


def test_a_send_window_grows_only() -> None:
    window = SendWindow(100)
    window.sent = 60
    assert window.available == 40
    assert not window.grant(100)  # twice
    assert not window.grant(50)  # late
    assert window.available == 40
    assert window.grant(150)
    assert window.available == 90


def test_more_than_promised_is_noticed() -> None:
    window = ReceiveWindow(10)
    assert window.receive(10)
    assert not window.receive(1)


def test_credit_comes_when_half_the_window_is_used() -> None:
    window = ReceiveWindow(100)
    assert window.consume(49) is None
    assert window.consume(1) == 150
    assert window.consume(49) is None
    assert window.consume(60) == 259


@given(st.integers(1, 50), st.lists(st.integers(1, 30)))
def test_who_consumes_everything_never_stops_the_sender(size: int, chunks: list[int]) -> None:
    sender, receiver = SendWindow(size), ReceiveWindow(size)
    for chunk in chunks:
        while chunk:
            sent = min(chunk, sender.available)
            assert sent > 0
            sender.sent += sent
            chunk -= sent
            assert receiver.receive(sent)
            limit = receiver.consume(sent)
            if limit is not None:
                assert sender.grant(limit)
            assert sender.limit == receiver.limit
            assert receiver.limit - receiver.consumed <= size
