"""Parameters of a request for plugins that want a few of many."""

from __future__ import annotations

from ..protocol import records

__all__ = ["values_of"]


def values_of(data: bytes, names: tuple[bytes, ...]) -> list[str]:
    """Return the values of `names` among name-value pairs (FastCGI section 3.4), for example `RequestInfo.raw_params`.

    One text for each name: latin-1 as in PEP 3333, '' if it is missing. ValueError if a length points beyond the end.
    """
    return records.values_of(data, names)
