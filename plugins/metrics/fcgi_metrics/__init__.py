"""The metrics plugin: what an application does, as Prometheus and statsd take it, on the web server's side."""

from .plugin import MetricsPlugin, plugin

__all__ = ["MetricsPlugin", "plugin"]
