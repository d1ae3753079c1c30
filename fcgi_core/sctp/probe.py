"""Which SCTP this machine has, what is missing, and which command would add it: findings for ``fcgi-sctp doctor``.

Probing changes nothing, except that Linux loads its module when a process opens an SCTP socket.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .carrier import DEFAULT_UDP_PORT, CarrierError, CarrierOptions

__all__ = ["SOL_SCTP", "Finding", "State", "choose", "kernel_finding", "probe", "sysctl", "userspace_finding"]

SOL_SCTP = 132
MODPROBE_DIRECTORIES = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)
"""Directories of modprobe's configuration, modprobe.d(5)."""


class State(Enum):
    GOOD = "good"
    OPTIONAL = "optional"
    """Not needed; `remedy` would add it."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about this machine."""

    name: str
    """The thing examined: ``kernel SCTP``, ``net.sctp.intl_enable``."""
    state: State
    value: str
    """The result, for people."""
    use: str = ""
    """Its purpose."""
    remedy: str = ""
    """The command that would improve it; '' if there is none."""


@dataclass(frozen=True, slots=True)
class _Lever:
    name: str
    wanted: int
    use: str


_defaults = CarrierOptions()
LEVERS = (
    _Lever("net.sctp.intl_enable", 1, "interleaving (I-DATA, RFC 8260): an alert does not wait for a long message"),
    _Lever(
        "net.sctp.udp_port",
        DEFAULT_UDP_PORT,
        "SCTP in UDP (RFC 6951), for userspace peers and NAT; switches interleaving off for listeners",
    ),
    _Lever("net.core.rmem_max", _defaults.receive_buffer, "receive buffer of a process that is not root"),
    _Lever("net.core.wmem_max", _defaults.send_buffer, "send buffer of a process that is not root"),
)
SHOWN = (
    ("net.sctp.reconf_enable", "adding streams (RFC 6525); any value will do, fcgi-sctp enables it on its sockets"),
    ("net.sctp.prsctp_enable", "lifetimes (RFC 3758); any value will do, fcgi-sctp enables them on its sockets"),
    ("net.sctp.encap_port", "UDP port of peers; any value will do, fcgi-sctp sets it on its sockets"),
)
"""Shown because an administrator will ask; their values make no difference."""


def probe(root: Path = Path("/")) -> list[Finding]:
    """All findings, in the order to show them. `root` is the folder that has /proc, /etc and /lib."""
    kernel = kernel_finding(root)
    findings = [kernel]
    if kernel.state is State.GOOD:
        findings += _levers(root)
    findings.append(userspace_finding(root))
    return findings


def choose(
    preference: str,
    *,
    kernel: Callable[[], Finding] | None = None,
    userspace: Callable[[], Finding] | None = None,
) -> str:
    """The carrier to use, ``kernel`` or ``userspace``; CarrierError if there is none.

    ``auto`` prefers the kernel. Note that the two understand each other only with SCTP in UDP.
    """
    probes = {"kernel": kernel or kernel_finding, "userspace": userspace or userspace_finding}
    if preference != "auto" and preference not in probes:
        raise CarrierError(f"invalid SCTP carrier {preference!r}: use auto, kernel or userspace")
    failures = []
    for name in probes if preference == "auto" else (preference,):
        finding = probes[name]()
        if finding.state is not State.MISSING:
            return name
        failures.append(f"{finding.name}: {finding.value}" + (f" ({finding.remedy})" if finding.remedy else ""))
    raise CarrierError("no SCTP on this machine: " + "; ".join(failures))


# -- the kernel -------------------------------------------------------------------------------------------------------


def _open_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, SOL_SCTP).close()


def kernel_finding(root: Path = Path("/"), open_socket: Callable[[], None] = _open_socket) -> Finding:
    """Whether the kernel carrier works here, and if not, why."""
    name, use = "kernel SCTP", "the carrier `kernel`"
    if not sys.platform.startswith("linux"):
        return Finding(name, State.MISSING, f"not on {platform.system()}", use)
    try:
        open_socket()
    except OSError as error:
        value, remedy = _why_not(error, root)
        return Finding(name, State.MISSING, value, use, remedy)
    try:
        importlib.import_module("sctp")
    except ImportError as error:
        return Finding(name, State.MISSING, f"cannot load pysctp: {error}", use, "pip install pysctp")
    return Finding(name, State.GOOD, f"works, Linux {platform.release()}", use)


