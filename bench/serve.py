"""Starts one of the servers that are libraries without a command: ``python -m bench.serve NAME SOCKET``.

Runs in ``bench/.venv``. Each function follows the server's own documentation or, where it has none, the
example in its source; how and why is said in ``bench/servers.py``, where the results take it from.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
from typing import Any

from bench import apps

LISTEN_BACKLOG = 1024
"""Connections that may wait to be accepted where we open the socket (nginx's own listen uses 511)."""


def library(name: str) -> Any:
    """A module of ``bench/.venv``, which the type checker does not see."""
    return importlib.import_module(name)


def flup6(path: str) -> None:
    """flup's threaded server: one thread a connection, as many as there are connections."""
    library("flup.server.fcgi").WSGIServer(apps.wsgi, bindAddress=path).run()


def flipflop(path: str) -> None:
    """flipflop takes its listening socket as descriptor 0, as the FastCGI specification (2.2) has it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(LISTEN_BACKLOG)
    os.dup2(listener.fileno(), 0)
    library("flipflop").WSGIServer(apps.wsgi).run()


def gevent_fastcgi(path: str) -> None:
    """gevent-fastcgi's own WSGI handler, one process."""
    library("gevent_fastcgi.wsgi").WSGIServer(path, apps.wsgi).serve_forever()


def fcgisgi_wsgi(path: str) -> None:
    """fcgisgi with a WSGI application in its thread pool."""
    library("uvloop").run(library("fcgisgi").run_wsgi_server(apps.wsgi, bind_address=path))


def fcgisgi_asgi(path: str) -> None:
    """fcgisgi with an ASGI application on uvloop."""
    library("uvloop").run(library("fcgisgi").run_asgi_server(apps.asgi, bind_address=path))


def fcgisgi_asgi_asyncio(path: str) -> None:
    """fcgisgi with an ASGI application on the standard library's loop."""
    asyncio.run(library("fcgisgi").run_asgi_server(apps.asgi, bind_address=path))


STARTERS = {
    "flup6": flup6,
    "flipflop": flipflop,
    "gevent-fastcgi": gevent_fastcgi,
    "fcgisgi-wsgi": fcgisgi_wsgi,
    "fcgisgi-asgi": fcgisgi_asgi,
    "fcgisgi-asgi-asyncio": fcgisgi_asgi_asyncio,
}

if __name__ == "__main__":
    STARTERS[sys.argv[1]](sys.argv[2])
