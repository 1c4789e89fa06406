"""A folder as a secondary location, on volumes that are full, read-only, gone, lying or hanging."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import naming
from asyncbackup.errors import TargetError
from asyncbackup.targets import folder as module
from asyncbackup.targets.folder import Folder
from asyncbackup.targets.target import BLOCK, Upload
from tests.invariants import small_disk
from tests.targets import Held, fetch, store, upload

NAME = "host-db_2026-01-31_23-59-59.sql.gz"
ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
DATA = bytes(range(256)) * (3 * MIB // 256)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from small_disk(tmp_path / "disk", "size=8m")


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", f"{disk}"], check=True)


def hands() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "secondary folder"]


def descriptors() -> list[str]:
    return sorted(found.name for found in Path("/proc/self/fd").iterdir())


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir())


def there(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in path.iterdir()}


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    for thread in hands():
        thread.join(30)
    before = descriptors()
    yield
    for thread in hands():
        thread.join(30)
        assert not thread.is_alive()
    assert descriptors() == before


def exchange(disk: Path) -> None:
    subprocess.run(["umount", f"{disk}"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", f"{disk}"], check=True)


async def test_a_volume_may_be_unmounted_as_soon_as_we_are_done(disk: Path) -> None:
    for _ in range(20):
        await store(Folder(disk, 0o600, 60), NAME, DATA)
        assert await fetch(Folder(disk, 0o600, 60), NAME) == DATA
        exchange(disk)


async def refused(target: Folder, data: bytes = DATA) -> TargetError:
    """Return why it cannot be stored there."""
    with pytest.raises(TargetError) as caught:
        await store(target, NAME, data)
    assert f"{target.path}" in caught.value.message
    return caught.value


async def test_a_folder_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    error = await refused(Folder(tmp_path / "not" / "mounted", 0o600, 60))
    assert "mount its volume" in error.hint
    assert not error.retryable
    assert names(tmp_path) == []


async def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    error = await refused(Folder(tmp_path / "file", 0o600, 60))
    assert "must be a folder" in error.hint


async def test_a_volume_that_is_full_keeps_what_it_had(disk: Path) -> None:
    target = Folder(disk, 0o600, 60)
    await store(target, NAME, DATA)
    error = await refused(target, DATA * 3)
    assert "free some space" in error.hint
    assert not error.retryable
    assert there(disk) == {NAME: DATA}
    remount(disk, "size=32m")
    await store(target, NAME, DATA * 3)
    assert await fetch(target, NAME) == DATA * 3


async def test_a_volume_without_room_for_names_is_told(disk: Path) -> None:
    remount(disk, "nr_inodes=2")
    await store(Folder(disk, 0o600, 60), "first", b"x")
    assert "free some space" in (await refused(Folder(disk, 0o600, 60))).hint
    assert names(disk) == ["first"]


async def test_a_volume_that_is_read_only_is_told(disk: Path) -> None:
    remount(disk, "ro")
    assert "read-only" in (await refused(Folder(disk, 0o600, 60))).hint
    remount(disk, "rw")


@pytest.mark.parametrize(("mode", "umask"), [(0o600, 0), (0o600, 0o077), (0o640, 0o077), (0o640, 0o022)])
async def test_files_get_the_permissions_that_are_set(path: Path, mode: int, umask: int) -> None:
    os.umask(umask)
    await store(Folder(path, mode, 60), NAME, DATA)
    assert stat.S_IMODE((path / NAME).stat().st_mode) == mode


async def test_where_the_mount_decides_on_permissions_none_are_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fchmod(descriptor: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", fchmod)
    await store(Folder(path, 0o600, 60), NAME, DATA)
    assert (path / NAME).read_bytes() == DATA


async def test_what_is_no_file_is_not_there(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (path / "link").symlink_to(tmp_path / "secret")
    (path / "dangling").symlink_to(tmp_path / "nowhere")
    (path / "folder").mkdir()
    os.mkfifo(path / "fifo")
    (path / NAME).write_bytes(DATA)
    others = ["link", "dangling", "folder", "fifo"]
    async with Folder(path, 0o600, 60).connect() as remote:
        assert await remote.list() == {NAME: len(DATA)}
        for name in others:
            assert await remote.size(name) is None
            await remote.delete(name)
            with pytest.raises(TargetError) as caught:
                async with remote.get(name):
                    pass
            assert caught.value.missing
    assert names(path) == sorted([*others, NAME])


async def test_a_link_is_replaced_and_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (path / NAME).symlink_to(tmp_path / "other")
    await store(Folder(path, 0o600, 60), NAME, DATA)
    assert (tmp_path / "other").read_bytes() == b"other"
    assert not (path / NAME).is_symlink()
    assert (path / NAME).read_bytes() == DATA


async def test_a_folder_in_the_files_place_is_left_alone(path: Path) -> None:
    (path / NAME).mkdir()
    error = await refused(Folder(path, 0o600, 60))
    assert "a folder has the file's name" in error.hint
    assert names(path) == [NAME]


def swap(path: Path, tmp_path: Path) -> None:
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "elsewhere")


async def test_a_folder_that_is_swapped_for_a_link_leads_nowhere_else(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    async with Folder(path, 0o600, 60).connect() as remote:
        swap(path, tmp_path)
        await remote.put(upload(NAME, DATA))
    assert names(tmp_path / "elsewhere") == []
    assert (tmp_path / "moved" / NAME).read_bytes() == DATA


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "a/b", "/etc/passwd"])
async def test_names_lead_nowhere_else(path: Path, name: str) -> None:
    async with Folder(path, 0o600, 60).connect() as remote:
        for step in (remote.put(upload(name, DATA)), remote.size(name), remote.delete(name)):
            with pytest.raises(ValueError, match="is no name of a file"):
                await step
        with pytest.raises(ValueError, match="is no name of a file"):
            async with remote.get(name):
                pass


async def test_names_that_are_not_utf_8_are_listed(path: Path) -> None:
    name = os.fsdecode(b"latin-\xe9")
    (path / name).write_bytes(DATA)
    async with Folder(path, 0o600, 60).connect() as remote:
        assert await remote.list() == {name: len(DATA)}
        assert await remote.size(name) == len(DATA)


async def test_a_large_folder_is_listed_whole(path: Path) -> None:
    for number in range(1201):
        (path / f"{number}").write_bytes(b"x" * (number % 3))
    async with Folder(path, 0o600, 60).connect() as remote:
        assert await remote.list() == {f"{number}": number % 3 for number in range(1201)}


async def test_what_is_being_written_has_a_name_by_which_it_is_found_again(path: Path) -> None:
    held = Held(Folder(path, 0o600, 60))
    task = asyncio.create_task(store(held, NAME, DATA))
    await held.reached.wait()
    (part,) = names(path)
    assert naming.parse_part(part) == NAME
    held.release.set()
    await task


def failing(name: str, code: int, *, at: int = 1) -> Callable[[pytest.MonkeyPatch], list[int]]:
    """Return what makes a call of the system's fail from that time on, in the location's thread only."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
        real, calls = getattr(os, name), []

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name != "secondary folder":
                return real(*args, **kwargs)
            calls.append(code)
            if len(calls) >= at:
                if name == "close":
                    real(*args, **kwargs)
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)
        return calls

    return patch


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EFBIG])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
async def test_whatever_fails_leaves_what_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    (path / NAME).write_bytes(b"the old one")
    async with Folder(path, 0o600, 60).connect() as remote:
        calls = failing(call, code)(monkeypatch)
        with pytest.raises(TargetError) as caught:
            await remote.put(upload(NAME, DATA))
    assert os.strerror(code) in caught.value.message
    assert caught.value.retryable == (code in {errno.EIO, errno.ESTALE})
    assert "SECONDARY_DIR" in caught.value.hint
    assert there(path) == {NAME: b"the old one"}
    assert len(calls) == 1, "what failed was tried again, which may seem to succeed"


