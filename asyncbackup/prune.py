"""Removing what retention does not keep: only certain files, data first, and empty folders after."""

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from asyncbackup import locks, naming, volume
from asyncbackup.errors import StorageError
from asyncbackup.model import Backup, Plan

_SIDECARS = (naming.MANIFEST, naming.RECORD, naming.RECORD_PART)
_WAIT = 30.0  # seconds for the folder's lock, which is only ever held for moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What was removed, and what could not be."""

    removed: tuple[Path, ...]
    problems: tuple[str, ...]


def carry_out(plan: Plan, root: Path, lock_folder: Path, run_id: str, records: Path | None = None) -> Removal:
    """Remove what the plan removes, oldest first; call it under the series' lock.

    Data goes before its manifest: what is left by a crash in between is a manifest without data,
    which the next run sweeps. A file that is already gone is no problem.
    """
    return remove(tuple(reversed(plan.remove)), root, lock_folder, run_id, records)


def remove(
    backups: Collection[Backup], root: Path, lock_folder: Path, run_id: str, records: Path | None = None
) -> Removal:
    """Remove these backups with their manifests and records, and the folders that are empty then.

    Records in the folder `records` go, too, where we may remove them; one that stays does no harm.
    """
    removed: list[Path] = []
    problems: list[str] = []
    if not backups:
        return Removal(removed=(), problems=())
    with locks.hold(lock_folder, "@folder", f"the backup directory {root}", run_id, wait=_WAIT):
        for backup in backups:
            try:
                with volume.existing(root, backup.path.parent) as folder:
                    for suffix in ("", *_SIDECARS):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(backup.path.name + suffix, dir_fd=folder)
            except FileNotFoundError:
                pass  # another job has removed it, folder and all
            except OSError as error:
                problems.append(f"cannot remove {backup.path}: {error.strerror}")
                continue
            removed.append(backup.path)
            if records is not None:
                with contextlib.suppress(OSError):
                    (records / (backup.path.name + naming.RECORD)).unlink()
            _remove_empty(backup.path.parent, root)
    return Removal(removed=tuple(removed), problems=tuple(problems))


def _remove_empty(folder: Path, root: Path) -> None:
    with contextlib.suppress(OSError):  # not empty, or gone: both are fine
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def raise_problems(removal: Removal) -> None:
    """Raise StorageError when something could not be removed."""
    if removal.problems:
        raise StorageError("; ".join(removal.problems), hint="check the rights on the backup directory")
