"""The configuration: one YAML file for both sides, checked as a whole before it is used.

All problems are reported at once, each with the file, the path in it, the value, and what would be right. The models
are the reference: `fcgi-sctp check --schema` prints them as JSON Schema for editors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from ..app.admission import MAX_ASSOCIATIONS, MAX_ASSOCIATIONS_PER_ADDRESS, MAX_ASSOCIATIONS_PER_WEB_SIDE
from ..common.model_problems import model_problems
from ..errors import ConfigError
from ..hosting.discovery import EnabledPlugin, load_plugins
from ..protocol.flow import DEFAULT_WINDOW
from ..protocol.settings import DEFAULT_MAX_REQUESTS
from ..sctp.carrier import LARGE_MESSAGE, Address, CarrierOptions, Scheduler
from ..sctp.endpoints import shifted
from ..sctp.silence import DEAD_AFTER_MAX, DEAD_AFTER_MIN, RTO_MIN, silence
from ..web.resolver import missing_package
from .config_file import INCLUDE, SHORT_FOR, Written, read_files
from .values import (
    ONE_OR_MORE,
    DnsName,
    FastcgiAddress,
    NameServers,
    Network,
    Permissions,
    SctpAddress,
    SctpAddresses,
    Seconds,
    Size,
    SrvName,
    UnixPath,
    WebAddresses,
)

__all__ = ["AppConfig", "Config", "SctpConfig", "WebConfig", "load_config", "path_of"]

DEFAULT_FEED = "/run/fcgi-sctp/feed.sock"
ADMIN_DIRECTORY = "/run/fcgi-sctp"
AUTO = "auto"
CARRIER = CarrierOptions()
"""The defaults of a carrier."""


def _text_sets(section: str) -> Callable[[object], object]:
    """Return a validator that accepts a text in the place of a section: `sctp: kernel` is `sctp: {carrier: kernel}`."""
    return lambda value: {SHORT_FOR[section]: value} if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class BackEndConfig(_Model):
    """An application that the web side connects to, or all that a name of the DNS stands for."""

    address: SctpAddress | None = None
    """Address of the application: HOST[,HOST...]:PORT[/UDPPORT]. Give this, `dns` or `srv`."""
    dns: DnsName | None = Field(None, examples=["shop.internal:9000"])
    """Name whose A and AAAA records are an application each: HOST:PORT[/UDPPORT]. It is looked up again when its TTL is
    over, after 1 s to 5 min."""
    srv: SrvName | None = Field(None, examples=["_fcgi-sctp._udp.shop.internal"])
    """Name whose SRV records are the applications, with SCTP ports, weights and priorities: NAME[/UDPPORT]."""
    weight: float = Field(1, gt=0, le=1000)
    """Share of the requests that this application gets, relative to the weights of the others."""
    associations: Literal["auto"] | Annotated[int, Field(ge=1, le=16)] = "auto"
    """Number of associations with each process of this application. auto: one, and up to 10 while content waits for the
    congestion window of a path with a round trip of 5 ms or more; from 3 on one more without content, if a plugin sends
    urgent items. All of a number carry content."""

    @model_validator(mode="after")
    def _one_of_three(self) -> BackEndConfig:
        if sum(one is not None for one in (self.address, self.dns, self.srv)) != 1:
            raise ValueError("give one of address (HOST:PORT), dns (HOST:PORT) and srv (_SERVICE._PROTOCOL.DOMAIN)")
        return self

    def __str__(self) -> str:
        return self.address or self.dns or self.srv or ""


def _back_ends(value: object) -> object:
    """Accept an address in the place of `{address: …}`, and one in the place of a list."""
    several = value if isinstance(value, list) else [value]
    return [{"address": one} if isinstance(one, str) else one for one in several]


class HealthConfig(_Model):
    """A request that the web side sends to each application at intervals. An answer is good if it is complete in time
    and its status is below 500."""

    uri: str = Field(pattern=r"^/[!-~]*$", examples=["/healthz"])
    """Path and query of the GET request, for example /healthz. It should answer quickly and reflect the real state."""
    server_name: str = Field("localhost", pattern=r"^[!-~]+$", examples=["shop.example"])
    """Virtual host (SERVER_NAME) of the request."""
    interval: Seconds = Field(5, ge=0.1)
    """Seconds from one request to the next."""
    timeout: Seconds = Field(2, gt=0)
    """Seconds that an answer may take; at most `interval`."""
    rise: int = Field(2, ge=1, le=100)
    """Number of good answers in a row after which an application gets requests again."""
    fall: int = Field(3, ge=1, le=100)
    """Number of bad answers in a row after which an application gets no requests."""
    params: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")], Annotated[str, Field(pattern=r"^[ -~]*$")]] = {}
    """CGI variables that are added to the request or replaced in it, for example SCRIPT_FILENAME for php-fpm."""

    @model_validator(mode="after")
    def _one_at_a_time(self) -> HealthConfig:
        if self.timeout > self.interval:
            raise ValueError(f"timeout must not be longer than interval ({self.timeout:g} s and {self.interval:g} s)")
        return self


class WebConfig(_Model):
    """The side next to the web server."""

    listen: WebAddresses = Field(min_length=1)
    """Sockets that the web server connects to: unix:/PATH or HOST:PORT, one or a list."""
    connect: Annotated[
        list[BackEndConfig],
        BeforeValidator(_back_ends, json_schema_input_type=str | BackEndConfig | list[str | BackEndConfig]),
    ] = Field(min_length=1)
    """Applications to connect to: HOST[,HOST...]:PORT[/UDPPORT], one or a list; or {address: …}, {dns: …} or {srv: …}
    with more keys. SIGHUP changes them while requests run."""
    subset: int | None = Field(None, ge=1)
    """Number of the applications in `connect` that this web side uses, of each SRV priority; null: all. Which ones
    depends on its name, so that each web side uses other ones. SIGHUP changes it while requests run."""
    nameservers: NameServers = []
    """Name servers for `dns` and `srv` in `connect`: IP address, or IP:PORT, one or a list; empty: those of
    /etc/resolv.conf."""
    max_workers: int = Field(64, ge=1, le=1024)
    """Largest number of workers of one application to connect to. The application names its workers itself."""
    slow_start: Seconds = Field(10, ge=0)
    """Seconds over which an application that is up again gets more and more requests, up to its full share."""
    health: Annotated[
        HealthConfig | None, BeforeValidator(_text_sets("web.health"), json_schema_input_type=str | HealthConfig | None)
    ] = None
    """Health check: a URI that each application is asked for at intervals. An application that does not answer gets no
    requests. Null: no check; only its association and its requests show whether it works."""
    feed: UnixPath | None = DEFAULT_FEED
    """Unix socket of the live feed; null: none."""
    feed_group: str | None = None
    """Group that may read the live feed; null: only the owner."""
    admin: UnixPath | None = AUTO
    """Unix socket for `fcgi-sctp status`, `top` and other commands. auto: /run/fcgi-sctp/web.sock, if it can be made;
    null: none."""
    admin_group: str | None = None
    """Group that may use the admin socket; null: only the owner."""
    socket_group: str | None = None
    """Group that may connect to unix:/PATH in `listen`: the group of the web server, for example www-data."""
    socket_mode: Permissions = None
    """Permissions of unix:/PATH in `listen`, octal and in quotes. Null: '0660' with `socket_group`, else '0666'. With
    '0666' every local user may send requests and claim to be any client, unless the folder keeps them out."""
    request_timeout: Seconds = Field(60, gt=0)
    """Seconds without a sign from the application in one request, after which the client gets 504."""
    queue_timeout: Seconds = Field(10, ge=0)
    """Seconds that a request waits for an application to come back, after which the client gets 503."""
    queue_length: int = Field(10_000, ge=0)
    """Largest number of requests that wait for an application."""
    grace: Seconds = Field(10, ge=0)
    """Seconds that running requests get to end after SIGTERM, or after their application was removed from `connect`."""
    name: str = ""
    """Name of this process in the log of the application; empty: the name of the host."""

    @property
    def mode(self) -> int:
        """Return the permissions of the sockets that the web server connects to."""
        return int(self.socket_mode or ("0660" if self.socket_group else "0666"), 8)

    def missing(self) -> list[str]:
        """Return a sentence for each thing that names in `connect` need and this environment has not."""
        package = missing_package()
        named = ((number, "dns" if one.dns else "srv") for number, one in enumerate(self.connect) if not one.address)
        return [f"web.connect.{number}.{key}: {package}" for number, key in named if package]


class FastcgiConfig(_Model):
    """A FastCGI server that runs already, for example php-fpm."""

    address: FastcgiAddress
    """Address of the FastCGI server: unix:/PATH or HOST:PORT."""
    connections: int = Field(5, ge=1, le=10_000)
    """Largest number of connections to the server, with one request on each; more requests wait here. Use the number
    of the server's children (php-fpm's pm.max_children is 5 in Debian); with more, requests wait at its socket. Each
    worker has this number of connections."""
    keep_connections: bool = True
    """Whether several requests follow each other on one connection to a unix socket, for at most 50 ms, if the server
    keeps the connection too. Over TCP each request has its own connection."""
    timeout: Seconds = Field(60, gt=0)
    """Seconds without a sign from the server in one request, after which the client gets 504."""


class AppConfig(_Model):
    """The side that runs the application."""

    application: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$", examples=["shop.wsgi:application"])
    """WSGI or ASGI callable to run: MODULE:CALLABLE. Give this or `fastcgi`."""
    interface: Literal["auto", "wsgi", "asgi"] = "auto"
    """Interface of the callable. auto: ASGI if it is an async function or an object with an async __call__, else WSGI.
    """
    fastcgi: Annotated[
        FastcgiConfig | None,
        BeforeValidator(_text_sets("app.fastcgi"), json_schema_input_type=str | FastcgiConfig | None),
    ] = None
    """FastCGI server that gets the requests, unix:/PATH or HOST:PORT. Give this or `application`."""
    listen: SctpAddresses = Field(min_length=1)
    """Addresses to accept associations at: HOST[,HOST...]:PORT[/UDPPORT], one or a list."""
    workers: int | None = Field(None, ge=1, le=1024)
    """Number of worker processes, which a parent supervises. Worker n listens on the port of `listen` plus n, counted
    from 0. Null: one process without a parent."""
    max_requests: int | None = Field(None, ge=1)
    """Number of requests after which a worker is replaced, when no other is being replaced; null: never."""
    max_memory: Size | None = Field(None, ge=1 << 20)
    """Bytes of resident memory above which a worker is replaced; null: never."""
    threads: int = Field(16, ge=1, le=1000)
    """Number of requests that a WSGI application handles at once, not counting requests that wait for slow clients."""
    request_limit: Seconds | None = Field(None, ge=1, examples=["50s"])
    """Seconds that the application may take for one request, not counting waits for a slow client. Then the log has the
    frames in which it is, and the client gets 504. A worker in which a thread or task hangs is replaced, and one whose
    event loop stands still for so long. Null: no limit."""
    script_name: str = Field("", pattern=r"^(/.*[^/])?$", examples=["/shop"])
    """Path at which the application is mounted, for example /shop, if the web server does not split the path itself."""
    admin: UnixPath | None = AUTO
    """Unix socket for `fcgi-sctp status`, `top` and other commands. auto: /run/fcgi-sctp/app.sock, if it can be made;
    null: none. Workers add their number: app.0.sock."""
    admin_group: str | None = None
    """Group that may use the admin socket; null: only the owner."""
    remote_changes: bool = True
    """Whether web sides may change plugin options, with `fcgi-sctp set` on their host. Only options that allow it can
    be changed."""
    path: str | None = None
    """Directory that is put before Python's search path; null: the working directory."""
    virtualenv: str | None = None
    """Virtual environment whose packages the application imports, made with the same version of Python as that of this
    program; null: the program's own."""
    grace: Seconds = Field(10, ge=0)
    """Seconds that running requests get to end after SIGTERM."""
    name: str = ""
    """Name of this process in the log of the web side; empty: the name of the application. Workers add their number.
    """

    @model_validator(mode="after")
    def _one_application(self) -> AppConfig:
        if (self.application is None) is (self.fastcgi is None):
            raise ValueError("give either application (MODULE:CALLABLE) or fastcgi (unix:/PATH or HOST:PORT)")
        if self.virtualenv is not None and self.application is None:
            raise ValueError("virtualenv is for `application`: a FastCGI server has its own Python, if any")
        return self

    @model_validator(mode="after")
    def _need_workers(self) -> AppConfig:
        if self.workers is None and (self.max_requests or self.max_memory):
            raise ValueError("max_requests and max_memory need workers: set workers to 1 or more")
        return self

    @model_validator(mode="after")
    def _room_for_workers(self) -> AppConfig:
        for text in self.listen if self.workers else ():
            last = shifted(Address.parse(text), (self.workers or 1) - 1)
            if max(last.port, last.udp_port) > 65535:
                raise ValueError(
                    f"listen: {text}: {self.workers} workers need as many ports from this one on; ports end at 65535"
                )
        return self


