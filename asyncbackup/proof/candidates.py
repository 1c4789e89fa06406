"""Which backups to verify: the newest of each series, and in what turn."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from asyncbackup import conf, dbspec, inventory, naming, records
from asyncbackup.model import Backup, DatabaseSpec
from asyncbackup.retention import CLOCK_SKEW
from asyncbackup.settings import Settings

_CLOCKS_ARE_SET_BACK = timedelta(hours=3)  # the names of backups tell local time
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def choose(
    settings: Settings,
    configured: conf.Conf,
    *,
    only: tuple[DatabaseSpec, ...],
    required: tuple[DatabaseSpec, ...],
    pattern: str,
    now: datetime,
    closed: list[Path] | None = None,
) -> tuple[tuple[Backup, ...], tuple[DatabaseSpec, ...]]:
    """Return the newest backup of each series, in the order of their turn, and those of `required` without.

    Roles and tablespaces come first: they are loaded into a server where nobody else has made any. Then
    comes what was verified longest ago, and of those never verified, the largest. `closed` gets the folders
    that could not be looked into: there may be newer ones in them.
    """
    found = inventory.scan(settings.backup_dir, records.folder(settings.verify_dir))
    if closed is not None:
        closed += found.unreadable
    owners = naming.Owners.build({*configured.databases, *only}, configured.patterns, dbspec.matches)
    cores = (
        dict.fromkeys(core for spec in only for core in inventory.cores_of(spec)) if only else found.by_core
    )
    newest: dict[DatabaseSpec | str, Backup] = {}
    for core in cores:
        for backup in _candidates(found, core, owners, pattern, now):
            key = backup.spec or backup.core
            if (only and backup.spec not in only) or not _newer(backup, newest.get(key), now):
                continue
            newest[key] = backup
    missing = tuple(spec for spec in required if spec not in newest)
    return tuple(sorted(newest.values(), key=_turn)), missing


def _candidates(
    found: inventory.Inventory, core: str, owners: naming.Owners, pattern: str, now: datetime
) -> tuple[Backup, ...]:
    """Load what could be the newest of a series with this core; of most cores, that is one file."""
    entries = [entry for entry in found.of({core}) if pattern in str(entry.path)]
    if not entries:
        return ()
    if len(owners.of(core)) == 1:
        real = [entry for entry in entries if entry.stamp.astimezone(UTC) <= now + CLOCK_SKEW] or entries
        newest = max(entry.stamp for entry in real)
        near = [
            inventory.load(entry, owners) for entry in real if newest - entry.stamp < _CLOCKS_ARE_SET_BACK
        ]
        if all(backup.manifest and (backup.spec,) == owners.of(core) for backup in near):
            return tuple(near)
    paths = {entry.path for entry in entries}
    return tuple(one for one in inventory.load_all(found, {core}, owners) if one.path in paths)


def _newer(backup: Backup, than: Backup | None, now: datetime) -> bool:
    """Whether it takes the other's place; one from the future never takes a real one's."""
    if than is None:
        return True
    real = [one.taken_at <= now + CLOCK_SKEW for one in (backup, than)]
    return backup.taken_at > than.taken_at if real[0] == real[1] else real[0]


def _turn(backup: Backup) -> tuple[bool, datetime, int]:
    of_globals = backup.spec is not None and backup.spec.is_globals
    last = backup.verification.started_at if backup.verification else _NEVER
    return not of_globals, last, -backup.bytes
