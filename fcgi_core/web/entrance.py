"""Which site a request is for, of those at one listening socket, by its SERVER_NAME: a whole name, else the longest
``*.DOMAIN`` above it, else the site that names none; as nginx chooses a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .exchange import WebExchange
from .site import Site

__all__ = ["Entrance"]

MAX_NAME = 255
"""Characters of a host name (RFC 1035 section 2.3.4); a longer SERVER_NAME is none."""


class Entrance:
    """A `Dispatcher` that passes each request on to its site. The sites may change while requests run."""

    def __init__(self, where: str, refuse: Callable[[WebExchange, str], None]) -> None:
        """`where`: the address of the socket; `refuse` answers a request of no site, with `where`."""
        self._where = where
        self._refuse = refuse
        self._sites: Mapping[str, Site] = {}

    def lead_to(self, sites: Mapping[str, Site]) -> None:
        """Pass requests on to these sites, by name: ``shop.example``, ``*.shop.example``, '' for all other names."""
        self._sites = sites

    @property
    def max_requests(self) -> int:
        return sum(site.max_requests for site in dict.fromkeys(self._sites.values()))

    def dispatch(self, exchange: WebExchange) -> None:
        site = self._find(exchange.server_name)
        if site is None:
            self._refuse(exchange, self._where)
        else:
            exchange.site = site
            site.dispatch(exchange)

    def waiting_grew(self, exchange: WebExchange) -> None:
        if exchange.site is not None:
            exchange.site.waiting_grew(exchange)

    def client_gone(self, exchange: WebExchange) -> None:
        if exchange.site is not None:
            exchange.site.client_gone(exchange)

    def _find(self, server_name: str) -> Site | None:
        sites = self._sites
        name = server_name.lower()
        site = sites.get(name)
        above = name if site is None and len(name) <= MAX_NAME else ""
        while above and site is None:
            _, _, above = above.partition(".")
            site = sites.get(f"*.{above}")
        return sites.get("") if site is None else site
