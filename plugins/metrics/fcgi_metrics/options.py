"""The options of the plugin, under ``plugins: metrics:``."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from fcgi_core.plugin import FromPeer, Plugin

__all__ = ["MetricsOptions", "host_and_port"]


def host_and_port(text: str) -> tuple[str, int]:
    """Return HOST and PORT of HOST:PORT; ValueError for anything else."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"invalid address {text!r}: use HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


class MetricsOptions(Plugin.Options):
    listen: str | None = "127.0.0.1:9464"
    """Where the web side serves /metrics for Prometheus: HOST:PORT or unix:/PATH; null to serve it nowhere."""
    health: str | None = None
    """Where each process of the application answers /healthz and /ready: HOST:PORT, which its workers share; null for
    nowhere. The web side answers both at `listen`."""
    interval: FromPeer[float] = Field(default=5, ge=1, le=3600)
    """Seconds between two snapshots of an application, and between two reports to statsd."""
    keep: FromPeer[float] = Field(default=60, ge=0, le=86400)
    """Seconds for which an application's last snapshot is shown after its association has ended."""
    max_hosts: FromPeer[int] = Field(default=100, ge=1, le=1000)
    """Virtual hosts that are counted separately; all others are counted together as `other`."""
    registry: bool = True
    """Send the application's own metrics, if it uses the library prometheus_client."""
    max_samples: FromPeer[int] = Field(default=20_000, ge=100, le=1_000_000)
    """Samples accepted from one application process; further samples are left out and counted."""
    max_memory: int = Field(default=128 << 20, ge=1 << 20, le=1 << 36)
    """Bytes of memory, about, for the snapshots of all application processes on the web side; beyond it the largest are
    dropped and counted."""
    statsd: str | None = None
    """Where the web side sends statsd lines over UDP: HOST:PORT; null to send none."""
    statsd_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]{0,64}$")
    """A prefix of all statsd names, before a dot."""
    statsd_tags: bool = False
    """Send labels as tags (`|#server_name:shop.example`, for Datadog and Telegraf) and not in the name."""

    @field_validator("listen")
    @classmethod
    def _listen(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"unix:/.+", value):
            host_and_port(value)
        return value

    @field_validator("health", "statsd")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None:
            host_and_port(value)
        return value
