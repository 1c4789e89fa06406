"""The backup directory: folders, the partial file, and the one way to a final name.

Every step works on the folder's descriptor, so that a folder that is moved or replaced by a link
while a dump runs cannot lead a write anywhere else.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import FileIO
from pathlib import Path

from asyncbackup import locks, naming
from asyncbackup import manifest as manifests
from asyncbackup.errors import StorageError
from asyncbackup.model import Manifest, Tier
from asyncbackup.stream import HEADER

_ONE_SECOND = timedelta(seconds=1)
_TRIES = 5
# No links here, or no room for another name: a rename needs none.
_NO_LINKS = {
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EACCES,
    errno.ENOSPC,
    errno.EDQUOT,
}
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
    guard: int
    """A second descriptor, which holds the lock that tells others that we live."""


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


def free_space(root: Path) -> int:
    """Return the bytes that are free for backups; the folder is made if it is not there yet."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return shutil.disk_usage(root).free
    except OSError as error:
        raise _fail("open the folder", root, error) from error


def parts(tier: Tier, when: datetime) -> tuple[str, ...]:
    """Return the folders below the backup directory for a backup of that tier and local day."""
    day = when.strftime("%Y-%m-%d")
    return (day,) if tier is Tier.DATED else (tier.value, day)


def make_root(root: Path, file_mode: int) -> None:
    """Make the backup directory and what is missing above it, with the mode of the dated folders."""
    try:
        for folder in reversed((root, *root.parents)):
            with contextlib.suppress(FileExistsError):
                if not os.path.lexists(folder):
                    folder.mkdir(0o700)
                    set_mode(folder, folder_mode(file_mode))
    except OSError as error:
        raise _fail("make the folder", root, error) from error


def folder_mode(file_mode: int) -> int:
    """Return the permissions of a folder for files of that mode."""
    return 0o750 if file_mode & 0o040 else 0o700


def set_mode(folder: Path | int, mode: int) -> None:
    """Give a new folder its mode whatever the umask says; a setgid bit that it has from its parent stays."""
    os.chmod(folder, mode | os.stat(folder).st_mode & stat.S_ISGID)  # noqa: PTH101, PTH116 - or a descriptor


@contextlib.contextmanager
def open_folder(root: Path, names: tuple[str, ...], *, file_mode: int = 0o600) -> Iterator[Folder]:
    """Make and open `<root>/<names…>`, following no link below the root; new folders are synced."""
    mode = folder_mode(file_mode)
    path = root.joinpath(*names)
    try:
        try:
            descriptor = _descend(root, names, mode)
        except FileNotFoundError:  # another job has just removed it as empty
            descriptor = _descend(root, names, mode)
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


@contextlib.contextmanager
def existing(root: Path, path: Path) -> Iterator[int]:
    """Open a folder below the root, following no link on the way; raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    current = os.open(root, flags)
    try:
        for name in path.relative_to(root).parts:
            below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def read(path: Path, limit: int) -> bytes:
    """Read a regular file; what only bears such a name (a link, a FIFO, a folder) raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        # As much memory is taken as is asked for, so that only what is there is.
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(min(limit, found.st_size))
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
                set_mode(below, mode)
                sync_folder(current)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def sync_folder(descriptor: int) -> None:
    """Sync the names in an open folder; raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder at all
            raise


@contextlib.contextmanager
def partial(folder: Folder, core: str, when: datetime) -> Iterator[Partial]:
    """Create `<core>_<time>.sql.gz.in_progress` for writing."""
    for later in range(_TRIES):
        name = naming.backup_name(core, when + later * _ONE_SECOND) + naming.PARTIAL
        try:
            flags = _CREATE & ~os.O_WRONLY | os.O_RDWR  # its beginning is read again before it is published
            descriptor = os.open(name, flags, folder.file_mode, dir_fd=folder.descriptor)
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
    file = FileIO(descriptor, "r+")
    # The lock lasts as long as any copy of the descriptor: whoever sweeps can tell that we live.
    guard = os.dup(descriptor)
    locks.claim(guard)
    try:
        os.fchmod(descriptor, folder.file_mode)
        yield Partial(folder=folder, name=name, file=file, guard=guard)
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
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(manifests.to_json(manifest))
                file.flush()
                os.fchmod(descriptor, folder.file_mode)
                os.fsync(descriptor)
            sync_folder(folder.descriptor)
            _check_content(partial, manifest.file.bytes)
            _commit(folder, partial.name, name)
            committed = True
            sync_folder(folder.descriptor)
            _check_place(folder, name, partial.guard)
            _check_place(folder, name + naming.MANIFEST, descriptor)
        except OSError as error:
            raise _fail("publish", folder.path / name, error) from error
    except BaseException:
        for leftover in (name, name + naming.MANIFEST) if committed else (name + naming.MANIFEST,):
            with contextlib.suppress(OSError):
                os.unlink(leftover, dir_fd=folder.descriptor)
        raise
    finally:
        os.close(descriptor)
    return folder.path / name, manifest


def place(partial: Partial, name: str) -> None:
    """Give a finished partial the name of a backup that has no manifest; none is ever replaced."""
    path = partial.folder.path / name
    try:
        os.fsync(partial.file.fileno())
        partial.file.close()
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        _commit(partial.folder, partial.name, name)
        sync_folder(partial.folder.descriptor)
    except OSError as error:
        raise _fail("publish", path, error) from error


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
        failure: StorageError | None = None
        try:
            os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return name, descriptor
        except OSError as error:
            failure = _fail("look for", folder.path / name, error)
        # Otherwise it is taken by a file without a manifest: the bash tool's, of the same second.
        os.close(descriptor)
        os.unlink(name + naming.MANIFEST, dir_fd=folder.descriptor)
        if failure:
            raise failure
        when += _ONE_SECOND


def _check_content(partial: Partial, expected: int) -> None:
    """Make sure that the file is ours alone, from its first byte to its last."""
    name, folder = partial.name, partial.folder
    size = os.fstat(partial.guard).st_size
    if size != expected:
        raise StorageError(
            f"{folder.path / name} has {size} bytes, and {expected} were written",
            hint="the volume lost data without an error: do not trust it before it was checked",
        )
    _check_place(folder, name, partial.guard)
    if os.pread(partial.guard, len(HEADER), 0) != HEADER:
        raise StorageError(
            f"something else wrote to {folder.path / name} while we did",
            hint="another tool backs up the same database to the same folder: stop one of them",
        )


def _commit(folder: Folder, partial: str, name: str) -> None:
    """Give the file its final name, which nothing else may have, not even since we looked."""
    at = {"src_dir_fd": folder.descriptor, "dst_dir_fd": folder.descriptor}
    try:
        os.link(partial, name, **at, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(partial, name, **at)  # noqa: PTH104 - by the folder's descriptor
    else:
        os.unlink(partial, dir_fd=folder.descriptor)


def _check_place(folder: Folder, name: str, descriptor: int) -> None:
    """Make sure that the path leads to this very file."""
    here, there = os.fstat(descriptor), (folder.path / name).lstat()
    if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
        raise StorageError(
            f"{folder.path / name} is not the file that was written: it or its folder was replaced",
            hint="find out who else works in that folder; the backup was thrown away",
        )
