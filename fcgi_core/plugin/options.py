"""The options of a plugin by virtual host."""

from __future__ import annotations

from typing import Any


class OptionsByHost:
    """The options of a plugin, and of the virtual hosts that have their own, for a half to look up."""

    __slots__ = ("_common", "_hosts")

    def __init__(self, options: Any) -> None:
        """`options` are those that the half was made with."""
        self._common = options
        self._hosts: dict[str, Any] = {}

    def __getitem__(self, server_name: str) -> Any:
        """Returns the options of this virtual host, in letters of any case; '' stands for no host."""
        return self._hosts.get(server_name.lower(), self._common) if self._hosts else self._common

    def change(self, options: Any, server_name: str | None = None) -> None:
        """Keep the options that `configure` was called with."""
        if server_name is None:
            self._common = options
        elif options == self._common:
            self._hosts.pop(server_name.lower(), None)
        else:
            self._hosts[server_name.lower()] = options

    def values(self) -> list[Any]:
        """Returns all options: the plugin's own, and those of each host that has its own."""
        return [self._common, *self._hosts.values()]
