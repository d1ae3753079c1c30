"""The DNS, by dnspython: the name servers of /etc/resolv.conf, or others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .names import Answer, Family, Service

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.name import Name
    from dns.resolver import Answer as DnsAnswer

__all__ = ["DnsResolver", "missing_package"]

PATIENCE = 5.0
"""Seconds for one question, all name servers and repetitions included; resolv.conf's own time-out is 5 s for each."""
NEGATIVE_TTL = 5.0
"""Seconds after which a name without addresses is asked for again."""
RESOLV_CONF = "/etc/resolv.conf"


def missing_package() -> str:
    """Return which package is missing here, '' if none is."""
    there = find_spec("dns") is not None and find_spec("dns.asyncresolver") is not None
    return "" if there else "needs the Python package dnspython: pip install 'fcgi-sctp[dns]'"


class DnsResolver:
    """Implements `names.Resolver`."""

    def __init__(self, servers: Sequence[tuple[str, int]] = ()) -> None:
        """`servers`: IP addresses and ports of name servers; none: those of /etc/resolv.conf."""
        self._servers = servers
        self._resolver: Resolver | None = None
        self._read = 0.0
        """When the file was changed that the resolver was made of."""

    async def addresses(self, name: str, family: Family) -> Answer:
        answer = await self._ask(name, family)
        if answer is None or answer.rrset is None:
            return Answer((), NEGATIVE_TTL)
        return Answer(tuple(record.address for record in answer.rrset), answer.chaining_result.minimum_ttl)

    async def services(self, name: str) -> tuple[Sequence[Service], float]:
        from dns.rdatatype import RdataType

        answer = await self._ask(name, "SRV")
        if answer is None or answer.rrset is None:
            return (), NEGATIVE_TTL
        ttl = answer.chaining_result.minimum_ttl
        hosts: dict[Name, tuple[str, ...]] = {}
        for rrset in answer.response.additional:
            if rrset.rdtype in (RdataType.A, RdataType.AAAA):
                hosts[rrset.name] = hosts.get(rrset.name, ()) + tuple(record.address for record in rrset)
                ttl = min(ttl, rrset.ttl)
        found = [
            Service(
                *(one.priority, one.weight, one.port, one.target.to_text(omit_final_dot=False)),
                hosts.get(one.target, ()),
            )
            for one in answer.rrset
        ]
        return found, ttl

    async def _ask(self, name: str, kind: str) -> DnsAnswer | None:
        """Return the answer, None if there is no such name. OSError."""
        from dns.exception import DNSException
        from dns.resolver import NXDOMAIN

        try:
            return await self._made().resolve(name, kind, search=True, raise_on_no_answer=False, lifetime=PATIENCE)
        except NXDOMAIN:
            return None
        except DNSException as error:
            raise OSError(str(error)[:300] or type(error).__name__) from None

    def _made(self) -> Resolver:
        """Return the resolver, a new one where /etc/resolv.conf has changed."""
        from dns.asyncresolver import Resolver
        from dns.nameserver import Do53Nameserver

        if self._servers:
            if self._resolver is None:
                self._resolver = Resolver(configure=False)
                self._resolver.nameservers = [Do53Nameserver(host, port) for host, port in self._servers]
            return self._resolver
        changed = os.stat(RESOLV_CONF).st_mtime
        if self._resolver is None or changed != self._read:
            self._resolver, self._read = Resolver(RESOLV_CONF), changed
        return self._resolver
