"""The servers that are measured, as a table: how each is started, where nginx finds it, and why so.

One rule for all: **one serving process**, with threads, greenlets or an event loop inside as its documentation
has it, so that the figures compare what a request costs and not how many processes were started. (A master that
only watches its worker is counted too: it costs nothing measurable. Ours is two processes by design, and both
count.)

A process with one interpreter lock and many threads cannot use a second core, and loses much by having one:
its threads wake each other up across the cores for the lock. On two cores flup6 answered 2,450 hello requests a
second free to roam, and 9,770 when kept on one; flipflop 3,150 and 8,870. So that they are seen at their best,
these are started with ``one_core`` (what ``taskset -c N`` or systemd's CPUAffinity= does); nginx and wrk never
are. ``--free-cores`` measures them as most people run them.

Commands are templates. The fields are ``{python}`` (of ``bench/.venv``), ``{bin}`` (its scripts), ``{root}``
(the checkout), ``{folder}`` (the turn's temporary one), ``{socket}`` (a unix socket in it), ``{port}`` (a free TCP
port, or our SCTP port) and ``{udp}`` (a free UDP port).

To add a server: one more entry in :data:`SERVERS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UNIX = "unix:{socket}"
TCP = "127.0.0.1:{port}"
OURS = "{root}/.venv/bin/fcgi-sctp"
PEER = "127.0.0.1:{port}/{udp}"


@dataclass(frozen=True, slots=True)
class Program:
    """One program to start; its children and threads are counted with it."""

    role: str
    """What it is called in the results, for example ``web``."""
    command: tuple[str, ...]
    one_core: bool = False
    """Kept on one core, because it does better so (see above)."""


@dataclass(frozen=True, slots=True)
class Server:
    """One line of the comparison."""

    name: str
    programs: tuple[Program, ...]
    """In the order of starting; they are stopped in the opposite order."""
    setup: str
    """How it is run and why, in a sentence for the reader of the results."""
    application: Literal["WSGI", "ASGI", "PHP"] = "WSGI"
    protocol: Literal["fastcgi", "http"] = "fastcgi"
    address: str = UNIX
    """Where nginx passes requests to."""
    keepalive: bool = True
    """Whether nginx keeps its connections to it (fastcgi_keep_conn on and ``keepalive`` in the upstream)."""
    pypi: tuple[str, ...] = ()
    """Distributions in ``bench/.venv`` that it needs."""
    debian: tuple[str, ...] = ()
    """Debian packages that it needs."""
    files: tuple[tuple[str, str], ...] = ()
    """Files in the turn's folder that it needs: name and text, a template as the commands are."""
    script: str = ""
    """SCRIPT_FILENAME, for servers that run scripts; a template too."""
    by_default: bool = True
    """Measured when ``--servers`` names none."""

    def __post_init__(self) -> None:
        if not self.programs:
            raise ValueError(f"server {self.name!r} has no program to start")


def library(name: str, *, one_core: bool = False) -> tuple[Program, ...]:
    """The program of a server that is a library, started by ``bench/serve.py``."""
    return (Program("server", ("{python}", "-m", "bench.serve", name, "{socket}"), one_core),)


def uwsgi(address: str) -> tuple[Program, ...]:
    """uwsgi's command with its FastCGI socket at ``address``."""
    command = (
        "uwsgi --plugin python3 --master --processes 1 --die-on-term --need-app --disable-logging"
        f" --fastcgi-socket {address} --pythonpath {{root}} --module bench.apps:wsgi"
    )
    return (Program("server", tuple(command.split())),)


def ours(application: str, *options: str) -> tuple[Program, ...]:
    """Our two programs: ``app`` beside the application, ``web`` beside nginx, SCTP in UDP between them."""
    return (
        Program("app", (OURS, "app", application, *options, "--listen", PEER)),
        Program("web", (OURS, "web", "--listen", "unix:{socket}", "--connect", PEER)),
    )


ONE_ASSOCIATION = """\
web:
  listen: "unix:{socket}"
  connect: [{{address: "127.0.0.1:{port}/{udp}", associations: 1}}]
"""
PHP_FPM = """\
[global]
error_log = {folder}/php-fpm.errors
[bench]
user = root
group = root
listen = {folder}/php.sock
pm = static
pm.max_children = {children}
"""
PHP = Program(
    "php-fpm", ("php-fpm8.2", "--nodaemonize", "--allow-to-run-as-root", "--fpm-config", "{folder}/php-fpm.conf")
)


def php(children: int, *, bridge: bool) -> Server:
    """php-fpm with this number of children, directly behind nginx or behind our bridge, with a connection for each."""
    name, many = ("fcgi-sctp-php" if bridge else "php-fpm"), "two" if children == 2 else str(children)
    count = ("--fastcgi-connections", str(children))
    programs = (
        Program("app", (OURS, "app", "--fastcgi", "unix:{folder}/php.sock", *count, "--listen", PEER)),
        Program("web", (OURS, "web", "--listen", "unix:{socket}", "--connect", PEER)),
    )
    return Server(
        name if children == 2 else f"{name}-{children}",
        (PHP, *programs) if bridge else (PHP,),
        f"the same php-fpm with {many} children behind our bridge, which keeps as many connections to it"
        if bridge
        else f"{many} children; it serves a connection at a time in each, so nginx keeps none",
        application="PHP",
        address=UNIX if bridge else "unix:{folder}/php.sock",
        keepalive=bridge,
        debian=("php8.2-fpm",),
        files=(("php-fpm.conf", PHP_FPM.replace("{children}", str(children))),),
        script="{root}/bench/apps.php",
    )


