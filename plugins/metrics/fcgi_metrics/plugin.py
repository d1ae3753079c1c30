"""Declares the plugin: its options, channel and two halves."""

from __future__ import annotations

from collections.abc import Sequence

from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    Channel,
    Plugin,
    PluginError,
    Priority,
    Scope,
    WebHalf,
    WebHost,
)

from .families import CHANNEL
from .options import MetricsOptions

__all__ = ["MetricsOptions", "MetricsPlugin", "plugin"]

QUEUE_BYTES = 4 << 20
"""Bytes that may wait on one association: a few snapshots of a large application."""


class MetricsPlugin(Plugin):
    """Requests, latency and processes of applications, and the transport's own figures, for Prometheus and statsd."""

    name = "metrics"
    version = "1"
    switched_by_peer = True

    class Options(MetricsOptions):
        """See `MetricsOptions`."""

    def channels(self, options: MetricsOptions) -> Sequence[Channel]:
        # each snapshot replaces the one before it, so a late one is worthless
        return [
            Channel(
                CHANNEL,
                Scope.ASSOCIATION,
                priority=Priority.BACKGROUND,
                lifetime=options.interval,
                queue_bytes=QUEUE_BYTES,
            )
        ]

    def application_half(self, host: ApplicationHost, options: MetricsOptions) -> ApplicationHalf:
        from .application import MetricsApplication  # each process needs but one half

        return MetricsApplication(host, options)

    def web_half(self, host: WebHost, options: MetricsOptions) -> WebHalf:
        try:
            from .web import MetricsWeb
        except ModuleNotFoundError as error:
            raise PluginError(
                f"the web side needs the Python package {error.name}: pip install fcgi-sctp[metrics]"
            ) from None

        return MetricsWeb(host, options)


plugin = MetricsPlugin
