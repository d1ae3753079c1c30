"""What a plugin author imports: API version 1.

A plugin is one object, found by an entry point of the group ``fcgi_sctp.plugins`` and enabled by its name under
``plugins:`` in the YAML file. It has a configuration model, the channels it needs, and two halves: one runs in the
application's process, one in the web side's. Hooks are called on the event loop's thread: they must return soon and
must not wait. A half implements the hooks it wants and leaves out the rest; what is left out costs nothing.

    class Hello(Plugin):
        name = "hello"
        class Options(Plugin.Options):
            greeting: str = "hello"
        def channels(self, options):
            return [Channel("hello", scope=Scope.REQUEST)]
        def application_half(self, host, options):
            return Greeter(host, options)

What an item means is the plugin's own affair: bytes go in on one side and come out on the other, whole, in the order
of the channel, with the request they belong to. Whatever reaches `feedback` was sent by the other side's half, but
treat it as remote text all the same.
"""

from __future__ import annotations

from ..common.folders import folder_problem
from ..common.loggers import keep_enabled
from ..common.memory_cost import memory_cost
from ..common.text import SECRETS, SEVERITIES, escape, escape_word, is_secret, may_have_secrets, severity_number
from ..common.turns import Turns
from ..common.unix_socket import UnixSocket
from ..errors import PluginError, StartAnew
from ..protocol.channels import MAX_ITEM, Channel, Direction, Priority, Scope, WhenFull
from ..protocol.records import values_of
from ..sctp.carrier import AssociationStatistics
from .context import bound_to_request, current_request
from .hooks import (
    API_VERSION,
    MAY_BE_SET_BY_PEER,
    ApplicationHalf,
    ApplicationHost,
    FromPeer,
    Gathering,
    Half,
    Host,
    Make,
    Plugin,
    Stream,
    WebHalf,
    WebHost,
)
from .options import OptionsByHost
from .traffic import BOUNDS, OTHER, STATUS_CLASSES, Histogram, HostTraffic, Traffic, clean_host
from .views import (
    AssociationFigures,
    AssociationInfo,
    ChannelTotals,
    FeedEntries,
    FeedEntry,
    Outcome,
    OutputFigures,
    RequestInfo,
    TransportFigures,
)

__all__ = [
    "API_VERSION",
    "ApplicationHalf",
    "ApplicationHost",
    "AssociationFigures",
    "AssociationInfo",
    "AssociationStatistics",
    "BOUNDS",
    "Channel",
    "ChannelTotals",
    "Direction",
    "FeedEntries",
    "FeedEntry",
    "FromPeer",
    "Gathering",
    "Half",
    "Histogram",
    "Host",
    "HostTraffic",
    "MAX_ITEM",
    "OTHER",
    "OptionsByHost",
    "Outcome",
    "OutputFigures",
    "Plugin",
    "PluginError",
    "Priority",
    "RequestInfo",
    "SECRETS",
    "SEVERITIES",
    "STATUS_CLASSES",
    "Scope",
    "StartAnew",
    "Stream",
    "Traffic",
    "TransportFigures",
    "Turns",
    "UnixSocket",
    "WebHalf",
    "WebHost",
    "WhenFull",
    "bound_to_request",
    "clean_host",
    "current_request",
    "escape",
    "escape_word",
    "folder_problem",
    "is_secret",
    "keep_enabled",
    "may_have_secrets",
    "memory_cost",
    "severity_number",
    "values_of",
    "Make",
    "MAY_BE_SET_BY_PEER",
]
