"""A backup and its manifest, opened for a test restore; what stands in the way is its own fault, or ours."""

import contextlib
import errno
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from io import FileIO
from pathlib import Path

from asyncbackup import inventory
from asyncbackup.errors import AsyncbackupError, DamagedError, ManifestError
from asyncbackup.model import Backup, Manifest
from asyncbackup.threads import in_thread
from asyncbackup.unpack import open_backup

_LOOK = "see asyncbackup check"
# What says something about this machine and its rights; anything else, about the file.
_OURS = {
    errno.EACCES: "let the user that verifies read it: BACKUP_FILE_MODE=0640",
    errno.EPERM: "let the user that verifies read it",
    errno.EMFILE: "raise the limit on open files",
    errno.ENFILE: "raise the system's limit on open files",
    errno.ENOMEM: "give it more memory",
    errno.ESTALE: "mount the backup directory again",
    errno.ETIMEDOUT: "look at the storage that the backup directory is on",
    errno.EHOSTDOWN: "look at the storage that the backup directory is on",
}


def manifest_of(backup: Backup) -> Manifest | None:
    """Return the whole manifest, or None for a backup of the bash tool; blocking.

    A backup that is known to be wrong needs no trial. Raises DamagedError or ManifestError when it is, and
    AsyncbackupError when nobody can tell.
    """
    if not backup.manifest and not backup.problem:
        return None
    try:
        manifest = inventory.read_manifest(backup.path)
    except ManifestError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError) and not backup.path.exists():
            raise _gone(backup.path) from error
        if isinstance(cause, OSError) and cause.errno in _OURS:
            raise AsyncbackupError(error.message, hint=_OURS[cause.errno]) from error
        if isinstance(cause, FileNotFoundError):
            problem = backup.problem or "its manifest is missing"
            raise DamagedError(f"{backup.path}: {problem}", hint=_LOOK) from error
        raise
    if backup.problem:
        raise DamagedError(f"{backup.path}: {backup.problem}", hint=_LOOK)
    return manifest


@contextlib.asynccontextmanager
async def opened(backup: Backup, executor: Executor) -> AsyncIterator[FileIO]:
    """Open the file for the block; what reading raises then is told in the same way."""
    try:
        file = await in_thread(executor, open_backup, backup.path)
    except FileNotFoundError as error:
        raise _gone(backup.path) from error
    except OSError as error:
        raise _unreadable(backup.path, error) from error
    with file, _Source(backup.path, file) as source:
        yield source


class _Source(FileIO):
    def __init__(self, path: Path, file: FileIO) -> None:
        super().__init__(file.fileno(), "r", closefd=False)
        self._path = path

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(size)
        except OSError as error:
            raise _unreadable(self._path, error) from error


def _unreadable(path: Path, error: OSError) -> AsyncbackupError:
    said = f"{path}: it cannot be read: {error.strerror}"
    if error.errno in _OURS:
        return AsyncbackupError(f"{said}; nothing is known of it", hint=_OURS[error.errno])
    return DamagedError(said, hint=_LOOK)


def _gone(path: Path) -> AsyncbackupError:
    return AsyncbackupError(f"{path}: it is gone, pruned perhaps", hint="verify again: there is a newer one")
