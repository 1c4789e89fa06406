"""The folders of throw-away servers: made, held, measured, and removed, at the latest by a later run.

Each lives in a folder of its own below a root that others may share: other users of a temporary
folder, other pods of a volume. A lock on a file in it tells whether its run still lives, wherever that
runs; process ids would not. Whoever sweeps takes the lock first. A folder without a lock is new, and
somebody is about to take it, or was killed before: then there is nothing in it.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from pwd import struct_passwd

from asyncbackup.errors import ClientError
from asyncbackup.threads import in_thread

DATA = "data"
"""Name of the data directory in a server's folder."""

_PREFIX = "asyncbackup-pg-"
_LOCK = "lock"
_MAX_SOCKET_PATH = 107  # sun_path of unix(7) has 108 bytes, the last of which is NUL
_ATTEMPTS = 10
_QUIT_GRACE = 7.0  # seconds; on SIGQUIT the server itself kills what does not end within 5
_TRIES = 100
_PAUSE = 0.05  # seconds
_BLOCK = 512  # bytes; the unit of st_blocks


@dataclass(slots=True)
class Folder:
    """A folder that is ours for the length of a block."""

    path: Path
    namespace: str = ""
    """A network namespace, as /proc names it, whose processes end with the folder; empty is none."""
    guard: int | None = None
    """Open as long as we may end what is in that namespace: else the kernel gives its number to another."""

    def take_network(self, pid: int) -> bool:
        """Let the processes in the network namespace of this one end with the folder, unless it is ours."""
        with contextlib.suppress(OSError):
            guard = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            named = f"{Path(f'/proc/self/fd/{guard}').readlink()}"
            if named != network_of(os.getpid()):
                self.namespace, self.guard = named, guard
                return True
            os.close(guard)
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What was found of earlier runs that were killed."""

    removed: tuple[Path, ...] = ()
    stuck: tuple[Path, ...] = ()
    """Could not be removed."""


@asynccontextmanager
async def folder(root: Path, account: struct_passwd | None) -> AsyncIterator[Folder]:
    """Make a folder that is removed afterwards, whatever happens, and ends whatever still runs in it.

    Raises ClientError when it cannot be made.
    """
    made, lock = _make(root, account)
    try:
        yield made
    finally:
        try:
            await in_thread(None, _clear, made.path, made.namespace)
        finally:
            os.close(lock)
            if made.guard is not None:
                os.close(made.guard)


def subfolder(base: Path, name: str, account: struct_passwd | None) -> Path:
    """Make a folder that only the account may enter."""
    made = base / name
    made.mkdir(0o700)
    if account:
        os.chown(made, account.pw_uid, account.pw_gid)
    return made


@asynccontextmanager
async def sockets(base: Path, account: struct_passwd | None) -> AsyncIterator[Path]:
    """Make a folder for a server's socket in `base`, or elsewhere if its path would be too long."""
    async with AsyncExitStack() as stack:
        if len(os.fsencode(f"{base}/s/.s.PGSQL.65535")) > _MAX_SOCKET_PATH:
            short = Path("/tmp")  # noqa: S108 - it is short
            await in_thread(None, sweep, short)
            base = (await stack.enter_async_context(folder(short, account))).path
        yield subfolder(base, "s", account)


def sweep(root: Path) -> Swept:
    """Remove the folders below `root` that killed runs of ours left, ending what still runs there.

    Blocking. It touches nothing that belongs to another user or whose run lives, wherever it does.
    """
    removed, stuck = [], []
    for path in sorted(root.absolute().glob(f"{_PREFIX}*")):
        try:
            if _sweep_one(path):
                removed.append(path)
        except FileNotFoundError:
            continue  # its own run, or another sweep, was faster
        except OSError:
            stuck.append(path)
    return Swept(removed=tuple(removed), stuck=tuple(stuck))


def network_of(pid: int) -> str:
    """Return the name of a process's network namespace; empty where we may not look."""
    try:
        return f"{Path(f'/proc/{pid}/ns/net').readlink()}"
    except OSError:
        return ""


def usage(path: Path) -> int:
    """Return the bytes that a file or tree takes on disk, as far as it is there and open to us; blocking."""
    try:
        total = path.lstat().st_blocks
    except OSError:
        return 0
    pending = [f"{path}"] if path.is_dir() else []
    while pending:
        # A server removes files all the time, and a program of a dump's may close a folder.
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    total += entry.stat(follow_symlinks=False).st_blocks
    return total * _BLOCK


