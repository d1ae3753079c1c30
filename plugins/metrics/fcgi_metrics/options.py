"""The options, as the configuration file and the other side give them."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from fcgi_core.plugin import FromPeer, Plugin

__all__ = ["MetricsOptions", "host_and_port"]


def host_and_port(text: str) -> tuple[str, int]:
    """HOST and PORT of HOST:PORT; ValueError if it is something else."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{text!r}: write HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


class MetricsOptions(Plugin.Options):
    listen: str | None = "127.0.0.1:9464"
    """Where Prometheus fetches /metrics from the web side: HOST:PORT or unix:/PATH; null for nowhere."""
    interval: FromPeer[float] = Field(default=5, ge=1, le=3600)
    """Seconds between two snapshots of an application, and between two reports to statsd."""
    keep: FromPeer[float] = Field(default=60, ge=0, le=86400)
    """Seconds for which an application's last snapshot is shown after its association went down."""
    max_hosts: FromPeer[int] = Field(default=100, ge=1, le=1000)
    """Virtual hosts that are told apart; the rest is counted together, as `other`."""
    registry: bool = True
    """Whether the application's own metrics are sent, if it uses the library prometheus_client."""
    max_samples: FromPeer[int] = Field(default=20_000, ge=100, le=1_000_000)
    """Samples taken from one application process; what is more is left out and counted."""
    max_memory: int = Field(default=128 << 20, ge=1 << 20, le=1 << 36)
    """Bytes of memory, about, that the snapshots of all application processes may hold on the web side; the largest are
    left out and counted."""
    statsd: str | None = None
    """Where the web side sends statsd lines by UDP: HOST:PORT; null for nowhere."""
    statsd_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]{0,64}$")
    """What the names of statsd begin with, before a dot."""
    statsd_tags: bool = False
    """Labels as tags (`|#server_name:shop.example`, as Datadog's and Telegraf's servers take them), not in the name."""

    @field_validator("listen")
    @classmethod
    def _listen(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"unix:/.+", value):
            host_and_port(value)
        return value

    @field_validator("statsd")
    @classmethod
    def _statsd(cls, value: str | None) -> str | None:
        if value is not None:
            host_and_port(value)
        return value
