"""SCTP carriers: one interface (:mod:`fcgi_core.sctp.carrier`) with several implementations."""

from __future__ import annotations

from .carrier import Carrier, CarrierOptions

__all__ = ["open_carrier"]


def open_carrier(preference: str, options: CarrierOptions) -> Carrier:
    """A carrier on the running loop: ``kernel``, ``userspace``, or ``auto``, the kernel where it works.

    CarrierError says why there is none. The other carrier is not loaded.
    """
    from .probe import choose

    if choose(preference) == "kernel":
        from .kernel.carrier import KernelCarrier

        return KernelCarrier(options)
    from .userspace.carrier import UserspaceCarrier

    return UserspaceCarrier(options)
