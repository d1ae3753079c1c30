"""The application's half: each line once, with its request, never more because of itself."""

from __future__ import annotations

import gc
import io
import logging
import logging.config
import os
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fcgi_syslog import SyslogPlugin, batch, sender
from fcgi_syslog.application import SyslogApplication
from fcgi_syslog.message import Message
from fcgi_syslog.options import HEADER_ROOM
from fcgi_syslog.reassembly import Reassembler

from fcgi_core.plugin import MAX_ITEM, AssociationInfo, Outcome, StartAnew, bound_to_request
from tests.syslog.items import messages_in

OVER = Outcome(status=200, duration=0.1, first_byte=0.1, bytes_in=0, bytes_out=0)
Make = Callable[..., SyslogApplication]


@pytest.fixture
def make(host: Any) -> Iterator[Make]:
    made = []

    def make(**options: Any) -> SyslogApplication:
        half = SyslogApplication(host, SyslogPlugin.Options.model_validate(options))
        made.append(half)
        return half

    yield make
    for half in made:
        half.close()


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger of a process without a logging configuration; pytest's handlers return at the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def messages(host: Any) -> list[Message]:
    return [message for sent in host.sent for message in messages_in(sent.item)]


def texts(host: Any) -> list[str]:
    return [message.text for message in messages(host)]


@pytest.mark.parametrize("scope", ["request", "stream"])
def test_a_line_goes_with_its_request(
    make: Make, host: Any, make_request: Any, association: AssociationInfo, scope: str
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


def test_a_line_that_travels_without_its_request_says_all_about_it(make: Make, host: Any, make_request: Any) -> None:
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
def test_channels(make: Make, host: Any, make_request: Any, scope: str, bound: bool, level: int, channel: str) -> None:
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


def test_the_threshold(make: Make, host: Any) -> None:
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


def test_where_nobody_configured_logging(make: Make, host: Any) -> None:
    with bare_root() as root:
        half = make(severity="info")
        logging.getLogger("shop").info("seen")
        half.close()
        assert root.level == logging.WARNING
        assert root.handlers == []
    assert texts(host) == ["seen"]


@contextmanager
def enabled_after() -> Iterator[None]:
    """Loggers that a configuration disables are so for this test alone."""
    try:
        yield
    finally:
        for logger in logging.root.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                logger.disabled = False


CONFIGURE: dict[str, Callable[[], object]] = {
    "dictConfig": lambda: logging.config.dictConfig({"version": 1, "root": {"level": "INFO"}}),
    "dictConfig with a handler": lambda: logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"null": {"class": "logging.NullHandler"}},
            "root": {"level": "INFO", "handlers": ["null"]},
        }
    ),
    "basicConfig by force": lambda: logging.basicConfig(
        force=True, level=logging.INFO, handlers=[logging.NullHandler()]
    ),
    "handlers taken off": lambda: logging.getLogger().handlers.clear(),
}


@pytest.mark.parametrize("how", CONFIGURE)
def test_an_application_that_configures_logging_late(make: Make, host: Any, how: str) -> None:
    """Lines and warnings go on at once."""
    with bare_root(), enabled_after(), warnings.catch_warnings():
        warnings.simplefilter("always")
        half = make()
        logging.getLogger("py.warnings")
        logging.getLogger("fcgi_sctp.application")
        CONFIGURE[how]()
        logging.getLogger(f"new after {how}").error("line")
        warnings.warn("warning", UserWarning, stacklevel=1)
        logging.getLogger("fcgi_sctp.application").error("escaped")
        half.close()
    assert len(texts(host)) == 3, texts(host)
    line, warning, escaped = texts(host)
    assert (line, escaped) == ("line", "escaped")
    assert "UserWarning: warning" in warning


def test_the_applications_own_configuration_is_what_it_would_be_without_us(make: Make, host: Any) -> None:
    """basicConfig() does nothing where the root logger has a handler, and INFO is not what it asks for."""
    with bare_root() as root:
        half = make(severity="debug")
        logging.getLogger("shop").debug("before")
        got: list[str] = []
        own = logging.Handler()
        own.emit = lambda record: got.append(record.getMessage())  # type: ignore[method-assign]
        logging.basicConfig(handlers=[own])
        assert root.handlers == [own]
        logging.getLogger("shop").warning("for both")
        logging.getLogger("shop").info("ours alone")
        chatty = logging.getLogger("shop.chatty")
        chatty.setLevel(logging.INFO)
        chatty.info("for both")
        chatty.setLevel(logging.NOTSET)
        half.close()
        assert (root.handlers, root.level) == ([own], logging.WARNING)
    assert texts(host) == ["before", "for both", "ours alone", "for both"]
    assert got == ["for both"] * 2


