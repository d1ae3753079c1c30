"""The configuration: one YAML file for both sides, checked as a whole before anything is done with it.

Every problem is told, not only the first, and each names the file, the path in it, the value, and what would be right.
The models are the reference: `fcgi-sctp check --schema` prints them as JSON Schema for editors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from ..app.admission import MAX_ASSOCIATIONS, MAX_ASSOCIATIONS_PER_ADDRESS
from ..app.fastcgi.pool import parse_address
from ..common.complaints import complaints
from ..errors import ConfigError
from ..hosting.discovery import EnabledPlugin, installed_plugins, load_plugins
from ..plugin import Plugin
from ..protocol.flow import DEFAULT_WINDOW
from ..protocol.settings import DEFAULT_MAX_MESSAGE, DEFAULT_MAX_REQUESTS
from ..sctp.carrier import Address, CarrierOptions, Scheduler
from ..sctp.endpoints import shifted
from ..sctp.silence import DEAD_AFTER_MAX, DEAD_AFTER_MIN, RTO_MIN, silence
from .config_file import INCLUDE, Written, read_files

__all__ = ["AppConfig", "Config", "SctpConfig", "WebConfig", "load_config", "path_of", "schema"]

DEFAULT_FEED = "/run/fcgi-sctp/feed.sock"
ADMIN_DIRECTORY = "/run/fcgi-sctp"
AUTO = "auto"
LONGEST_UNIX_PATH = 107
"""Bytes: sun_path of unix(7), and the zero at its end."""
CARRIER = CarrierOptions()
"""Defaults."""

_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIMES = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_SECONDS = 10 * 365 * 86400
"""Longer than anything runs, and short enough for every clock and timer."""
MAX_BYTES = 1 << 48
"""More than a machine has."""


def _size(value: object) -> object:
    """Bytes from ``64K``, ``1M`` or a number."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,20})\s*([kmg]?)(i?b)?", value.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError("write bytes as a number, with K, M or G behind it for more: 4096, 64K, 1M")
    return int(match[1]) * _BYTES[match[2]]


def _seconds(value: object) -> object:
    """Seconds from ``500ms``, ``10s``, ``5m`` or a number."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?)\s*(ms|[smhd]?)", value.strip().lower(), re.ASCII)
    if match is None:
        raise ValueError("write seconds as a number, or with a unit: 500ms, 10s, 5m, 2h, 1d")
    return float(match[1]) * _TIMES[match[2]]


def _address(value: str) -> str:
    if not value.isprintable():
        raise ValueError("an address has no control characters")
    Address.parse(value)
    return value


def _unix_path(value: str) -> str:
    """A path at which a socket can be."""
    size = len(os.fsencode(value))
    if not size or size > LONGEST_UNIX_PATH or "\0" in value:
        raise ValueError(f"the path of a unix socket has 1 to {LONGEST_UNIX_PATH} bytes, and no NUL")
    return value


def _web_listen(value: str) -> str:
    if value.startswith("unix:"):
        if value == "unix:":
            raise ValueError("write unix:/PATH")
        return f"unix:{_unix_path(value.removeprefix('unix:'))}"
    if "/" in value:
        raise ValueError("write unix:/PATH, or HOST:PORT for TCP")
    try:
        return _address(value)
    except ValueError:
        raise ValueError("write unix:/PATH, or HOST:PORT for TCP (a port is a number from 1 to 65535)") from None


def _mode(value: object) -> object:
    """Permissions, octal: YAML reads them as a number where they have no quotes."""
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value, re.ASCII):
        raise ValueError("write permissions in octal and in quotes: '0660' for owner and group, '0666' for all")
    return value


def _network(value: str) -> str:
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError("write an IPv4 or IPv6 network: 192.0.2.0/24, 2001:db8::/32, or one address") from None
    return value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str), Field(le=MAX_BYTES)]
Seconds = Annotated[
    float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(le=MAX_SECONDS, allow_inf_nan=False)
]
UnixPath = Annotated[str, AfterValidator(_unix_path)]
SctpAddress = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
_ONE_OR_MORE = BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])
SctpAddresses = Annotated[list[SctpAddress], _ONE_OR_MORE]
WebAddresses = Annotated[list[Annotated[str, AfterValidator(_web_listen)]], _ONE_OR_MORE]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class BackEndConfig(_Model):
    """An application that the web side connects to."""

    address: SctpAddress
    """HOST[,HOST...]:PORT[/UDPPORT]"""
    weight: float = Field(1, gt=0, le=1000)
    """Its share of the requests, relative to the others'."""