async def test_a_close_that_fails_is_a_write_that_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Folder(path, 0o600, 60).connect() as remote:
        with monkeypatch.context() as patched:
            failing("close", errno.EDQUOT)(patched)
            with pytest.raises(TargetError, match="quota"):
                await remote.put(upload(NAME, DATA))
    assert names(path) == []


async def test_all_is_synced_before_it_has_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == "secondary folder":
                steps.append(name)
            return real(*args, **kwargs)

        return call

    for name in ("write", "fdatasync", "fsync", "close", "rename"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    async with Folder(path, 0o600, 60).connect() as remote:
        await remote.put(upload(NAME, bytes(40 * MIB)))
    assert [step for step in steps if step != "write"][:5] == [
        "fdatasync",
        "fsync",
        "close",
        "rename",
        "fsync",
    ]
    assert steps.index("fdatasync") == 32 * MIB // BLOCK, "the volume gets its work as it comes"


async def test_short_writes_are_gone_on_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:100_000]))
    await store(Folder(path, 0o600, 60), NAME, DATA)
    assert (path / NAME).read_bytes() == DATA


async def test_a_volume_that_loses_data_in_silence_is_found_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path / NAME).write_bytes(b"the old one")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:-1]) + 1)
    error = await refused(Folder(path, 0o600, 60))
    assert f"and {len(DATA)} were written" in error.message
    assert "do not trust it" in error.hint
    assert there(path) == {NAME: b"the old one"}


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], threading.Event]]:
    """Make a call of the system's hang in the location's thread, until the event is set."""
    goes_on = threading.Event()

    def patch(name: str) -> threading.Event:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == "secondary folder":
                goes_on.wait()
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)
        return goes_on

    yield patch
    goes_on.set()


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
async def test_a_volume_that_hangs_is_left_behind_and_cleared_when_it_goes_on(
    path: Path, hang: Callable[[str], threading.Event], call: str
) -> None:
    goes_on = hang(call)
    begun = time.monotonic()
    error = await refused(Folder(path, 0o600, 0.2))
    assert time.monotonic() - begun < 20
    assert error.retryable
    assert "did not answer within 0.2 s" in error.message
    assert "TRANSFER_TIMEOUT" in error.hint
    (thread,) = hands()
    goes_on.set()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
    assert names(path) in ([], [NAME]), "a part stayed"
    if call != "rename":  # which may still come about, and then the file is whole
        assert names(path) == []


