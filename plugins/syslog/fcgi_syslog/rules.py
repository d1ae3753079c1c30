"""The options that can differ between virtual hosts, prepared for use."""

from __future__ import annotations

import re

from fcgi_core.plugin import SECRETS, is_secret, may_have_secrets, severity_number

from .options import SyslogOptions
from .severity import guess

__all__ = ["Rules", "RulesByHost"]

SECRET = "***"


class Rules:
    """The rules of a virtual host. Never changed once made; read on any thread."""

    __slots__ = (
        "_hides_secrets",
        "_patterns",
        "_redactions",
        "_stderr_severity",
        "burst",
        "hold",
        "only_secrets",
        "rate",
        "redacts",
        "threshold",
    )

    def __init__(self, options: SyslogOptions) -> None:
        self.threshold = severity_number(options.severity)
        self.hold = options.hold
        self.rate = options.rate
        self.burst = options.burst
        self._stderr_severity = severity_number(options.stderr_severity)
        self._patterns = [(re.compile(one.match), severity_number(one.severity)) for one in options.patterns]
        self._redactions = [(re.compile(one.match), one.replace, one.match == SECRETS) for one in options.redact]
        self.redacts = bool(self._redactions)
        self._hides_secrets = any(secrets for _, _, secrets in self._redactions)
        self.only_secrets = all(secrets for _, _, secrets in self._redactions)
        """Only the default redaction applies, so a text without ``=`` stays as it is."""

    def redact(self, text: str) -> str:
        """Return `text` with the redactions made."""
        if self.only_secrets and "=" not in text:
            return text
        for expression, replacement, secrets in self._redactions:
            # a search for fixed words is far quicker than the expression, and most lines have none
            if not secrets or may_have_secrets(text):
                text = expression.sub(replacement, text)
        return text

    def redact_field(self, name: str, value: str) -> str:
        """Return the value of a field with the redactions made, and only ``***`` if the field's name marks a secret."""
        if self._hides_secrets and is_secret(name):
            return SECRET
        return self.redact(value)

    def of_stderr(self, text: str) -> tuple[int, str]:
        """Return the severity of an event on STDERR, and its text without a leading ``<N>``."""
        severity, text = guess(text)
        for expression, given in self._patterns:
            if expression.search(text):
                return given, text
        return self._stderr_severity if severity is None else severity, text


class RulesByHost:
    """The rules of every virtual host."""

    __slots__ = ("_hosts", "_options", "base", "holds", "same")

    def __init__(self, options: SyslogOptions) -> None:
        self._options = options
        self.base = Rules(options)
        """The rules of every host that has no others."""
        self.same = True
        """All hosts have the base rules."""
        self.holds = options.hold
        """Lines of at least one host are held."""
        self._hosts: dict[str, Rules] = {}

    def change(self, options: SyslogOptions, server_name: str | None) -> None:
        """Use new options for one host, or for all hosts that have no others. ValueError names the options that must be
        the same for all hosts."""
        if server_name is None:
            self._options = options
            self.base = Rules(options)
            self._look()
            return
        common = self._options.for_all_hosts()
        wrong = [name for name, value in options.for_all_hosts().items() if value != common[name]]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: must be the same for all virtual hosts")
        if options == self._options:
            self._hosts.pop(server_name.lower(), None)
        else:
            self._hosts[server_name.lower()] = Rules(options)
        self._look()

    def _look(self) -> None:
        self.same = not self._hosts
        self.holds = any(rules.hold for rules in (self.base, *self._hosts.values()))

    def __getitem__(self, server_name: str) -> Rules:
        """Return the rules of a host; upper and lower case are the same."""
        return self.base if self.same else self._hosts.get(server_name.lower(), self.base)

    @property
    def lowest(self) -> int:
        """The least severe severity that any host needs."""
        return max(7 if rules.hold else rules.threshold for rules in (self.base, *self._hosts.values()))
