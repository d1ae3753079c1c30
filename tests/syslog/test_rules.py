"""Rules by virtual host: severity, redaction."""

from __future__ import annotations

from typing import Any

import pytest
from fcgi_syslog import SyslogPlugin
from fcgi_syslog.options import SyslogOptions
from fcgi_syslog.rules import Rules, RulesByHost


def options(**named: Any) -> SyslogOptions:
    return SyslogPlugin.Options.model_validate(named)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("GET /a?password=x&b=1", "GET /a?password=***&b=1"),
        ("/?Access_Token=abc.def&api-key=1;apikey=2", "/?Access_Token=***&api-key=1;apikey=***"),
        ('"/a?sig=1" 200', '"/a?sig=***" 200'),
        ("/a?tokens=1&compass=2", "/a?tokens=1&compass=2"),
        ("nothing here", "nothing here"),
    ],
)
def test_secrets_in_uris(text: str, redacted: str) -> None:
    assert Rules(options()).redact(text) == redacted


def test_own_redactions() -> None:
    rules = Rules(options(redact=[{"match": r"(\d{4})\d{8}(\d{4})", "replace": r"\1-\2"}, {"match": "secret"}]))
    assert rules.redact("card 4111222233334444 is secret?token=1") == "card 4111-4444 is ***?token=1"
    assert not Rules(options(redact=[])).redacts


def test_patterns_come_first() -> None:
    rules = Rules(
        options(
            stderr_severity="info",
            patterns=[{"match": "^deadlock", "severity": "alert"}, {"match": "deprecated", "severity": "debug"}],
        )
    )
    assert rules.of_stderr("deadlock: error") == (1, "deadlock: error")
    assert rules.of_stderr("<3>deprecated call") == (7, "deprecated call")
    assert rules.of_stderr("PHP message: PHP Fatal error:  x") == (3, "PHP message: PHP Fatal error:  x")
    assert rules.of_stderr('{"level": "warn"}')[0] == 4
    assert rules.of_stderr("PHP message: hello")[0] == 6


def test_rules_by_virtual_host() -> None:
    rules = RulesByHost(options())
    rules.change(options(severity="debug"), "a.test")
    assert (rules["a.test"].threshold, rules["b.test"].threshold, rules.lowest) == (7, 6, 7)
    assert rules["A.Test"].threshold == 7
    with pytest.raises(ValueError, match="facility: must be the same for all"):
        rules.change(options(facility="local0"), "a.test")
    rules.change(options(), "a.test")
    assert (rules["a.test"].threshold, rules.lowest) == (6, 6)
    rules.change(options(severity="err", hold=True), None)
    assert (rules["a.test"].threshold, rules.lowest) == (3, 7)


def test_a_field_whose_name_is_a_secrets_says_nothing() -> None:
    rules = Rules(options())
    assert rules.redact_field("password", "correct horse battery staple") == "***"
    assert rules.redact_field("API_KEY", "0123") == "***"
    assert rules.redact_field("password_reset", "yes") == "yes"
    assert rules.redact_field("url", "/?token=0123&a=b") == "/?token=***&a=b"
    assert Rules(options(redact=[])).redact_field("password", "hunter2") == "hunter2"
