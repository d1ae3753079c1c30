"""The syslog plugin: what an application logs, on the web server's side."""

from .plugin import SyslogPlugin, plugin

__all__ = ["SyslogPlugin", "plugin"]