async def test_who_is_cancelled_does_not_wait_for_a_volume_that_hangs(
    path: Path, hang: Callable[[str], threading.Event]
) -> None:
    begun = asyncio.Event()

    async def blocks(offset: int) -> AsyncIterator[bytes]:
        begun.set()
        yield DATA

    async def put() -> None:
        async with Folder(path, 0o600, 0.5).connect() as remote:
            hang("write")
            await remote.put(Upload(name=NAME, size=len(DATA), sha256="", blocks=blocks))

    task = asyncio.create_task(put())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)


def test_a_volume_that_hangs_for_ever_keeps_no_program_from_ending(path: Path) -> None:
    code = f"""
import asyncio, os, sys, threading
from pathlib import Path
from asyncbackup.errors import TargetError
from asyncbackup.targets.folder import Folder
from tests.targets import store
os.fsync = lambda descriptor: threading.Event().wait()
try:
    asyncio.run(store(Folder(Path({f"{path}"!r}), 0o600, 0.2), "name", b"x"))
except TargetError as error:
    sys.exit(f"left: {{error}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.startswith("left: ")) == (1, True), done.stderr


@pytest.mark.parametrize(
    ("code", "hint", "retryable"),
    [
        (errno.EACCES, "writable", False),
        (errno.EPERM, "writable", False),
        (errno.EROFS, "read-only", False),
        (errno.EDQUOT, "quota", False),
        (errno.ENAMETOOLONG, "long names", False),
        (errno.EIO, "hardware or network", True),
        (errno.ETIMEDOUT, "check the volume", True),
        (errno.EHOSTDOWN, "check the volume", True),
        (errno.ENOTCONN, "mount", True),
        (errno.ESTALE, "mounted", True),
        (errno.EBADF, "check the volume", False),
    ],
)
def test_every_failure_says_what_to_do(path: Path, code: int, hint: str, *, retryable: bool) -> None:
    error = module.failure("write", path / NAME, OSError(code, os.strerror(code)))
    assert error.message == f"cannot write {path / NAME}: {os.strerror(code)}"
    assert hint in error.hint
    assert "SECONDARY_DIR" in error.hint
    assert error.retryable == retryable
