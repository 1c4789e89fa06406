"""Storing one backup at one location: its data, then its manifest, which commits it."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import stamina

from asyncbackup import manifest as manifests
from asyncbackup import naming, volume
from asyncbackup.errors import DamagedError, StorageError, TargetError
from asyncbackup.events import Events
from asyncbackup.model import Backup, Manifest
from asyncbackup.offsite.location import Location
from asyncbackup.offsite.rate import Rate
from asyncbackup.offsite.stock import read_manifest
from asyncbackup.stream import Progress
from asyncbackup.targets.target import BLOCK, Remote, Upload
from asyncbackup.threads import in_thread
from asyncbackup.unpack import open_backup

_READ = 4 * BLOCK
_LONGEST_PAUSE = 60.0
_MAX_MANIFEST = 1 << 30
_PATIENCE = 15.0  # seconds for clearing up after a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all uploads of a run share."""

    slots: asyncio.Semaphore
    rate: Rate
    retries: int
    retry_delay: float
    executor: Executor


class TakenError(TargetError):
    """Another series has a backup of that very name there: of the same second."""

    def __init__(self, location: Location, there: Manifest) -> None:
        super().__init__(
            f"{location.label}: {there.file.name} is there already, and is a backup of {there.spec}",
            hint="give each job a folder of its own there: names of some databases are the same",
        )
        self.there = there


@dataclass(slots=True)
class _Turn:
    """A place among the uploads: kept from a backup to its manifest, given up in the pauses between tries."""

    slots: asyncio.Semaphore
    held: bool = False

    async def take(self) -> None:
        if not self.held:
            await self.slots.acquire()
            self.held = True

    def give(self) -> None:
        if self.held:
            self.held = False
            self.slots.release()


async def send(location: Location, backup: Backup, terms: Terms, events: Events, progress: Progress) -> None:
    """Store the backup and then its manifest; raises TargetError, or what is wrong with the local file.

    It is read once more on the way: what is not what its manifest says is not stored.
    """
    turn = _Turn(terms.slots)
    try:
        await turn.take()
        manifest, content = await in_thread(terms.executor, _manifest, backup.path)
        data = Upload(
            name=backup.path.name,
            size=manifest.file.bytes,
            sha256=manifest.file.sha256,
            blocks=_reader(backup.path, manifest.file.sha256, terms, progress),
        )
        await _put(location, data, manifest, turn, terms, events)
        commit = Upload(
            name=backup.path.name + naming.MANIFEST,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            blocks=_of_bytes(content),
        )
        await _put(location, commit, manifest, turn, terms, events)
    finally:
        turn.give()


def _manifest(path: Path) -> tuple[Manifest, bytes]:
    beside = path.with_name(path.name + naming.MANIFEST)
    try:
        content = volume.read(beside, _MAX_MANIFEST)
    except OSError as error:
        raise _unreadable(beside, error) from error
    return manifests.from_json(content, brief=True), content


async def _put(
    location: Location, upload: Upload, of: Manifest, turn: _Turn, terms: Terms, events: Events
) -> None:
    part, last = "", None
    try:
        async for attempt in stamina.retry_context(
            on=_may_pass,
            attempts=terms.retries + 1,
            timeout=None,
            wait_initial=terms.retry_delay,
            wait_max=max(_LONGEST_PAUSE, terms.retry_delay),
            wait_jitter=terms.retry_delay / 4,
        ):
            with attempt:
                await turn.take()
                if last is not None:
                    events.warning("upload.retried", attempt=attempt.num, error=str(last), resumed=bool(part))
                try:
                    async with location.storing(upload.name, again=last is not None) as remote:
                        await _untaken(location, remote, of)
                        resumed, part = part, ""
                        await remote.put(upload, resumed)
                        _compare(location, upload, await remote.size(upload.name))
                except TargetError as error:
                    part, last = error.part or part, error
                    turn.give()  # others may go on in the pause
                    raise
    finally:
        if part:
            await _clear(location, part)
    location.stored(upload.name, upload.size)


async def _untaken(location: Location, remote: Remote, of: Manifest) -> None:
    """Make sure that no other series has a backup of that name there; raises TakenError."""
    if await remote.size(of.file.name + naming.MANIFEST) is not None:
        there = await read_manifest(remote, of.file.name)
        if there is not None and there.spec != of.spec:
            raise TakenError(location, there)


def _compare(location: Location, upload: Upload, found: int | None) -> None:
    """Make sure that what was said to be stored is there."""
    if found != upload.size:
        raise TargetError(
            f"{location.label}: {upload.name} was stored, and"
            f" {'is not there' if found is None else f'has {found} bytes instead of {upload.size}'}",
            hint="do not trust this location before you have found out why",
            retryable=True,
        )


def _may_pass(error: Exception) -> bool:
    return isinstance(error, TargetError) and error.retryable


async def _clear(location: Location, part: str) -> None:
    """Remove what a try has left that nobody will go on with; the next run's sweep finds what stays."""
    with contextlib.suppress(TargetError, TimeoutError):
        async with asyncio.timeout(_PATIENCE), location.connect(again=True) as remote:
            await remote.delete(part)


def _of_bytes(content: bytes) -> Callable[[int], AsyncIterator[bytes]]:
    async def blocks(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(content), BLOCK):
            yield content[at : at + BLOCK]

    return blocks


def _reader(
    path: Path, sha256: str, terms: Terms, progress: Progress
) -> Callable[[int], AsyncIterator[bytes]]:
    async def blocks(offset: int) -> AsyncIterator[bytes]:
        """Yield the file from an offset on; what lies before it is read, too, for the digest is of all."""
        digest, at = hashlib.sha256(), 0
        source = await in_thread(terms.executor, _open, path)
        with contextlib.closing(source):
            while content := await in_thread(terms.executor, _read, source, path, digest):
                new = content[max(0, offset - at) :]
                at += len(content)
                for piece in terms.rate.pieces(new):
                    await terms.rate.take(len(piece))
                    yield piece
                progress.file_bytes = at
        if digest.hexdigest() != sha256:
            raise DamagedError(
                f"{path}: it is not what was written, and was not stored elsewhere",
                hint="asyncbackup check tells what is wrong; the next backup is a new one",
            )

    return blocks


def _open(path: Path) -> FileIO:
    try:
        source = open_backup(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    with contextlib.suppress(OSError):  # advice is not heard everywhere
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return source


def _read(source: FileIO, path: Path, digest: "hashlib._Hash") -> bytes:
    try:
        content = source.read(_READ)
    except OSError as error:
        raise _unreadable(path, error) from error
    digest.update(content)
    return content


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: it cannot be read: {error.strerror}", hint="check the backup volume")
