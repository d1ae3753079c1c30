"""The application's half: each line once, with its request, by the options of its virtual host."""

from __future__ import annotations

import gc
import logging
import logging.config
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fcgi_syslog import SyslogPlugin, batch
from fcgi_syslog.options import HEADER_ROOM

from fcgi_core.plugin import MAX_ITEM, AssociationInfo, Outcome, StartAnew, bound_to_request
from tests.syslog.items import OVER, MakeHalf, ask, bare_root, messages, messages_in, texts


@pytest.mark.parametrize("scope", ["request", "stream"])
def test_a_line_goes_with_its_request(
    make: MakeHalf, host: Any, make_request: Any, association: AssociationInfo, scope: str
) -> None:
    make(facility="local3", app_name="shop", scope=scope)
    request = make_request(
        params={"SERVER_NAME": "shop.example", "REQUEST_METHOD": "GET", "REQUEST_URI": "/caf\xc3\xa9"},
        association=association,
        number=0x1234567,
    )
    with bound_to_request(request):
        logging.getLogger("shop.cart").warning("no item %d", 17, extra={"user": 'a"b'})
    (sent,) = host.sent
    assert (sent.channel, sent.urgency) == ("syslog", 4)
    if scope == "stream":
        assert sent.request is request
    else:
        assert sent.association is association
        assert batch.decode(sent.item).requests == (0x1234567,)
    message = messages_in(sent.item)[0]
    assert (message.text, message.severity, message.facility) == ("no item 17", 4, 19)
    assert (message.app_name, message.msgid) == ("shop", "shop.cart")
    assert message.hostname
    assert message.procid
    assert message.time is not None
    # the web side knows the request, and would not believe what is said of it
    assert message.data == {
        "fcgi@32473": {"server_name": "shop.example", "application": "demo"},
        "fields@32473": {"user": 'a"b'},
    }


def test_a_line_that_travels_without_its_request_says_all_about_it(
    make: MakeHalf, host: Any, make_request: Any
) -> None:
    make(scope="association")
    request = make_request(
        params={"SERVER_NAME": "shop.example", "REQUEST_METHOD": "GET", "REQUEST_URI": "/caf\xc3\xa9"}
    )
    with bound_to_request(request):
        logging.getLogger("shop.cart").warning("no item %d", 17, extra={"user": 'a"b'})
    (message,) = messages(host)
    assert message.text == "shop.example: no item 17"
    assert message.data == {
        "fcgi@32473": {
            "server_name": "shop.example",
            "request": "req-1",
            "method": "GET",
            "uri": "/café",
            "application": "demo",
        },
        "fields@32473": {"user": 'a"b'},
    }


@pytest.mark.parametrize(
    ("scope", "bound", "level", "channel"),
    [
        ("request", True, logging.ERROR, "syslog"),
        ("request", True, logging.CRITICAL, "syslog.urgent"),
        ("request", False, logging.ERROR, "syslog"),
        ("request", False, logging.CRITICAL, "syslog.process.urgent"),
        ("stream", True, logging.ERROR, "syslog"),
        ("stream", True, logging.CRITICAL, "syslog.urgent"),
        ("stream", False, logging.ERROR, "syslog.process"),
        ("stream", False, logging.CRITICAL, "syslog.process.urgent"),
        ("association", True, logging.ERROR, "syslog"),
        ("association", True, logging.CRITICAL, "syslog.urgent"),
        ("association", False, logging.ERROR, "syslog"),
        ("association", False, logging.CRITICAL, "syslog.urgent"),
    ],
)
def test_channels(
    make: MakeHalf, host: Any, make_request: Any, scope: str, bound: bool, level: int, channel: str
) -> None:
    half = make(scope=scope)
    request = make_request() if bound else None
    with bound_to_request(request):
        logging.log(level, "text")
    (sent,) = host.sent
    assert sent.channel == channel
    # what is fetched goes to the request's association, but not with the request
    assert sent.request is (None if scope != "stream" and channel == "syslog" else request)
    assert channel in {
        declared.name for declared in SyslogPlugin().channels(SyslogPlugin.Options.model_validate({"scope": scope}))
    }
    assert messages_in(sent.item)[0].text == ("shop.example: text" if scope == "association" and bound else "text")
    half.close()


