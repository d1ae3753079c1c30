"""Whether a folder can be written to, without writing anything."""

from __future__ import annotations

import getpass
import os

__all__ = ["folder_problem"]


def folder_problem(path: str) -> str:
    """Returns why this user cannot write to the folder `path`, which need not exist yet; '' if that is possible."""
    above = os.path.abspath(path)
    while not os.path.lexists(above) and above != "/":
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        return f"{above} is not a folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"user {getpass.getuser()} may not write in {above}"
    return ""
