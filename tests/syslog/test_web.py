"""The web side's half: remote text, shown whatever it is, and never believed about whose it is."""

from __future__ import annotations

import gc
import socket
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fcgi_syslog import SyslogPlugin, stream_sink
from fcgi_syslog.batch import encode
from fcgi_syslog.formats import format_line
from fcgi_syslog.message import Message, parse
from fcgi_syslog.web import HELD_STDERR, KNOWN_HEAD_COST, SyslogWeb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcgi_core.plugin import AssociationInfo, FeedEntry, Outcome, StartAnew
from tests.syslog.items import batch_of

OVER = Outcome(status=200, duration=0.1, first_byte=0.1, bytes_in=0, bytes_out=0)
Make = Callable[..., SyslogWeb]


@pytest.fixture
def make(host: Any) -> Iterator[Make]:
    made = []

    def make(**options: Any) -> SyslogWeb:
        half = SyslogWeb(host, SyslogPlugin.Options.model_validate(options))
        made.append(half)
        return half

    yield make
    for half in made:
        half.close()
        for sink in half.sinks:
            sink.join(10)


def message(text: str = "text", **claims: str) -> bytes:
    data = {"fcgi@32473": claims} if claims else {}
    return Message(text, 3, 16, 1_700_000_000.5, "h", "shop", "71", "cart", data).encode()


def test_a_line_of_a_request(make: Make, host: Any, make_request: Any, association: AssociationInfo) -> None:
    request = make_request(params={"SERVER_NAME": "shop.example", "REQUEST_URI": "/a", "REMOTE_ADDR": "192.0.2.1"})
    forged = message(server_name="bank.example", request="other", uri="/forged")
    make().feedback("syslog.urgent", forged, request, association)
    assert host.published == [
        FeedEntry(
            time=1_700_000_000.5,
            severity=3,
            message="text",
            server_name="shop.example",
            application="shop",
            facility=16,
            process="71",
            kind="cart",
            request="req-1",
            fields={"uri": "/a", "remote": "192.0.2.1"},
            host="h",
        )
    ]


def test_fields_that_the_application_added(
    make: Make, host: Any, make_request: Any, association: AssociationInfo
) -> None:
    data = {"fields@32473": {"user": "7", "uri": "/forged"}, "origin": {"ip": "192.0.2.9"}}
    request = make_request(params={"SERVER_NAME": "s", "REQUEST_URI": "/a"})
    make().feedback("syslog.urgent", Message("x", data=data).encode(), request, association)
    assert host.published[0].fields == {"user": "7", "uri": "/a", "origin.ip": "192.0.2.9"}


def test_a_line_of_the_process(make: Make, host: Any, association: AssociationInfo) -> None:
    half = make(scope="stream")
    half.feedback("syslog.process", batch_of(message()), None, association)
    half.feedback("syslog", message(server_name="late.example"), None, association)
    process, late = host.published
    assert (process.server_name, process.request, process.fields) == ("", "", None)
    # its request is forgotten, and the application's claim about it is not to be trusted
    assert (late.server_name, late.fields) == ("", {"server_name": "late.example"})


def test_lines_of_many_requests(
    make: Make, host: Any, make_request: Any, association: AssociationInfo, tmp_path: Path
) -> None:
    params = {"SERVER_NAME": "shop.example", "REQUEST_URI": "/?token=x", "REMOTE_ADDR": "192.0.2.1"}
    host.requests = {7: make_request("r7", params), 8: make_request("r8", {"SERVER_NAME": "blog.example"})}
    claims = {"server_name": "bank.example", "application": "shop", "request": "other", "uri": "/forged"}
    data = {"fcgi@32473": claims, "fields@32473": {"user": "7", "remote": "192.0.2.9"}}
    head = Message("", 3, 16, None, "h", "shop", "71", "cart", data).encode().decode()
    plain = Message("", 6, 16, None, "h", "shop", "71", "cart").encode().decode()
    lines = [
        (3, head, 1.0, "one", (association, 7)),
        (3, head, 1.0, "two", (association, 7)),
        (6, plain, 1.0, "three", (association, 8)),
        (3, head, 1.0, "four", (association, 8)),
        (3, head, 1.0, "late", (association, 9)),
        (6, plain, 1.0, "of the process", None),
    ]
    half = make(outputs=[{"file": str(tmp_path / "log")}, {"file": str(tmp_path / "{server_name}"), "severity": "err"}])
    half.feedback("syslog", encode(lines), None, association)
    about = {"application": "shop", "user": "7"}
    of_seven = {**about, "uri": "/?token=***", "remote": "192.0.2.1"}
    assert [(one.message, one.server_name, one.request, one.fields) for one in host.published] == [
        ("one", "shop.example", "r7", of_seven),
        ("two", "shop.example", "r7", of_seven),
        ("three", "blog.example", "r8", None),
        ("four", "blog.example", "r8", {**about, "remote": "192.0.2.9"}),
        # its request is forgotten, and the application's claim about it is not to be trusted
        ("late", "", "", {**claims, "user": "7", "remote": "192.0.2.9"}),
        ("of the process", "", "", None),
    ]
    assert all(sink.drain() for sink in half.sinks)
    time = "1970-01-01T00:00:01.000000Z"
    assert (tmp_path / "log").read_text() == "".join(format_line(entry) for entry in host.published)
    assert (tmp_path / "log").read_text().splitlines()[2] == f"{time} info blog.example shop[71] [r8] three"
    assert (tmp_path / "blog.example").read_text() == f"{time} err blog.example shop[71] [r8] four\n"


