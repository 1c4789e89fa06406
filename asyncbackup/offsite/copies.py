"""What lies at a secondary location, read from a listing of names and sizes: pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asyncbackup import naming, retention
from asyncbackup.model import Backup, DatabaseSpec, Manifest, Policy, StoredFile

_ABANDONED = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A file named exactly like a backup; its manifest, stored last, is what commits it."""

    name: str
    core: str
    stamp: datetime
    bytes: int
    committed: bool

    @property
    def taken_at(self) -> datetime:
        """When it was taken, as its name tells in local time."""
        return self.stamp.astimezone(UTC)


def copies(listing: Mapping[str, int], cores: Collection[str] | None = None) -> tuple[Copy, ...]:
    """Return the backups of a listing, or those with one of these cores, newest first."""
    found = []
    for name, size in listing.items():
        parsed = naming.parse_name(name)
        if parsed and (cores is None or parsed.core in cores):
            committed = name + naming.MANIFEST in listing
            found.append(
                Copy(name=name, core=parsed.core, stamp=parsed.stamp, bytes=size, committed=committed)
            )
    return tuple(sorted(found, key=lambda copy: (copy.stamp, copy.name), reverse=True))


def orphans(listing: Mapping[str, int], cores: Collection[str]) -> tuple[str, ...]:
    """Return the manifests with one of these cores whose data is not there: a removal that was cut short."""
    found = []
    for name in listing:
        data = name.removesuffix(naming.MANIFEST)
        parsed = naming.parse_name(data)
        if data != name and data not in listing and parsed and parsed.core in cores:
            found.append(name)
    return tuple(found)


def abandoned(listing: Mapping[str, int], cores: Collection[str], now: datetime) -> tuple[str, ...]:
    """Return what uploads that were killed have left of these cores; what is younger may be under way.

    Such names are ours alone, and whoever is still at it after so long begins anew.
    """
    found = []
    for name in listing:
        whole = naming.parse_part(name)
        parsed = naming.parse_name(whole.removesuffix(naming.MANIFEST)) if whole else None
        if parsed and parsed.core in cores and parsed.stamp.astimezone(UTC) < now - _ABANDONED:
            found.append(name)
    return tuple(found)


_VOUCHED = Manifest(
    host="",
    port=0,
    dbname="",
    kind="",
    run_id="",
    started_at=datetime.fromtimestamp(0, UTC),
    finished_at=datetime.fromtimestamp(0, UTC),
    local_time="",
    server_version="",
    client_version="",
    loads_into=0,
    file=StoredFile(name="", bytes=0, sha256="", compressor="", level=0),
    sql_bytes=0,
    rows=0,
    table_count=0,
    encoding="",
    outside_blake3="",
    restricted=False,
)
"""Stands for any manifest that was seen to be good: retention only asks whether there is one."""


def light(backup: Backup) -> Backup:
    """Return a backup without what its manifest says: a thousand may wait for their turn to be copied."""
    return replace(backup, manifest=_VOUCHED) if backup.manifest else backup


def as_backup(copy: Copy, spec: DatabaseSpec, policy: Policy) -> Backup:
    """Return a copy whose manifest was seen to be that of `spec`, as retention looks at backups."""
    return Backup(
        path=Path(copy.name),
        core=copy.core,
        tier=retention.tier(policy, copy.stamp),
        taken_at=copy.taken_at,
        bytes=copy.bytes,
        good=True,
        spec=spec,
        manifest=_VOUCHED,
    )


def flat(backup: Backup, policy: Policy) -> Backup:
    """Return a local backup as it would lie at the location, where there are no folders."""
    stamp = naming.parse_name(backup.path.name)
    assert stamp is not None and backup.spec is not None  # noqa: S101, PT018 - it was found by that name
    copy = Copy(
        name=backup.path.name, core=backup.core, stamp=stamp.stamp, bytes=backup.bytes, committed=True
    )
    return as_backup(copy, backup.spec, policy)


def lacking(
    stored: Collection[Backup], local: Iterable[Backup], policy: Policy, now: datetime
) -> tuple[Backup, ...]:
    """Return the local backups that belong at the location beside what is `stored` there, newest first.

    That is, those that its retention would keep. Both are of one series; `local` are good, and not there.
    """
    by_name = {backup.path.name: backup for backup in local}
    candidates = [flat(backup, policy) for backup in by_name.values()]
    plan = retention.plan((*stored, *candidates), policy, now)
    return tuple(by_name[kept.path.name] for kept in plan.keep if kept.path.name in by_name)


def irreplaceable(
    stored: Collection[Backup], local: Iterable[Backup], policy: Policy, now: datetime
) -> tuple[Backup, ...]:
    """Return those of the local backups that must stay, since the location does not have them yet.

    One may go when so many newer ones are there that the location would not keep it either.
    """
    return tuple(backup for backup in local if lacking(stored, (backup,), policy, now))
