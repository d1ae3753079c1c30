"""Captures lines in an application's process and in its forks: logging, warnings, uncaught exceptions, printed text."""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Protocol, TextIO

from fcgi_core.plugin import keep_enabled

from .about import LONGEST_VALUE
from .forked import Relay
from .message import MSGID_LENGTH, clean_name
from .severity import CRIT, ERR, of_level
from .uncompiled import Output, listen, nothing, stop_listening

__all__ = ["APPLICATION_LOGGER", "NO_FIELDS", "Capture", "Take"]

APPLICATION_LOGGER = "fcgi_sctp.application"
"""Logs exceptions that escape from the application; the only one of our loggers that is captured."""
_OWN_LOGGER = "fcgi_sctp"
_WARNINGS_LOGGER = "py.warnings"
_MOST_FIELDS = 32
KNOWN_NAMES = 10_000
"""Loggers whose MSGID is kept: an application may name loggers after its requests."""
NO_FIELDS: dict[str, str] = {}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_STANDARD_COUNT = len(vars(logging.makeLogRecord({})))
_SEVERITY_OF_LEVEL = {level: of_level(level) for level in (10, 20, 30, 40, 50)}
_LEVEL_OF_SEVERITY = (1000, 1000, 50, 40, 30, 25, 20, 0)
"""By severity, the lowest level of `logging` that becomes this severity or a more urgent one."""
_format_exception = logging.Formatter().formatException
_last_resort = logging.lastResort


class Take(Protocol):
    """Takes a line: severity, MSGID, text, the time (None for now), and the fields that `extra` added."""

    def __call__(
        self, severity: int, msgid: str, text: str, when: float | None = None, fields: dict[str, str] = NO_FIELDS
    ) -> None: ...


def _no_line(
    severity: int, msgid: str, text: str, when: float | None = None, fields: dict[str, str] = NO_FIELDS
) -> None:
    """Replaces `take` after the end."""


def _no_output(data: bytes) -> bool:
    """Replaces `take_output` after the end."""
    return False


