from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.streams.policies import POLICIES, per_request, per_type, single
from fcgi_core.protocol.channels import Priority
from fcgi_core.protocol.streams import FIRST_STREAM, LONG_CONTENT, STDERR, StreamPool, StreamSet

CONTENT = Priority.CONTENT
ORDINARY = Priority.ORDINARY


def told(stream: int, priority: Priority) -> tuple[int, int]:
    """What the carrier is told of a stream: the lower number goes first, and of two streams of content the older."""
    return stream, priority + stream if priority is CONTENT else LONG_CONTENT + priority


def test_single_puts_everything_on_stream_2() -> None:
    pool = StreamPool(64, single)
    one, two = StreamSet(), StreamSet()
    streams = {
        pool.content_stream(one),
        pool.content_stream(two),
        pool.content_stream(two),
        pool.feedback_stream(one, STDERR, CONTENT),
        pool.association_stream("syslog", ORDINARY),
    }
    assert streams == {2}
    pool.release(one)
    pool.release(two)
    assert len(pool.holders) == 0


def test_per_type_has_a_stream_for_each_type() -> None:
    pool = StreamPool(64, per_type)
    one, two = StreamSet(), StreamSet()
    assert pool.content_stream(one) == pool.content_stream(two) == 2
    assert pool.feedback_stream(one, STDERR, CONTENT) == pool.feedback_stream(two, STDERR, CONTENT) == 3
    assert pool.feedback_stream(one, "syslog", ORDINARY) == 4
    assert pool.association_stream("metrics", Priority.BACKGROUND) == 5
    pool.release(one)
    assert pool.content_stream(StreamSet()) == 2
    assert len(pool.holders) == 0


def test_per_request_has_a_stream_for_each_request() -> None:
    pool = StreamPool(64, per_request)
    one, two = StreamSet(), StreamSet()
    assert pool.content_stream(one) == pool.feedback_stream(one, STDERR, CONTENT) == 2
    assert pool.feedback_stream(two, "syslog", ORDINARY) == pool.content_stream(two) == 3
    assert pool.association_stream("syslog", ORDINARY) == 4
    assert len(pool.holders) == 2
    pool.release(one)
    pool.release(two)
    assert len(pool.holders) == 0


def test_per_channel_has_a_set_of_streams_for_each_request() -> None:
    pool = StreamPool(64)
    one, two = StreamSet(), StreamSet()
    assert pool.content_stream(one) == pool.content_stream(one) == 2
    assert pool.feedback_stream(one, STDERR, CONTENT) == pool.feedback_stream(one, STDERR, CONTENT) == 3
    assert pool.feedback_stream(one, "syslog", ORDINARY) == 4
    assert pool.content_stream(two) == 5
    assert pool.association_stream("metrics", ORDINARY) == pool.association_stream("metrics", ORDINARY) == 6
    assert pool.holders == {2: 1, 3: 1, 4: 1, 5: 1}
    assert pool.association_streams == {"metrics": 6}
    assert pool.priorities == [
        told(2, CONTENT),
        told(3, CONTENT),
        told(4, ORDINARY),
        told(5, CONTENT),
        told(6, ORDINARY),
    ]
    pool.release(one)
    assert pool.holders == {5: 1}


def test_a_released_stream_waits_as_long_as_possible() -> None:
    pool = StreamPool(6, per_request)
    leased = []
    for _ in range(9):
        streams = StreamSet()
        leased.append(pool.content_stream(streams))
        pool.release(streams)
    assert leased == [2, 3, 4, 5, 2, 3, 4, 5, 2]
    assert pool.shortages.asked == pool.shortages.shared_content == 0


def test_a_stream_keeps_its_priority_while_it_waits() -> None:
    pool = StreamPool(4)
    streams = StreamSet()
    pool.content_stream(streams)
    pool.feedback_stream(streams, "syslog", ORDINARY)
    pool.release(streams)
    assert pool.priorities == [told(2, CONTENT), told(3, ORDINARY)]
    assert pool.feedback_stream(streams, "syslog", ORDINARY) == 3
    assert pool.content_stream(streams) == 2
    assert len(pool.priorities) == 2  # nothing new to tell
    pool.release(streams)
    assert pool.feedback_stream(streams, "a", ORDINARY) == 3
    assert pool.feedback_stream(streams, "b", ORDINARY) == 2  # one of another priority is better than none
    assert pool.priorities[2:] == [told(2, ORDINARY)]


def test_a_stream_of_long_content_goes_behind_the_others_of_content() -> None:
    pool = StreamPool(5)
    long, short, later = StreamSet(), StreamSet(), StreamSet()
    stream = pool.content_stream(long)
    pool.let_others_first(stream)
    pool.let_others_first(stream)  # once is enough
    pool.content_stream(short)
    pool.association_stream("alerts", Priority.URGENT)
    assert pool.priorities == [told(2, CONTENT), (2, LONG_CONTENT), told(3, CONTENT), (4, Priority.URGENT)]
    assert (
        Priority.URGENT < CONTENT + FIRST_STREAM < LONG_CONTENT < told(2, ORDINARY)[1] < told(2, Priority.BACKGROUND)[1]
    )
    pool.release(long)
    del pool.priorities[:]
    assert pool.content_stream(later) == 2  # the next holder begins as all do
    assert pool.priorities == [told(2, CONTENT)]