def _back_ends(value: object) -> object:
    """An address stands for a back end with nothing else said."""
    several = value if isinstance(value, list) else [value]
    return [{"address": one} if isinstance(one, str) else one for one in several]


class HealthConfig(_Model):
    """A request of the web side's own to each application, now and then. Its answer is good if it is whole in time and
    its status below 500."""

    uri: str = Field(pattern=r"^/[!-~]*$", examples=["/healthz"])
    """What is asked for, with GET: /healthz. It should answer quickly, and be honest."""
    server_name: str = Field("localhost", pattern=r"^[!-~]+$", examples=["shop.example"])
    """The virtual host that is asked."""
    interval: Seconds = Field(5, ge=0.1)
    """From one request to the next."""
    timeout: Seconds = Field(2, gt=0)
    """How long the answer may take."""
    rise: int = Field(2, ge=1, le=100)
    """Good answers in a row that bring an application back into the balance."""
    fall: int = Field(3, ge=1, le=100)
    """Bad ones in a row after which it gets no requests."""
    params: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")], Annotated[str, Field(pattern=r"^[ -~]*$")]] = {}
    """More CGI variables, or others: SCRIPT_FILENAME for php-fpm."""

    @model_validator(mode="after")
    def _one_at_a_time(self) -> HealthConfig:
        if self.timeout > self.interval:
            raise ValueError("timeout must not be longer than interval")
        return self


def _health_short(value: object) -> object:
    """`health: /healthz` is short for `health: {uri: /healthz}`."""
    return {"uri": value} if isinstance(value, str) else value


class WebConfig(_Model):
    """The side beside the web server."""

    listen: WebAddresses = Field(min_length=1)
    """Where the web server connects to: unix:/PATH or HOST:PORT, one or a list."""
    connect: Annotated[
        list[BackEndConfig],
        BeforeValidator(_back_ends, json_schema_input_type=str | BackEndConfig | list[str | BackEndConfig]),
    ] = Field(min_length=1)
    """The applications: HOST[,HOST...]:PORT[/UDPPORT], one or a list; or {address: …, weight: …}."""
    max_workers: int = Field(64, ge=1, le=1024)
    """Workers of one application that are connected to at most. An application tells of them when it is reached."""
    slow_start: Seconds = Field(10, ge=0)
    """How long an application that returned takes to get its whole share."""
    health: Annotated[
        HealthConfig | None, BeforeValidator(_health_short, json_schema_input_type=str | HealthConfig | None)
    ] = None
    """A URI that each application is asked for every few seconds: one that does not answer gets no requests. Null: its
    association and its requests alone tell how it fares."""
    feed: UnixPath | None = DEFAULT_FEED
    """Unix socket of the live feed; null for none."""
    feed_group: str | None = None
    """Group that may read the live feed."""
    admin: UnixPath | None = AUTO
    """Unix socket for `fcgi-sctp status`, `top` and the like; auto: /run/fcgi-sctp/web.sock, if it can be made; null
    for none."""
    admin_group: str | None = None
    """Group that may use the admin socket."""
    socket_group: str | None = None
    """Group that may connect to unix:/PATH in `listen`: the web server's, www-data for example."""
    socket_mode: Annotated[str | None, BeforeValidator(_mode, json_schema_input_type=str | None)] = None
    """Permissions of unix:/PATH in `listen`, octal, in quotes. Null: '0660' with `socket_group`; without one '0666',
    with which every local user may send requests and claim to be any client, unless the folder keeps them out."""
    request_timeout: Seconds = Field(60, gt=0)
    """Longest silence of an application in one request, then 504."""
    queue_timeout: Seconds = Field(10, ge=0)
    """How long a request waits for an application to come back, then 503."""
    queue_length: int = Field(10_000, ge=0)
    """Requests that wait at most."""
    grace: Seconds = Field(10, ge=0)
    """How long requests may go on after SIGTERM."""
    name: str = ""
    """What this process is called in the application's log; the host's name if empty."""

    @property
    def mode(self) -> int:
        """Permissions of the sockets toward the web server."""
        return int(self.socket_mode or ("0660" if self.socket_group else "0666"), 8)


def _fastcgi_address(value: str) -> str:
    target = parse_address(value)
    if isinstance(target, str):
        _unix_path(target)
    elif not value.isprintable():
        raise ValueError("an address has no control characters")
    return value


def _fastcgi_short(value: object) -> object:
    """`fastcgi: unix:/PATH` is short for `fastcgi: {address: unix:/PATH}`."""
    return {"address": value} if isinstance(value, str) else value


