"""``fcgi-sctp logs``: the live log viewer.

::

    feed, files ──> pump (merge) ──> filter ──> painter ──> screen     on a terminal: `live`, with keys
     (sources)                          └─────> formats ──> stdout     in a pipe: `command`

Modules that only a terminal needs, and rich, are imported there only.
"""

from .options import add_arguments

__all__ = ["add_arguments", "run"]


def __getattr__(name: str) -> object:
    if name == "run":
        from .command import run

        return run
    raise AttributeError(name)