def test_a_batch_names_requests_where_they_are_known_alone(
    make: Make, host: Any, make_request: Any, association: AssociationInfo
) -> None:
    host.requests = {7: make_request()}
    half = make(scope="association")
    head = Message("", 3).encode().decode()
    half.feedback("syslog", encode([(3, head, 1.0, "x", (association, 7))]), None, association)
    assert half.malformed == 1
    assert host.published[0].request == ""


def test_association_scope(make: Make, host: Any, association: AssociationInfo) -> None:
    half = make(scope="association")
    half.feedback("syslog", batch_of(message("text", server_name="shop.example", request="r")), None, association)
    (entry,) = host.published
    assert (entry.server_name, entry.request, entry.message) == ("shop.example", "r", "text")


def test_garbage_is_shown_marked_and_counted(
    make: Make, host: Any, make_request: Any, association: AssociationInfo, caplog: pytest.LogCaptureFixture
) -> None:
    half = make()
    half.feedback("syslog.urgent", b"gar\xffbage", make_request(), association)
    (entry,) = host.published
    assert (entry.message, entry.server_name, entry.application) == ("gar\\xffbage", "shop.example", "peer")
    assert entry.fields == {"malformed": "it does not begin with <PRI>"}
    assert half.malformed == 1
    half.tick()
    half.tick()
    assert [record.getMessage() for record in caplog.records] == [
        "1 items were not RFC 5424 messages, the last from 192.0.2.7:9000: it does not begin with <PRI>"
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(item=st.binary(), bound=st.booleans(), scope=st.sampled_from(["request", "stream", "association"]))
def test_anything_may_come(
    host: Any, make_request: Any, association: AssociationInfo, item: bytes, bound: bool, scope: Any
) -> None:
    half = SyslogWeb(host, SyslogPlugin.Options(scope=scope))
    half.feedback("syslog", item, make_request() if bound else None, association)
    half.stderr(make_request(), item)
    half.close()


def test_stderr(make: Make, host: Any, make_request: Any) -> None:
    half = make(facility="local1", app_name="php")
    request, quiet = make_request(), make_request("req-2")
    half.stderr(request, b"PHP Fatal error:  x\nStack trace:\n#0 {main}\n  thrown")
    half.stderr(quiet, b"no newline")
    assert host.published == []
    half.request_end(request, OVER)
    (entry,) = host.published
    assert (entry.severity, entry.facility, entry.application, entry.kind) == (3, 17, "php", "stderr")
    assert (entry.server_name, entry.request) == ("shop.example", "req-1")
    assert entry.message == "PHP Fatal error:  x\nStack trace:\n#0 {main}\n  thrown"
    half.tick()
    half.tick()
    half.stderr(quiet, b"and")
    half.close()
    assert [entry.message for entry in host.published[1:]] == ["no newline", "and"]


def test_a_request_that_has_ended_is_freed(
    make: Make, host: Any, make_request: Any, association: AssociationInfo
) -> None:
    half = make()
    request = make_request()
    half.stderr(request, b"no newline")
    half.feedback("syslog.urgent", message(), request, association)
    half.request_end(request, OVER)
    gone = weakref.ref(request)
    gc.disable()  # nothing goes round in a circle, for the collector to find
    try:
        del request
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{"stderr": "copy"}, {"capture": ["logging"]}])
def test_stderr_that_is_not_ours(make: Make, host: Any, make_request: Any, options: dict[str, Any]) -> None:
    make(**options).stderr(make_request(), b"text\n")
    assert host.published == []