Carrier = Literal["auto", "kernel", "userspace"]


class SctpConfig(_Model):
    """How SCTP is used. The two sides may have different values."""

    carrier: Carrier = "auto"
    """SCTP implementation. kernel: Linux's; userspace: a library in this process that sends SCTP in UDP (RFC 6951);
    auto: the kernel's if it has SCTP."""
    streams: int = Field(256, ge=3, le=65535)
    """Number of outgoing streams to ask for when an association starts."""
    scheduler: Scheduler = Scheduler.PRIORITY
    """Rule by which SCTP picks the next stream to send from (RFC 8260)."""
    interleaving: bool = True
    """Whether messages are interleaved (I-DATA, RFC 8260), so that a long one does not hold up other streams."""
    mtu: int | None = Field(None, ge=576, le=65000)
    """Bytes of the path MTU, for the userspace carrier. Null: 65,000 on the loopback and 1,400 elsewhere."""
    dead_after: Seconds = Field(10, ge=DEAD_AFTER_MIN, le=DEAD_AFTER_MAX)
    """Seconds of silence after which a peer counts as dead. It is given up between 1 and 1.25 times this time."""
    connect_timeout: Seconds = Field(5, gt=0, le=3600)
    """Seconds that an association may take to come up; then the next attempt begins."""
    send_buffer: Size = Field(CARRIER.send_buffer, ge=1 << 16, le=1 << 29)
    """Bytes that SCTP may hold until the peer acknowledges them. The queues of the protocol do not count."""
    receive_buffer: Size = Field(CARRIER.receive_buffer, ge=1 << 16, le=1 << 29)
    """Bytes that SCTP may hold until this process reads them. A fast and long path needs more than arrives in one round
    trip."""
    allowed_peers: Annotated[list[Network], ONE_OR_MORE] = []
    """Networks from which the application side accepts associations, for example 192.0.2.0/24, one or a list; empty:
    all."""
    max_associations: int = Field(MAX_ASSOCIATIONS, ge=1, le=50_000)
    """Largest number of associations that a process of the application side accepts."""
    max_associations_per_address: int = Field(MAX_ASSOCIATIONS_PER_ADDRESS, ge=1, le=50_000)
    """Largest number of associations with one address (IPv6: one /64 network). A process of a web side has one, or
    several, with each process of an application."""
    max_associations_per_web_side: int = Field(MAX_ASSOCIATIONS_PER_WEB_SIDE, ge=1, le=1024)
    """Largest number of associations with one process of a web side. With 1 it makes no more than one."""
    udp_encapsulation: bool = False
    """Whether the kernel carrier connects with SCTP in UDP (RFC 6951), to reach a peer with the userspace carrier or to
    cross a NAT. The side that listens needs net.sctp.udp_port instead."""
    udp_segmentation: bool = True
    """Whether the userspace carrier sends several packets in one system call. Switch it off if the peer uses the kernel
    carrier on the same host or in a container there: Linux 6.1 crashes."""
    max_message: Size = Field(LARGE_MESSAGE, ge=1024, le=1 << 20)
    """Bytes of the largest message that is accepted; at most `send_buffer`. Messages of more than 16 KiB are sent only
    where SCTP interleaves them and a packet carries a whole one, as on the loopback."""
    window: Size = Field(DEFAULT_WINDOW, ge=4096)
    """Bytes of one body that may be under way, or wait to be read."""
    max_requests: int = Field(DEFAULT_MAX_REQUESTS, ge=1, le=65535)
    """Largest number of requests at once on one association."""

    @model_validator(mode="before")
    @classmethod
    def _no_plan(cls, given: object) -> object:
        if isinstance(given, dict) and "plan" in given:
            raise ValueError("plan was removed: delete it, each request has its own streams")
        return given

    @model_validator(mode="after")
    def _a_message_fits(self) -> SctpConfig:
        if self.max_message > self.send_buffer:
            raise ValueError(
                f"max_message ({self.max_message}) must not be larger than send_buffer ({self.send_buffer})"
            )
        return self

    def carrier_options(self) -> CarrierOptions:
        return CarrierOptions(
            outgoing_streams=self.streams,
            scheduler=self.scheduler,
            interleaving=self.interleaving,
            mtu=self.mtu,
            connect_timeout=self.connect_timeout,
            send_buffer=self.send_buffer,
            receive_buffer=self.receive_buffer,
            allowed_peers=tuple(self.allowed_peers),
            # a few more, for associations that gave way and are still ending
            max_associations=self.max_associations + 64,
            udp_encapsulation=self.udp_encapsulation,
            udp_segmentation=self.udp_segmentation,
            rto_min=RTO_MIN,
            **silence(self.dead_after)._asdict(),
        )


