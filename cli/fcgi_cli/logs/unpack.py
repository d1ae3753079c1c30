"""Unpacks files compressed by gzip, bzip2, xz and zstd, which it recognizes by their first bytes.

It unpacks piece by piece, within a bound of memory that no file can raise.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from typing import IO, Any

__all__ = ["LONGEST_MAGIC", "damage", "unpacked"]

LONGEST_MAGIC = 6
MEMORY = 256 << 20
"""Bytes of memory for unpacking xz and zstd; `xz -9` needs 65 MiB, `zstd --ultra -22` 128."""
PIECE = 64 << 10


def unpacked(file: IO[bytes], beginning: bytes) -> io.RawIOBase | None:
    """A stream of the unpacked file; None if its `beginning` does not show that it is compressed. OSError."""
    if beginning.startswith(b"\x1f\x8b"):
        return _Unpacked(file, _Gzip)
    if beginning.startswith(b"BZh"):
        import bz2

        return _Unpacked(file, bz2.BZ2Decompressor)
    if beginning.startswith(b"\xfd7zXZ\x00"):
        import lzma

        return _Unpacked(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY))
    if beginning.startswith(b"\x28\xb5\x2f\xfd"):
        return _Zstd(file)
    return None


def damage() -> tuple[type[Exception], ...]:
    """The exceptions that reading a damaged file raises."""
    import lzma
    import zlib

    return OSError, EOFError, ValueError, zlib.error, lzma.LZMAError


class _Gzip:
    """A decompressor of gzip with the interface of those of bzip2 and xz."""

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, size)


class _Unpacked(io.RawIOBase):
    """A stream that unpacks a file with a decompressor; the file may consist of several compressed streams."""

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        super().__init__()
        self._file = file
        self._make = make
        self._decompressor = make()

    def read(self, size: int = -1) -> bytes:
        while True:
            decompressor = self._decompressor
            if decompressor.eof:
                rest = decompressor.unused_data or self._file.read(PIECE)
                if not rest.strip(b"\0"):  # xz pads with zeros
                    return b""
                self._decompressor = decompressor = self._make()
            elif decompressor.needs_input:
                rest = self._file.read(PIECE)
                if not rest:
                    raise EOFError("the compressed data ends early")
            else:
                rest = b""
            data: bytes = decompressor.decompress(rest, size)
            if data:
                return data

    def close(self) -> None:
        self._file.close()
        super().close()


class _Zstd(io.RawIOBase):
    """A stream that unpacks a file with the program zstd, because Python before 3.14 cannot."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        if shutil.which("zstd") is None:
            raise OSError(0, "cannot be unpacked: the program zstd is not installed")
        self._file = file
        file.seek(0)
        self._program = subprocess.Popen(
            ["zstd", "-dcq", f"--memory={MEMORY >> 20}MB"],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def read(self, size: int = -1) -> bytes:
        assert self._program.stdout is not None
        assert self._program.stderr is not None
        data = self._program.stdout.read(size)
        if not data and self._program.wait() != 0:
            why = self._program.stderr.read(1000).decode(errors="replace").strip().partition("\n")[0]
            raise OSError(0, why.removeprefix("/*stdin*\\ : "))
        return data

    def close(self) -> None:
        if self._program.poll() is None:
            self._program.kill()
        self._program.wait()
        for stream in (self._program.stdout, self._program.stderr, self._file):
            if stream is not None:
                stream.close()
        super().close()