SERVERS: tuple[Server, ...] = (
    Server(
        "fcgi-sctp",
        ours("bench.apps:wsgi"),
        "two processes, defaults; FastCGI on a unix socket to `web`, userspace SCTP over UDP to `app`",
    ),
    Server(
        "fcgi-sctp-one",
        (
            Program("app", (OURS, "app", "bench.apps:wsgi", "--listen", PEER)),
            Program("web", (OURS, "web", "--config", "{folder}/web.yaml")),
        ),
        "as above with `associations: 1` in the place of `auto`, to be compared with it by pairs",
        files=(("web.yaml", ONE_ASSOCIATION),),
        by_default=False,
    ),
    Server(
        "fcgi-sctp-asgi",
        ours("bench.apps:asgi", "--interface", "asgi"),
        "two processes, defaults; as above with the ASGI application",
        application="ASGI",
    ),
    Server(
        "flup6",
        library("flup6", one_core=True),
        "flup.server.fcgi, defaults: one thread a connection, no limit, not multiplexed; on one core",
        pypi=("flup6",),
    ),
    Server(
        "flipflop",
        library("flipflop", one_core=True),
        "defaults: one thread a connection, no limit; listening socket given as descriptor 0; on one core",
        pypi=("flipflop",),
    ),
    # of connections that come at once and stay, flup6 and flipflop serve five or six, and the rest not before one of
    # these ends: so also with a connection for each request, where all are served
    Server(
        "flup6-closing",
        library("flup6", one_core=True),
        "as flup6; nginx opens a connection for each request",
        keepalive=False,
        pypi=("flup6",),
    ),
    Server(
        "flipflop-closing",
        library("flipflop", one_core=True),
        "as flipflop; nginx opens a connection for each request",
        keepalive=False,
        pypi=("flipflop",),
    ),
    Server(
        "gevent-fastcgi",
        library("gevent-fastcgi"),
        "its own WSGI handler (not wsgiref's), defaults, num_workers=1, one greenlet a request",
        pypi=("gevent-fastcgi",),
    ),
    Server(
        "fcgisgi-wsgi",
        library("fcgisgi-wsgi", one_core=True),
        "run_wsgi_server on uvloop, max_workers left at its default, min(32, cores + 4) threads; on one core",
        pypi=("fcgisgi", "uvloop"),
    ),
    Server(
        "fcgisgi-asgi",
        library("fcgisgi-asgi"),
        "run_asgi_server on uvloop",
        application="ASGI",
        pypi=("fcgisgi", "uvloop"),
    ),
    Server(
        "fcgisgi-asgi-asyncio",
        library("fcgisgi-asgi-asyncio"),
        "run_asgi_server on asyncio's own loop, as in its README",
        application="ASGI",
        pypi=("fcgisgi",),
        by_default=False,
    ),
    Server(
        "uwsgi",
        uwsgi("{socket}"),
        "FastCGI on a unix socket, master and one worker without threads (faster here than with 2 or 8); it"
        " closes after each request even when asked not to, and nginx then meets broken pipes: no keep-alive",
        keepalive=False,
        debian=("uwsgi-core", "uwsgi-plugin-python3"),
    ),
    Server(
        "uwsgi-tcp",
        uwsgi(TCP),
        "as uwsgi, FastCGI over TCP on the loopback",
        address=TCP,
        keepalive=False,
        debian=("uwsgi-core", "uwsgi-plugin-python3"),
    ),
    Server(
        "gunicorn",
        (
            Program(
                "server",
                (
                    *("{bin}/gunicorn", "--worker-class", "gthread", "--workers", "1", "--threads", "4"),
                    *("--bind", UNIX, "--chdir", "{root}", "--log-level", "warning", "bench.apps:wsgi"),
                ),
                one_core=True,
            ),
        ),
        "HTTP by proxy_pass: one gthread worker (the sync one keeps no connection) with 4 threads; on one core",
        protocol="http",
        pypi=("gunicorn",),
    ),
    Server(
        "uvicorn",
        (
            Program(
                "server",
                (
                    *("{bin}/uvicorn", "--uds", "{socket}", "--loop", "uvloop", "--http", "httptools"),
                    *("--no-access-log", "--log-level", "warning", "--app-dir", "{root}", "bench.apps:asgi"),
                ),
            ),
        ),
        "HTTP by proxy_pass: one process, uvloop and httptools",
        application="ASGI",
        protocol="http",
        pypi=("uvicorn", "uvloop", "httptools"),
    ),
    *(php(children, bridge=bridge) for children in (2, 8) for bridge in (False, True)),
)
