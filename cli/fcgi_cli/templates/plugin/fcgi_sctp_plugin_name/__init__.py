"""plugin_name: a feedback plugin for fcgi-sctp."""

from .plugin import PluginNamePlugin as plugin

__all__ = ["plugin"]
