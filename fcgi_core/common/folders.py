"""Whether files can be written somewhere, found out without writing any."""

from __future__ import annotations

import getpass
import os

__all__ = ["folder_problem"]


def folder_problem(path: str) -> str:
    """Why this user can write no file in the folder `path`, which may still have to be made; '' if that is possible."""
    above = os.path.abspath(path)
    while not os.path.lexists(above) and above != "/":
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        return f"{above} is no folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"user {getpass.getuser()} may not write in {above}"
    return ""