def test_a_stream_that_two_requests_share_keeps_its_priority() -> None:
    pool = StreamPool(3)
    assert pool.content_stream(StreamSet()) == pool.content_stream(StreamSet()) == 2
    pool.let_others_first(2)
    assert pool.priorities == [told(2, CONTENT)]


def test_priorities_stay_in_order_however_many_streams_there_are() -> None:
    pool = StreamPool(65535)
    streams = [pool.content_stream(StreamSet()) for _ in range(40_000)]
    order = [priority for _, priority in pool.priorities]
    assert len(streams) == len(order)
    assert order == sorted(order)
    assert order[-1] < LONG_CONTENT


def test_a_short_pool_asks_once_and_shares() -> None:
    pool = StreamPool(4)
    sets = [StreamSet() for _ in range(4)]
    assert [pool.content_stream(streams) for streams in sets] == [2, 3, 2, 3]
    assert pool.wanted == 16
    assert (pool.shortages.asked, pool.shortages.shared_content) == (1, 2)
    assert pool.feedback_stream(sets[0], STDERR, ORDINARY) in (2, 3)  # none of its priority
    assert pool.shortages.shared_feedback == 1
    pool.grow(20)
    assert [pool.content_stream(StreamSet()) for _ in range(16)] == list(range(4, 20))
    pool.wanted = 0
    pool.content_stream(StreamSet())
    assert (pool.wanted, pool.shortages.asked) == (20, 2)
    pool.wanted = 0
    pool.grow(20)  # refused
    pool.content_stream(StreamSet())
    assert (pool.wanted, pool.shortages.asked) == (0, 2)


def test_that_the_peer_got_more_streams_is_no_refusal() -> None:
    pool = StreamPool(3)
    pool.grow(3)
    pool.content_stream(StreamSet())
    pool.content_stream(StreamSet())
    assert pool.wanted == 16


def test_a_shared_stream_is_free_when_its_last_holder_left() -> None:
    pool = StreamPool(3)
    one, two = StreamSet(), StreamSet()
    assert pool.content_stream(one) == pool.content_stream(two) == 2
    pool.release(one)
    assert pool.holders == {2: 1}
    pool.release(two)
    assert len(pool.holders) == 0
    pool.release(two)  # holds nothing any more
    assert pool.content_stream(one) == 2
    assert pool.holders == {2: 1}


def test_what_an_association_channel_owns_is_lent_and_never_leased() -> None:
    pool = StreamPool(4)
    assert pool.association_stream("a", ORDINARY) == 2
    assert pool.association_stream("b", ORDINARY) == 3
    streams = StreamSet()
    assert pool.content_stream(streams) == 2
    pool.release(streams)
    assert len(pool.holders) == 0
    assert pool.content_stream(streams) == 2
    assert pool.shortages.shared_content == 2


def test_an_association_channel_may_take_over_a_leased_stream() -> None:
    pool = StreamPool(3)
    streams = StreamSet()
    assert pool.content_stream(streams) == 2
    assert pool.association_stream("a", ORDINARY) == 2
    pool.release(streams)
    assert len(pool.holders) == 0
    assert pool.association_stream("a", ORDINARY) == 2


@pytest.mark.parametrize("name", POLICIES)
@given(
    outgoing=st.integers(3, 12),
    steps=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["content", "stderr", "log", "end", "assoc", "grow"]))),
)
def test_any_use_of_a_pool(name: str, outgoing: int, steps: list[tuple[int, str]]) -> None:
    pool = StreamPool(outgoing, POLICIES[name])
    sets = [StreamSet() for _ in range(5)]
    owned: set[int] = set()
    for number, step in steps:
        streams = sets[number]
        free = pool.outgoing - FIRST_STREAM - len(owned | set(pool.holders))
        before = dict(pool.holders)
        got = None
        match step:
            case "content":
                fresh = "content" not in streams.streams
                got = pool.content_stream(streams)
                if name == "per-channel" and fresh and free:
                    assert got not in before
                    assert got not in owned
            case "stderr":
                got = pool.feedback_stream(streams, STDERR, CONTENT)
            case "log":
                got = pool.feedback_stream(streams, "log", ORDINARY)
            case "end":
                pool.release(streams)
                assert not streams.streams
            case "assoc":
                got = pool.association_stream(number, ORDINARY)
                owned.add(got)
            case "grow":
                pool.grow(pool.outgoing + (number - 1))
        assert got is None or FIRST_STREAM <= got < pool.outgoing
        if name in ("per-request", "per-channel"):
            assert sum(pool.holders.values()) == sum(len(each.streams) for each in sets)
    for streams in sets:
        pool.release(streams)
    assert len(pool.holders) == 0
