"""The pump: pipe → scanner → gzip → SHA-256 → file, in one pass and constant memory, in a thread.

A thread of its own costs half of what asyncio's streams do at this rate, gives back-pressure for
nothing, and sees the end of the pipe even while its child is being killed.
"""

import hashlib
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from typing import Protocol

from asyncbackup import __version__
from asyncbackup.model import DumpScan
from asyncbackup.scanner import Scanner

try:
    from isal import isal_zlib
except ImportError:  # no wheel for this machine
    isal_zlib = None  # type: ignore[assignment]
try:
    from zlib_ng import zlib_ng
except ImportError:
    zlib_ng = None  # type: ignore[assignment]

PIPE_SIZE = 1 << 20
"""What a pipe from pg_dump should hold, in bytes: the most that Linux lets anyone ask for."""

_READ = 1 << 18  # small enough to stay in a core's cache while it is scanned, hashed and compressed
_WRITE = 1 << 18
_ISAL_LEVELS = 3

MARK = b"asyncbackup "
"""Begins the comment in the gzip header of every file of ours, finished or not."""

HEADER = b"\x1f\x8b\x08\x10" + bytes(4) + b"\x00\x03" + MARK + __version__.encode() + b"\0"


class Deflate(Protocol):
    """A raw deflate stream, as in zlib."""

    def compress(self, data: memoryview, /) -> bytes:
        """Take more input."""

    def flush(self) -> bytes:
        """End the stream."""


@dataclass(frozen=True, slots=True)
class Compressor:
    """The fastest library on this machine for a level."""

    name: str
    level: int
    start: Callable[[], Deflate]
    crc32: Callable[[memoryview, int], int]


@dataclass(slots=True)
class Progress:
    """Written by the pump, read by whoever watches: no lock is needed for whole numbers."""

    sql_bytes: int = 0
    file_bytes: int = 0
    rows: int = 0
    moved_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pumped:
    """A dump that was written, compressed; not yet synced."""

    scan: DumpScan
    bytes: int
    sha256: str


def compressor(level: int) -> Compressor:
    """Choose: ISA-L up to level 3, else zlib-ng, else zlib; levels are the library's own, 0 stores."""
    crc32 = isal_zlib.crc32 if isal_zlib else zlib_ng.crc32 if zlib_ng else zlib.crc32
    if not level:  # ISA-L's own 0 compresses
        return Compressor("zlib", level, lambda: zlib.compressobj(level, wbits=-15), crc32)
    if isal_zlib and level <= _ISAL_LEVELS:
        return Compressor("isal", level, lambda: isal_zlib.compressobj(level, wbits=-15), crc32)
    if zlib_ng:
        return Compressor("zlib-ng", level, lambda: zlib_ng.compressobj(level, wbits=-15), crc32)
    return Compressor("zlib", level, lambda: zlib.compressobj(level, wbits=-15), crc32)


def lacking(chosen: Compressor) -> str:
    """Return the library that would be faster, and is not installed; empty when there is none."""
    best = "isal" if chosen.level <= _ISAL_LEVELS else "zlib-ng"
    return best if chosen.level and chosen.name != best else ""


def pump(source: FileIO, target: FileIO, compressor: Compressor, progress: Progress) -> Pumped:
    """Move everything from the pipe to the file; close the pipe, leave the file open and unsynced.

    Raises OSError when the file cannot be written; it is then worth nothing.
    """
    # On an error the pipe is closed, too: a writer that is alive learns by EPIPE that nobody reads on.
    with source:
        return _pump(source, target, compressor, progress)


def _pump(source: FileIO, target: FileIO, compressor: Compressor, progress: Progress) -> Pumped:
    scanner, deflate, digest = Scanner(), compressor.start(), hashlib.sha256()
    buffer = bytearray(_READ)
    view = memoryview(buffer)
    crc = written = 0

    def write(block: bytes) -> int:
        digest.update(block)
        rest = memoryview(block)
        while rest:
            rest = rest[target.write(rest) :]
        return len(block)

    # The mark goes out first: whoever finds the file after a crash can tell whose it is.
    written += write(HEADER)
    pending: list[bytes] = []
    pending_bytes = 0
    while filled := _fill(source, view, progress):
        scanner.feed(buffer, filled)
        crc = compressor.crc32(view[:filled], crc)
        pending.append(deflate.compress(view[:filled]))
        pending_bytes += len(pending[-1])
        progress.rows = scanner.rows
        if pending_bytes >= _WRITE:
            written += write(b"".join(pending))
            pending.clear()
            pending_bytes = 0
    scan = scanner.finish()
    pending += deflate.flush(), struct.pack("<LL", crc, scan.bytes & 0xFFFFFFFF)
    written += write(b"".join(pending))
    return Pumped(scan=scan, bytes=written, sha256=digest.hexdigest())


def _fill(source: FileIO, view: memoryview, progress: Progress) -> int:
    filled = 0
    while filled < len(view) and (count := source.readinto(view[filled:])):
        filled += count
        progress.sql_bytes += count
        progress.moved_at = time.monotonic()
    return filled
