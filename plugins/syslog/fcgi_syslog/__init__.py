"""The syslog plugin: brings an application's log lines to the web server's side."""

from .plugin import SyslogPlugin, plugin

__all__ = ["SyslogPlugin", "plugin"]
