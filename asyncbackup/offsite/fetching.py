"""Getting backups back: which copy is meant, and down to the very folder and name it once had."""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import stamina

from asyncbackup import inventory, locks, naming, retention, volume
from asyncbackup.errors import AsyncbackupError, DamagedError, NoBackupError, StorageError, TargetError
from asyncbackup.events import Events
from asyncbackup.model import DatabaseSpec, Manifest, Policy
from asyncbackup.offsite import copies as copies_of
from asyncbackup.offsite.copies import Copy
from asyncbackup.offsite.location import Location
from asyncbackup.offsite.stock import read_manifest
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread
from asyncbackup.unpack import open_backup

_WRITE = 4 << 20  # bytes that are collected before a thread writes them
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A backup at a location."""

    location: Location
    copy: Copy
    spec: DatabaseSpec
    manifest: Manifest | None
    """None for a backup that the bash tool has made, and stored there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A backup directory to put backups into."""

    root: Path
    lock_folder: Path
    policy: Policy
    file_mode: int
    executor: Executor
    run_id: str

    def path(self, copy: Copy) -> Path:
        """Return where a backup of that name belongs."""
        return self.root.joinpath(*self.folders(copy), copy.name)

    def folders(self, copy: Copy) -> tuple[str, ...]:
        """Return the folders of its tier and day."""
        return volume.parts(retention.tier(self.policy, copy.stamp), copy.stamp)


async def find(
    locations: Sequence[Location],
    spec: DatabaseSpec,
    owners: naming.Owners,
    now: datetime,
    pattern: str,
    events: Events,
    unread: set[str],
) -> Found:
    """Return the newest copy of a series whose name holds the pattern, wherever it lies.

    Raises NoBackupError where none has, and the first location's TargetError where none could be asked. Those
    of the others are told of, unless they stand in `unread` already.
    """
    errors: list[TargetError] = []
    found: list[Found] = []
    for location in locations:
        try:
            one = await _find_at(location, spec, owners, now, pattern, events)
        except TargetError as error:
            errors.append(error)
            tell_unread(location, error, events, unread)
            continue
        if one is not None:
            found.append(one)
    if found:
        return max(found, key=lambda one: (one.manifest is not None, *_age(one.copy, now)))
    if errors and len(errors) == len(locations):
        raise errors[0]
    where = " or ".join(location.label for location in locations)
    with_text = f" whose name holds {pattern!r}" if pattern else ""
    raise NoBackupError(
        f"{spec}: there is no backup{with_text} at {where}",
        hint="`asyncbackup list --remote` shows what there is",
    )


def tell_unread(location: Location, error: TargetError, events: Events, unread: set[str]) -> None:
    """Tell of a location that could not be asked, once for each `unread`."""
    if location.label not in unread:
        unread.add(location.label)
        events.warning("remote.unread", location=location.label, error=str(error), hint=error.hint)


def _age(copy: Copy, now: datetime) -> tuple[bool, datetime]:
    """Return what the newest has most of; a clock that was wrong must not make an old backup the newest."""
    return copy.taken_at <= now + retention.CLOCK_SKEW, copy.taken_at


async def _find_at(
    location: Location,
    spec: DatabaseSpec,
    owners: naming.Owners,
    now: datetime,
    pattern: str,
    events: Events,
) -> Found | None:
    """Return the newest that its manifest says is of the series; else the newest of the bash tool's."""
    listing = await location.listing()
    candidates = [
        copy for copy in copies_of.copies(listing, inventory.cores_of(spec)) if pattern in copy.name
    ]
    candidates.sort(key=lambda copy: _age(copy, now), reverse=True)
    committed = [copy for copy in candidates if copy.committed]
    if committed:
        async with location.connect() as remote:
            for copy in committed:
                manifest = await read_manifest(remote, copy.name, brief=False)
                if manifest is not None and manifest.spec != spec:
                    continue
                if manifest is not None and manifest.file.bytes == copy.bytes:
                    return Found(location=location, copy=copy, spec=spec, manifest=manifest)
                said = "its manifest cannot be relied on, and it is passed over"
                if manifest is not None:
                    said = f"it has {copy.bytes} bytes instead of {manifest.file.bytes}, and is passed over"
                bound = events.bind(location=location.label, file=copy.name)
                bound.error("remote.check_failed", category="damaged", problems=[f"{copy.name}: {said}"])
    for copy in candidates:
        if not copy.committed and owners.of(copy.core) == (spec,):
            return Found(location=location, copy=copy, spec=spec, manifest=None)
    return None


