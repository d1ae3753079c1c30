from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.errors import RemoteProtocolError
from fcgi_core.protocol.channels import MAX_CHANNELS, Channel
from fcgi_core.protocol.records import MAX_PAIRS, decode_pairs, encode_pairs
from fcgi_core.protocol.settings import (
    DEFAULT_MAX_REQUESTS,
    MAX_ACCEPTS,
    MAX_DESCRIPTION,
    MAX_GIVEN_UP,
    MAX_INSTANCE,
    MAX_NAME,
    MAX_OTHERS,
    Settings,
)
from fcgi_core.sctp.carrier import MESSAGE_SIZE

text = st.text(st.characters(max_codepoint=255), max_size=20)
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True)


@given(
    st.builds(
        Settings,
        max_requests=st.integers(1, 65535),
        window=st.integers(1024, 1 << 40),
        max_message=st.integers(1024, 1 << 30),
        instance=text,
        association=st.integers(0, 1 << 62),
        max_associations=st.integers(1, 65535),
        given_up=st.lists(st.integers(0, 1 << 62), max_size=MAX_GIVEN_UP).map(tuple),
        name=text,
        channels=st.lists(names.map(lambda name: Channel(name).describe()), max_size=5).map(tuple),
        accepts=st.lists(names, max_size=5).map(tuple),
        others=st.dictionaries(st.sampled_from(["FCGI_SCTP_NEW", "X"]), text),
    )
)
def test_settings_come_back(settings: Settings) -> None:
    assert Settings.decode(settings.encode()) == settings


def test_only_the_version_is_needed() -> None:
    decoded = Settings.decode(encode_pairs({"FCGI_SCTP_VERSION": "1"}))
    assert decoded == Settings(max_requests=DEFAULT_MAX_REQUESTS, max_message=MESSAGE_SIZE)


def test_they_say_what_fastcgi_asks_for() -> None:
    pairs = decode_pairs(Settings().encode())
    assert pairs["FCGI_MAX_REQS"] == "1000"
    assert pairs["FCGI_MPXS_CONNS"] == "1"


def test_one_association_is_not_mentioned() -> None:
    pairs = decode_pairs(Settings().encode())
    assert not {"FCGI_SCTP_MAX_ASSOCS", "FCGI_SCTP_GIVEN_UP"} & pairs.keys()


def test_of_associations_that_were_given_up_the_readable_ones_count_and_no_more_than_there_may_be() -> None:
    def given_up(text: str) -> tuple[int, ...]:
        pairs = {"FCGI_SCTP_VERSION": "1", "FCGI_SCTP_GIVEN_UP": text}
        return Settings.decode(encode_pairs(pairs)).given_up

    assert given_up("3,x,-1,\xb2,,5," + "9" * 30) == (3, 5)
    assert given_up(",".join(map(str, range(1000)))) == tuple(range(MAX_GIVEN_UP))


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({}, "FCGI_SCTP_VERSION is ''"),
        ({"FCGI_SCTP_VERSION": "2"}, "this side speaks version 1"),
        ({"FCGI_SCTP_VERSION": "9" * 1000}, "'9999999999999999999999999999999999999999'"),
        ({"FCGI_SCTP_MAX_ASSOCS": "0"}, "FCGI_SCTP_MAX_ASSOCS is '0'; a number from 1 to 65535"),
        ({"FCGI_MAX_REQS": "0"}, "FCGI_MAX_REQS is '0'; a number from 1 to 65535"),
        ({"FCGI_MAX_REQS": "-1"}, "FCGI_MAX_REQS"),
        ({"FCGI_MAX_REQS": ""}, "FCGI_MAX_REQS"),
        ({"FCGI_MAX_REQS": "\xb2"}, "FCGI_MAX_REQS"),
        ({"FCGI_SCTP_WINDOW": "1" * 5000}, "FCGI_SCTP_WINDOW"),
        ({"FCGI_SCTP_WINDOW": "1023"}, "FCGI_SCTP_WINDOW"),
        ({"FCGI_SCTP_MAX_MESSAGE": "1073741825"}, "FCGI_SCTP_MAX_MESSAGE"),
        ({"FCGI_SCTP_ASSOCIATION": "x"}, "FCGI_SCTP_ASSOCIATION"),
        ({"FCGI_SCTP_NAME": "n" * (MAX_NAME + 1)}, f"FCGI_SCTP_NAME has {MAX_NAME + 1} characters"),
        ({"FCGI_SCTP_INSTANCE": "i" * 60_000}, f"at most {MAX_INSTANCE} are accepted"),
        ({"FCGI_SCTP_CHANNEL_0": "c" * (MAX_DESCRIPTION + 1)}, "FCGI_SCTP_CHANNEL_0 has"),
        ({"FCGI_SCTP_ACCEPT": "a," * (MAX_ACCEPTS + 1)}, f"names more than {MAX_ACCEPTS} channels"),
        ({"FCGI_SCTP_ACCEPT": "a" * (MAX_DESCRIPTION + 1)}, "FCGI_SCTP_ACCEPT has"),
        ({str(number): "" for number in range(MAX_PAIRS)}, f"at most {MAX_PAIRS} are accepted"),
    ],
)
def test_what_is_wrong_is_named(pairs: dict[str, str], said: str) -> None:
    given = pairs if not pairs or "FCGI_SCTP_VERSION" in pairs else {"FCGI_SCTP_VERSION": "1", **pairs}
    with pytest.raises(RemoteProtocolError) as caught:
        Settings.decode(encode_pairs(given))
    assert said in str(caught.value)
    assert (caught.value.stream, caught.value.record_type, caught.value.request_key) == (1, 32, None)


def test_pairs_that_are_cut() -> None:
    with pytest.raises(RemoteProtocolError, match="cut"):
        Settings.decode(Settings().encode()[:-1])


def test_of_unknown_names_few_are_kept() -> None:
    pairs = {"FCGI_SCTP_VERSION": "1", **{f"X{number}": "" for number in range(MAX_PAIRS - 1)}}
    assert len(Settings.decode(encode_pairs(pairs)).others) == MAX_OTHERS


def test_channels_are_numbered_without_a_gap() -> None:
    pairs = {"FCGI_SCTP_VERSION": "1", "FCGI_SCTP_CHANNEL_0": "a;request;urgent", "FCGI_SCTP_CHANNEL_2": "c"}
    settings = Settings.decode(encode_pairs(pairs))
    assert settings.channels == ("a;request;urgent",)
    assert settings.others == {"FCGI_SCTP_CHANNEL_2": "c"}
    every = Settings(channels=tuple(f"c{number};request;urgent" for number in range(MAX_CHANNELS)))
    assert len(Settings.decode(every.encode()).channels) == MAX_CHANNELS
