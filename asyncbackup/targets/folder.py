"""A folder as a secondary location, such as one on a second volume.

The folder must be there already: where a volume is not mounted, making its folders would fill the file system
below instead. Files are written as in the backup directory: under a name of their own, synced, renamed.

A volume may hang, one of a network for ever, and a thread that waits for it cannot be ended. So each
connection has a thread of its own, which is waited for as long as a block may take, and is then left behind:
it keeps neither the run nor the program from ending. Should it go on later, it removes what it had begun.

There is no hash of the location's own: reading a file back is what a reader does with `get`.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import queue
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar

from asyncbackup import naming
from asyncbackup.errors import TargetError
from asyncbackup.targets.target import BLOCK, Remote, Upload, content
from asyncbackup.threads import see_through
from asyncbackup.volume import sync_folder

P = ParamSpec("P")
T = TypeVar("T")

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# What has not reached the volume yet, at most: so that a sync, too, is done as soon as a block should be.
_UNSYNCED = 32 * 1024 * 1024
_ENTRIES = 500
_PERMISSIONS = 0o666

_RIGHTS = "make SECONDARY_DIR writable for the user that runs asyncbackup"
_HINTS = {
    errno.ENOSPC: "free some space on the volume of SECONDARY_DIR, or keep fewer backups there",
    errno.EDQUOT: "raise the quota on the volume of SECONDARY_DIR, or keep fewer backups there",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "the file system of SECONDARY_DIR is read-only: check its volume",
    errno.ENOENT: "SECONDARY_DIR is never made by asyncbackup: mount its volume, or make the folder on it",
    errno.ENOTDIR: "SECONDARY_DIR must be a folder",
    errno.EFBIG: "the file system of SECONDARY_DIR cannot hold such large files: use another one",
    errno.ENAMETOOLONG: "the file system of SECONDARY_DIR cannot hold such long names: use another one",
    errno.EISDIR: "a folder has the file's name: move it out of SECONDARY_DIR",
    errno.ESTALE: "the folder was replaced on its server: check how the volume of SECONDARY_DIR is mounted",
    errno.ENOTCONN: "mount the volume of SECONDARY_DIR again",
    errno.EIO: "the volume of SECONDARY_DIR reports a hardware or network fault: check it",
}
# What may be otherwise a moment later: faults of a network, and limits that others have reached.
_MAY_PASS = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH, errno.ENFILE,
    errno.ENOBUFS, errno.ENOMEM, errno.ENOTCONN, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is there; its files get `file_mode`."""

    path: Path
    file_mode: int
    transfer_timeout: float
    """Seconds that the volume may take for each block and each answer."""

    @property
    def label(self) -> str:
        """The path."""
        return f"{self.path}/"

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Remote]:
        """Open the folder for the block."""
        hand = _Hand(self.transfer_timeout)
        place = _Place()
        try:
            await hand.do("open the folder", self.path, place.open, self.path)
            yield _Connection(self, hand, place)
        finally:
            await hand.clear(self.path, place.close)
            hand.later(None)


class _Hand:
    """A thread that does one thing after the other, and that nobody must wait for."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._stuck = False
        self._steps: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="secondary folder", daemon=True).start()

    def _run(self) -> None:
        while (step := self._steps.get()) is not None:
            with contextlib.suppress(OSError):  # of closing and removing what nobody waits for
                step()

    def later(self, function: Callable[[], object] | None) -> None:
        """Have something done after all before it, without waiting for it; None ends the thread."""
        self._steps.put(function)

    async def do(
        self, what: str, path: Path, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Have it done, and wait for that even when cancelled, but no longer than it may take."""
        promise: concurrent.futures.Future[T] = concurrent.futures.Future()

        def step() -> None:
            try:
                promise.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is for the one who waits
                promise.set_exception(error)

        future = asyncio.wrap_future(promise)
        self._steps.put(step)
        try:
            await see_through(asyncio.ensure_future(asyncio.wait([future], timeout=self._timeout)))
        finally:
            self._stuck = not future.done()
            if future.done():
                future.exception()  # which has been seen, even if we were cancelled
        if self._stuck:
            raise TargetError(
                f"cannot {what} {path}: the volume did not answer within {self._timeout:g} s",
                hint="check the volume of SECONDARY_DIR; TRANSFER_TIMEOUT gives it more time",
                retryable=True,
            )
        try:
            return future.result()
        except OSError as error:
            raise failure(what, path, error) from error

    async def clear(self, path: Path, function: Callable[[], None]) -> None:
        """Have something closed or removed; if that fails, it tells nothing new, and a sweep finds it."""
        if self._stuck:
            self.later(function)
        else:
            with contextlib.suppress(TargetError):
                await self.do("clear up", path, function)


class _Place:
    """The open folder; its methods run in the thread that has it in hand."""

    descriptor = -1

    def open(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def size(self, name: str) -> int | None:
        """Return a file's length; what is no file, or a link, is not there for us."""
        try:
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def delete(self, name: str) -> None:
        if self.size(name) is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.descriptor)

    def entries(self) -> Generator[tuple[str, int], None, None]:
        with os.scandir(self.descriptor) as found:
            for entry in found:
                size = self.size(entry.name)
                if size is not None:
                    yield entry.name, size


