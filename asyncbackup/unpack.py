"""The way back: file → gunzip → scanner → whoever wants the SQL, in one pass and constant memory.

It runs in a thread, as the pump does. What it returns says all that can be known of a file by reading
it; whether that is what it should be, `check` decides.
"""

import contextlib
import errno
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from asyncbackup.model import DumpScan
from asyncbackup.scanner import Scanner, Tap
from asyncbackup.stream import Progress

codec: Any = zlib
with contextlib.suppress(ImportError):  # no wheel for this machine
    from isal import isal_zlib as codec

_READ = 1 << 16
_PIECE = 1 << 18  # bytes of SQL at a time, however well they were compressed: a core's cache holds it
_GZIP = 31  # zlib's window bits for a gzip header and its checks
_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What a file holds, read from its first byte to its last."""

    scan: DumpScan
    bytes: int
    sha256: str
    problem: str
    """Why it is not a whole gzip file; empty when it is."""


class _Gunzip:
    """Takes compressed bytes, in pieces of any size, and hands on what they hold."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._member = codec.decompressobj(wbits=_GZIP)
        self._begun = False
        self.problem = ""

    def feed(self, data: bytes) -> None:
        while data and not self.problem:
            if self._member.eof:
                if not data.startswith(_MAGIC[: len(data)]):
                    self.problem = "something follows the end of the compressed data"
                    return
                self._member = codec.decompressobj(wbits=_GZIP)  # gzip files may be concatenated
            self._begun = True
            try:
                data = self._decompress(data)
            except (codec.error, zlib.error) as error:
                self.problem = f"the compressed data is damaged ({error})"

    def _decompress(self, data: bytes) -> bytes:
        while not self._member.eof:
            piece = self._member.decompress(data, _PIECE)
            data = self._member.unconsumed_tail
            if piece:
                self._sink(piece)
            elif not data:
                break
        rest: bytes = self._member.unused_data
        return rest

    def finish(self) -> None:
        if not self._begun:
            self.problem = self.problem or "it is empty"
        elif not self._member.eof:
            self.problem = self.problem or "the compressed data is cut off"


class _Sieve:
    """Hands on what the scanner has understood, but for psql's own commands; after a problem, nothing."""

    def __init__(self, scanner: Scanner, sink: Callable[[memoryview], None]) -> None:
        self._scanner = scanner
        self._sink = sink
        self._held = b""
        self._at = 0

    def take(self, piece: bytes) -> None:
        """Take a piece of the dump that the scanner has just got."""
        if self._scanner.problem:
            return
        data = self._held + piece if self._held else piece
        start, end = 0, self._scanner.bytes - self._at
        view = memoryview(data)
        for begin, after in self._scanner.commands:
            self._hand_on(view[start : begin - self._at])
            start = after - self._at
        self._scanner.commands.clear()
        self._hand_on(view[start:end])
        self._held = data[end:]
        self._at += end

    def _hand_on(self, view: memoryview) -> None:
        if view:
            self._sink(view)


def unpack(
    source: FileIO,
    progress: Progress,
    *,
    sink: Callable[[memoryview], None] | None = None,
    tap: Tap | None = None,
    digests: bool = True,
) -> Unpacked:
    """Read a backup from its beginning; `sink` gets the SQL, and whatever it raises ends the reading.

    What it gets is for psql: no command of psql's own, and nothing from the first thing on that makes the
    dump no dump of pg_dump's, though the file is read to its end. Without `digests`, only the file is hashed,
    and rows are not counted: for a file that was read before.

    `progress.sql_bytes` counts SQL, `progress.file_bytes` what was read of the file. The file is left
    open, at its end. Raises OSError when it cannot be read.
    """
    scanner = Scanner(tap, digests=digests)
    sieve = _Sieve(scanner, sink) if sink is not None else None
    digest = hashlib.sha256()

    def take(piece: bytes) -> None:
        scanner.feed(piece)
        if sieve is not None:
            sieve.take(piece)
        progress.sql_bytes += len(piece)
        progress.rows = scanner.rows
        progress.moved_at = time.monotonic()

    gunzip = _Gunzip(take)
    if source.seekable():  # a copy elsewhere comes through a pipe
        source.seek(0)
    while data := source.read(_READ):
        digest.update(data)
        gunzip.feed(data)
        progress.file_bytes += len(data)
    gunzip.finish()
    return Unpacked(
        scan=scanner.finish(),
        bytes=progress.file_bytes,
        sha256=digest.hexdigest(),
        problem=gunzip.problem,
    )


def open_backup(path: Path) -> FileIO:
    """Open a backup for reading; what only bears such a name (a link, a FIFO, a folder) raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return FileIO(descriptor, "r")
