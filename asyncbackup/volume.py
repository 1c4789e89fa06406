"""The backup directory: folders, the partial file, and the one way to a final name.

Every step works on the folder's descriptor, so that a folder that is moved or replaced by a link
while a dump runs cannot lead a write anywhere else.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import FileIO
from pathlib import Path

from asyncbackup import locks, naming
from asyncbackup import manifest as manifests
from asyncbackup.errors import StorageError
from asyncbackup.model import Manifest, Tier

_ONE_SECOND = timedelta(seconds=1)
_TRIES = 5
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """An open dated folder of the backup directory."""

    path: Path
    descriptor: int
    file_mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A file being written; it is removed with its block unless it was published."""

    folder: Folder
    name: str
    file: FileIO


def _fail(what: str, path: Path | str, error: OSError) -> StorageError:
    hints = {
        errno.ENOSPC: "free some space on the volume, or lower the number of backups to keep",
        errno.EDQUOT: "raise the quota, or lower the number of backups to keep",
        errno.EROFS: "the file system is read-only: check the volume",
        errno.EACCES: "make the backup directory writable for the user that runs asyncbackup",
        errno.EPERM: "make the backup directory writable for the user that runs asyncbackup",
        errno.ENOENT: "check BACKUP_DIR: the folder is not there, or went away during the run",
        errno.EIO: "the volume reports a hardware or network fault: check it before the next run",
    }
    return StorageError(
        f"cannot {what} {path}: {error.strerror}",
        hint=hints.get(error.errno or 0, "check the backup volume"),
    )


def parts(tier: Tier, when: datetime) -> tuple[str, ...]:
    """Return the folders below the backup directory for a backup of that tier and local day."""
    day = when.strftime("%Y-%m-%d")
    return (day,) if tier is Tier.DATED else (tier.value, day)


def free_bytes(root: Path) -> int:
    """Make the backup directory if need be, and return how many bytes are free there."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return shutil.disk_usage(root).free
    except OSError as error:
        raise _fail("use", root, error) from error


@contextlib.contextmanager
def open_folder(root: Path, names: tuple[str, ...], *, file_mode: int = 0o600) -> Iterator[Folder]:
    """Make and open `<root>/<names…>`, following no link below the root; new folders are synced."""
    folder_mode = 0o750 if file_mode & 0o040 else 0o700
    path = root.joinpath(*names)
    try:
        descriptor = _descend(root, names, folder_mode)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise StorageError(
                f"{path} is not a folder, or a link stands in its place",
                hint="only the backup directory itself may be a link; put a real folder there",
            ) from error
        raise _fail("open the folder", path, error) from error
    try:
        yield Folder(path=path, descriptor=descriptor, file_mode=file_mode)
    finally:
        os.close(descriptor)


def _descend(root: Path, names: tuple[str, ...], mode: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY
    root.mkdir(mode=mode, parents=True, exist_ok=True)
    current = os.open(root, flags)
    try:
        for name in names:
            try:
                os.mkdir(name, mode, dir_fd=current)
            except FileExistsError:
                created = False
            else:
                created = True
            below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=current)
            if created:
                os.fchmod(below, mode)  # whatever the umask says
                _sync_folder(current)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def _sync_folder(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder at all; every real failure is another errno.
        if error.errno != errno.EINVAL:
            raise


@contextlib.contextmanager
def partial(folder: Folder, core: str, when: datetime) -> Iterator[Partial]:
    """Create `<core>_<time>.sql.gz.in_progress` for writing."""
    for later in range(_TRIES):
        name = naming.backup_name(core, when + later * _ONE_SECOND) + naming.PARTIAL
        try:
            descriptor = os.open(name, _CREATE, folder.file_mode, dir_fd=folder.descriptor)
        except FileExistsError:
            continue
        except OSError as error:
            raise _fail("create", folder.path / name, error) from error
        break
    else:
        raise StorageError(
            f"{folder.path / name} and the seconds after it are taken",
            hint="another tool seems to write backups of this database at this moment",
        )
    file = FileIO(descriptor, "w")
    # The lock lasts as long as any copy of the descriptor: whoever sweeps can tell that we live.
    guard = os.dup(descriptor)
    locks.claim(guard)
    try:
        os.fchmod(descriptor, folder.file_mode)
        yield Partial(folder=folder, name=name, file=file)
    finally:
        with contextlib.suppress(OSError):  # whoever wrote to it has closed it, and looked at the result
            file.close()
        with contextlib.suppress(OSError):  # published, or left to the next run's sweep
            os.unlink(name, dir_fd=folder.descriptor)
        os.close(guard)


def publish(
    partial: Partial, core: str, when: datetime, describe: Callable[[str], Manifest]
) -> tuple[Path, Manifest]:
    """Sync a finished partial and give it its final name, with its manifest; none is ever replaced.

    The manifest is created first and reserves the name; the data's rename is the commit. Any failure
    leaves neither. An fsync that fails is never tried again: the kernel may have dropped the pages by
    then. `describe` makes the manifest for the name that was free.
    """
    folder = partial.folder
    try:
        os.fsync(partial.file.fileno())
        partial.file.close()  # network file systems report a failed write here
    except OSError as error:
        raise _fail("write", folder.path / partial.name, error) from error
    name, descriptor = _reserve(folder, core, when)
    committed = False
    try:
        manifest = describe(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(manifests.to_json(manifest))
                file.flush()
                os.fchmod(file.fileno(), folder.file_mode)
                os.fsync(file.fileno())
            _sync_folder(folder.descriptor)
            os.rename(partial.name, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
            committed = True
            _sync_folder(folder.descriptor)
        except OSError as error:
            raise _fail("publish", folder.path / name, error) from error
        _check_place(folder, name)
    except BaseException:
        for leftover in (name, name + naming.MANIFEST) if committed else (name + naming.MANIFEST,):
            with contextlib.suppress(OSError):
                os.unlink(leftover, dir_fd=folder.descriptor)
        raise
    return folder.path / name, manifest


def _reserve(folder: Folder, core: str, when: datetime) -> tuple[str, int]:
    while True:
        name = naming.backup_name(core, when)
        try:
            descriptor = os.open(name + naming.MANIFEST, _CREATE, folder.file_mode, dir_fd=folder.descriptor)
        except FileExistsError:
            when += _ONE_SECOND
            continue
        except OSError as error:
            raise _fail("create", folder.path / (name + naming.MANIFEST), error) from error
        try:
            os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return name, descriptor
        # A file without a manifest has the name already: the bash tool's, of the same second.
        os.close(descriptor)
        os.unlink(name + naming.MANIFEST, dir_fd=folder.descriptor)
        when += _ONE_SECOND


def _check_place(folder: Folder, name: str) -> None:
    try:
        there = (folder.path / name).lstat()
    except OSError as error:
        raise _fail("find again", folder.path / name, error) from error
    here = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
    if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
        raise StorageError(
            f"the folder {folder.path} was replaced while the dump was written into it",
            hint="find out who moved it; the backup was thrown away",
        )
