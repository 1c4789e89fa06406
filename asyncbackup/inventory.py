"""What lies in the backup directory: found by exact names, known by manifests, never guessed.

One walk finds everything; manifests are read only for the series that somebody asks about. What is
no backup (foreign files, links, FIFOs, folders named like backups) is not seen at all.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from asyncbackup import locks, naming, volume
from asyncbackup import manifest as manifests
from asyncbackup import records as records_of
from asyncbackup.errors import ManifestError, StorageError
from asyncbackup.model import Backup, DatabaseSpec, Manifest, Tier
from asyncbackup.stream import MARK

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_GZIP_HEADER = 10
_MAX_MANIFEST = 1 << 30
_TORN = b'{"format": "asyncbackup-manifest"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file named exactly like a backup, before anything was opened."""

    path: Path
    core: str
    stamp: datetime
    tier: Tier
    bytes: int
    has_manifest: bool
    records: tuple[Path, ...] = ()
    """Where verification records of that name lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One walk through the backup directory."""

    root: Path
    by_core: Mapping[str, tuple[Entry, ...]]
    partials: tuple[Path, ...]
    """Files of dumps that have not ended, ours or not, alive or not."""
    orphans: tuple[Path, ...]
    """Manifests and verification records without data."""
    unreadable: tuple[Path, ...] = ()
    """Folders that another user's job has made, and closed to us."""
    records: Path | None = None
    """Our own folder for verification records."""

    def of(self, cores: Collection[str]) -> tuple[Entry, ...]:
        """Return the entries with one of these cores."""
        return tuple(entry for core in cores for entry in self.by_core.get(core, ()))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return all entries."""
        return tuple(entry for entries in self.by_core.values() for entry in entries)


def scan(root: Path, records: Path | None = None) -> Inventory:
    """Walk the backup directory; one that does not exist yet is empty.

    Verification records are looked for beside the backups, and in the folder `records` if there is one.
    Raises StorageError when the backup directory cannot be read.
    """
    entries: list[Entry] = []
    partials: list[Path] = []
    orphans: list[Path] = []
    unreadable: list[Path] = []
    apart = _listed(records, unreadable)
    try:
        for tier, day in _days(root):
            try:
                _scan_day(day, tier, apart, entries, partials, orphans)
            except PermissionError:
                unreadable.append(day)
    except OSError as error:
        raise StorageError(
            f"cannot read the backup directory {root}: {error.strerror}",
            hint="check BACKUP_DIR and the rights of the user that runs asyncbackup",
        ) from error
    by_core: dict[str, list[Entry]] = {}
    for entry in entries:
        by_core.setdefault(entry.core, []).append(entry)
    return Inventory(
        root=root,
        by_core={core: tuple(of_core) for core, of_core in by_core.items()},
        partials=tuple(partials),
        orphans=tuple(orphans),
        unreadable=tuple(unreadable),
        records=records,
    )


def _listed(records: Path | None, unreadable: list[Path]) -> dict[str, Path]:
    """Return what lies in our own folder for records, by name."""
    if records is None:
        return {}
    try:
        return {path.name: path for path in records.iterdir() if path.name.endswith(naming.RECORD)}
    except FileNotFoundError:
        return {}  # nothing was written there yet
    except OSError:
        unreadable.append(records)
        return {}


def _days(root: Path) -> Iterator[tuple[Tier, Path]]:
    for name in _folders(root):
        if _DAY.fullmatch(name):
            yield Tier.DATED, root / name
        elif name in {Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY}:
            for day in _folders(root / name):
                if _DAY.fullmatch(day):
                    yield Tier(name), root / name / day


def _folders(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as found:
        return sorted(item.name for item in found if item.is_dir(follow_symlinks=False))
    return []


def _scan_day(
    day: Path,
    tier: Tier,
    apart: Mapping[str, Path],
    entries: list[Entry],
    partials: list[Path],
    orphans: list[Path],
) -> None:
    with contextlib.suppress(FileNotFoundError), os.scandir(day) as found:
        files = {item.name: item for item in found if item.is_file(follow_symlinks=False)}
        for name, item in files.items():
            if name.endswith(naming.SUFFIX):
                parsed = naming.parse_name(name)
                if parsed is None:
                    continue
                with contextlib.suppress(FileNotFoundError):  # pruned by another job, this moment
                    entries.append(
                        Entry(
                            path=day / name,
                            core=parsed.core,
                            stamp=parsed.stamp,
                            tier=tier,
                            bytes=item.stat(follow_symlinks=False).st_size,
                            has_manifest=name + naming.MANIFEST in files,
                            records=_records(day, name + naming.RECORD, files, apart),
                        )
                    )
            elif name.endswith(naming.PARTIAL):
                if naming.parse_name(name.removesuffix(naming.PARTIAL)):
                    partials.append(day / name)
            elif name.endswith(naming.MANIFEST):
                data = name.removesuffix(naming.RECORD).removesuffix(naming.MANIFEST)
                if data not in files and naming.parse_name(data):
                    orphans.append(day / name)


def _records(day: Path, name: str, files: Collection[str], apart: Mapping[str, Path]) -> tuple[Path, ...]:
    """Return where the records of this name lie; of most backups there are none, so that this is quick."""
    beside = (day / name,) if name in files else ()
    return (*beside, apart[name]) if name in apart else beside


def read_manifest(backup: Path, *, brief: bool = False) -> Manifest:
    """Read the manifest that lies beside a backup, whole or in brief; raises ManifestError."""
    path = backup.with_name(backup.name + naming.MANIFEST)
    try:
        data = volume.read(path, _MAX_MANIFEST)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    try:
        return manifests.from_json(data, brief=brief)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error.message}", hint=error.hint) from error


def is_ours(path: Path) -> bool:
    """Whether this program began the file: its gzip header carries our mark."""
    try:
        return volume.read(path, _GZIP_HEADER + len(MARK))[_GZIP_HEADER:] == MARK
    except OSError:
        return False


def load(entry: Entry, owners: naming.Owners) -> Backup:
    """Find out all that can be known of an entry, taken by itself, without reading its data.

    A file without a manifest is the bash tool's and counts as good, unless it bears our mark: then its
    manifest was lost, and it does not. Whose it is, `owners` tells by its name, if that is certain.
    """
    taken_at = entry.stamp.astimezone(UTC)
    manifest, problem = None, ""
    if entry.has_manifest:
        try:
            manifest = read_manifest(entry.path, brief=True)
        except ManifestError as error:
            problem = error.message
    elif is_ours(entry.path):
        problem = "its manifest is missing"
    if manifest is not None:
        if manifest.file.name != entry.path.name:
            problem = f"its manifest is that of {manifest.file.name}"
        elif manifest.file.bytes != entry.bytes:
            problem = f"it has {entry.bytes} bytes, its manifest says {manifest.file.bytes}"
        taken_at = manifest.started_at
    elif not entry.bytes:
        problem = problem or "it is empty"
    verification, note = records_of.attach(entry.records, entry.path.name, entry.bytes, manifest)
    whose = (manifest.spec,) if manifest else owners.of(entry.core)
    return Backup(
        path=entry.path,
        core=entry.core,
        tier=entry.tier,
        taken_at=taken_at,
        bytes=entry.bytes,
        good=not problem,
        spec=whose[0] if len(whose) == 1 else None,
        manifest=manifest,
        problem=problem,
        verification=verification,
        note=note,
    )


def load_all(inventory: Inventory, cores: Collection[str], owners: naming.Owners) -> tuple[Backup, ...]:
    """Load the entries with these cores; the manifests of a core cast doubt on what has none there.

    Where one names another series, that one has written such names, and the file may be its only one.
    """
    loaded = [load(entry, owners) for entry in inventory.of(cores)]
    proven: dict[str, set[DatabaseSpec]] = {}
    for backup in loaded:
        if backup.manifest:
            proven.setdefault(backup.core, set()).add(backup.manifest.spec)
    return tuple(
        backup
        if backup.manifest or proven.get(backup.core, set()) <= {backup.spec}
        else replace(backup, spec=None)
        for backup in loaded
    )


def cores_of(spec: DatabaseSpec) -> frozenset[str]:
    """Return every core that a file of the series may carry."""
    return frozenset({naming.short_core(spec), naming.long_core(spec), naming.legacy_core(spec)})


def series(inventory: Inventory, spec: DatabaseSpec, owners: naming.Owners) -> tuple[Backup, ...]:
    """Return the backups that are for certain those of one series, newest first."""
    found = load_all(inventory, cores_of(spec), owners)
    return tuple(sorted((b for b in found if b.spec == spec), key=lambda b: b.taken_at, reverse=True))


def sweep(inventory: Inventory, spec: DatabaseSpec, owners: naming.Owners) -> tuple[Path, ...]:
    """Remove what a run of ours that was killed left of this series; call it under the series' lock.

    That is: partials that bear our mark and that nobody writes any more, and manifests and verification
    records of this series without data.
    """
    removed = []
    for path in inventory.partials:
        parsed = naming.parse_name(path.name.removesuffix(naming.PARTIAL))
        if parsed and _certain(parsed.core, spec, inventory, owners) and _abandoned(path):
            removed.extend(_unlink(path))
    for path in inventory.orphans:
        data = path.with_name(path.name.removesuffix(naming.RECORD).removesuffix(naming.MANIFEST))
        parsed = naming.parse_name(data.name)
        if not parsed or data.exists() or parsed.core not in cores_of(spec):
            continue
        try:
            of_record = path.name.endswith(naming.RECORD)
            of = records_of.read(path) if of_record else read_manifest(data, brief=True)
            stale = DatabaseSpec(of.host, of.port, of.dbname) == spec
        except ManifestError:
            stale = _torn(path) and _certain(parsed.core, spec, inventory, owners)
        if stale:
            removed.extend(_unlink(path))
    return tuple(removed)


def _abandoned(partial: Path) -> bool:
    """Whether it is ours, and its run is no more.

    A job with a configuration of its own may write another series under the same short name.
    """
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return is_ours(partial) and locks.claim(descriptor)
    finally:
        os.close(descriptor)


def _certain(core: str, spec: DatabaseSpec, inventory: Inventory, owners: naming.Owners) -> bool:
    """Whether what we left under this core, without a manifest that can be read, is of this series."""
    if owners.of(core, ours=True) != (spec,):
        return False
    proven = (backup.manifest for backup in load_all(inventory, {core}, owners))
    return all(manifest.spec == spec for manifest in proven if manifest)


def _torn(path: Path) -> bool:
    """Whether a crash cut this manifest of ours short: it is empty, or begins as ours do."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(_TORN)) in {b"", _TORN}
    return False


def _unlink(path: Path) -> list[Path]:
    try:
        path.unlink()
    except OSError:
        return []
    return [path]
