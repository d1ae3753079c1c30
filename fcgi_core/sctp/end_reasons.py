"""Why an association ended, in the same words for every carrier; and what happens when a handler fails."""

from __future__ import annotations

import asyncio
import struct

from ..common.text import escape
from .carrier import Association

__all__ = ["SILENT", "abort_cause", "aborted", "aborted_here", "handler_failed", "no_answer", "refused", "silent"]

CAUSES = {
    1: "invalid stream",
    2: "missing parameter",
    3: "stale cookie",
    4: "out of resource",
    5: "unresolvable address",
    7: "invalid parameter",
    8: "unknown parameter",
    9: "no user data",
    11: "restart with new addresses",
    12: "",
    13: "protocol violation",
}
"""RFC 9260 section 3.3.10. With 12 (the user's abort) and 13 the peer may send a text."""
SILENT = "does not answer any more"
"""In the reason of an association whose peer sent nothing; its host may be gone."""
MAX_TEXT = 200
"""Characters of the peer's text."""


def aborted_here(reason: str) -> str:
    return _because("aborted by this side", reason)


def aborted(peer: str, cause: str = "") -> str:
    return _because(f"{peer} aborted the association", cause)


def refused(peer: str, cause: str = "") -> str:
    return _because(f"{peer} refused the association", cause)


def no_answer(peer: str, seconds: float) -> str:
    return f"{peer} did not answer within {seconds:g} s"


def silent(peer: str, seconds: float) -> str:
    return f"{peer} {SILENT}: no packet for {seconds:g} s"


def _because(text: str, cause: str) -> str:
    return f"{text}: {cause}" if cause else text


def abort_cause(causes: bytes) -> str:
    """What the error causes of an ABORT say, harmless to show; '' if they say nothing."""
    while len(causes) >= 4:
        cause, length = struct.unpack_from(">HH", causes)
        text = causes[4:length].rstrip(b"\0").decode("utf-8", "replace") if cause in (12, 13) else ""
        if text or CAUSES.get(cause):
            return escape(text[:MAX_TEXT]) or CAUSES[cause]
        causes = causes[max(4, length + 3 & ~3) :]
    return ""


def handler_failed(loop: asyncio.AbstractEventLoop, association: Association, error: Exception) -> None:
    """Report that the handler of `association` raised `error`, and abort the association: what the handler did not take
    is lost. Other associations go on."""
    message = f"the handler of the SCTP association with {association.peer} failed"
    loop.call_exception_handler({"message": message, "exception": error})
    association.abort("internal error")