def test_outputs(make: Make, make_request: Any, association: AssociationInfo, tmp_path: Path) -> None:
    every, grave = tmp_path / "all.log", tmp_path / "grave.log"
    half = make(outputs=[{"file": str(every)}, {"file": str(grave), "severity": "crit"}])
    half.feedback("syslog.urgent", message("one"), make_request(), association)
    assert all(sink.drain() for sink in half.sinks)
    assert every.read_text() == "2023-11-14T22:13:20.500000Z err shop.example shop[71] [req-1] one\n"
    assert not grave.exists()

    every.rename(tmp_path / "old.log")
    half.reopen()
    kept = half.sinks[0]
    half.configure(SyslogPlugin.Options.model_validate({"outputs": [{"file": str(every)}]}))
    assert half.sinks == [kept]
    half.feedback("syslog.urgent", message("two"), make_request(), association)
    half.close()
    assert all(sink.join(10) for sink in half.sinks)
    assert every.read_text().endswith("] two\n")
    with pytest.raises(StartAnew, match="scope is request"):
        half.configure(SyslogPlugin.Options(scope="association"))


def test_a_half_without_outputs_of_a_kind(make: Make, tmp_path: Path) -> None:
    half = make(outputs=[{"socket": str(tmp_path / "log")}])
    assert half.sinks[0].name == str(tmp_path / "log")


def test_added_fields_cannot_pose_as_the_requests_data(
    make: Make, host: Any, make_request: Any, association: AssociationInfo
) -> None:
    extra = {"server_name": "bank.example", "request": "other"}
    about = {"server_name": "evil", "application": "shop", "worker": "3"}
    half = make(scope="stream")
    half.feedback("syslog.process", batch_of(Message("x", data={"fields@32473": extra}).encode()), None, association)
    half.feedback(
        "syslog", Message("y", data={"fcgi@32473": about, "fields@32473": extra}).encode(), make_request(), association
    )
    process, bound = host.published
    assert (process.server_name, process.request) == ("", "")
    assert (bound.server_name, bound.request) == ("shop.example", "req-1")
    assert bound.fields == {**extra, "application": "shop", "worker": "3"}


def test_rules_of_stderr(make: Make, host: Any, make_request: Any) -> None:
    half = make(rate=1, burst=1, patterns=[{"match": "boom", "severity": "crit"}])
    half.configure(SyslogPlugin.Options(stderr_severity="debug"), "quiet.example")
    half.stderr(make_request(), b"boom\nboom\nGET /?token=x\nmore\nmore\n")
    half.stderr(make_request(params={"SERVER_NAME": "quiet.example"}), b"text\n")
    half.tick()
    assert [(entry.severity, entry.message) for entry in host.published] == [
        (2, "boom"),
        (2, "boom"),
        (5, "GET /?token=***"),
        (7, "text"),
        (4, "2 messages suppressed"),
    ]
    assert host.published[-1].server_name == "shop.example"


def test_lines_are_acknowledged_when_required_outputs_have_them(
    make: Make, make_request: Any, association: AssociationInfo, tmp_path: Path
) -> None:
    gate, optional = tmp_path / "gate", tmp_path / "file"
    gate.symlink_to(tmp_path / "missing" / "log")  # cannot be opened
    optional.write_text("a file, and no folder")
    outputs = [
        {"file": str(tmp_path / "good.log")},
        {"file": str(gate)},
        {"file": str(optional / "log"), "required": False},
    ]
    half = make(delivery="acknowledged", outputs=outputs)
    assert half.commit() is None, "nothing has come"
    half.feedback("syslog", message("one"), None, association)
    first = half.commit()
    assert first is not None
    assert half.sinks[0].drain()
    assert not half.sinks[1].drain(0.05)
    assert not first.done()
    half.feedback("syslog", message("two"), None, association)
    second = half.commit()
    assert second is not None
    gate.unlink()
    half.reopen()
    assert first.result(10) is None
    assert second.result(10) is None
    assert gate.read_text().count("\n") == 2
    assert half.commit() is None
    assert half.sinks[2].written == 0


def test_outputs_that_cannot_be_made_change_nothing(make: Make, tmp_path: Path) -> None:
    half = make(outputs=[{"file": str(tmp_path / "log")}])
    kept = half.sinks
    with pytest.raises(OSError, match="No such file"):
        half.configure(
            SyslogPlugin.Options.model_validate({"outputs": [{"tls": "localhost", "ca": str(tmp_path / "ca.pem")}]})
        )
    assert half.sinks == kept