def _why_not(error: OSError, root: Path) -> tuple[str, str]:
    """Why no SCTP socket can be opened, and the remedy."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"forbidden ({error.strerror}): a seccomp filter or a security module", ""
    if error.errno not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT):
        return f"cannot open a socket: {error.strerror}", ""
    container = _container(root)
    if container:
        # a container can neither load a module nor see whether the host has one
        return f"not in this kernel, and this is a container ({container})", "on the host: modprobe sctp"
    blocked = next(_blocks(root), None)
    if blocked:
        file, line = blocked
        return f"{file} blocks the module: {line}", f"remove that line from {file}, then modprobe sctp"
    release = platform.release()
    modules = root / "lib/modules" / release
    if not modules.is_dir():
        return f"not in this kernel, which has no modules in /lib/modules/{release}", ""
    if _module_exists(modules):
        return "the module is installed but not loaded", "modprobe sctp"
    return (
        f"no module sctp in /lib/modules/{release}",
        "install the distribution's extra modules (linux-modules-extra, kernel-modules-extra), then modprobe sctp",
    )


def _container(root: Path) -> str:
    """The kind of container that this is; '' if it is none, or none that we know."""
    for file, kind in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if (root / file).exists():
            return kind
    try:
        return (root / "run/systemd/container").read_text().strip()
    except OSError:
        pass
    try:
        # readable for root only
        found = re.search(rb"(?:^|\0)container=([a-z-]+)", (root / "proc/1/environ").read_bytes())
        return found.group(1).decode() if found else ""
    except OSError:
        return ""


def _blocks(root: Path) -> Iterator[tuple[str, str]]:
    """Lines of modprobe's configuration that keep Linux from loading sctp for a socket, each as (file, line)."""
    line_pattern = re.compile(r"^\s*(?:blacklist\s+sctp|install\s+sctp\s+(?:/usr)?/bin/(?:true|false))\s*(?:#.*)?$")
    for directory in MODPROBE_DIRECTORIES:
        for file in sorted((root / directory).glob("*.conf")):
            try:
                lines = file.read_text(errors="replace").splitlines()
            except OSError:
                continue
            for line in lines:
                if line_pattern.match(line):
                    yield f"/{file.relative_to(root)}", line.strip()


def _module_exists(modules: Path) -> bool:
    for index in ("modules.dep", "modules.builtin"):
        try:
            if re.search(r"/sctp\.ko", (modules / index).read_text(errors="replace")):
                return True
        except OSError:
            pass
    return False


def _levers(root: Path) -> Iterator[Finding]:
    for lever in LEVERS:
        value = sysctl(lever.name, root)
        state, shown, remedy = State.OPTIONAL, "not in this kernel", ""
        if value is not None:
            shown = str(value)
            if value >= lever.wanted or (lever.name == "net.sctp.udp_port" and value):
                state = State.GOOD
            else:
                remedy = f"sysctl -w {lever.name}={lever.wanted}"
        yield Finding(lever.name, state, shown, lever.use, remedy)
    for name, use in SHOWN:
        value = sysctl(name, root)
        yield Finding(name, State.GOOD, "not in this kernel" if value is None else str(value), use)


def sysctl(name: str, root: Path = Path("/")) -> int | None:
    """The number in sysctl `name`, of this network namespace; None if there is none."""
    try:
        return int((root / "proc/sys").joinpath(*name.split(".")).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


# -- the library ------------------------------------------------------------------------------------------------------


def userspace_finding(root: Path = Path("/"), module: str = "fcgi_core.sctp.userspace._usrsctp") -> Finding:
    """Whether the userspace carrier works here, with the version of its library, and if not, why."""
    name, use = "userspace SCTP", "the carrier `userspace`: SCTP in UDP, without kernel support and privileges"
    try:
        importlib.import_module(module)
    except ImportError as error:
        text = str(error)
        if "libusrsctp" in text:
            return Finding(name, State.MISSING, text, use, "apt-get install libusrsctp2")
        return Finding(name, State.MISSING, f"the extension is not built: {text}", use, "script/setup")
    library = _loaded_library("libusrsctp", root)
    return Finding(name, State.GOOD, f"works, {library} ({_origin(library, root)})" if library else "works", use)


def _loaded_library(name: str, root: Path) -> str:
    """The path of a library loaded into this process, '' if unknown."""
    try:
        for line in (root / "proc/self/maps").read_text().splitlines():
            file = line.split(maxsplit=5)[-1]
            if os.path.basename(file).startswith(name + ".so"):
                return os.path.realpath(file)
    except OSError:
        pass
    return ""


def _origin(library: str, root: Path) -> str:
    """Where a libusrsctp comes from: it has no version of its own, but one that script/usrsctp built says its build."""
    try:
        build = ctypes.c_char_p.in_dll(ctypes.CDLL(library), "usrsctp_build").value
    except (OSError, ValueError):
        package = _package_version(root, "libusrsctp2")
        if package and library.startswith(("/usr/lib/", "/lib/")):
            return f"Debian's libusrsctp2 {package}, built without optimisation"
        return "of unknown build"
    return (build or b"").decode("ascii", "replace")


def _package_version(root: Path, package: str) -> str:
    """The version of a Debian package, '' if unknown."""
    try:
        text = (root / "var/lib/dpkg/status").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^Package: {re.escape(package)}\n(?:.+\n)*?Version: (\S+)", text, re.MULTILINE)
    return found.group(1) if found else ""
