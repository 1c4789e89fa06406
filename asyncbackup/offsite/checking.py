"""Whether a copy at a location is what was stored: by a hash that the location offers, or by reading it."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from io import FileIO

from asyncbackup.errors import DamagedError, TargetError
from asyncbackup.model import Manifest
from asyncbackup.offsite.copies import Copy
from asyncbackup.offsite.location import Location
from asyncbackup.offsite.stock import read_manifest
from asyncbackup.proof.check import State, judge
from asyncbackup.stream import Progress
from asyncbackup.targets.target import Remote
from asyncbackup.threads import in_thread
from asyncbackup.unpack import Unpacked, unpack

_PIPE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCopy:
    """What is known of a copy now."""

    copy: Copy
    manifest: Manifest | None
    state: State
    problems: tuple[str, ...] = ()
    sha256: str | None = None


async def check(location: Location, copy: Copy, executor: Executor, progress: Progress) -> CheckedCopy:
    """Check one copy; raises TargetError where the location does not answer. Needs two free threads."""
    async with location.connect() as remote:
        manifest = await read_manifest(remote, copy.name, brief=False) if copy.committed else None
        if copy.committed and manifest is None:
            return _bad(copy, None, "its manifest cannot be relied on")
        try:
            if manifest is not None:
                if copy.bytes != manifest.file.bytes:
                    size = f"{manifest.file.bytes:,} bytes, found {copy.bytes:,}"
                    return _bad(copy, manifest, f"the file: expected {size}")
                offered = await remote.sha256(copy.name)
                if offered is not None:
                    progress.file_bytes = copy.bytes
                    if offered == manifest.file.sha256:
                        return CheckedCopy(copy=copy, manifest=manifest, state=State.GOOD, sha256=offered)
                    expected = f"SHA-256 {manifest.file.sha256}, found {offered}"
                    return _bad(copy, manifest, f"the file: expected {expected}")
            unpacked = await _read(remote, copy.name, executor, progress)
        except TargetError as error:
            if not error.missing:
                raise
            return _bad(copy, manifest, "it is gone since it was listed")
    problems = judge(unpacked, manifest)
    state = State.BAD if problems else State.GOOD if manifest else State.WHOLE
    return CheckedCopy(copy=copy, manifest=manifest, state=state, problems=problems, sha256=unpacked.sha256)


def _bad(copy: Copy, manifest: Manifest | None, problem: str) -> CheckedCopy:
    return CheckedCopy(copy=copy, manifest=manifest, state=State.BAD, problems=(problem,))


async def _read(remote: Remote, name: str, executor: Executor, progress: Progress) -> Unpacked:
    """Read a copy as `check` reads a file: what comes goes through a pipe to a thread that unpacks it."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # above the limit for users
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
    unpacking = asyncio.ensure_future(in_thread(executor, _unpack, reading, progress))
    try:
        with _closed(writing):
            async with remote.get(name) as blocks:
                async for block in blocks:
                    await in_thread(executor, _write, writing, block)
    except BrokenPipeError as error:  # the reader has failed, and says why
        await unpacking
        raise DamagedError(f"{name}: it cannot be read") from error
    except BaseException:
        with contextlib.suppress(Exception):
            await unpacking
        raise
    return await unpacking


@contextlib.contextmanager
def _closed(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def _unpack(descriptor: int, progress: Progress) -> Unpacked:
    with FileIO(descriptor) as source:
        return unpack(source, progress)


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