@pytest.mark.parametrize("shape", ["short", "beyond ascii", "many heads", "many fields"])
def test_lines_count_the_memory_they_hold(
    make: Make, host: Any, association: AssociationInfo, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """The feed and the outputs go by it."""
    kept: list[Any] = []
    monkeypatch.setattr(host, "publish_all", kept.append)
    fields = " ".join(f'{number}=""' for number in range(60)) if shape == "many fields" else 'a="b"'
    heads = {"many heads": 900, "many fields": 500}.get(shape, 1)
    text = "\u20ac" * 50 if shape == "beyond ascii" else "x" * 50
    item = encode([(6, f"<14>1 - h shop {line % heads} log [x@1 {fields}] ", 1e9, text, None) for line in range(900)])
    half = make()
    half.feedback("syslog", item, None, association)  # what is made once is made
    half._heads.clear()
    kept.clear()
    tracemalloc.start()
    try:
        half.feedback("syslog", item, None, association)
        half._heads.clear()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    (lines,) = kept
    assert held < 1.1 * lines.held
    assert lines.held < 3 * held, "and not much more is counted, or the feed would forget too soon"


def test_heads_that_cost_much_are_not_kept(make: Make, association: AssociationInfo) -> None:
    """1,024 beginnings of lines are kept taken apart, and an application may give each hundreds of fields."""
    half = make()
    fields = " ".join(f'{number}=""' for number in range(200))
    for line in range(2000):
        head = f"<14>1 - h shop {line} log [x@1 {fields}] "
        half.feedback("syslog", encode([(6, head, 1e9, "text", None)]), None, association)
    assert sum(head.cost for head in half._heads.values()) < 1024 * KNOWN_HEAD_COST
    assert not any(head.cost > KNOWN_HEAD_COST for head in half._heads.values())


def test_stderr_that_waits_for_its_line_is_bounded_for_all_requests_together(
    make: Make, host: Any, make_request: Any
) -> None:
    """An application leaves a line unfinished in each of many requests: the oldest are published as they are."""
    half = make()
    requests = [make_request(params={"SERVER_NAME": f"{number}.example"}) for number in range(100)]
    for request in requests:
        half.stderr(request, b"x" * 200_000)
        assert half._held <= HELD_STDERR
    told = len(host.published)
    assert told == 100 - HELD_STDERR // 200_000
    assert {len(entry.message) for entry in host.published} == {200_000}
    for request in requests:
        half.request_end(request, OVER)
    assert len(host.published) == 100
    assert half._held == 0
    half.stderr(requests[0], b"Traceback (most recent call last):\n  frame\n")
    assert half._held > 0
    half.stderr(requests[0], b"ValueError\nnext\n")
    half.request_end(requests[0], OVER)
    assert half._held == 0


def test_a_stalled_output_is_removed_without_waiting_for_it(
    make: Make,
    make_request: Any,
    association: AssociationInfo,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_sink, "LOOK_UP_EVERY", 0.01)
    monkeypatch.setattr(stream_sink, "CLOSE_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and never reads
        half = make(outputs=[{"tcp": f"127.0.0.1:{server.getsockname()[1]}"}, {"file": str(tmp_path / "log")}])
        for number in range(200):
            half.feedback("syslog.urgent", message(f"{number} {'x' * 60_000}"), make_request(), association)
        stalled, good = half.sinks
        assert good.drain(10)
        assert not stalled.drain(0)
        half.configure(SyslogPlugin.Options.model_validate({"outputs": [{"file": str(tmp_path / "log")}]}))
        assert stalled._thread is not None
        assert stalled._thread.is_alive(), "it was not waited for"
        assert [one.name for one in half.output_figures()] == [str(tmp_path / "log")]
        half.feedback("syslog.urgent", message("after"), make_request(), association)
        assert good.drain(10)
        server.accept()[0].close()
        assert stalled.join(10)
        assert "unwritten; they are lost" in caplog.text
    assert (tmp_path / "log").read_text().splitlines()[-1].endswith(" after")


def test_a_line_that_an_output_cannot_take_holds_up_no_acknowledgement(
    make: Make, association: AssociationInfo, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        outputs = [{"udp": f"127.0.0.1:{server.getsockname()[1]}"}, {"file": str(tmp_path / "log")}]
        half = make(delivery="acknowledged", outputs=outputs)
        fields = {f"f{number}": "\x01" * 1024 for number in range(13)}
        for text, added in (("before", {}), ("big", fields), ("after", {})):
            one = Message(text, time=1_700_000_000.5, data={"fields@32473": added} if added else {})
            half.feedback("syslog", batch_of(one.encode()), None, association)
            taken = half.commit()
            assert taken is None or taken.result(10) is None
        assert [parse(server.recv(1 << 17)).text for _ in range(3)] == ["before", "big", "after"]
    udp, file = half.output_figures()
    assert (udp.written, udp.lost, udp.cut) == (3, 0, 1)
    assert (file.written, file.lost, file.cut) == (3, 0, 0)
