"""Whether this process is one that the application forked: it has none of the parent's threads, and what it inherited
of the parent's loop and sockets is the parent's.
"""

from __future__ import annotations

import os
import sys

__all__ = ["in_child", "leave"]

_child = False


def in_child() -> bool:
    """Whether this is a forked child."""
    return _child


def leave(error: BaseException | None) -> None:
    """End this process, if it is a forked child: what it was forked for has returned, or raised `error`, into the
    server's own code. There it would go on in the parent's place, with the parent's sockets."""
    if not _child:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # it is closed, or none
    if error is None:
        os._exit(0)
    code = error.code if isinstance(error, SystemExit) else 1
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _after_in_child() -> None:
    global _child
    _child = True


os.register_at_fork(after_in_child=_after_in_child)
