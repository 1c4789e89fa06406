"""Whether a backup's file is what was written: judged by its bytes alone, without any server.

A manifest says what was written, and every sentence here compares with it. Without one (backups of the
bash tool have none), gzip's own checksum and the dump's trailer still tell whether the file is whole.
"""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from io import FileIO
from itertools import zip_longest
from pathlib import Path

from asyncbackup import inventory, naming
from asyncbackup.errors import ManifestError
from asyncbackup.model import CopyBlock, LargeObject, Manifest, SequenceValue
from asyncbackup.stream import Progress
from asyncbackup.unpack import Unpacked, unpack

_NEAR = timedelta(minutes=1)


class State(StrEnum):
    """What a backup was found to be."""

    GOOD = "good"
    """Exactly what was written."""
    WHOLE = "whole"
    """Undamaged as far as gzip and the dump's end can tell: there is no manifest to compare with."""
    BAD = "bad"
    MISSING = "missing"
    """There is no file, though there should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What reading a backup from its first byte to its last has shown; each problem names the file."""

    path: Path
    manifest: Manifest | None
    unpacked: Unpacked | None
    """None when it could not be read to its end."""
    problems: tuple[str, ...]

    @property
    def state(self) -> State:
        """What is proven of it."""
        if self.problems:
            return State.BAD
        return State.GOOD if self.manifest else State.WHOLE


class StoppedError(Exception):
    """Whoever waited for the result does not want it any more."""


class _Source(FileIO):
    """A file whose reading ends soon after `stop` was set; a thread cannot be ended otherwise."""

    def __init__(self, descriptor: int, stop: threading.Event) -> None:
        super().__init__(descriptor)
        self._stop = stop

    def read(self, size: int | None = -1) -> bytes:
        if self._stop.is_set():
            raise StoppedError
        return super().read(size)


def inspect(path: Path, progress: Progress, stop: threading.Event | None = None) -> Checked:
    """Read a backup and the manifest beside it, and say what is wrong; blocking, for a thread.

    Raises FileNotFoundError when the file is gone, StoppedError soon after `stop` is set.
    """
    problems: list[str] = []
    manifest = None
    # The manifest first: it is the first to come and the last to go.
    try:
        manifest = inventory.read_manifest(path)
    except ManifestError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            problems.append(error.message)
        elif inventory.is_ours(path):
            problems.append(f"{path}: its manifest is missing")
    if manifest and manifest.file.name != path.name:
        problems.append(f"{path}: its manifest is that of {manifest.file.name}")
    unpacked = None
    try:
        with _open(path, stop or threading.Event()) as source:
            unpacked = unpack(source, progress)
    except FileNotFoundError:
        raise
    except OSError as error:
        problems.append(f"{path}: it cannot be read: {error.strerror}")
    else:
        problems += [f"{path}: {problem}" for problem in judge(unpacked, manifest)]
    return Checked(path=path, manifest=manifest, unpacked=unpacked, problems=tuple(problems))


def _open(path: Path, stop: threading.Event) -> FileIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.EINVAL, "it is a link") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    # What the disk has is asked for, not what memory still holds of it.
    with contextlib.suppress(OSError):  # advice is not heard everywhere
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return _Source(descriptor, stop)


def orphan(manifest: Path, partials: Iterable[Path]) -> str:
    """Return what is wrong with a manifest that has no data; nothing where it has not been published yet.

    `partials` are those of the walk that found it; the partial file stays until the data is there.
    """
    data = manifest.with_name(manifest.name.removesuffix(naming.MANIFEST))
    wanted = naming.parse_name(data.name)
    for partial in partials:
        unfinished = naming.parse_name(partial.name.removesuffix(naming.PARTIAL))
        if not unfinished or not wanted or (partial.parent, unfinished.core) != (data.parent, wanted.core):
            continue
        if abs(unfinished.stamp - wanted.stamp) < _NEAR:  # where a second is taken, the next one is used
            return ""
    if data.exists() or not manifest.exists():
        return ""
    return f"{data}: its data is missing, only its manifest is there"


def judge(found: Unpacked, manifest: Manifest | None) -> tuple[str, ...]:
    """Return everything that is wrong with a file that was read to its end, in sentences; () is good.

    They do not name the file. Without a manifest, only framing and completeness are judged.
    """
    inner = [found.problem] if found.problem else []
    if found.scan.problem and found.bytes:
        inner.append(found.scan.problem)
    if manifest is None:
        return tuple(inner)
    outer = list(_file(found, manifest))
    inner += _contents(found, manifest)
    if inner and not outer:
        outer = ["the file is what was written, but not what its manifest says: the manifest is wrong"]
    return (*outer, *inner)