async def fetch(
    found: Found, place: Place, events: Events, progress: Progress, *, retries: int, retry_delay: float
) -> Path:
    """Bring a backup into the backup directory, under its own name; return its path.

    It is published as a new one is: only once it is whole, and its bytes are those that its manifest says. A
    file of that name that is there already is left as it is; unless it is the very same, that is a
    StorageError. Also raises TargetError, DamagedError, LockedError.
    """
    path = place.path(found.copy)
    if await in_thread(place.executor, _is_here, path, found):
        return path
    core = naming.long_core(found.spec)
    lock = locks.hold(place.lock_folder, core, str(found.spec), place.run_id)
    with contextlib.ExitStack() as stack:

        def hold() -> None:
            volume.make_root(place.root, place.file_mode)
            stack.enter_context(lock)

        await in_thread(place.executor, hold)
        events.emit("fetch.started", location=found.location.label, path=str(path), bytes=found.copy.bytes)
        last: Exception | None = None
        async for attempt in stamina.retry_context(
            on=_may_pass,
            attempts=retries + 1,
            timeout=None,
            wait_initial=retry_delay,
            wait_max=max(_LONGEST_PAUSE, retry_delay),
            wait_jitter=retry_delay / 4,
        ):
            with attempt:
                if last is not None:
                    events.warning("fetch.retried", attempt=attempt.num, error=str(last))
                try:
                    await _fetch(found, place, path, progress, again=last is not None)
                except AsyncbackupError as error:
                    last = error
                    raise
        events.emit("fetch.finished", location=found.location.label, path=str(path), bytes=found.copy.bytes)
    return path


def _is_here(path: Path, found: Found) -> bool:
    """Whether the very same file is there, compared by its bytes; raises StorageError where another is."""
    if not os.path.lexists(path):
        return False
    try:
        with open_backup(path) as file:
            same = os.fstat(file.fileno()).st_size == found.copy.bytes
            if same and found.manifest is not None:
                same = hashlib.file_digest(file, "sha256").hexdigest() == found.manifest.file.sha256
    except OSError as error:
        raise StorageError(f"{path}: it cannot be read: {error.strerror}", hint="move it away") from error
    if not same:
        raise StorageError(
            f"{path} is there already, and is not what lies at {found.location.label}",
            hint="asyncbackup check tells whether it is damaged: move it away, or fetch elsewhere (--to)",
        )
    return True


def _may_pass(error: Exception) -> bool:
    return isinstance(error, TargetError) and error.retryable


async def _fetch(found: Found, place: Place, path: Path, progress: Progress, *, again: bool) -> None:
    digest, size = hashlib.sha256(), 0
    async with _partial(found, place) as partial:
        async with found.location.connect(again=again) as remote, remote.get(found.copy.name) as blocks:
            pending = bytearray()
            async for block in blocks:
                pending += block
                size += len(block)
                if len(pending) >= _WRITE:
                    await in_thread(place.executor, _write, partial, digest, bytes(pending))
                    pending.clear()
                progress.file_bytes = size
            await in_thread(place.executor, _write, partial, digest, bytes(pending))
        expected = found.manifest.file if found.manifest else None
        wanted = expected.bytes if expected else found.copy.bytes
        if size != wanted or (expected and digest.hexdigest() != expected.sha256):
            raise DamagedError(
                f"{found.location.label}: {found.copy.name} is not what was stored there:"
                f" {size} bytes came, of SHA-256 {digest.hexdigest()}",
                hint="take another backup (-f), and find out what happened to that location",
            )
        await in_thread(place.executor, _publish, partial, found, path)


@contextlib.asynccontextmanager
async def _partial(found: Found, place: Place) -> AsyncIterator[volume.Partial]:
    with contextlib.ExitStack() as stack:

        def begin() -> volume.Partial:
            names = place.folders(found.copy)
            folder = stack.enter_context(volume.open_folder(place.root, names, file_mode=place.file_mode))
            return stack.enter_context(volume.partial(folder, found.copy.core, found.copy.stamp))

        yield await in_thread(place.executor, begin)


def _write(partial: volume.Partial, digest: "hashlib._Hash", content: bytes) -> None:
    digest.update(content)
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[partial.file.write(rest) :]
    except OSError as error:
        raise StorageError(
            f"cannot write {partial.folder.path / partial.name}: {error.strerror}",
            hint="free some space on the backup volume, or fetch elsewhere (--to)",
        ) from error


def _publish(partial: volume.Partial, found: Found, path: Path) -> None:
    manifest = found.manifest
    if manifest is None:
        volume.place(partial, found.copy.name)
        return

    def describe(name: str) -> Manifest:
        if name != found.copy.name:
            raise StorageError(f"{path} is there already", hint="remove it first if it is not what you want")
        return manifest

    volume.publish(partial, found.copy.core, found.copy.stamp, describe)
