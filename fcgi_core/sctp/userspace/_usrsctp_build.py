"""Build the extension module `fcgi_core.sctp.userspace._usrsctp` (cffi, API mode; `setup.py` names this file).

The declarations are read from usrsctp_carrier.h, between its two markers: one text for the compiler and for cffi.
The shared libusrsctp is linked: Debian's static one is not position-independent. At run time the one beside the
extension counts, which `script/usrsctp` builds and a wheel has, else the system's.
"""

from pathlib import Path

from cffi import FFI

_here = Path(__file__).resolve().parent
_header = (_here / "usrsctp_carrier.h").read_text()
_declarations = _header.split("/* cffi: begin */")[1].split("/* cffi: end */")[0]

ffibuilder = FFI()
ffibuilder.cdef(_declarations)
ffibuilder.set_source(
    "fcgi_core.sctp.userspace._usrsctp",
    '#include "usrsctp_carrier.h"\n',
    # relative to the project's root: setuptools refuses absolute paths
    sources=[
        f"fcgi_core/sctp/userspace/{name}.c"
        for name in ("crc32c", "usrsctp_carrier", "usrsctp_packets", "usrsctp_start", "usrsctp_timers")
    ],
    depends=[
        f"fcgi_core/sctp/userspace/{name}.h"
        for name in ("crc32c", "usrsctp_carrier", "usrsctp_packets", "usrsctp_timers")
    ],
    include_dirs=["fcgi_core/sctp/userspace"],
    libraries=["usrsctp"],
    extra_link_args=["-Wl,-rpath,$ORIGIN"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-fvisibility=hidden"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
