"""The pump: what comes out of the file is what went into the pipe, whoever compressed it."""

import contextlib
import gzip
import hashlib
import importlib.metadata
import os
import random
import subprocess
import threading
import zlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncbackup import stream
from asyncbackup.scanner import Scanner
from asyncbackup.stream import MARK, Progress, Pumped, compressor, lacking, pump

DUMP = (Path(__file__).parents[1] / "data" / "dumps" / "pg16.sql").read_bytes()
NOISE = random.Random(7).randbytes(1 << 20)
ISAL = find_spec("isal") is not None
ZLIB_NG = find_spec("zlib_ng") is not None
LIBRARIES = ("isal", "zlib-ng", "zlib")
LEVELS = [("isal", 0), ("isal", 1), ("isal", 3), ("zlib-ng", 0), ("zlib-ng", 1), ("zlib-ng", 4), ("zlib-ng", 9), ("zlib", 0), ("zlib", 1), ("zlib", 6)]  # fmt: skip


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let only this library and slower ones be installed."""
    return only(request.param, monkeypatch)


def only(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if name != "isal":
        monkeypatch.setattr(stream, "isal_zlib", None)
    elif not ISAL:
        pytest.skip("isal has no wheel for this machine")
    if name == "zlib":
        monkeypatch.setattr(stream, "zlib_ng", None)
    elif name == "zlib-ng" and not ZLIB_NG:
        pytest.skip("zlib-ng has no wheel for this machine")
    return name


def pumped(path: Path, chunks: Iterable[bytes], level: int = 1) -> tuple[Pumped, Progress]:
    """Pump the chunks, each written by itself, into the file."""
    reader, writer = os.pipe()
    progress = Progress()

    def feed() -> None:
        with FileIO(writer, "w") as pipe:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[pipe.write(rest) :]

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with FileIO(path, "w") as target:
            done = pump(FileIO(reader, "r"), target, compressor(level), progress)
    finally:
        feeder.join()
    return done, progress


@pytest.mark.parametrize(("name", "level"), LEVELS)
@pytest.mark.parametrize("data", [DUMP, b"", b"a", NOISE, bytes(2 << 20)], ids=["dump", "empty", "one", "noise", "zeros"])  # fmt: skip
def test_it_is_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, level: int, data: bytes
) -> None:
    only(name, monkeypatch)
    path = tmp_path / "f.gz"
    done, progress = pumped(path, [data], level)
    written = path.read_bytes()
    assert compressor(level).name == (name if level else "zlib")
    assert level or len(written) > len(data), "0 stores"
    assert gzip.decompress(written) == data
    assert (done.bytes, done.sha256) == (len(written), hashlib.sha256(written).hexdigest())
    assert (done.scan.bytes, progress.sql_bytes) == (len(data), len(data))
    scanner = Scanner()
    scanner.feed(data)
    assert done.scan == scanner.finish()
    assert progress.rows == done.scan.rows
    assert written[-8:-4] == zlib.crc32(data).to_bytes(4, "little")
    assert written[-4:] == len(data).to_bytes(4, "little")


@given(st.lists(st.binary(max_size=2000), max_size=20), st.sampled_from([0, 1, 2, 6, 9]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_chunks(tmp_path: Path, library: str, chunks: list[bytes], level: int) -> None:
    path = tmp_path / "f.gz"
    pumped(path, chunks, level)
    assert gzip.decompress(path.read_bytes()) == b"".join(chunks)


@pytest.mark.parametrize("program", [["zcat"], ["gzip", "-t"], ["gzip", "-dc"]])
def test_everybody_reads_it(tmp_path: Path, library: str, program: list[str]) -> None:
    path = tmp_path / "f.gz"
    pumped(path, [DUMP] * 100)
    done = subprocess.run([*program, path], capture_output=True, check=True)
    assert done.stderr == b""
    assert done.stdout == (b"" if "-t" in program else DUMP * 100)


def test_the_header_tells_whose_it_is(tmp_path: Path, library: str) -> None:
    path = tmp_path / "f.gz"
    pumped(path, [DUMP])
    head = path.read_bytes()[:64]
    assert head[:4] == b"\x1f\x8b\x08\x10"  # RFC 1952: deflate, with a comment
    assert head[4:8] == bytes(4)  # no time
    comment = head[10:].partition(b"\0")[0]
    assert comment == MARK + importlib.metadata.version("asyncbackup").encode()


def test_the_mark_is_there_before_anything_else(tmp_path: Path) -> None:
    path, arrived = tmp_path / "f.gz", threading.Event()

    def chunks() -> Iterator[bytes]:
        while not path.exists() or not path.stat().st_size:
            arrived.wait(0.001)
        assert MARK in path.read_bytes()
        yield DUMP

    pumped(path, chunks())


def test_the_same_input_gives_the_same_file(tmp_path: Path, library: str) -> None:
    once, again = tmp_path / "1", tmp_path / "2"
    pumped(once, [DUMP] * 50)
    data = DUMP * 50
    pumped(again, (data[i : i + 777] for i in range(0, len(data), 777)))
    assert once.read_bytes() == again.read_bytes()


def test_which_library_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ISAL and ZLIB_NG):
        pytest.skip("isal and zlib-ng are not both installed")
    assert [compressor(level).name for level in (0, 1, 3, 4, 9)] == [
        "zlib",
        *["isal"] * 2,
        *["zlib-ng"] * 2,
    ]
    assert [lacking(compressor(level)) for level in (0, 1, 3, 4, 9)] == [""] * 5
    only("zlib-ng", monkeypatch)
    assert [compressor(level).name for level in (0, 1, 9)] == ["zlib", "zlib-ng", "zlib-ng"]
    assert [lacking(compressor(level)) for level in (0, 3, 4)] == ["", "isal", ""]
    only("zlib", monkeypatch)
    assert [compressor(level).name for level in (0, 1, 9)] == ["zlib"] * 3
    assert [lacking(compressor(level)) for level in (0, 3, 4)] == ["", "isal", "zlib-ng"]


class Reluctant(FileIO):
    """A file that takes a few bytes at a time, as a file system may."""

    def write(self, data: object, /) -> int:
        assert isinstance(data, memoryview)
        return super().write(data[:1000])


def test_short_writes_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "f.gz"
    reader, writer = os.pipe()
    os.write(writer, DUMP)
    os.close(writer)
    with Reluctant(path, "w") as target:
        pump(FileIO(reader, "r"), target, compressor(0), Progress())
    assert gzip.decompress(path.read_bytes()) == DUMP


def broken_pump(target: FileIO) -> None:
    """Pump into a target that fails; the pipe is closed whatever happens."""
    reader, writer = os.pipe()
    source = FileIO(reader, "r")

    def feed() -> None:
        with FileIO(writer, "w") as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(NOISE)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with target:
            pump(source, target, compressor(1), Progress())
    finally:
        feeder.join()
        assert source.closed


def test_a_full_disk() -> None:
    with pytest.raises(OSError, match="No space left"):
        broken_pump(FileIO("/dev/full", "w"))


@pytest.mark.parametrize("size", ["16k", "64k", "512k"])
def test_a_disk_that_fills_up(tmpfs: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", tmpfs], check=True)
    with pytest.raises(OSError, match="No space left"):
        broken_pump(FileIO(tmpfs / "f", "w"))


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_writer_learns_that_nobody_reads_on() -> None:
    reader, writer = os.pipe()
    met: list[BaseException] = []

    def feed() -> None:
        with FileIO(writer, "w") as pipe:
            try:
                while True:
                    pipe.write(NOISE)
            except BrokenPipeError as error:
                met.append(error)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with FileIO("/dev/full", "w") as full, pytest.raises(OSError, match="No space left"):
        pump(FileIO(reader, "r"), full, compressor(1), Progress())
    feeder.join(10)
    assert met
