"""What a plugin author imports: API version 1.

A plugin is one object, found by an entry point of the group ``fcgi_sctp.plugins`` and enabled by its name under
``plugins:`` in the YAML file. It has a configuration model, the channels it needs, and two halves: one runs in the
application's process, one in the web side's. Hooks are called on the event loop's thread: they must return soon and
must not wait. A half implements the hooks it needs; the others cost nothing.

    class Hello(Plugin):
        name = "hello"
        class Options(Plugin.Options):
            greeting: str = "hello"
        def channels(self, options):
            return [Channel("hello", scope=Scope.REQUEST)]
        def application_half(self, host, options):
            return Greeter(host, options)

Both halves decide what an item means: bytes are sent on one side and arrive on the other, whole, in the order of the
channel, with the request they belong to. `feedback` receives what the other side's half sent, but treat it as remote
text all the same.

Names that are not classes or functions:

    API_VERSION     the version of this API
    BOUNDS          upper bounds of the buckets of a `Histogram`, seconds
    FromPeer        the type of an option that a web side may change: see `Plugin`
    MAX_ITEM        bytes of an item at most
    Make            the type of the function that `Host.gather` calls
    OTHER           the name under which `Traffic` counts hosts for which it has no room
    SECRETS         a regular expression: parameters of a query string that may not be shown in a log; the first group
                    is the text before the value
    SEVERITIES      the names of the severities 0 to 7 (RFC 5424 section 6.2.1)
    STATUS_CLASSES  the classes of HTTP statuses that `HostTraffic` counts
"""

from __future__ import annotations

from ..common.folders import folder_problem
from ..common.listening import accept, listen_tcp
from ..common.loggers import keep_enabled
from ..common.memory_cost import memory_cost
from ..common.text import SECRETS, SEVERITIES, escape, escape_word, is_secret, may_have_secrets, severity_number
from ..common.turns import Turns
from ..common.unix_socket import UnixSocket
from ..errors import PluginError, StartAnew
from ..protocol.channels import MAX_ITEM, Channel, Direction, Priority, Scope, WhenFull
from ..sctp.statistics import AssociationStatistics
from .context import bound_to_request, current_request
from .hooks import (
    API_VERSION,
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
from .params import values_of
from .traffic import BOUNDS, OTHER, STATUS_CLASSES, Exemplar, Histogram, HostTraffic, Traffic, clean_host
from .views import (
    ApplicationFigures,
    AssociationFigures,
    AssociationInfo,
    ChannelTotals,
    FeedEntries,
    FeedEntry,
    Outcome,
    OutputFigures,
    RequestInfo,
    ServiceFigures,
    TransportFigures,
)

__all__ = [
    "API_VERSION",
    "ApplicationFigures",
    "ApplicationHalf",
    "ApplicationHost",
    "AssociationFigures",
    "AssociationInfo",
    "AssociationStatistics",
    "BOUNDS",
    "Channel",
    "ChannelTotals",
    "Direction",
    "Exemplar",
    "FeedEntries",
    "FeedEntry",
    "FromPeer",
    "Gathering",
    "Half",
    "Histogram",
    "Host",
    "HostTraffic",
    "MAX_ITEM",
    "Make",
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
    "ServiceFigures",
    "StartAnew",
    "Stream",
    "Traffic",
    "TransportFigures",
    "Turns",
    "UnixSocket",
    "WebHalf",
    "WebHost",
    "WhenFull",
    "accept",
    "bound_to_request",
    "clean_host",
    "current_request",
    "escape",
    "escape_word",
    "folder_problem",
    "is_secret",
    "keep_enabled",
    "listen_tcp",
    "may_have_secrets",
    "memory_cost",
    "severity_number",
    "values_of",
]