def _no_record(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """Replaces `handle` after the end."""
    return False


def _nothing(*about: object) -> None:
    """Replaces the other callbacks after the end."""


class TakeOutput(Protocol):
    """Takes printed text, or a piece of STDERR; returns False if the original stream must get it too."""

    def __call__(self, data: bytes) -> bool: ...


class Capture:
    """Passes lines to `take` and printed text to `take_output`, on any thread. Ignores loggers named `own` or below it.

    `install` and `uninstall` change the process's logging, warnings, hooks and streams; both may be called again.
    """

    def __init__(self, take: Take, take_output: TakeOutput, own: str, failed: Callable[[], None]) -> None:
        self._take: Take = take
        self._take_output = take_output
        self._failed = failed
        self._own = own
        self._kinds: frozenset[str] = frozenset()
        self._level = 0
        self._everything = False
        """Capture loggers that do not propagate to the root logger, too."""
        self._msgids: dict[str, str] = {}
        self._root = logging.getLogger()
        self._lowered: int | None = None
        """The level that we gave the root logger because the application had given it none."""
        self._heard_of = False
        """A web side receives the lines, so they need not be on stderr too."""
        self._warnings_captured = False
        self._previous_hook: Callable[..., object] | None = None
        self._previous_thread_hook: Callable[..., object] | None = None
        self._streams: dict[str, Output] = {}
        """Our replacements in `sys`, by name."""
        # each access makes a new bound method; `uninstall` compares these by identity
        self._our_hook: Callable[..., None] = self._uncaught
        self._our_thread_hook: Callable[..., None] = self._uncaught_in_thread
        self._listener: Callable[[logging.Logger, logging.LogRecord], bool] = self.handle
        self._relay = Relay(self._from_child)
        keep_enabled(APPLICATION_LOGGER)
        keep_enabled(_WARNINGS_LOGGER)

    def install(self, kinds: Collection[str], severity: int) -> None:
        """Start to capture `kinds`, down to `severity`."""
        self.uninstall()
        self._kinds = frozenset(kinds)
        self._everything = "unpropagated" in self._kinds
        self._level = _LEVEL_OF_SEVERITY[severity]
        self._msgids.clear()
        root = self._root
        if "logging" in self._kinds and not root.handlers and root.level == logging.WARNING:
            # logging is not configured: most records that the options ask for would not be made
            self._lowered = self._level
            root.setLevel(self._level)
        if "warnings" in self._kinds:
            before = warnings.showwarning
            logging.captureWarnings(True)
            self._warnings_captured = warnings.showwarning is not before
        if "exceptions" in self._kinds:
            self._previous_hook, sys.excepthook = sys.excepthook, self._our_hook
            self._previous_thread_hook, threading.excepthook = threading.excepthook, self._our_thread_hook
        if "output" in self._kinds:
            for name in ("stdout", "stderr"):
                stream: TextIO | None = getattr(sys, name)
                if stream is not None:
                    self._streams[name] = Output(stream, self._printed)
                    setattr(sys, name, self._streams[name])
                    Output.replaced += 1
        if self._kinds:
            listen(self._listener)
        self.heard(self._heard_of)

    def heard(self, by_a_web_side: bool) -> None:
        """Set whether a web side receives lines now. Until one does, lines wait and also go to stderr as without this
        plugin: perhaps none ever connects."""
        self._heard_of = by_a_web_side
        if by_a_web_side and "logging" in self._kinds:
            if logging.lastResort is _last_resort:
                logging.lastResort = nothing
        elif logging.lastResort is nothing:
            logging.lastResort = _last_resort

    def uninstall(self) -> None:
        """Undo `install`, except where the application has changed the same since."""
        stop_listening(self._listener)
        if self._lowered is not None and self._root.level == self._lowered:
            self._root.setLevel(logging.WARNING)
        self._lowered = None
        if logging.lastResort is nothing:
            logging.lastResort = _last_resort
        if self._warnings_captured:
            logging.captureWarnings(False)
            self._warnings_captured = False
        if self._previous_hook is not None and sys.excepthook is self._our_hook:
            sys.excepthook = self._previous_hook
        if self._previous_thread_hook is not None and threading.excepthook is self._our_thread_hook:
            threading.excepthook = self._previous_thread_hook
        self._previous_hook = self._previous_thread_hook = None
        for name, output in self._streams.items():
            Output.replaced -= 1
            if getattr(sys, name) is output:
                setattr(sys, name, output.stream)
        self._streams.clear()
        self._kinds = frozenset()

    def close(self) -> None:
        """Release all callbacks, after `uninstall`: their owner holds this object, which would be a cycle."""
        self._relay.close()
        self._take, self._take_output, self._listener = _no_line, _no_output, _no_record
        self._failed = self._our_hook = self._our_thread_hook = _nothing

    def handle(self, logger: logging.Logger, record: logging.LogRecord) -> bool:
        """Take a record if it is wanted; never raises. Returns True if the record exists only because we lowered the
        root logger's level; the application's handlers must not get it then."""
        level = record.levelno
        if level >= self._level:
            self._take_record(logger, record, level)
        return (
            self._lowered is not None
            and level < logging.WARNING
            and self._root.level == self._lowered
            and _goes_by_root(logger)
        )

    def _take_record(self, logger: logging.Logger, record: logging.LogRecord, level: int) -> None:
        try:
            msgid = self._msgids.get(record.name)
            if msgid is None:
                msgid = self._new_msgid(record.name)
            if not msgid or not (self._everything or _reaches_root(logger)):
                return
            fields = record.__dict__
            severity = _SEVERITY_OF_LEVEL.get(level)
            created = fields["created"]  # not its attribute, which compiled code believes to be a float
            self._line(
                of_level(level) if severity is None else severity,
                msgid,
                _text(record),
                created if isinstance(created, (float, int)) else math.nan,  # not a time; the line says so
                _extra(fields) if len(fields) != _STANDARD_COUNT else NO_FIELDS,
            )
        except Exception:
            self._failed()

    def _line(self, severity: int, msgid: str, text: str, when: float | None, fields: dict[str, str]) -> None:
        relay = self._relay
        if relay.in_child:
            relay.send("", severity, msgid, when, fields, text)
        else:
            self._take(severity, msgid, text, when, fields)

    # ---- printed text and STDERR

    def _printed(self, text: str) -> bool:
        data = text.encode("utf-8", "backslashreplace")
        if self._relay.in_child:
            return self.from_fork(data)
        try:
            return self._take_output(data) and self._heard_of
        except Exception:
            self._failed()
            return False

    @property
    def forked(self) -> bool:
        """Whether this process is a forked child."""
        return self._relay.in_child

    def from_fork(self, data: bytes) -> bool:
        """In a forked child: pass printed text or STDERR to the parent, or to stderr if that fails. Returns True."""
        self._relay.send("", data.decode("utf-8", "backslashreplace"))
        return True

    def _from_child(self, pid: int, line: list[Any]) -> None:
        """In the parent: take a line of a child."""
        try:
            if len(line) == 2:
                self._take_output(line[1].encode("utf-8", "backslashreplace"))
            else:
                _, severity, msgid, when, fields, text = line
                self._take(severity, msgid, text, when, {**fields, "process": str(pid)})
        except Exception:
            self._failed()

    def _new_msgid(self, name: str) -> str:
        """Return the MSGID of a logger, '' if it is not captured: our own messages would cause more of them."""
        kinds = self._kinds
        if name == APPLICATION_LOGGER:
            wanted = "exceptions" in kinds
        elif any(name == own or name.startswith(own + ".") for own in (_OWN_LOGGER, self._own)):
            wanted = False
        else:
            wanted = "logging" in kinds or (name == _WARNINGS_LOGGER and "warnings" in kinds)
        # the end of a long name says more than its beginning
        msgid = clean_name(name[-MSGID_LENGTH:], MSGID_LENGTH) if wanted else ""
        if len(self._msgids) >= KNOWN_NAMES:
            self._msgids.clear()
        self._msgids[name] = msgid
        return msgid

    def _uncaught(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        previous = self._previous_hook or sys.__excepthook__
        if issubclass(kind, Exception):  # other exceptions end a process on purpose
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
            text = f"{what}\n{''.join(traceback.format_exception(*exception)).rstrip()}"
            self._line(severity, "exception", text, None, NO_FIELDS)
        except Exception:
            self._failed()


def _goes_by_root(logger: logging.Logger) -> bool:
    """Whether this logger's effective level is the root logger's."""
    current = logger
    while (parent := current.parent) is not None:
        if current.level:
            return False
        current = parent
    return True


def _reaches_root(logger: logging.Logger) -> bool:
    """Whether records of this logger reach handlers on the root logger."""
    current = logger
    while (parent := current.parent) is not None:
        if not current.propagate:
            return False
        current = parent
    return True


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # the arguments do not fit the message: show what there is
        text = (
            f"{_written(record.__dict__.get('msg'), repr)} with arguments that do not fit it ({_written(error, str)})"
        )
    if record.exc_info:
        if not record.exc_text:
            record.exc_text = _format_exception(record.exc_info)  # logging caches it here for later handlers
        text = f"{text}\n{record.exc_text}"
    if record.stack_info:
        text = f"{text}\n{record.stack_info}"
    return text[:-1] if text.endswith("\n") else text


def _written(value: object, how: Callable[[object], str]) -> str:
    """Return `value` as text by `str` or `repr`; if these raise, a text that says so."""
    try:
        return how(value)
    except Exception as error:
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


def _extra(fields: Mapping[Any, object]) -> dict[str, str]:
    """Return the fields that `extra` added to a record."""
    names = [name for name in fields if name not in _STANDARD][:_MOST_FIELDS]
    return {_written(name, str): _written(fields[name], str)[:LONGEST_VALUE] for name in names}
