"""Kernel locks: one writer for each database series, and a short one for the folder's housekeeping.

The lock is flock(2) on a small file that stays; its content tells a second run who holds it. The
kernel releases it when its holder dies, whatever way. On NFS, Linux carries it to the server.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from asyncbackup.errors import LockedError, StorageError

_POLL = 0.05  # seconds


def folder(root: Path, lock_dir: Path | None) -> Path:
    """Return where lock files lie: in `LOCK_DIR`, else in the backup directory itself.

    One lock folder belongs to one volume, under whatever paths its jobs have mounted it.
    """
    return root / ".asyncbackup" if lock_dir is None else lock_dir


@contextlib.contextmanager
def hold(lock_folder: Path, name: str, what: str, run_id: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock `name` for the block, waiting at most `wait` seconds for it.

    `what` says in the error what is held. Raises LockedError naming the holder, or StorageError where
    the file system does not lock.
    """
    path = lock_folder / f"{name}.lock"
    try:
        lock_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StorageError(
            f"cannot open the lock file {path}: {error.strerror}",
            hint="make the backup directory writable, or set LOCK_DIR to a folder that is",
        ) from error
    try:
        _acquire(descriptor, path, what, time.monotonic() + wait)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "run_id": run_id,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # A courtesy to whoever comes second; pruning must work on a full disk, too.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
        yield
    finally:
        os.close(descriptor)


def held(lock_folder: Path, name: str, what: str) -> LockedError | None:
    """Return the error that names who holds the lock `name`; None when it is free, or nobody can tell."""
    path = lock_folder / f"{name}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        _acquire(descriptor, path, what, 0.0)
    except LockedError as error:
        return error
    except StorageError:
        return None
    finally:
        os.close(descriptor)
    return None


def claim(descriptor: int) -> bool:
    """Lock a file for as long as it stays open; False when another run holds it, or nobody can tell."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _acquire(descriptor: int, path: Path, what: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{what} is being worked on by {_holder(descriptor)}",
                    hint="wait for it to end; the lock goes away with its process",
                ) from None
            time.sleep(_POLL)
        except OSError as error:
            raise StorageError(
                f"the file system of {path} cannot lock files: {error.strerror}",
                hint="set LOCK_DIR to a local folder that all jobs on this volume share",
            ) from error
        else:
            return


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return (
            f"run {holder['run_id']} (process {holder['pid']} on {holder['host']}, since {holder['since']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
