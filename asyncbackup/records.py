"""Verification records: how the result of a test restore is kept, and told apart from those of others.

A record lies beside its backup, or in a folder of our own where the backup's cannot be written. It
counts for one file only: the very bytes that were read. What is damaged or of another file counts for
nothing, and never against a backup.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asyncbackup import naming, volume
from asyncbackup.errors import ManifestError, StorageError
from asyncbackup.model import Manifest, Verdict, Verification
from asyncbackup.sealed import Form

FORMAT = "asyncbackup-verification"
VERSION = 1

_FORM = Form(Verification, FORMAT, VERSION, "verification record")
_MAX = 1 << 28  # bytes: far more than any record has
_TRIES = 5
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def folder(verify_dir: Path | None) -> Path | None:
    """Return our own folder for records, in `VERIFY_DIR`; None where that is not set."""
    return None if verify_dir is None else verify_dir / "records"


def to_json(verification: Verification) -> bytes:
    """Return the record as it is written."""
    return _FORM.to_json(verification)


def from_json(data: bytes) -> Verification:
    """Read a record, or raise ManifestError saying what is wrong with it."""
    found = _FORM.from_json(data)
    if found.started_at.utcoffset() is None:
        raise ManifestError("its time has no zone")
    return found


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the file."""
    return _FORM.schema()


def read(path: Path) -> Verification:
    """Read a record's file, following no link; raises ManifestError."""
    try:
        data = volume.read(path, _MAX)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    try:
        return from_json(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error.message}", hint=error.hint) from error


def attach(
    paths: Iterable[Path], name: str, size: int, manifest: Manifest | None
) -> tuple[Verification | None, str]:
    """Return the newest record of a backup among these, and a note on those that are none of it.

    One that came to no verdict hides none that did, however new it is.
    """
    found: list[Verification] = []
    note = ""
    for path in paths:
        try:
            record = read(path)
        except ManifestError as error:
            note = f"a verification record cannot be read: {error.message}"
            continue
        if _fits(record, name, size, manifest):
            found.append(record)
        else:
            note = f"{path} is the verification record of another file"
    found.sort(key=lambda record: (record.verdict is not Verdict.UNVERIFIED, record.started_at))
    return (found[-1] if found else None), note


def _fits(record: Verification, name: str, size: int, manifest: Manifest | None) -> bool:
    """Whether a record is of this file, as far as that can be told without reading the file."""
    if record.name != name:
        return False
    if manifest is None:
        return record.bytes == size
    if record.sha256 == manifest.file.sha256:
        return True
    # It was read, and was not what the manifest says: just that was found bad.
    return record.verdict is Verdict.BAD and record.bytes == size


def write(
    verification: Verification, backup: Path, own: Path | None, file_mode: int, *, root: Path | None = None
) -> Path:
    """Write the record beside its backup, else into the folder `own`; return its path.

    An older record of the same backup is replaced, but one that came to a verdict on this very file
    never by one that did not: then the path returned is that record's. Below `root`, the backup
    directory, no link is followed. Raises StorageError, also when the backup is gone.
    """
    name = backup.name + naming.RECORD
    if verification.verdict is Verdict.UNVERIFIED:
        for place in (backup.parent, own):
            if place is not None and _knows_more(place / name, verification.sha256):
                return place / name
    content = to_json(verification)
    try:
        with volume.existing(root or backup.parent.parent, backup.parent) as beside:
            os.stat(backup.name, dir_fd=beside, follow_symlinks=False)
            _replace(beside, backup.name, content, file_mode)
            return backup.with_name(name)
    except FileNotFoundError as error:
        raise StorageError(
            f"the result of verifying {backup} was not kept: the backup is gone",
            hint="it was pruned or moved meanwhile; verify a newer one",
        ) from error
    except OSError as error:
        refused = f"cannot write {backup.with_name(name)}: {error.strerror}"
    if own is None:
        hint = "make the folder writable, or set VERIFY_DIR to a folder that is and that is kept"
        raise StorageError(refused, hint=hint)
    try:
        return write_apart(verification, own, file_mode)
    except StorageError as error:
        raise StorageError(
            f"{refused}; {error.message.replace('cannot write', 'nor')}",
            hint="make one of these folders writable, or free some space; VERIFY_DIR names the second one",
        ) from error


def write_apart(verification: Verification, own: Path, file_mode: int) -> Path:
    """Write the record into the folder `own`, for a backup that lies elsewhere; raises StorageError."""
    path = own / (verification.name + naming.RECORD)
    if verification.verdict is Verdict.UNVERIFIED and _knows_more(path, verification.sha256):
        return path
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            own.mkdir(mode=0o700)
            # Backup jobs of the same group read there what they must not prune.
            volume.set_mode(own, volume.folder_mode(file_mode))
        with volume.existing(own.parent, own) as descriptor:
            _replace(descriptor, verification.name, to_json(verification), file_mode)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            hint="make that folder writable, or free some space; VERIFY_DIR names it",
        ) from error
    return path


def _knows_more(path: Path, sha256: str) -> bool:
    try:
        record = read(path)
    except ManifestError:
        return False
    return record.sha256 == sha256 and record.verdict is not Verdict.UNVERIFIED


def _replace(folder: int, backup: str, content: bytes, mode: int) -> None:
    """Put a record in its place by a rename, so that whoever reads it finds a whole one.

    Two that write at once may rename each other's file; each sees that it did, and begins anew.
    """
    part, name = backup + naming.RECORD_PART, backup + naming.RECORD
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)  # of a run that was killed
        try:
            descriptor = os.open(part, _CREATE, mode, dir_fd=folder)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb") as file:
            try:
                file.write(content)
                file.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
                if _is_there(folder, name, descriptor):
                    volume.sync_folder(folder)
                    return
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise
    raise OSError(errno.EBUSY, "others write the same record all the time")


def _is_there(folder: int, name: str, descriptor: int) -> bool:
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
