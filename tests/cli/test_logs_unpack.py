"""Compressed files, damaged files and very long lines."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fcgi_cli.logs.events import Line, Note, SourceError
from fcgi_cli.logs.files import PART, FileSource
from fcgi_cli.logs.past import Past
from fcgi_cli.logs.source import LONGEST_LINE, RECEIVE
from fcgi_cli.main import main

from tests.cli.sources import lines


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True, timeout=60).stdout


COMPRESSIONS = [gzip.compress, bz2.compress, lzma.compress, zstd]
TEXT = "".join(f"line {number} {number * 12345678}\n" for number in range(50_000)).encode()


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("name", ["a.log.1.gz", "a.log", "a.xz"])
def test_a_compressed_file_is_known_by_its_content(
    tmp_path: Path, compress: Callable[[bytes], bytes], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(TEXT))
    assert lines(FileSource(str(path), tail=None)) == TEXT.decode().splitlines()
    path.write_bytes(compress(b"one\ntwo\n") + compress(b"three\n"))
    assert lines(FileSource(str(path), tail=None)) == ["one", "two", "three"]
    path.write_bytes(b"no such thing\n")
    assert lines(FileSource(str(path), tail=None, follow=False)) == ["no such thing"]


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("damaged", ["cut", "changed", "bare"])
def test_a_damaged_file_gives_what_can_be_read(
    tmp_path: Path, compress: Callable[[bytes], bytes], damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(compress(TEXT))
    if damaged == "cut":
        del data[-len(data) // 4 :]
    elif damaged == "changed":
        middle = len(data) // 2
        data[middle : middle + 200] = bytes(byte ^ 0x55 for byte in data[middle : middle + 200])
    else:
        del data[8:]
    (tmp_path / "bad.log").write_bytes(data)
    (tmp_path / "good.log").write_text("".join(f"good {number}\n" for number in range(50)))
    paths = [str(tmp_path / name) for name in ("good.log", "bad.log", "none.log")]
    assert main(["logs", "--no-follow", "-n", "100000", "-o", "raw", *paths]) == 1
    captured = capsys.readouterr()
    assert [line for line in captured.out.splitlines() if "good" in line] == [f"good {number}" for number in range(50)]
    assert f"fcgi-sctp logs: {paths[2]}: No such file or directory\n" in captured.err
    bad, _ = sorted(captured.err.splitlines())
    assert bad.startswith(f"fcgi-sctp logs: {paths[1]}: "), "one line"
    assert main(["logs", "--no-follow", "-n", "100000", "-o", "raw", paths[1]]) == os.EX_UNAVAILABLE
    captured = capsys.readouterr()
    assert captured.err == f"{bad}\n"
    if damaged == "cut" and compress is not bz2.compress:  # which is one block
        assert captured.out.startswith("line 0 0\nline 1 12345678\n")


def test_zstd_without_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_bytes(zstd(b"one\n"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="cannot be unpacked: the program zstd is not installed"):
        lines(FileSource(str(tmp_path / "a.log"), tail=None))


def test_a_viewer_that_ends_early_leaves_no_program(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(zstd(TEXT * 20))
    source = FileSource(str(tmp_path / "a.log"), tail=None)
    source.start()
    assert source.read()
    source.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["gz", "bz2", "xz", "zst"])
def test_a_file_that_unpacks_to_much_costs_little_memory(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(compress(b"x" * (200 << 20)))
    assert path.stat().st_size < 1 << 20
    viewer = [sys.executable, "-m", "fcgi_cli", "logs", "--no-follow", "-o", "raw"]
    many = f"import resource, subprocess, sys; subprocess.run({[*viewer, str(path), str(path)]}, stdout=-3)"
    tell = "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", f"{many}; {tell}"], capture_output=True, text=True, timeout=110)
    assert "Traceback" not in done.stderr
    assert int(done.stdout) < 200 << 10, "KiB"


def test_a_line_beyond_all_bounds_is_shown_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * (LONGEST_LINE + RECEIVE) + b"y\nafter\n")
    *parts, last, after = lines(FileSource(str(path), tail=None, follow=False))
    assert {len(part) for part in parts[:16]} == {PART}
    assert "".join([*parts, last]) == "x" * (LONGEST_LINE + RECEIVE) + "y"
    assert after == "after"


def test_of_long_lines_fewer_are_kept() -> None:
    past = Past(10)
    for number in range(10):
        past.add(Line(number, 1.0, 4, str(number) * (4 << 20), past=True))
    note, *kept = past.events()
    assert isinstance(note, Note)
    assert note.text == "the latest lines are long: showing 3 of 10"
    assert [event.number for event in kept if isinstance(event, Line)] == [7, 8, 9]
    past.add(Line(10, 1.0, 4, "x" * (40 << 20), past=True))
    assert len(past.events()) == 2, "the latest is always there"


def test_a_line_of_ten_mebibytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * (10 << 20) + b"\nafter\n")
    assert main(["logs", "--no-follow", "-o", "raw", str(path)]) == 0
    assert list(map(len, capsys.readouterr().out.splitlines())) == [10 << 20, 5]
