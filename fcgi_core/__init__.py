"""FastCGI over SCTP: the protocol core, its carriers, and the services next to web server and application.

A program that embeds the core needs the names here; docs/embedding.md has an example. They are loaded when first used:
`fcgi-sctp logs` needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hosting.driver import Driver
    from .protocol import events
    from .protocol.application import ApplicationConnection
    from .protocol.channels import Channel
    from .protocol.records import decode_pairs, encode_pairs
    from .protocol.settings import Settings
    from .protocol.web import WebConnection
    from .sctp import open_carrier
    from .sctp.carrier import Address, CarrierOptions
    from .sctp.memory import MemoryNetwork, VirtualLoop

__version__ = "0.1.0"
__all__ = [
    "Address",
    "ApplicationConnection",
    "CarrierOptions",
    "Channel",
    "Driver",
    "MemoryNetwork",
    "Settings",
    "VirtualLoop",
    "WebConnection",
    "decode_pairs",
    "encode_pairs",
    "events",
    "open_carrier",
]
_MODULES = {
    "hosting.driver": ("Driver",),
    "protocol.application": ("ApplicationConnection",),
    "protocol.channels": ("Channel",),
    "protocol.records": ("decode_pairs", "encode_pairs"),
    "protocol.settings": ("Settings",),
    "protocol.web": ("WebConnection",),
    "sctp": ("open_carrier",),
    "sctp.carrier": ("Address", "CarrierOptions"),
    "sctp.memory": ("MemoryNetwork", "VirtualLoop"),
}


def __getattr__(name: str) -> Any:
    if name == "events":
        return import_module(f"{__name__}.protocol.events")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