def test_lines_that_nobody_has_yet_are_on_stderr_too(
    make: Make, host: Any, association: AssociationInfo, make_request: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The application may end before there is an association."""
    before = logging.lastResort
    with bare_root():
        half = make()
        host.gathering.waits = True
        logging.getLogger("shop").error("at import")
        host.by_request = {make_request(): association}
        half.association_up(association)
        logging.getLogger("shop").error("later")
        host.by_request = {}
        half.association_down(association, "gone")
        logging.getLogger("shop").error("alone again")
        half.close()
    host.gathering.fetch()
    assert texts(host) == ["at import", "later", "alone again"]
    assert capsys.readouterr().err == "at import\nalone again\n"
    assert logging.lastResort is before


@pytest.mark.parametrize("capture", [["logging"], ["logging", "unpropagated"]])
def test_loggers_that_do_not_propagate(make: Make, host: Any, capture: list[str]) -> None:
    logger = logging.getLogger("uvicorn.error")
    above = logging.getLogger("uvicorn")
    above.propagate = False
    try:
        make(capture=capture)
        logger.error("started")
        logging.getLogger("shop").error("line")
    finally:
        above.propagate = True
    assert texts(host) == (["started", "line"] if "unpropagated" in capture else ["line"])


@pytest.mark.parametrize("stderr", ["take", "copy"])
def test_what_is_printed(
    make: Make,
    host: Any,
    association: AssociationInfo,
    make_request: Any,
    capsys: pytest.CaptureFixture[str],
    stderr: str,
) -> None:
    with bare_root():
        half = make(capture=["logging", "output"], stderr=stderr, scope="stream")
        host.by_request = {make_request(): association}
        half.association_up(association)
        request = make_request()
        with bound_to_request(request):
            print("printed", 17, end="")
            print(" and", "more")
            sys.stderr.writelines(["WARNING: on ", "stderr\n"])
        handler = logging.StreamHandler()  # which writes to what stands for sys.stderr
        logging.getLogger("shop").addHandler(handler)
        logging.getLogger("shop").error("a record")
        logging.getLogger("shop").removeHandler(handler)
        assert sys.stdout.isatty() is False
        half.close()
        print("after")
    assert texts(host) == ["printed 17 and more", "WARNING: on stderr", "a record"]
    assert [sent.request for sent in host.sent] == [request, request, None]
    out, err = capsys.readouterr()
    assert out == ("printed 17 and more\n" if stderr == "copy" else "") + "after\n"
    assert err == ("WARNING: on stderr\n" if stderr == "copy" else "") + "a record\n"


def test_what_is_printed_while_a_line_is_taken_goes_where_it_went(
    make: Make, host: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    half = make(capture=["output"])
    host.on_send = lambda: print("sending")
    print("line")
    half.close()
    assert texts(host) == ["line"]
    assert "sending\n" in capsys.readouterr().out


def test_what_was_held_for_one_request_is_looked_for_in_all(make: Make, host: Any, make_request: Any) -> None:
    half = make(hold=True, severity="err")
    before, request = make_request(), make_request()
    half.request_end(before, OVER)  # nothing has been held for any request yet
    assert before.plugin_data == {}
    with bound_to_request(request):
        logging.getLogger("shop").warning("why")
    half.request_end(request, OVER._replace(status=500))
    assert texts(host) == ["why"]


def test_exceptions_are_one_event(make: Make, host: Any) -> None:
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


def test_arguments_that_do_not_fit(make: Make, host: Any) -> None:
    with bare_root():
        make().tick()
        logging.error("%d items", "three")
    assert "'%d items' with arguments that do not fit it" in texts(host)[0]


class NoText:
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def test_a_value_without_a_text_costs_no_line(make: Make, host: Any) -> None:
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
def test_an_impossible_time_costs_its_line_no_more_than_the_time(make: Make, host: Any, created: Any) -> None:
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


def test_long_fields_are_cut_and_say_so(make: Make, host: Any) -> None:
    make(max_message=MAX_ITEM - HEADER_ROOM)
    fields = {f"field{number}": "\U0001f600" * 1024 for number in range(32)}
    logging.error("x" * MAX_ITEM, extra=fields)
    assert len(host.sent[0].item) < MAX_ITEM - 8
    said = messages(host)[0].data["fields@32473"]
    assert said["field31"] == "\U0001f600" * 128
    assert said["cut"].endswith(" bytes in all, each cut to 128")


def test_a_destructor_that_writes_comes_after_what_it_interrupted(
    make: Make, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage is collected wherever the interpreter likes, also inside ours."""
    half = make(rate=1000)
    request = make_request()
    keep = Reassembler._keep
    garbage = [1, 2]

    def interrupted(reassembler: Reassembler, data: bytes) -> None:
        if garbage:
            half.stderr(request, b"ERROR: unclosed %d\n" % garbage.pop())
            logging.error("not closed either")
        keep(reassembler, data)

    monkeypatch.setattr(Reassembler, "_keep", interrupted)
    writing = threading.Thread(target=half.stderr, args=(request, b"one\ntwo\n"), daemon=True)
    writing.start()
    writing.join(10)
    assert not writing.is_alive(), "dead-lock"
    assert sorted(texts(host)) == [
        *("ERROR: unclosed 1", "ERROR: unclosed 2", "not closed either", "not closed either", "one", "two"),
    ]


def test_destructors_do_not_wait_for_the_thread_that_they_interrupt(
    make: Make, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One collection may run thousands of them; what is too much is lost and counted."""
    half = make()
    request = make_request()
    keep = Reassembler._keep
    garbage = 10_050

    def interrupted(reassembler: Reassembler, data: bytes) -> None:
        nonlocal garbage
        count, garbage = garbage, 0
        for number in range(count):
            half.stderr(request, b"%d\n" % number)
        keep(reassembler, data)

    slept: list[float] = []
    monkeypatch.setattr(Reassembler, "_keep", interrupted)
    monkeypatch.setattr(time, "sleep", slept.append)
    writing = threading.Thread(target=half.stderr, args=(request, b"first\n"))
    writing.start()
    writing.join(60)
    assert texts(host) == ["first", *map(str, range(10_000))]
    assert slept == []
    assert host.gathering.lost == 50


def test_a_thread_waits_for_no_other_that_is_inside(
    make: Make, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destructor inside ours may wait for a lock of the application's, whose holder writes."""
    half = make()
    request = make_request()
    entered, leave = threading.Event(), threading.Event()
    keep = Reassembler._keep

    def held_up(reassembler: Reassembler, data: bytes) -> None:
        entered.set()
        assert leave.wait(10)
        keep(reassembler, data)

    monkeypatch.setattr(Reassembler, "_keep", held_up)
    inside = threading.Thread(target=half.stderr, args=(request, b"one\n"), daemon=True)
    inside.start()
    assert entered.wait(10)
    other = threading.Thread(target=half.stderr, args=(request, b"two\n"), daemon=True)
    other.start()
    other.join(3)
    waits = other.is_alive()
    leave.set()
    inside.join(10)
    assert not waits, "dead-lock"
    assert texts(host) == ["one", "two"]


def test_long_and_strange_text(make: Make, host: Any) -> None:
    make(max_message=480)
    logging.error("ä" * 1000)
    logging.error("a\udc80b")
    assert texts(host) == ["ä" * 240 + " [cut: 2000 bytes in all]", "a\\udc80b"]


def test_warnings(make: Make, host: Any) -> None:
    half = make()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        (message,) = messages(host)
        half.close()
        with pytest.warns(DeprecationWarning, match="old"):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert len(host.sent) == 1
    assert message.msgid == "py.warnings"
    assert "DeprecationWarning: old" in message.text
    assert not message.text.endswith("\n")


def test_uncaught_exceptions(make: Make, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passed_on: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: passed_on.append(args))
    monkeypatch.setattr(threading, "excepthook", lambda args: passed_on.append(args))
    before = sys.excepthook, threading.excepthook
    half = make()

    def fail() -> None:
        raise ValueError("no")

    thread = threading.Thread(target=fail, name="worker-1")
    thread.start()
    thread.join()
    error = ValueError("main")
    sys.excepthook(ValueError, error, None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    in_thread, in_main = messages(host)
    assert in_thread.severity == 3
    assert in_thread.text.startswith("Exception in thread worker-1\nTraceback")
    assert (in_main.severity, in_main.text) == (2, "Uncaught exception\nValueError: main")
    assert len(passed_on) == 3
    half.close()
    assert (sys.excepthook, threading.excepthook) == before


@pytest.mark.parametrize(
    ("capture", "seen"),
    [
        (["logging"], ["shop", "warning"]),
        (["warnings"], ["warning"]),
        (["exceptions"], ["failed"]),
        (["logging", "exceptions"], ["shop", "failed", "warning"]),
        ([], []),
    ],
)
def test_what_is_captured(make: Make, host: Any, capture: list[str], seen: list[str]) -> None:
    half = make(capture=capture)
    logging.getLogger("shop").error("shop")
    logging.getLogger("fcgi_sctp.application").error("failed")
    logging.getLogger("py.warnings").warning("warning")
    assert texts(host) == seen
    assert half.stderr(None, b"text\n") is False


def test_our_own_messages_are_not_taken(make: Make, host: Any) -> None:
    make()
    host.log.error("about the plugin")
    logging.getLogger("fcgi_sctp").error("about the program")
    assert host.sent == []


@pytest.mark.parametrize("spool", [False, True])
def test_what_sending_a_line_makes_others_say_goes_once(
    make: Make, host: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, spool: bool
) -> None:
    half = make(**({"delivery": "acknowledged", "spool": str(tmp_path)} if spool else {}))
    host.on_send = lambda: logging.getLogger("carrier").error("cannot send")
    logging.error("one")
    assert texts(host) == ["one", "cannot send"], "and not what sending that made them say"
    half.tick()
    assert "1 lines could not be sent (1 since the start)" in caplog.text
    assert host.gathering.lost == 1


def test_failures_are_reported_once(make: Make, host: Any, caplog: pytest.LogCaptureFixture) -> None:
    half = make()

    def fail() -> None:
        raise OSError("no")

    host.on_send = fail
    logging.error("one")
    logging.error("two")
    half.tick()
    half.tick()
    reports = [record.getMessage() for record in caplog.records if record.name == host.log.name]
    assert reports == ["2 lines could not be sent (2 since the start)"]


def test_stderr(make: Make, host: Any, make_request: Any) -> None:
    half = make(scope="stream")
    request = make_request()
    assert half.stderr(request, b"PHP Warning:  x\npart") is True
    assert half.stderr(request, b"ial\n<7>quiet\n<2>loud\n") is True
    assert half.stderr(None, b"process\n") is True
    assert [
        (sent.channel, messages_in(sent.item)[0].severity, messages_in(sent.item)[0].text) for sent in host.sent
    ] == [
        ("syslog", 4, "PHP Warning:  x"),
        ("syslog", 5, "partial"),
        ("syslog.urgent", 2, "loud"),
        ("syslog.process", 5, "process"),
    ]
    assert {messages_in(sent.item)[0].msgid for sent in host.sent} == {"stderr"}


def test_what_is_held_comes_at_the_end_of_the_request(make: Make, host: Any, make_request: Any) -> None:
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


def test_a_request_goes_when_it_is_over(make: Make, host: Any, make_request: Any) -> None:
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


def test_many_threads(make: Make, host: Any, make_request: Any) -> None:
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


def ask(request: Any, *levels: int, text: str = "text") -> None:
    with bound_to_request(request):
        for level in levels:
            logging.getLogger("shop").log(level, "%s %d", text, level)


@pytest.fixture
def shop_logger() -> Iterator[None]:
    logger = logging.getLogger("shop")
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("shop_logger")
def test_a_host_has_a_threshold_of_its_own(make: Make, host: Any, make_request: Any) -> None:
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
def test_held_lines_are_raised_when_the_response_is_an_error(make: Make, host: Any, make_request: Any) -> None:
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
def test_what_could_not_be_held_is_told(
    make: Make, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcgi_syslog.hold.HELD_LINES", 1)
    half = make(hold=True)
    request = make_request()
    ask(request, 10, 11, 12)
    half.request_end(request, Outcome(status=0, duration=1, first_byte=None, bytes_in=0, bytes_out=0, error="x"))
    assert texts(host) == ["2 earlier lines of this request were not held", "text 12"]


def test_a_storm_is_cut_and_told(make: Make, host: Any, make_request: Any) -> None:
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


def test_secrets_do_not_leave(make: Make, host: Any, make_request: Any) -> None:
    make(redact=[{"match": "hunter2"}], scope="association")
    request = make_request(params={"SERVER_NAME": "s", "REQUEST_URI": "/?p=hunter2"})
    with bound_to_request(request):
        logging.error("password hunter2", extra={"given": "hunter2"})
    assert b"hunter2" not in host.sent[0].item
    assert host.sent[0].item.count(b"***") == 3


def test_acknowledged_lines_travel_with_the_association(make: Make, host: Any, make_request: Any) -> None:
    make(delivery="acknowledged")
    ask(make_request(), logging.ERROR, logging.CRITICAL)
    assert [(sent.channel, messages_in(sent.item)[0].text) for sent in host.sent] == [
        ("syslog", "shop.example: text 40"),
        ("syslog.urgent", "shop.example: text 50"),
    ]


def test_other_programs(make: Make, host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    make: Make, host: Any, make_request: Any, association: AssociationInfo, tmp_path: Path, scope: str
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


def test_lines_wait_for_the_loop_and_go_together(make: Make, host: Any) -> None:
    make(scope="association")
    host.gathering.waits = True
    for number in range(1000):
        logging.error("line %d %s", number, "x" * 200)
    assert host.sent == []
    host.gathering.fetch()
    assert 5 < len(host.sent) < 20
    assert texts(host) == [f"line {number} {'x' * 200}" for number in range(1000)]
    host.gathering.fetch()
    assert len(texts(host)) == 1000


def test_a_crowded_channel_gets_items_of_one_severity(make: Make, host: Any) -> None:
    make(scope="association")
    host.gathering.waits = True
    for number in range(100):
        logging.log(logging.ERROR if number % 2 else logging.WARNING, "%d", number)
    host.gathering.crowded = True
    host.gathering.fetch()
    assert [(sent.urgency, {message.severity for message in messages_in(sent.item)}) for sent in host.sent] == [
        (3, {3}),
        (4, {4}),
    ]
    host.gathering.crowded = False
    logging.warning("least")
    logging.error("most")
    host.gathering.fetch()
    assert host.sent[2].urgency == 3
    assert texts(host)[100:] == ["least", "most"]


@pytest.mark.parametrize("scope", ["request", "association"])
def test_each_web_server_gets_the_lines_of_its_requests(make: Make, host: Any, make_request: Any, scope: str) -> None:
    make(scope=scope)
    host.gathering.waits = True
    associations = [AssociationInfo(number, "peer", "", f"web {number}") for number in range(2)]
    requests = [make_request(identity=f"r{one.identity}", association=one, number=7) for one in associations]
    host.by_request = dict(zip(requests, associations, strict=True))
    for _ in range(2):
        for request in requests:
            with bound_to_request(request):
                logging.error("text")
    host.gathering.fetch()
    assert [(sent.association.identity, len(messages_in(sent.item))) for sent in host.sent] == [(0, 2), (1, 2)]
    named = {number for sent in host.sent for number in batch.decode(sent.item).requests}
    assert named == ({7} if scope == "request" else {0})


def test_what_waits_is_bounded_in_bytes_and_lines(make: Make, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "KEPT_LINES", 10)
    monkeypatch.setattr(sender, "KEPT_LONG", 5000)
    monkeypatch.setattr(sender, "MANY", 5)
    make(scope="association")
    host.gathering.waits = True
    for _ in range(20):
        logging.error("text")
    assert host.gathering.lost == 10
    host.gathering.fetch()
    assert len(texts(host)) == 10
    for _ in range(4):
        logging.error("x" * 2000)
    assert host.gathering.lost == 12
    host.gathering.fetch()
    assert len(texts(host)) == 12


def test_where_no_web_side_takes_lines_they_are_on_stderr_too(
    make: Make, host: Any, association: AssociationInfo, make_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin is not enabled there, or with other options: without it `logging` would have shown them."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    host.by_request[make_request()] = association
    with bare_root():
        half = make(severity="info")
        half.association_up(association)
        logging.getLogger("shop").warning("as long as they are taken")
        for change in (lambda: half.association_up(association), half.tick):
            host.taken = False
            change()
            logging.getLogger("shop").warning("not taken")
            host.taken = True
            half.tick()
            logging.getLogger("shop").warning("taken again")
        assert stderr.getvalue() == "not taken\n" * 2
        assert "not taken" in texts(host), "and it waits for a web side that takes it"
        half.close()


def test_what_the_default_hides(make: Make, host: Any) -> None:
    make()
    logging.error("uncaught exception in GET /?password=hunter2", extra={"token": "hunter2", "to": "/?pwd=hunter2"})
    assert b"hunter2" not in host.sent[0].item
    assert host.sent[0].item.count(b"***") == 3


def test_loggers_without_number_cost_no_memory_without_bound(
    make: Make, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = make()
    host.gathering.waits = True
    for number in range(25_000):
        logging.getLogger().handle(logging.makeLogRecord({"name": f"r{number}", "msg": "x", "levelno": 40}))
        assert len(half._sources.process.heads) <= 1000
    assert len(half._capture._msgids) <= 10_000
    host.gathering.fetch()
