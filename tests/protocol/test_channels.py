from __future__ import annotations

from typing import Any

import pytest

from fcgi_core.common.bounded_queue import WhenFull
from fcgi_core.errors import PluginError
from fcgi_core.protocol.channels import Channel, Priority, Scope


def test_a_channel_describes_itself_for_settings() -> None:
    channel = Channel("syslog.urgent", Scope.REQUEST, priority=Priority.URGENT)
    assert channel.describe() == "syslog.urgent;request;urgent"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "channel name"),
        ({"name": "Syslog"}, "channel name"),
        ({"name": "1log"}, "channel name"),
        ({"name": "a,b"}, "channel name"),
        ({"name": "a\n"}, "channel name"),
        ({"name": "a" * 64}, "channel name"),
        ({"name": "a", "priority": Priority.CONTROL}, "URGENT is the highest"),
        ({"name": "a", "lifetime": 0.0}, "more than 0 s"),
        ({"name": "a", "acknowledged": True, "scope": Scope.REQUEST}, "an acknowledged channel is"),
        ({"name": "a", "acknowledged": True, "ordered": False}, "an acknowledged channel is"),
        ({"name": "a", "acknowledged": True, "lifetime": 1.0}, "an acknowledged channel is"),
        ({"name": "a", "spool": "/tmp"}, "only an acknowledged channel"),
        ({"name": "a", "queue_bytes": 1023}, "at least 1024"),
        ({"name": "a", "acknowledged": True, "when_full": WhenFull.OLDEST}, "does not drop accepted items"),
    ],
)
def test_a_declaration_that_makes_no_sense(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(PluginError, match=said):
        Channel(**wrong)


def test_the_longest_name() -> None:
    assert Channel("a" * 63, lifetime=0.1, queue_bytes=1024).name == "a" * 63