def test_the_threshold(make: MakeHalf, host: Any) -> None:
    half = make(severity="warning")
    logger = logging.getLogger("shop")
    logger.setLevel(logging.DEBUG)
    logger.info("not this")
    logger.warning("this")
    half.configure(SyslogPlugin.Options(severity="debug"))
    logger.debug("and this")
    with pytest.raises(StartAnew, match="scope is request"):
        half.configure(SyslogPlugin.Options(scope="association"))
    logger.setLevel(logging.NOTSET)
    assert texts(host) == ["this", "and this"]


def test_held_lines_are_sent_when_their_request_fails(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make(hold=True, severity="err")
    before, request = make_request(), make_request()
    half.request_end(before, OVER)  # nothing has been held for any request yet
    assert before.plugin_data == {}
    with bound_to_request(request):
        logging.getLogger("shop").warning("why")
    half.request_end(request, OVER._replace(status=500))
    assert texts(host) == ["why"]


def test_exceptions_are_one_event(make: MakeHalf, host: Any) -> None:
    make()
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("fcgi_sctp.application").exception("request failed")
    logging.error("here", stack_info=True)
    raised, stack = texts(host)
    assert raised.startswith("request failed\nTraceback (most recent call last):\n")
    assert raised.endswith("\nValueError: no")
    assert stack.startswith("here\nStack (most recent call last):\n")


def test_arguments_that_do_not_fit(make: MakeHalf, host: Any) -> None:
    with bare_root():
        make().tick()
        logging.error("%d items", "three")
    assert "'%d items' with arguments that do not fit it" in texts(host)[0]


class NoText:
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def test_a_value_without_a_text_costs_no_line(make: MakeHalf, host: Any) -> None:
    with bare_root():  # pytest's handler would raise
        make()
        logging.error("payment failed", extra={"order": 17, "object": NoText(), 5: NoText})  # type: ignore[dict-item]
        logging.error(NoText())
        logging.error("x %d", NoText())
    first, second, third = messages(host)
    assert first.text == "payment failed"
    assert first.data["fields@32473"] == {
        "order": "17",
        "object": "<NoText without a text: ValueError>",
        "5": str(NoText),
    }
    assert second.text.startswith("<NoText without a text: ValueError> with arguments that do not fit it")
    assert third.text.startswith("'x %d' with arguments that do not fit it")


@pytest.mark.parametrize("created", [float("nan"), float("inf"), -1.0, 1.7e12, "noon", None, 10**20])
def test_an_impossible_time_costs_its_line_no_more_than_the_time(make: MakeHalf, host: Any, created: Any) -> None:
    make()
    host.gathering.waits = True
    before = time.time()
    logging.error("before")
    logging.getLogger().handle(
        logging.makeLogRecord({"name": "shop", "msg": "when?", "levelno": 40, "created": created})
    )
    logging.error("after")
    host.gathering.fetch()
    lines = messages(host)
    assert [line.text for line in lines] == ["before", "when?", "after"]
    assert "fields@32473" not in lines[0].data
    assert "seconds from 1970 to 9999 were expected" in lines[1].data["fields@32473"]["malformed"]
    assert all(line.time is not None and before - 1 < line.time < time.time() + 1 for line in lines)


def test_long_fields_are_cut_and_say_so(make: MakeHalf, host: Any) -> None:
    make(max_message=MAX_ITEM - HEADER_ROOM)
    fields = {f"field{number}": "\U0001f600" * 1024 for number in range(32)}
    logging.error("x" * MAX_ITEM, extra=fields)
    assert len(host.sent[0].item) < MAX_ITEM - 8
    said = messages(host)[0].data["fields@32473"]
    assert said["field31"] == "\U0001f600" * 128
    assert said["cut"].endswith(" bytes in all, each cut to 128")


def test_long_and_strange_text(make: MakeHalf, host: Any) -> None:
    make(max_message=480)
    logging.error("ä" * 1000)
    logging.error("a\udc80b")
    assert texts(host) == ["ä" * 240 + " [cut: 2000 bytes in all]", "a\\udc80b"]


def test_unfinished_stderr_is_sent_at_the_end_of_the_request(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make(stderr="copy", scope="stream")
    request, other = make_request(), make_request("req-2")
    assert half.stderr(request, b"Traceback (most recent call last):\n  File\nValueError: no\n") is False
    half.stderr(other, b"no newline")
    assert host.sent == []
    half.request_end(request, OVER)
    assert texts(host) == ["Traceback (most recent call last):\n  File\nValueError: no"]
    half.tick()
    assert len(host.sent) == 1
    half.tick()
    assert host.sent[1].request is other
    half.stderr(None, b"last words")
    half.close()
    assert texts(host)[1:] == ["no newline", "last words"]
    half.request_end(make_request("silent"), OVER)


def test_a_request_that_has_ended_is_freed(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make()
    request = make_request()
    half.stderr(request, b"no newline")
    with bound_to_request(request):
        logging.error("text")
    half.request_end(request, OVER)
    host.sent.clear()
    gone = weakref.ref(request)
    gc.disable()  # nothing goes round in a circle, for the collector to find
    try:
        del request
        assert gone() is None
    finally:
        gc.enable()


def test_many_threads(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make(scope="stream")
    request = make_request()

    def work(name: str) -> None:
        with bound_to_request(request):
            for number in range(200):
                logging.error("%s %d", name, number)
                half.stderr(request, f"{name} {number}\n".encode())

    threads = [threading.Thread(target=work, args=(f"t{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts(host)) == sorted(
        f"t{index} {number}" for index in range(4) for number in range(200) for _ in "12"
    )
    assert all(sent.request is request for sent in host.sent)


@pytest.fixture
def shop_logger() -> Iterator[None]:
    logger = logging.getLogger("shop")
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("shop_logger")
def test_a_virtual_host_has_its_own_threshold(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make()
    half.configure(SyslogPlugin.Options(severity="debug"), "shop.example")
    half.configure(SyslogPlugin.Options(severity="err"), "blog.example")
    ask(make_request(), logging.DEBUG)
    ask(make_request(params={"SERVER_NAME": "blog.example"}), logging.WARNING, logging.ERROR)
    ask(None, logging.DEBUG, logging.INFO)
    assert texts(host) == ["text 10", "text 40", "text 20"]
    with pytest.raises(ValueError, match="app_name: must be the same for all"):
        half.configure(SyslogPlugin.Options(app_name="x"), "shop.example")
    with pytest.raises(StartAnew, match="delivery is plain"):
        half.configure(SyslogPlugin.Options(delivery="acknowledged"))


@pytest.mark.usefixtures("shop_logger")
def test_held_lines_are_raised_when_the_response_is_an_error(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make(severity="warning", hold=True, redact=[{"match": "secret"}], scope="stream")
    good, bad, silent = make_request("good"), make_request("bad"), make_request("silent")
    for request in (good, bad):
        ask(request, logging.DEBUG, logging.ERROR, text="secret")
    ask(None, logging.DEBUG)
    half.stderr(bad, b"<7>on stderr\n")
    assert texts(host) == ["*** 40", "*** 40"]
    host.sent.clear()
    half.request_end(good, OVER)
    half.request_end(silent, OVER)
    assert host.sent == []
    half.request_end(bad, Outcome(status=500, duration=0.1, first_byte=0.1, bytes_in=0, bytes_out=0))
    ask(bad, logging.DEBUG)
    assert [(one.text, one.severity, one.data["fields@32473"]["severity"]) for one in messages(host)] == [
        ("*** 10", 4, "debug"),
        ("on stderr", 4, "debug"),
    ]
    assert {sent.request for sent in host.sent} == {bad}


@pytest.mark.usefixtures("shop_logger")
def test_lines_that_could_not_be_held_are_reported(
    make: MakeHalf, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcgi_syslog.hold.HELD_LINES", 1)
    half = make(hold=True)
    request = make_request()
    ask(request, 10, 11, 12)
    half.request_end(request, Outcome(status=0, duration=1, first_byte=None, bytes_in=0, bytes_out=0, error="x"))
    assert texts(host) == ["2 earlier lines of this request were not held", "text 12"]


def test_a_storm_is_limited_and_reported(make: MakeHalf, host: Any, make_request: Any) -> None:
    half = make(rate=1, burst=2, scope="association")
    ask(make_request(), *[logging.ERROR] * 10, logging.CRITICAL)
    ask(None, logging.ERROR)
    half.tick()
    half.tick()
    *lines, told = messages(host)
    assert [line.text for line in lines] == [
        "shop.example: text 40",
        "shop.example: text 40",
        "shop.example: text 50",
        "text 40",
    ]
    assert (told.text, told.severity) == ("shop.example: 8 messages suppressed", 4)
    assert told.data["fcgi@32473"]["server_name"] == "shop.example"


def test_secrets_do_not_leave(make: MakeHalf, host: Any, make_request: Any) -> None:
    make(redact=[{"match": "hunter2"}], scope="association")
    request = make_request(params={"SERVER_NAME": "s", "REQUEST_URI": "/?p=hunter2"})
    with bound_to_request(request):
        logging.error("password hunter2", extra={"given": "hunter2"})
    assert b"hunter2" not in host.sent[0].item
    assert host.sent[0].item.count(b"***") == 3


def test_other_programs(make: MakeHalf, host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = threading.Event()
    host.on_send = arrived.set
    monkeypatch.setenv("FCGI_SCTP_WORKER", "0")
    half = make(listen=str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(tmp_path / "log"))
        sender.send(b"<15>Nov 22 22:00:00 cron: not this")
        sender.send(b"<9>Nov 22 22:00:00 cron[1]: no\nspace")
        assert arrived.wait(10)
    half.close()
    monkeypatch.setenv("FCGI_SCTP_WORKER", "1")
    make(listen=str(tmp_path / "log"))
    assert not (tmp_path / "log").exists()
    (sent,) = host.sent
    message = messages_in(sent.item)[0]
    assert (sent.channel, message.severity, message.facility) == ("syslog.process.urgent", 1, 1)
    assert (message.text, message.app_name, message.msgid) == ("no\nspace", "cron", "local")
    assert message.procid == str(os.getpid())
    assert message.data["fields@32473"] == {"uid": str(os.getuid())}


@pytest.mark.parametrize("scope", ["request", "stream", "association"])
def test_another_program_names_its_request(
    make: MakeHalf, host: Any, make_request: Any, association: AssociationInfo, tmp_path: Path, scope: str
) -> None:
    arrived = threading.Semaphore(0)
    host.on_send = arrived.release
    half = make(scope=scope, listen=str(tmp_path / "log"))
    request = make_request(identity="0123456789abcdef0123456789abcdef", association=association, number=7)
    half.request_begin(request)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(tmp_path / "log"))
        for text in (
            b"php[9]: 0123456789abcdef0123456789abcdef: no stock",
            b"php[9]: 0123456789abcdef: no such request",
        ):
            sender.send(b"<11>" + text)
            assert arrived.acquire(timeout=10)
        half.request_end(request, OVER)
        sender.send(b"<11>php[9]: 0123456789abcdef0123456789abcdef is over")
        assert arrived.acquire(timeout=10)
    half.close()
    bound, unknown, late = (messages_in(sent.item)[0] for sent in host.sent)
    assert bound.data["fcgi@32473"]["server_name"] == "shop.example"
    assert bound.text.startswith("shop.example: 0123456789abcdef" if scope == "association" else "0123456789abcdef")
    assert (bound.app_name, bound.msgid) == ("php", "local")
    if scope == "request":
        assert [batch.decode(sent.item).requests for sent in host.sent] == [(7,), (0,), (0,)]
    if scope == "stream":
        assert [sent.request for sent in host.sent] == [request, None, None]
    for line in (unknown, late):
        assert "server_name" not in line.data.get("fcgi@32473", {})


def test_passwords_and_tokens_are_hidden_by_default(make: MakeHalf, host: Any) -> None:
    make()
    logging.error("uncaught exception in GET /?password=hunter2", extra={"token": "hunter2", "to": "/?pwd=hunter2"})
    assert b"hunter2" not in host.sent[0].item
    assert host.sent[0].item.count(b"***") == 3


def test_memory_for_logger_names_is_bounded(make: MakeHalf, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    half = make()
    host.gathering.waits = True
    for number in range(25_000):
        logging.getLogger().handle(logging.makeLogRecord({"name": f"r{number}", "msg": "x", "levelno": 40}))
        assert len(half._sources.process.heads) <= 1000
    assert len(half._capture._msgids) <= 10_000
    host.gathering.fetch()
