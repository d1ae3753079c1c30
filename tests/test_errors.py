from __future__ import annotations

from fcgi_core.errors import ConfigError, FcgiSctpError, RemoteProtocolError


def test_a_remote_error_says_where_and_what_to_do() -> None:
    error = RemoteProtocolError("bad", stream=3, record_type=6, request_key=(9, 1), advice="stop it")
    assert str(error) == "bad (stream 3, record type 6, request id 9 generation 1); stop it"
    assert (error.stream, error.record_type, error.request_key) == (3, 6, (9, 1))
    assert str(RemoteProtocolError("bad")) == "bad"


def test_a_config_error_lists_everything() -> None:
    error = ConfigError(["one", "two"])
    assert isinstance(error, FcgiSctpError)
    assert error.problems == ["one", "two"]
    assert str(error) == "one\ntwo"
