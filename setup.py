"""What pyproject.toml cannot express: the extension of the userspace SCTP carrier, and which modules are compiled.

A checkout is pure Python. Wheels, and what is measured, have the modules below compiled by mypyc as they stand: set
FCGI_SCTP_COMPILED=1, as `script/setup compiled` does; it needs mypy.
"""

import os

from setuptools import setup

# `bench/compiled.py` shows how often a request, or a line of a log, passes through each
COMPILED = (
    # what a message and a record pass through
    *(f"protocol/{name}" for name in ("records", "flow", "outbox", "streams", "states", "events")),
    *(f"protocol/{name}" for name in ("request", "settings", "feedback", "connection", "web", "application")),
    *("common/bounded_queue", "hosting/byte_stream", "hosting/driver", "hosting/load_watch"),
    *("hosting/exchange", "testing_request"),
    *("sctp/carrier", "sctp/silence", "sctp/userspace/association", "sctp/userspace/stack"),
    # what plugins have of each request, each item and each line
    *("hosting/links", "hosting/half_host", "hosting/supervisor", "hosting/isolation"),
    *(f"hosting/{name}" for name in ("delivery", "inbox", "outgoing")),
    # what a request passes through
    *(f"web/{name}" for name in ("client_socket", "exchange", "downstream", "waiting", "balance")),
    *("web/service", "web/upstream", "web/association", "web/pool", "web/growth", "web/probe"),
    *("app/associations", "app/exchange", "app/asgi", "app/asgi_scope", "app/gateway"),
    *("app/rules", "app/threads", "app/wsgi"),
    *("app/fastcgi/client", "app/fastcgi/pool", "app/fastcgi/bridge"),
)
COMPILED_SYSLOG = (
    *("about", "application", "batch", "capture", "formats", "lines", "maker", "rules", "sender", "source", "stderr"),
    "web",
)
"""Of the syslog plugin: what a line passes through."""


def compiled() -> list:
    """The extensions of the compiled modules; what mypy cannot find while it builds is taken as untyped."""
    from mypyc.build import mypycify

    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary"]
    sources = [f"fcgi_core/{name}.py" for name in COMPILED]
    sources += [f"plugins/syslog/fcgi_syslog/{name}.py" for name in COMPILED_SYSLOG]
    # -O1: half the time of -O2, and no slower that could be measured. One C file for each module, and one library
    # inside of the package, so that it is found from wherever the package is
    extensions = mypycify(
        [*options, *sources], opt_level="1", debug_level="0", multi_file=True, group_name="fcgi_core.compiled"
    )
    for extension in extensions:
        extension.include_dirs.append("build/fcgi_core")  # where mypyc puts the headers of a group with that name
    return extensions


setup(
    cffi_modules=["fcgi_core/sctp/userspace/_usrsctp_build.py:ffibuilder"],
    ext_modules=compiled() if os.environ.get("FCGI_SCTP_COMPILED") else [],
)
