"""Which backup a restore takes: the newest good one of a database, or the one that somebody names."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from asyncbackup import conf, dbspec, inventory, naming
from asyncbackup.errors import ManifestError, NoBackupError, UsageError
from asyncbackup.model import Backup, DatabaseSpec, Manifest, Tier
from asyncbackup.retention import CLOCK_SKEW

_LIST = "`asyncbackup list` shows all there are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A backup to restore, its manifest in full, and what to say of the choice."""

    backup: Backup
    manifest: Manifest | None
    notes: tuple[str, ...] = ()


def select(root: Path, configured: conf.Conf, spec: DatabaseSpec, pattern: str, now: datetime) -> Selected:
    """Choose a backup of the database: the newest good one, or the newest whose path holds `pattern`.

    A pattern that is the path of a file means that very file, wherever it lies. Raises NoBackupError,
    and UsageError for a file that is another database's.
    """
    found = inventory.scan(root)
    owners = naming.Owners.build([*configured.databases, spec], configured.patterns, dbspec.matches)
    series = inventory.series(found, spec, owners)
    if not pattern:
        return _newest(root, spec, series, now)
    exact = [one for one in series if pattern in {str(one.path), one.path.name}]
    if exact:
        return _described(exact[0])
    elsewhere = _file(found, owners, pattern)
    if elsewhere is not None:
        return _vouched(elsewhere, spec)
    matching = [one for one in series if pattern in str(one.path)]
    if not matching:
        raise NoBackupError(_no_match(found, spec, pattern), hint=_LIST)
    chosen = _newest(root, spec, matching, now)
    if len(matching) == 1:
        return chosen
    note = f"{len(matching)} backups match {dbspec.shown(pattern)}; this is the newest of them"
    return replace(chosen, notes=(note, *chosen.notes))


def _newest(
    root: Path, spec: DatabaseSpec, backups: "tuple[Backup, ...] | list[Backup]", now: datetime
) -> Selected:
    """Return the newest that is good; one from the future never takes a real one's place."""
    good = [one for one in backups if one.good]
    if not good:
        damaged = f"; {len(backups)} are there, but damaged" if backups else ""
        raise NoBackupError(f"{spec}: there is no good backup in {root}{damaged}", hint=_LIST)
    chosen = max(good, key=lambda one: (one.taken_at <= now + CLOCK_SKEW, not one.bad, one.taken_at))
    skipped = [one for one in backups if one.taken_at > chosen.taken_at]
    return _described(chosen, tuple(f"{one.path.name} is newer, but {_fault(one)}" for one in skipped))


def _fault(backup: Backup) -> str:
    if not backup.good:
        return f"damaged: {backup.problem}"
    return "its test restore has failed" if backup.bad else "from the future"


def _described(backup: Backup, notes: tuple[str, ...] = ()) -> Selected:
    """Read the whole manifest; one that is only lost leaves a file that may still be whole."""
    try:
        manifest = inventory.read_manifest(backup.path)
    except ManifestError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        manifest = None
    if manifest is None and inventory.is_ours(backup.path):
        notes = (*notes, "its manifest is missing: only what gzip and the dump's end tell could be checked")
    return Selected(backup=backup, manifest=manifest, notes=notes)


def _file(found: inventory.Inventory, owners: naming.Owners, pattern: str) -> Backup | None:
    """Return the backup that a path or a whole name stands for, though no series claims it."""
    for entry in found.entries:
        if pattern in {str(entry.path), entry.path.name}:
            return inventory.load(entry, owners)
    path = Path(pattern)
    if "/" not in pattern or not path.is_file() or path.is_symlink():
        return None
    parsed = naming.parse_name(path.name)
    return Backup(
        path=path,
        core=parsed.core if parsed else "",
        tier=Tier.DATED,
        taken_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        bytes=path.stat().st_size,
        good=True,
    )


def _vouched(backup: Backup, spec: DatabaseSpec) -> Selected:
    chosen = _described(backup)
    whose = chosen.manifest.spec if chosen.manifest else backup.spec
    if whose is not None and whose != spec:
        words = (dbspec.spec_text(whose), "-f", str(backup.path), "--to", dbspec.spec_text(spec))
        raise UsageError(
            f"{backup.path} is a backup of {whose}, not of {spec}",
            hint=f"asyncbackup restore {' '.join(words)}",
        )
    if chosen.manifest:
        return replace(chosen, backup=replace(backup, taken_at=chosen.manifest.started_at, spec=spec))
    note = f"nothing but your word says that it is a backup of {spec}"
    return replace(chosen, notes=(note, *chosen.notes))


def _no_match(found: inventory.Inventory, spec: DatabaseSpec, pattern: str) -> str:
    said = f"{spec}: no backup's path holds {dbspec.shown(pattern)}"
    others = sum(pattern in str(entry.path) for entry in found.entries)
    return f"{said}; {others} of other databases do" if others else said