def _file(found: Unpacked, manifest: Manifest) -> Iterator[str]:
    if found.bytes != manifest.file.bytes:
        yield f"the file: {_numbers('bytes', manifest.file.bytes, found.bytes)}"
    if found.sha256 != manifest.file.sha256:
        yield f"the file: expected SHA-256 {manifest.file.sha256}, found {found.sha256}"


def _contents(found: Unpacked, manifest: Manifest) -> Iterator[str]:
    scan = found.scan
    if scan.bytes != manifest.sql_bytes:
        yield f"the dump: {_numbers('bytes of SQL', manifest.sql_bytes, scan.bytes)}"
    if scan.rows != manifest.rows:
        yield f"the dump: {_numbers('rows in all', manifest.rows, scan.rows)}"
    if scan.encoding != manifest.encoding:
        yield f"the dump: expected encoding {manifest.encoding}, found {scan.encoding}"
    if scan.restricted != manifest.restricted:
        words = {True: "a \\restrict line", False: "no \\restrict line"}
        yield f"the dump: expected {words[manifest.restricted]}, found {words[scan.restricted]}"
    yield from _tables(scan.blocks, manifest)
    yield from _sequences(scan.sequences, manifest.sequences)
    yield from _large_objects(scan.large_objects, manifest.large_objects)
    if scan.outside_blake3 != manifest.outside_blake3:
        yield (
            "the statements outside of the rows:"
            f" expected BLAKE3 {manifest.outside_blake3}, found {scan.outside_blake3}"
        )


def _tables(blocks: Sequence[CopyBlock], manifest: Manifest) -> Iterator[str]:
    expected = _by_table(manifest.tables)
    found = _by_table(blocks)
    if len(expected) != manifest.table_count:
        yield f"its manifest counts {manifest.table_count:,} tables, and lists {len(expected):,}"
    for table in dict.fromkeys([*expected, *found]):
        # A partitioned root that was dumped through itself has a block for each partition, in order.
        for was, now in zip_longest(expected.get(table, ()), found.get(table, ())):
            if said := _block(was, now):
                yield f"table {table[0]}.{table[1]}: {said}"


def _by_table(blocks: Sequence[CopyBlock]) -> dict[tuple[str, str], list[CopyBlock]]:
    tables: dict[tuple[str, str], list[CopyBlock]] = {}
    for block in blocks:
        tables.setdefault((block.schema, block.table), []).append(block)
    return tables


def _block(was: CopyBlock | None, now: CopyBlock | None) -> str:
    if now is None:
        return f"expected {was.rows:,} rows, found no such COPY in the dump" if was else ""
    if was is None:
        return f"expected no such COPY in the dump, found {now.rows:,} rows"
    if now.columns != was.columns:
        return f"expected columns {', '.join(was.columns)}; found {', '.join(now.columns)}"
    if now.rows != was.rows:
        return _numbers("rows", was.rows, now.rows)
    if now.bytes != was.bytes:
        return _numbers("bytes of rows", was.bytes, now.bytes)
    if now.blake3 != was.blake3:
        return f"expected rows of BLAKE3 {was.blake3}, found {now.blake3}"
    return ""


def _sequences(found: Sequence[SequenceValue], expected: Sequence[SequenceValue]) -> Iterator[str]:
    was = {(one.schema, one.name): _value(one) for one in expected}
    now = {(one.schema, one.name): _value(one) for one in found}
    for schema, name in dict.fromkeys([*was, *now]):
        before, after = was.get((schema, name), "none"), now.get((schema, name), "none")
        if before != after:
            yield f"sequence {schema}.{name}: expected {before}, found {after}"


def _value(sequence: SequenceValue) -> str:
    return f"{sequence.last_value}{'' if sequence.is_called else ' (not called yet)'}"


def _large_objects(found: Sequence[LargeObject], expected: Sequence[LargeObject]) -> Iterator[str]:
    was = {one.oid: one for one in expected}
    now = {one.oid: one for one in found}
    for oid in dict.fromkeys([*was, *now]):
        before, after = was.get(oid), now.get(oid)
        if before != after:
            yield f"large object {oid}: expected {_content(before)}, found {_content(after)}"


def _content(large_object: LargeObject | None) -> str:
    if large_object is None:
        return "none"
    return f"{large_object.bytes:,} bytes of SHA-256 {large_object.sha256}"


def _numbers(what: str, expected: int, found: int) -> str:
    return f"expected {expected:,} {what}, found {found:,}"
