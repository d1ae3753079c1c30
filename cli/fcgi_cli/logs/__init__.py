"""``fcgi-sctp logs``: the live log viewer.

::

    feed, files ──> pump (merge) ──> filter ──> painter ──> screen     on a terminal: `live`, with keys
     (sources)                          └─────> formats ──> stdout     in a pipe: `command`

Each module is one idea. What is only wanted on a terminal, rich among it, is imported there alone.
"""

from .options import add_arguments

__all__ = ["add_arguments", "run"]


def __getattr__(name: str) -> object:
    if name == "run":
        from .command import run

        return run
    raise AttributeError(name)
