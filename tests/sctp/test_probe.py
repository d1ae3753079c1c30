"""fcgi_core.sctp.probe with a made-up root folder, so that the tests pass on any machine."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import subprocess
from pathlib import Path

import pytest

from fcgi_core.sctp import open_carrier
from fcgi_core.sctp.carrier import CarrierError, CarrierOptions
from fcgi_core.sctp.probe import Finding, State, _levers, choose, kernel_finding, probe, userspace_finding


def failing(number: int) -> None:
    raise OSError(number, os.strerror(number))


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


GOOD = Finding("kernel SCTP", State.GOOD, "works")
BAD = Finding("kernel SCTP", State.MISSING, "no module", remedy="modprobe sctp")


class TestKernel:
    def test_works(self, tmp_path: Path) -> None:
        finding = kernel_finding(tmp_path, lambda: None)
        assert finding.state is State.GOOD
        assert platform.release() in finding.value

    @pytest.mark.parametrize(
        ("files", "value", "remedy"),
        [
            ({}, "has no modules", ""),
            ({".dockerenv": ""}, "docker", "on the host: modprobe sctp"),
            ({"run/.containerenv": ""}, "podman", "on the host: modprobe sctp"),
            ({"run/systemd/container": "lxc\n"}, "lxc", "on the host: modprobe sctp"),
            ({"proc/1/environ": "a=b\0container=oci\0"}, "oci", "on the host: modprobe sctp"),
            (
                {"etc/modprobe.d/sctp-blacklist.conf": "# not here\nblacklist sctp\n"},
                "/etc/modprobe.d/sctp-blacklist.conf blocks the module: blacklist sctp",
                "remove that line from /etc/modprobe.d/sctp-blacklist.conf, then modprobe sctp",
            ),
            (
                {"usr/lib/modprobe.d/hard.conf": "install sctp /bin/true"},
                "install sctp /bin/true",
                "remove that line from /usr/lib/modprobe.d/hard.conf, then modprobe sctp",
            ),
            (
                {
                    "etc/modprobe.d/other.conf": "blacklist sctp_diag\n",
                    "lib/modules/R/modules.dep": "x/net/sctp/sctp.ko.xz:",
                },
                "not loaded",
                "modprobe sctp",
            ),
            ({"lib/modules/R/modules.dep": "kernel/net/dccp/dccp.ko:"}, "no module sctp", "modules-extra"),
        ],
    )
    def test_no_protocol(self, tmp_path: Path, files: dict[str, str], value: str, remedy: str) -> None:
        for name, text in files.items():
            write(tmp_path, name.replace("/R/", f"/{platform.release()}/"), text)
        finding = kernel_finding(tmp_path, lambda: failing(errno.EPROTONOSUPPORT))
        assert finding.state is State.MISSING
        assert value in finding.value
        assert remedy in finding.remedy

    def test_forbidden(self, tmp_path: Path) -> None:
        assert "seccomp" in kernel_finding(tmp_path, lambda: failing(errno.EPERM)).value

    def test_other_error(self, tmp_path: Path) -> None:
        assert os.strerror(errno.EMFILE) in kernel_finding(tmp_path, lambda: failing(errno.EMFILE)).value


def test_levers(tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/net/sctp/intl_enable", "0\n")
    write(tmp_path, "proc/sys/net/sctp/udp_port", "9000\n")
    write(tmp_path, "proc/sys/net/core/rmem_max", "212992\n")
    write(tmp_path, "proc/sys/net/core/wmem_max", "4194304\n")
    found = {finding.name: finding for finding in _levers(tmp_path)}
    assert found["net.sctp.intl_enable"].remedy == "sysctl -w net.sctp.intl_enable=1"
    assert found["net.sctp.intl_enable"].state is State.OPTIONAL
    assert found["net.sctp.udp_port"].state is State.GOOD
    assert found["net.core.rmem_max"].remedy == f"sysctl -w net.core.rmem_max={CarrierOptions().receive_buffer}"
    assert found["net.core.wmem_max"].state is State.GOOD
    assert found["net.sctp.encap_port"].value == "not in this kernel"


class TestUserspace:
    def test_not_built(self, tmp_path: Path) -> None:
        finding = userspace_finding(tmp_path, "fcgi_core.sctp._no_such_extension")
        assert finding.state is State.MISSING
        assert finding.remedy == "script/setup"

    @pytest.mark.parametrize(
        ("loaded", "said"),
        [
            ("/usr/lib/none/libusrsctp.so.2", "Debian's libusrsctp2 0.9.5.0-2, built without optimisation"),
            ("/opt/none/libusrsctp.so.2", "of unknown build"),
        ],
    )
    def test_which_library_is_loaded(self, tmp_path: Path, loaded: str, said: str) -> None:
        status = "Package: libusrsctp2\nStatus: x\nVersion: 0.9.5.0-2\n\nPackage: z\nVersion: 1\n"
        write(tmp_path, "var/lib/dpkg/status", status)
        write(tmp_path, "proc/self/maps", f"7f-80 r-xp 0 fe:00 1   /usr/bin/x\n7f-80 r-xp 0 fe:00 2   {loaded}\n")
        finding = userspace_finding(tmp_path, "json")
        assert (finding.state, finding.value) == (State.GOOD, f"works, {loaded} ({said})")

    def test_a_library_of_ours_says_how_it_was_built(self, tmp_path: Path) -> None:
        library = tmp_path / "libusrsctp.so.2"
        source = 'const char *const usrsctp_build = "1.2 from source, -O2";'
        compiler = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(compiler, input=source, text=True, check=True)
        write(tmp_path, "proc/self/maps", f"7f-80 r-xp 0 fe:00 2   {library}\n")
        assert userspace_finding(tmp_path, "json").value == f"works, {library} (1.2 from source, -O2)"


class TestChoose:
    def test_auto_takes_the_kernel_where_it_works(self) -> None:
        assert choose("auto", kernel=lambda: GOOD, userspace=lambda: GOOD) == "kernel"
        assert choose("auto", kernel=lambda: BAD, userspace=lambda: GOOD) == "userspace"
        assert choose("userspace", kernel=lambda: GOOD, userspace=lambda: GOOD) == "userspace"

    def test_no_carrier(self) -> None:
        with pytest.raises(CarrierError, match=r"no module \(modprobe sctp\)"):
            choose("kernel", kernel=lambda: BAD)
        with pytest.raises(CarrierError, match=r"no SCTP on this machine: kernel SCTP: .*; kernel SCTP: "):
            choose("auto", kernel=lambda: BAD, userspace=lambda: BAD)

    def test_unknown(self) -> None:
        with pytest.raises(CarrierError, match="invalid SCTP carrier 'tcp': use auto"):
            choose("tcp")


def test_this_machine() -> None:
    findings = probe()
    assert [finding.name for finding in findings if "SCTP" in finding.name] == ["kernel SCTP", "userspace SCTP"]
    assert all(finding.value for finding in findings)


def test_open_carrier() -> None:
    async def body() -> None:
        if all(finding.state is State.MISSING for finding in (kernel_finding(), userspace_finding())):
            with pytest.raises(CarrierError, match="no SCTP"):
                open_carrier("auto", CarrierOptions())
            return
        carrier = open_carrier("auto", CarrierOptions())
        assert carrier.name == choose("auto")
        carrier.close()

    asyncio.run(body())