def _make(root: Path, account: struct_passwd | None) -> tuple[Folder, int]:
    # With an account it stays root's, so that the server cannot swap what root writes there; the
    # server may pass through to its own folders, which are closed to everyone else.
    mode = 0o711 if account else 0o700
    with filling(root):
        # Root's is shared with servers, though this may be none.
        _make_root(root, mode if os.geteuid() else 0o711)
        for _ in range(_ATTEMPTS):
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root)).absolute()
            if lock := _claim(path):
                path.chmod(mode)
                return Folder(path), lock
    raise _cannot(root, "others remove it")


@contextlib.contextmanager
def filling(root: Path) -> Iterator[None]:
    """Turn what goes wrong with files below `root` within the block into a ClientError."""
    try:
        yield
    except OSError as error:
        raise _cannot(root, error.strerror or f"{error}") from error


def _cannot(root: Path, problem: str) -> ClientError:
    return ClientError(
        f"cannot make a folder for a PostgreSQL server in {root}: {problem}",
        hint="make it writable and give it space, or name another folder with VERIFY_DIR",
    )


def _make_root(root: Path, mode: int) -> None:
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(mode)  # whatever our umask is


def _claim(path: Path) -> int | None:
    """Hold a new folder by its lock; None when a sweep was faster. Raises OSError."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    except OSError:
        with contextlib.suppress(OSError):
            path.rmdir()
        raise
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        taken = True
    except OSError:
        return lock  # nobody can lock anything here: no sweep will take it for a dead one either
    else:
        taken = not (path / _LOCK).exists()  # the sweep was over before we locked
    if not taken:
        return lock
    os.close(lock)
    return None


def _sweep_one(path: Path) -> bool:
    """Remove a folder if it is ours and dead."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        return False
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        # New, and its maker copes; or a killed maker's. With something in it, it was never ours.
        with contextlib.suppress(OSError):
            path.rmdir()
            return True
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _clear(path)
    except BlockingIOError:
        return False  # it lives
    finally:
        os.close(lock)
    return True


def _clear(path: Path, namespace: str = "") -> None:
    """End what runs in a folder that we hold, and remove it; raises OSError when it cannot be.

    The lock goes last, so that a sweep recognises what we leave if we are killed meanwhile.
    """
    if not path.exists():
        return
    _end(path, namespace)
    for attempt in range(_TRIES):
        left = [entry for entry in path.iterdir() if entry.name != _LOCK]
        if not left:
            break
        if attempt:  # the last of a killed server may still be writing
            _open_up(path)
            time.sleep(_PAUSE)
        for entry in left:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=attempt < _TRIES - 1)  # the last one says what is wrong
            else:
                entry.unlink(missing_ok=True)
    (path / _LOCK).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # without a lock, a sweep removes it, too
        path.rmdir()


def _open_up(path: Path) -> None:
    """Let us into folders that a program of a dump's has closed.

    Root gets in anyway, and must not be led elsewhere by a folder that becomes a link meanwhile.
    """
    if not os.geteuid():
        return
    for place, folders, _ in os.walk(path):
        for name in folders:
            inner = Path(place, name)
            if not inner.is_symlink():
                with contextlib.suppress(OSError):
                    inner.chmod(0o700)


def _end(path: Path, namespace: str) -> None:
    deadline = time.monotonic() + _QUIT_GRACE
    for pid in _living(path, namespace, only_server=True):
        _kill(pid, signal.SIGQUIT)  # it frees its shared memory, and ends its children
    while [*_living(path, namespace, only_server=True)] and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    for _ in range(_TRIES):
        # What is left are programs that a dump had its server start, and servers that are deaf.
        found = [*_living(path, namespace)]
        if not found:
            return
        for pid in found:
            _kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _living(path: Path, namespace: str, *, only_server: bool = False) -> Iterator[int]:
    """Yield the processes of the server whose folder this is: its own, and those that they started.

    They have its data directory as theirs, or its network namespace; the server itself also says so in
    its arguments, where one may not look at the others.
    """
    real = os.path.realpath(path)
    with contextlib.suppress(FileNotFoundError):
        owner = (path / DATA).lstat().st_uid
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
                if entry.stat().st_uid != owner:
                    continue
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                is_server = words[0].endswith(b"/postgres") and os.fsencode(path / DATA) in words
                if is_server or (not only_server and _belongs(int(entry.name), real, namespace)):
                    yield int(entry.name)


def _belongs(pid: int, folder: str, namespace: str) -> bool:
    if namespace and network_of(pid) == namespace:
        return True
    return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
