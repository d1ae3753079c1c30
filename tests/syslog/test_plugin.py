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
        "syslog;request;ordinary",
        "syslog.urgent;request;urgent",
        "syslog.process;association;ordinary",
        "syslog.process.urgent;association;urgent",
    ]


def test_association_scope() -> None:
    channels = SyslogPlugin().channels(SyslogPlugin.Options(scope="association"))
    assert [(channel.name, channel.scope, channel.priority) for channel in channels] == [
        ("syslog", Scope.ASSOCIATION, Priority.ORDINARY),
        ("syslog.urgent", Scope.ASSOCIATION, Priority.URGENT),
    ]


def test_severities_have_many_names() -> None:
    options = SyslogPlugin.Options.model_validate({"severity": "Error", "outputs": [{"socket": "/x", "severity": 4}]})
    assert options.severity == "err"
    assert options.outputs[0].severity == "warning"


def test_every_option_is_described() -> None:
    schema = SyslogPlugin.Options.model_json_schema()
    for properties in (schema["properties"], schema["$defs"]["Output"]["properties"]):
        assert all(option.get("description") for option in properties.values())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"severity": "loud"}, "'warning', 'notice'"),
        ({"facility": "local8"}, "'local7'"),
        ({"scope": "world"}, "'request' or 'association'"),
        ({"capture": ["prints"]}, "'logging', 'warnings'"),
        ({"max_message": 10}, "greater than or equal to 480"),
        ({"outputs": [{}]}, "one of `file` and `socket`"),
        ({"outputs": [{"file": "/a", "socket": "/b"}]}, "one of `file` and `socket`"),
        ({"outputs": [{"file": "a.log"}]}, "an absolute path"),
        ({"outputs": [{"file": "/{host}.log"}]}, "{server_name} is all"),
        ({"output": []}, "Extra inputs"),
    ],
)
def test_wrong_options(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SyslogPlugin.Options.model_validate(options)
