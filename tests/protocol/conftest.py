"""Connections of both sides."""

from __future__ import annotations

from typing import Any

import pytest

from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.web import WebConnection
from tests.protocol.helpers import (
    CHANNELS,
    peer_of,
    ready,
)


@pytest.fixture(params=[WebConnection, ApplicationConnection])
def fresh(request: pytest.FixtureRequest) -> Any:
    return request.param(channels=CHANNELS)


@pytest.fixture
def lone(fresh: Connection) -> Connection:
    """Open, with the SETTINGS of a peer that sends and takes every channel."""
    return ready(fresh, peer_of(fresh))
