"""What catches lines in an application's process: logging, warnings, and exceptions that nobody caught."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Protocol

from .about import LONGEST_VALUE
from .message import MSGID_LENGTH, clean_name
from .severity import CRIT, ERR, of_level
from .uncompiled import Handler

__all__ = ["APPLICATION_LOGGER", "NO_FIELDS", "Capture", "Take"]

APPLICATION_LOGGER = "fcgi_sctp.application"
"""Where the application server logs what escapes from the application: the one of our own loggers that is taken."""
_OWN_LOGGER = "fcgi_sctp"
_MOST_FIELDS = 32
NO_FIELDS: dict[str, str] = {}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_STANDARD_COUNT = len(vars(logging.makeLogRecord({})))
_SEVERITY_OF_LEVEL = {level: of_level(level) for level in (10, 20, 30, 40, 50)}
_LEVEL_OF_SEVERITY = (1000, 1000, 50, 40, 30, 25, 20, 0)
"""The lowest level of `logging` that comes out as this severity or a more urgent one."""
_format_exception = logging.Formatter().formatException
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Take(Protocol):
    """Takes a line: its severity, MSGID, text, when it was written, and what `extra` added."""

    def __call__(
        self, severity: int, msgid: str, text: str, when: float | None = None, fields: dict[str, str] = NO_FIELDS
    ) -> None: ...


class Capture:
    """Hands lines to `take`, from any thread, and leaves alone what the loggers named `own` say.

    `install` and `uninstall` change the process's logging, warnings and hooks; both may be called again.
    """

    def __init__(self, take: Take, own: str, failed: Callable[[], None]) -> None:
        self._take = take
        self._failed = failed
        self._own = own
        self._handler = Handler(self.handle)
        self._application_logger = logging.getLogger(APPLICATION_LOGGER)
        self._kinds: frozenset[str] = frozenset()
        self._watched: list[logging.Logger] = []
        """Where it is to be: asked for once, for `stay` is called for every request."""
        self._msgids: dict[str, str] = {}
        self._root_level: int | None = None
        self._warnings_captured = False
        self._previous_hook: Callable[..., object] | None = None
        self._previous_thread_hook: Callable[..., object] | None = None
        # a bound method is a new object each time; these are compared when the hooks are taken out again
        self._our_hook = self._uncaught
        self._our_thread_hook = self._uncaught_in_thread

    def install(self, kinds: Collection[str], severity: int) -> None:
        """Begin to catch `kinds`, down to `severity`."""
        self.uninstall()
        self._kinds = frozenset(kinds)
        self._watched = self._loggers()
        self._msgids.clear()
        self._handler.setLevel(_LEVEL_OF_SEVERITY[severity])
        root = logging.getLogger()
        if "logging" in self._kinds and not root.handlers and root.level == logging.WARNING:
            # nobody configured logging: what the options ask for would not reach any handler
            self._root_level = root.level
            root.setLevel(self._handler.level)
        if "warnings" in self._kinds:
            before = warnings.showwarning
            logging.captureWarnings(True)
            self._warnings_captured = warnings.showwarning is not before
        if "exceptions" in self._kinds:
            self._previous_hook, sys.excepthook = sys.excepthook, self._our_hook
            self._previous_thread_hook, threading.excepthook = threading.excepthook, self._our_thread_hook
        self.stay()

    def stay(self) -> None:
        """Be there still: an application that configures its logging late (`dictConfig`) removes all handlers, and
        disables the loggers that it does not name."""
        self._application_logger.disabled = False
        handler = self._handler
        for logger in self._watched:
            if handler not in logger.handlers:
                logger.addHandler(handler)

    def uninstall(self) -> None:
        """Undo `install`, as far as nobody else has changed the same since."""
        for logger in self._watched:
            logger.removeHandler(self._handler)
        root = logging.getLogger()
        if self._root_level is not None and root.level == self._handler.level:
            root.setLevel(self._root_level)
        self._root_level = None
        if self._warnings_captured:
            logging.captureWarnings(False)
            self._warnings_captured = False
        if self._previous_hook is not None and sys.excepthook is self._our_hook:
            sys.excepthook = self._previous_hook
        if self._previous_thread_hook is not None and threading.excepthook is self._our_thread_hook:
            threading.excepthook = self._previous_thread_hook
        self._previous_hook = self._previous_thread_hook = None
        self._kinds = frozenset()
        self._watched = []

    def close(self) -> None:
        """After `uninstall`, for good."""
        self._handler.close()

    def _loggers(self) -> list[logging.Logger]:
        if "logging" in self._kinds:
            return [logging.getLogger()]
        names = {"warnings": "py.warnings", "exceptions": APPLICATION_LOGGER}
        return [logging.getLogger(name) for kind, name in names.items() if kind in self._kinds]

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record, if no filter is against it; never raises."""
        handler = self._handler
        if handler.filters and not handler.filter(record):
            return False
        try:
            msgid = self._msgids.get(record.name)
            if msgid is None:
                msgid = self._new_msgid(record.name)
            if not msgid:
                return False
            fields = record.__dict__
            level = record.levelno
            severity = _SEVERITY_OF_LEVEL.get(level)
            self._take(
                of_level(level) if severity is None else severity,
                msgid,
                _text(record),
                record.created,
                _extra(fields) if len(fields) != _STANDARD_COUNT else NO_FIELDS,
            )
        except Exception:
            self._failed()
        return True

    def _new_msgid(self, name: str) -> str:
        """The MSGID of a logger, '' if it is not taken: our own messages would cause more of them."""
        ours = any(name == own or name.startswith(own + ".") for own in (_OWN_LOGGER, self._own))
        if name == APPLICATION_LOGGER:
            ours = "exceptions" not in self._kinds
        # the end of a long name says more than its beginning
        msgid = "" if ours else clean_name(name[-MSGID_LENGTH:], MSGID_LENGTH)
        self._msgids[name] = msgid
        return msgid

    def leave_on_stderr(self, msgid: str, text: str) -> None:
        """Write what was taken to stderr, if nothing else has shown it: as `logging` does where nobody configured it,
        and `warnings`. Uncaught exceptions are there in any case."""
        if msgid in ("exception", APPLICATION_LOGGER) or any(
            handler is not self._handler for handler in logging.getLogger().handlers
        ):
            return
        stream = sys.__stderr__
        if stream is not None:
            stream.write(f"{text}\n")

    def _uncaught(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        previous = self._previous_hook or sys.__excepthook__
        if issubclass(kind, Exception):  # the others end a process on purpose
            self._exception(CRIT, "Uncaught exception", (kind, error, where))
        previous(kind, error, where)

    def _uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        previous = self._previous_thread_hook or threading.__excepthook__
        if args.exc_value is not None and issubclass(args.exc_type, Exception):
            name = args.thread.name if args.thread is not None else "?"
            self._exception(ERR, f"Exception in thread {name}", (args.exc_type, args.exc_value, args.exc_traceback))
        previous(args)

    def _exception(
        self, severity: int, what: str, exception: tuple[type[BaseException], BaseException, TracebackType | None]
    ) -> None:
        try:
            self._take(severity, "exception", f"{what}\n{''.join(traceback.format_exception(*exception)).rstrip()}")
        except Exception:
            self._failed()


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # arguments that do not fit the message: what there is says more than nothing
        text = f"{record.msg!r} with arguments that do not fit it ({error})"
    if record.exc_info:
        if not record.exc_text:
            record.exc_text = _format_exception(record.exc_info)  # logging keeps it for the handlers that come after
        text = f"{text}\n{record.exc_text}"
    if record.stack_info:
        text = f"{text}\n{record.stack_info}"
    return text[:-1] if text.endswith("\n") else text


def _extra(fields: Mapping[str, object]) -> dict[str, str]:
    """What `extra` added to a record."""
    names = [name for name in fields if name not in _STANDARD][:_MOST_FIELDS]
    return {name: str(fields[name])[:LONGEST_VALUE] for name in names}
