"""The metrics plugin: figures of applications for Prometheus and statsd, on the web server's side."""

from .plugin import MetricsPlugin, plugin

__all__ = ["MetricsPlugin", "plugin"]