_SHORT: dict[object, dict[str, Any]] = {None: {}, True: {}, False: {"enabled": False}}


def _no_options(value: object) -> object:
    """Accept `syslog:` without a value, which enables the plugin with its defaults, and `syslog: false`, which keeps it
    off."""
    if isinstance(value, dict):
        return {
            name: _SHORT[options] if options is None or isinstance(options, bool) else options
            for name, options in value.items()
        }
    return {} if value is None else value


class Config(_Model):
    """The whole file. `include: PATH`, or a list of paths, puts other files over it. ${NAME} or ${NAME:-default} in a
    text is replaced with a variable of the environment."""

    web: WebConfig | None = None
    """The side next to the web server, which `fcgi-sctp web` runs; null: this file has none."""
    app: AppConfig | None = None
    """The side that runs the application, which `fcgi-sctp app` runs; null: this file has none."""
    sctp: Annotated[SctpConfig, BeforeValidator(_text_sets("sctp"), json_schema_input_type=Carrier | SctpConfig)] = (
        SctpConfig()
    )
    """How SCTP is used; `sctp: userspace` is short for `sctp: {carrier: userspace}`."""
    plugins: Annotated[dict[str, dict[str, Any]], BeforeValidator(_no_options)] = {}
    """Plugins to enable, by name, each with its options. Their hooks are called in this order. `enabled: false` keeps a
    plugin off until it is switched on. `fcgi-sctp plugins list` shows the installed plugins."""
    hook_limit: Seconds | None = Field(1, ge=0.1)
    """Seconds that a hook of a plugin may take, since all requests wait for it. Then the hook is ended and its plugin
    is set aside. Null: the log reports it and the hook goes on, for a debugger."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of the lines in the operator's log, which goes to stderr."""

    _read_again: Callable[[], Config] | None = PrivateAttr(None)
    _origin: Callable[[str], str] | None = PrivateAttr(None)

    @property
    def read_again(self) -> Callable[[], Config] | None:
        """Return a function that reads the same file again, with the same flags over it; None if there is no file."""
        return self._read_again

    def origin(self, path: str) -> str:
        """Return the file that sets the option at `path` (names with dots between them)."""
        return "flags" if self._origin is None else self._origin(path)

    @property
    def says_nothing(self) -> bool:
        """Whether the configuration sets nothing, as an empty file would."""
        return self.web is None and self.app is None and not self.model_fields_set - {"web", "app"}

    def load_plugins(self) -> list[EnabledPlugin]:
        """Return the enabled plugins, verified. ConfigError lists all that is wrong with them."""
        return load_plugins(self.plugins)

    def differences(self, other: Config) -> list[str]:
        """Return the paths of the options that differ in `other`, plugins left out."""
        return [path for path in _differences(self, other) if path != "plugins"]


