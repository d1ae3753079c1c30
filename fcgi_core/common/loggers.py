"""Loggers that an application cannot switch off by accident.

By default `logging.config` disables all loggers that a configuration does not name: the operator's log would end when
the application configures its own.
"""

from __future__ import annotations

import logging

__all__ = ["keep_all_enabled", "keep_enabled"]


class _Enabled(logging.Logger):
    """A logger that is never disabled."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def keep_enabled(name: str) -> None:
    """Make it impossible to disable the logger of that name."""
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:
        logger.__class__ = _Enabled


def keep_all_enabled(name: str) -> None:
    """Do the same for all loggers that exist of that name and below it."""
    for each in (name, *logging.root.manager.loggerDict):
        if each == name or each.startswith(f"{name}."):
            keep_enabled(each)
