"""The declaration: options are checked, channels are as the scope wants them."""

from typing import Any

import pytest
from fcgi_syslog import SyslogPlugin, plugin
from pydantic import ValidationError

from fcgi_core.plugin import Plugin, Priority, Scope


def test_request_scope() -> None:
    made = plugin()
    assert isinstance(made, Plugin)
    assert made.name == "syslog"
    assert [channel.describe() for channel in made.channels(made.Options())] == [
        "syslog;association;ordinary;counted",
        "syslog.urgent;request;urgent",
        "syslog.process.urgent;association;urgent",
    ]


def test_stream_scope() -> None:
    assert [channel.describe() for channel in SyslogPlugin().channels(SyslogPlugin.Options(scope="stream"))] == [
        "syslog.process;association;ordinary;counted",
        "syslog.urgent;request;urgent",
        "syslog.process.urgent;association;urgent",
        "syslog;request;ordinary",
    ]


def test_association_scope() -> None:
    channels = SyslogPlugin().channels(SyslogPlugin.Options(scope="association"))
    assert [(channel.name, channel.scope, channel.priority) for channel in channels] == [
        ("syslog", Scope.ASSOCIATION, Priority.ORDINARY),
        ("syslog.urgent", Scope.ASSOCIATION, Priority.URGENT),
    ]


def test_acknowledged_channels() -> None:
    channels = SyslogPlugin().channels(SyslogPlugin.Options(delivery="acknowledged", spool="/s", spool_bytes=1 << 20))
    assert [(one.name, one.scope, one.acknowledged, one.spool) for one in channels] == [
        ("syslog", Scope.ASSOCIATION, True, "/s"),
        ("syslog.urgent", Scope.ASSOCIATION, True, "/s"),
    ]


def test_the_usual_journal() -> None:
    (output,) = SyslogPlugin.Options.model_validate({"outputs": [{"journal": True}]}).outputs
    assert (output.kind, output.journal) == ("journal", "/run/systemd/journal/socket")


def test_severities_have_many_names() -> None:
    options = SyslogPlugin.Options.model_validate({"severity": "Error", "outputs": [{"socket": "/x", "severity": 4}]})
    assert options.severity == "err"
    assert options.outputs[0].severity == "warning"


def test_every_option_is_described() -> None:
    schema = SyslogPlugin.Options.model_json_schema()
    models = [schema["$defs"][name]["properties"] for name in ("Output", "Pattern", "Redaction")]
    for properties in (schema["properties"], *models):
        assert all(option.get("description") for option in properties.values())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"severity": "loud"}, "'warning', 'notice'"),
        ({"facility": "local8"}, "'local7'"),
        ({"scope": "world"}, "'request', 'stream' or 'association'"),
        ({"capture": ["prints"]}, "'logging', 'unpropagated'"),
        ({"max_message": 10}, "greater than or equal to 480"),
        ({"outputs": [{}]}, "one of file, json, socket"),
        ({"outputs": [{"file": "/a", "socket": "/b"}]}, "one of file, json, socket"),
        ({"outputs": [{"udp": "h:99999"}]}, "HOST:PORT"),
        ({"outputs": [{"json": "/a"}, {"file": "/b"}, {"json": "/a", "severity": "err"}]}, "json /a is listed twice"),
        ({"outputs": [{"tcp": "h:x"}]}, "invalid literal"),
        ({"outputs": [{"tcp": "h", "ca": "/ca.pem"}]}, "need tls"),
        ({"outputs": [{"tls": "h", "key": "/key.pem"}]}, "key needs certificate"),
        ({"outputs": [{"json": "/a/{x}"}]}, "only {server_name} can"),
        ({"redact": [{"match": "("}]}, "invalid regular expression"),
        ({"redact": [{"match": "a", "replace": "\\1"}]}, "invalid group"),
        ({"patterns": [{"match": "x", "severity": "loud"}]}, "'notice'"),
        ({"spool": "/var/spool/x"}, "spool needs delivery: acknowledged"),
        ({"listen": "log"}, "use an absolute path"),
        ({"outputs": [{"file": "a.log"}]}, "use an absolute path"),
        ({"outputs": [{"file": "/{host}.log"}]}, "only {server_name} can"),
        ({"output": []}, "Extra inputs"),
    ],
)
def test_wrong_options(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SyslogPlugin.Options.model_validate(options)