def _differences(one: BaseModel, other: BaseModel, above: str = "") -> Iterator[str]:
    for name in type(one).model_fields:
        here, there = getattr(one, name), getattr(other, name)
        if isinstance(here, BaseModel) and isinstance(there, BaseModel):
            yield from _differences(here, there, f"{above}{name}.")
        elif here != there:
            yield f"{above}{name}"


Side = Literal["web", "app"]


def load_config(path: str | None, overrides: dict[str, Any], side: Side | None = None) -> Config:
    """Return the configuration in the file `path`, if any, with all files that it includes and `overrides` over it
    (nested, from flags; None is no value). The section `side`, if given, must be in it.

    ConfigError lists everything that is wrong, plugins included.
    """
    written = Written("flags") if path is None else read_files(path)
    written.add(_given(overrides), "flags")
    problems = list(written.problems)
    try:
        config = Config.model_validate(written.content)
    except ValidationError as error:
        problems += model_problems(error, Config, also=(INCLUDE,))
        config = Config(plugins=_readable_plugins(written.content.get("plugins")))
    else:
        if side is not None and getattr(config, side) is None:
            problems.append(f"{side}: is missing; `fcgi-sctp {side}` needs it")
        if side == "web" and config.web is not None:
            problems += config.web.missing()
    try:
        config.load_plugins()
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError([f"{written.where(path_of(problem))}: {problem}" for problem in problems])
    config._origin = written.where
    if path is not None:
        config._read_again = lambda: load_config(path, overrides, side)
    return config


def path_of(problem: str) -> str:
    """Return the path with which a problem's sentence begins."""
    return problem.partition(": ")[0]


def _readable_plugins(plugins: object) -> dict[str, dict[str, Any]]:
    """Return the plugins whose options can be checked though something is wrong elsewhere in the file."""
    plugins = _no_options(plugins)
    found = plugins.items() if isinstance(plugins, dict) else ()
    return {name: options for name, options in found if isinstance(options, dict)}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, without None and without sections in which no flag was given."""
    given = {name: _given(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in given.items() if value is not None and (value != {} or not values[name])}
