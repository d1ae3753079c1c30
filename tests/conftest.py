"""Hypothesis without deadlines: a slow machine is no bug. Under CI every run tries the same examples."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell that starts a job in the background makes it ignore SIGINT, and what it starts inherits that: Ctrl-C in the
# terminals that tests open would do nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