class FastcgiConfig(_Model):
    """A FastCGI server that is there already, php-fpm for example."""

    address: Annotated[str, AfterValidator(_fastcgi_address)]
    """unix:/PATH or HOST:PORT."""
    connections: int = Field(5, ge=1, le=10_000)
    """Requests that the server gets at once, at most, each on a connection; more wait in the bridge. As many as the
    server has children use it fully (php-fpm's pm.max_children is 5 in Debian); with more, requests wait at its socket.
    Each worker has as many."""
    keep_connections: bool = True
    """Send one request after the other on a connection to a unix socket, for 20 ms at most, if the server does its
    part. Over TCP each request has a connection of its own."""
    timeout: Seconds = Field(60, gt=0)
    """Longest silence of the server in one request, then 504."""


class AppConfig(_Model):
    """The side that runs the application."""

    application: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$", examples=["shop.wsgi:application"])
    """The WSGI or ASGI callable: MODULE:CALLABLE."""
    interface: Literal["auto", "wsgi", "asgi"] = "auto"
    """What the callable is; auto: ASGI if it is an async function, or an object whose __call__ is one."""
    fastcgi: Annotated[
        FastcgiConfig | None, BeforeValidator(_fastcgi_short, json_schema_input_type=str | FastcgiConfig | None)
    ] = None
    """Instead of a callable: a FastCGI server that gets the requests, unix:/PATH or HOST:PORT."""
    listen: SctpAddresses = Field(min_length=1)
    """Where associations are taken: HOST[,HOST...]:PORT[/UDPPORT], one or a list."""
    workers: int | None = Field(None, ge=1, le=1024)
    """Processes, each with an endpoint of its own from the port of `listen` on, supervised by a parent; if not given,
    one process and no parent."""
    max_requests: int | None = Field(None, ge=1)
    """Requests after which a worker is replaced."""
    max_memory: Size | None = Field(None, ge=1 << 20)
    """Resident memory, bytes, beyond which a worker is replaced."""
    threads: int = Field(16, ge=1, le=1000)
    """Requests that a WSGI application works on at once; those that wait for slow clients do not count."""
    script_name: str = Field("", pattern=r"^(/.*[^/])?$", examples=["/shop"])
    """Where the application is mounted, if the web server does not split the path: /shop."""
    admin: UnixPath | None = AUTO
    """Unix socket for `fcgi-sctp status`, `top` and the like; auto: /run/fcgi-sctp/app.sock, if it can be made; null
    for none. Workers add their number: app.0.sock."""
    admin_group: str | None = None
    """Group that may use the admin socket."""
    remote_changes: bool = True
    """Whether web sides may change those options of plugins that allow it (`fcgi-sctp set` on their host); false: none.
    """
    path: str | None = None
    """Directory put before Python's own search path; the working directory if not given."""
    grace: Seconds = Field(10, ge=0)
    """How long requests may go on after SIGTERM."""
    name: str = ""
    """What this process is called in the web side's log; the application's if empty. Workers add their number."""

    @model_validator(mode="after")
    def _one_application(self) -> AppConfig:
        if (self.application is None) is (self.fastcgi is None):
            raise ValueError("give application (MODULE:CALLABLE) or fastcgi (unix:/PATH or HOST:PORT), one of the two")
        return self

    @model_validator(mode="after")
    def _need_workers(self) -> AppConfig:
        if self.workers is None and (self.max_requests or self.max_memory):
            raise ValueError("max_requests and max_memory are for workers: give workers, 1 or more")
        return self

    @model_validator(mode="after")
    def _room_for_workers(self) -> AppConfig:
        for text in self.listen if self.workers else ():
            last = shifted(Address.parse(text), (self.workers or 1) - 1)
            if max(last.port, last.udp_port) > 65535:
                raise ValueError(
                    f"listen: {text}: ports end at 65535, and {self.workers} workers need as many from it on"
                )
        return self


Carrier = Literal["auto", "kernel", "userspace"]


