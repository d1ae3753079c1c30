"""What the syslog plugin collects in an application: logging, warnings, exceptions, STDERR, output."""

from __future__ import annotations

import io
import logging
import logging.config
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fcgi_syslog.reassembly import Reassembler

from fcgi_core.plugin import AssociationInfo, bound_to_request
from tests.syslog.items import MakeHalf, bare_root, messages, messages_in, texts


def test_lines_are_captured_without_a_logging_configuration(make: MakeHalf, host: Any) -> None:
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
def test_an_application_that_configures_logging_late(make: MakeHalf, host: Any, how: str) -> None:
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


def test_the_applications_logging_works_as_without_the_plugin(make: MakeHalf, host: Any) -> None:
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


def test_lines_without_an_association_are_on_stderr_too(
    make: MakeHalf, host: Any, association: AssociationInfo, make_request: Any, capsys: pytest.CaptureFixture[str]
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
def test_loggers_that_do_not_propagate(make: MakeHalf, host: Any, capture: list[str]) -> None:
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
def test_printed_text_becomes_lines(
    make: MakeHalf,
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


def test_text_printed_while_a_line_is_sent_is_not_captured(
    make: MakeHalf, host: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    half = make(capture=["output"])
    host.on_send = lambda: print("sending")
    print("line")
    half.close()
    assert texts(host) == ["line"]
    assert "sending\n" in capsys.readouterr().out


def test_lines_of_a_destructor_come_after_the_lines_it_interrupted(
    make: MakeHalf, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
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
    make: MakeHalf, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
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
    make: MakeHalf, host: Any, make_request: Any, monkeypatch: pytest.MonkeyPatch
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


def test_warnings(make: MakeHalf, host: Any) -> None:
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


def test_uncaught_exceptions(make: MakeHalf, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_only_the_configured_kinds_are_captured(make: MakeHalf, host: Any, capture: list[str], seen: list[str]) -> None:
    half = make(capture=capture)
    logging.getLogger("shop").error("shop")
    logging.getLogger("fcgi_sctp.application").error("failed")
    logging.getLogger("py.warnings").warning("warning")
    assert texts(host) == seen
    assert half.stderr(None, b"text\n") is False


def test_messages_of_fcgi_sctp_are_not_captured(make: MakeHalf, host: Any) -> None:
    make()
    host.log.error("about the plugin")
    logging.getLogger("fcgi_sctp").error("about the program")
    assert host.sent == []


def test_stderr(make: MakeHalf, host: Any, make_request: Any) -> None:
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


def test_lines_that_no_web_side_accepts_are_on_stderr_too(
    make: MakeHalf, host: Any, association: AssociationInfo, make_request: Any, monkeypatch: pytest.MonkeyPatch
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