class _Reading:
    """A file that is read; in that thread, too."""

    descriptor = -1

    def open(self, place: _Place, name: str) -> bool:
        """Return whether there is such a file."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            self.descriptor = os.open(name, flags, dir_fd=place.descriptor)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.ELOOP:
                return False
            raise
        return stat.S_ISREG(os.fstat(self.descriptor).st_mode)

    def read(self) -> bytes:
        return os.read(self.descriptor, BLOCK)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class _Part:
    """A file that is written; in that thread, too."""

    def __init__(self, place: _Place, name: str, mode: int) -> None:
        self._place = place
        self._name = name
        self._mode = mode
        self._part = naming.part_name(name)
        self._descriptor = -1
        self._exists = False
        self._unsynced = 0
        self.size = 0

    def open(self) -> None:
        self._descriptor = os.open(self._part, _CREATE, self._mode, dir_fd=self._place.descriptor)
        self._exists = True
        # Where the mount decides on permissions, setting them fails, even to what they are.
        if os.fstat(self._descriptor).st_mode & _PERMISSIONS != self._mode:
            os.fchmod(self._descriptor, self._mode)

    def write(self, block: bytes) -> None:
        left = memoryview(block)
        while left:
            left = left[os.write(self._descriptor, left) :]
        self._unsynced += len(block)
        if self._unsynced >= _UNSYNCED:
            os.fdatasync(self._descriptor)
            self._unsynced = 0

    def sync(self) -> None:
        """See to it that all of it is on the volume; `size` is its length there."""
        os.fsync(self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        self._close()  # network file systems report a failed write here

    def publish(self) -> None:
        at = self._place.descriptor
        os.rename(self._part, self._name, src_dir_fd=at, dst_dir_fd=at)
        self._exists = False
        sync_folder(at)

    def discard(self) -> None:
        """Close and remove it, unless it was published."""
        try:
            self._close()
        finally:
            if self._exists:
                self._exists = False
                os.unlink(self._part, dir_fd=self._place.descriptor)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Connection:
    """See `Remote`."""

    def __init__(self, folder: Folder, hand: _Hand, place: _Place) -> None:
        self._folder = folder
        self._hand = hand
        self._place = place

    async def put(self, upload: Upload, part: str = "") -> None:  # noqa: ARG002 - none is ever left
        path = self._path(upload.name)
        file = _Part(self._place, upload.name, self._folder.file_mode)
        try:
            await self._hand.do("create", path, file.open)
            async with aclosing(content(upload)) as blocks:
                async for block in blocks:
                    await self._hand.do("write", path, file.write, block)
            await self._hand.do("sync", path, file.sync)
            self._compare(path, file.size, upload.size)
            await self._hand.do("rename", path, file.publish)
        except BaseException:
            await self._hand.clear(path, file.discard)
            raise

    @asynccontextmanager
    async def get(self, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        path = self._path(name)
        file = _Reading()

        async def blocks() -> AsyncGenerator[bytes, None]:
            while block := await self._hand.do("read", path, file.read):
                yield block

        try:
            if not await self._hand.do("open", path, file.open, self._place, name):
                raise TargetError(f"{path}: there is no such file", missing=True)
            async with aclosing(blocks()) as found:
                yield found
        finally:
            await self._hand.clear(path, file.close)

    async def size(self, name: str) -> int | None:
        return await self._hand.do("look for", self._path(name), self._place.size, name)

    async def sha256(self, name: str) -> str | None:  # noqa: ARG002 - see the module
        return None

    async def list(self) -> Mapping[str, int]:
        entries = self._place.entries()
        found: dict[str, int] = {}
        try:
            while some := await self._hand.do(
                "list", self._folder.path, lambda: dict(islice(entries, _ENTRIES))
            ):
                found |= some
        finally:
            self._hand.later(entries.close)
        return found

    async def delete(self, name: str) -> None:
        await self._hand.do("delete", self._path(name), self._place.delete, name)

    def _compare(self, path: Path, found: int, expected: int) -> None:
        if found != expected:
            raise TargetError(
                f"cannot store {path}: it has {found} bytes on the volume, and {expected} were written",
                hint="the volume lost data without an error: do not trust it before it was checked",
            )

    def _path(self, name: str) -> Path:
        if not name or "/" in name or name in {".", ".."}:
            raise ValueError(f"{name!r} is no name of a file")
        return self._folder.path / name


def failure(what: str, path: Path, error: OSError) -> TargetError:
    """Say what the volume has refused, and whether it may do so only for now."""
    return TargetError(
        f"cannot {what} {path}: {error.strerror or error}",
        hint=_HINTS.get(error.errno or 0, "check the volume of SECONDARY_DIR"),
        retryable=error.errno in _MAY_PASS,
    )