class SctpConfig(_Model):
    """How SCTP is used. Both sides can differ."""

    carrier: Carrier = "auto"
    """Which SCTP: the kernel's, or a library in this process with its packets in UDP (RFC 6951)."""
    streams: int = Field(256, ge=3, le=65535)
    """Outgoing streams asked for at the start."""
    scheduler: Scheduler = Scheduler.PRIORITY
    """How SCTP picks the next stream (RFC 8260)."""
    interleaving: bool = True
    """I-DATA (RFC 8260)."""
    mtu: int | None = Field(None, ge=576, le=65000)
    """Path MTU for the userspace carrier, bytes; by default 32,768 on the loopback and 1,400 elsewhere."""
    dead_after: Seconds = Field(10, ge=DEAD_AFTER_MIN, le=DEAD_AFTER_MAX)
    """A peer that has been silent for so long, though asked again and again, is given up; at most a quarter later."""
    connect_timeout: Seconds = Field(5, gt=0, le=3600)
    """How long an association may take to come up before the next attempt."""
    send_buffer: Size = Field(CARRIER.send_buffer, ge=1 << 16, le=1 << 29)
    """What SCTP may hold of what is not yet acknowledged, bytes; the queues before it are not in it."""
    receive_buffer: Size = Field(CARRIER.receive_buffer, ge=1 << 16, le=1 << 29)
    """What SCTP may hold of what came, bytes; for a fast and long path more than it takes in a round trip."""
    allowed_peers: Annotated[list[Network], _ONE_OR_MORE] = []
    """Networks (192.0.2.0/24) from which the application side takes associations, one or a list; empty: all."""
    max_associations: int = Field(MAX_ASSOCIATIONS, ge=1, le=50_000)
    """Associations that a process of the application side takes at most."""
    max_associations_per_address: int = Field(MAX_ASSOCIATIONS_PER_ADDRESS, ge=1, le=50_000)
    """Of those, with one address (IPv6: with one network of 64 bits). A web side has one."""
    udp_encapsulation: bool = False
    """Carrier kernel, the side that connects: SCTP in UDP (RFC 6951), to reach a peer with the carrier userspace or to
    cross a NAT. The side that listens needs net.sctp.udp_port and not this."""
    udp_segmentation: bool = True
    """Carrier userspace: several packets in one system call. Off where the peer is a kernel on the same host or in its
    containers: Linux 6.1 crashes of it."""
    max_message: Size = Field(DEFAULT_MAX_MESSAGE, ge=1024, le=1 << 20)
    """Largest message, bytes."""
    window: Size = Field(DEFAULT_WINDOW, ge=4096)
    """What one request's body may have on its way, bytes."""
    max_requests: int = Field(DEFAULT_MAX_REQUESTS, ge=1, le=65535)
    """Requests at once on one association."""

    @model_validator(mode="before")
    @classmethod
    def _no_plan(cls, given: object) -> object:
        if isinstance(given, dict) and "plan" in given:
            raise ValueError("plan was removed, each request has streams of its own: delete it")
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
            # a few more, so that those which gave way may still be ending
            max_associations=self.max_associations + 64,
            udp_encapsulation=self.udp_encapsulation,
            udp_segmentation=self.udp_segmentation,
            rto_min=RTO_MIN,
            **silence(self.dead_after)._asdict(),
        )


def _sctp_short(value: object) -> object:
    """`sctp: kernel` is short for `sctp: {carrier: kernel}`."""
    return {"carrier": value} if isinstance(value, str) else value


_SHORT: dict[object, dict[str, Any]] = {None: {}, True: {}, False: {"enabled": False}}


def _no_options(value: object) -> object:
    """`syslog:` with nothing behind it enables the plugin with its defaults; `syslog: false` names it without."""
    if isinstance(value, dict):
        return {
            name: _SHORT[options] if options is None or isinstance(options, bool) else options
            for name, options in value.items()
        }
    return {} if value is None else value


class Config(_Model):
    """The whole file. `include: PATH`, or a list, puts other files over it; ${NAME} or ${NAME:-default} in a text is a
    variable of the environment."""

    web: WebConfig | None = None
    app: AppConfig | None = None
    sctp: Annotated[SctpConfig, BeforeValidator(_sctp_short, json_schema_input_type=Carrier | SctpConfig)] = (
        SctpConfig()
    )
    """Carrier and streams; `sctp: userspace` is short for its carrier alone."""
    plugins: Annotated[dict[str, dict[str, Any]], BeforeValidator(_no_options)] = {}
    """Plugins by name, each with its options, in the order in which their hooks are called; `fcgi-sctp plugins list`
    shows those installed. `enabled: false` keeps one off until it is switched on."""
    hook_limit: Seconds | None = Field(1, ge=0.1)
    """How long a hook of a plugin may take before it is ended, and its plugin set aside: everything waits for it. Null:
    it is told, and nothing else, for a debugger."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The operator's log, on stderr."""

    _read_again: Callable[[], Config] | None = PrivateAttr(None)
    _origin: Callable[[str], str] | None = PrivateAttr(None)

    @property
    def read_again(self) -> Callable[[], Config] | None:
        """Reads the same file anew, with the same flags over it; None if there is no file."""
        return self._read_again

    def origin(self, path: str) -> str:
        """The file that says what is at a path, names with dots between them."""
        return "flags" if self._origin is None else self._origin(path)

    @property
    def says_nothing(self) -> bool:
        """Whether the file might as well not be there."""
        return self.web is None and self.app is None and not self.model_fields_set - {"web", "app"}

    def load_plugins(self) -> list[EnabledPlugin]:
        """The enabled plugins, verified; ConfigError tells all that is wrong with them."""
        return load_plugins(self.plugins)

    def differences(self, other: Config) -> list[str]:
        """Paths of the options that `other` has otherwise; those of plugins are not in it."""
        return [path for path in _differences(self, other) if path != "plugins"]


