"""The whole road with a cable in it: nginx and the web side in namespace `web`, the application's side in `app`."""

from __future__ import annotations

from typing import Any

from tests.lab.namespaces import APP
from tests.system.sided import SidedStack


class LabStack(SidedStack):
    """See `SidedStack`."""

    def __init__(self, *args: Any, hosts: tuple[str, ...] = APP[:1], **named: Any) -> None:
        super().__init__(*args, spaces=("web", "app"), hosts=hosts, **named)

    def __enter__(self) -> LabStack:
        super().__enter__()
        return self