def _differences(one: BaseModel, other: BaseModel, above: str = "") -> Iterator[str]:
    for name in type(one).model_fields:
        here, there = getattr(one, name), getattr(other, name)
        if isinstance(here, BaseModel) and isinstance(there, BaseModel):
            yield from _differences(here, there, f"{above}{name}.")
        elif here != there:
            yield f"{above}{name}"


def schema() -> dict[str, Any]:
    """The JSON Schema of the file as it is written, for editors, with the options of the plugins that are installed."""
    whole = Config.model_json_schema()
    definitions = whole["$defs"]
    known = {}
    for name, plugin in installed_plugins().items():
        if not isinstance(plugin, Exception):
            definitions.update(_plugin_schema(name, plugin))
            known[name] = {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": ["boolean", "null"]}]}
    for definition in (whole, *definitions.values()):
        properties = definition.get("properties", {})
        definition["properties"] = {name: _or_variable(one) for name, one in properties.items()}
    whole["properties"]["plugins"] |= {"type": ["object", "null"], "properties": known, "additionalProperties": False}
    whole["properties"]["include"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "Files that go over this one, relative to it: paths or patterns; {hostname} is this machine's.",
    }
    return whole


def _plugin_schema(name: str, plugin: Plugin) -> dict[str, Any]:
    """Definitions of a plugin's options, and of what one virtual host can have of its own."""
    options = plugin.Options.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    definitions = {f"{name}.{model}": one for model, one in options.pop("$defs", {}).items()}
    definitions[f"{name}.host"] = {**options, "title": f"{name}, one virtual host"}
    more = {
        "enabled": {"type": "boolean", "default": True, "description": "False: off until it is switched on."},
        "hosts": {
            "type": "object",
            "additionalProperties": {"$ref": f"#/$defs/{name}.host"},
            "description": "By SERVER_NAME: what a virtual host has of its own.",
        },
    }
    definitions[name] = {**options, "title": name, "properties": {**options.get("properties", {}), **more}}
    return definitions


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    """What takes no text anyhow takes ``${NAME}``, too."""
    kinds = ["enum" if "enum" in one else one.get("type") for one in schema.get("anyOf", [schema])]
    if "string" in kinds or not {"integer", "number", "boolean", "enum"}.intersection(kinds):
        return schema
    about: dict[str, Any] = {key: value for key, value in schema.items() if key in ("description", "default", "title")}
    return {**about, "anyOf": [schema, {"type": "string", "pattern": _VARIABLE}]}


_VARIABLE = r"\$\{"


Side = Literal["web", "app"]


def load_config(path: str | None, overrides: dict[str, Any], side: Side | None = None) -> Config:
    """The configuration in the file `path`, if any, with all that it includes, and `overrides` over it (nested, from
    flags; None is no value). Where `side` is to run, it has to be in it.

    ConfigError lists everything that is wrong, plugins included.
    """
    written = Written("flags") if path is None else read_files(path)
    written.add(_given(overrides), "flags")
    problems = list(written.problems)
    try:
        config = Config.model_validate(written.content)
    except ValidationError as error:
        problems += complaints(error, Config, also=(INCLUDE,))
        config = Config(plugins=_readable_plugins(written.content.get("plugins")))
    else:
        if side is not None and getattr(config, side) is None:
            problems.append(f"{side}: is missing; `fcgi-sctp {side}` needs it")
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
    """The path that a problem's sentence begins with."""
    return problem.partition(": ")[0]


def _readable_plugins(plugins: object) -> dict[str, dict[str, Any]]:
    """Those whose options can be looked at, though something is wrong elsewhere."""
    plugins = _no_options(plugins)
    found = plugins.items() if isinstance(plugins, dict) else ()
    return {name: options for name, options in found if isinstance(options, dict)}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Flags that were given: None is none, and so is a section of which none was."""
    given = {name: _given(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in given.items() if value is not None and (value != {} or not values[name])}
