"""Opening a backup for a test restore: what stands in the way is the backup's own fault, or this machine's."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import pytest

from asyncbackup import inventory
from asyncbackup.errors import AsyncbackupError, DamagedError, ManifestError
from asyncbackup.model import Backup, Tier
from asyncbackup.proof import reading

THEIRS = (DamagedError, ManifestError)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    path = tmp_path / "h-db_2026-11-22_01-00-00.sql.gz"
    path.write_bytes(b"data")
    return Backup(path=path, core="h-db", tier=Tier.DATED, taken_at=datetime.now(UTC), bytes=4, good=True)


def refuse(number: int) -> object:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "file")

    return refused


@pytest.mark.parametrize(
    ("number", "its_fault"),
    [
        (errno.EIO, True),
        (errno.EINVAL, True),  # what is no regular file
        (errno.ELOOP, True),
        (errno.EISDIR, True),
        (errno.EACCES, False),
        (errno.EPERM, False),
        (errno.EMFILE, False),
        (errno.ENFILE, False),
        (errno.ENOMEM, False),
        (errno.ESTALE, False),
        (errno.ENOENT, False),
    ],
)
async def test_whose_fault_it_is_that_it_cannot_be_opened(
    backup: Backup,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    *,
    its_fault: bool,
) -> None:
    monkeypatch.setattr(reading, "open_backup", refuse(number))
    with pytest.raises(AsyncbackupError) as caught:
        async with reading.opened(backup, executor):
            pass
    assert isinstance(caught.value, THEIRS) == its_fault
    assert str(backup.path) in str(caught.value)
    assert caught.value.hint


async def test_a_disk_that_fails_in_the_middle_is_the_files_fault(
    backup: Backup, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel has no memory of ours at address 0, and says EIO, as a broken disk does.
    monkeypatch.setattr(reading, "open_backup", lambda _: FileIO("/proc/self/mem"))
    async with reading.opened(backup, executor) as source:
        with pytest.raises(DamagedError, match="cannot be read: Input/output error"):
            source.read(10)


async def test_what_can_be_read_is_read(backup: Backup, executor: ThreadPoolExecutor) -> None:
    async with reading.opened(backup, executor) as source:
        assert source.read(10) == b"data"
        descriptor = source.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize(
    ("number", "its_fault"), [(errno.EACCES, False), (errno.EIO, True), (errno.ESTALE, False)]
)
def test_so_it_is_with_the_manifest(
    backup: Backup, monkeypatch: pytest.MonkeyPatch, number: int, *, its_fault: bool
) -> None:
    def unreadable(path: Path) -> None:
        raise ManifestError(f"{path}: {os.strerror(number)}") from OSError(number, os.strerror(number))

    monkeypatch.setattr(inventory, "read_manifest", unreadable)
    known = Backup(
        **{**{name: getattr(backup, name) for name in Backup.__dataclass_fields__}, "problem": "unreadable"}
    )
    with pytest.raises(AsyncbackupError) as caught:
        reading.manifest_of(known)
    assert isinstance(caught.value, THEIRS) == its_fault


def test_a_backup_of_the_bash_tool_has_none(backup: Backup) -> None:
    assert reading.manifest_of(backup) is None


def test_one_that_is_known_to_be_wrong_needs_no_trial(backup: Backup) -> None:
    with pytest.raises(DamagedError, match="its manifest is missing"):
        reading.manifest_of(replace(backup, problem="its manifest is missing"))
    backup.path.unlink()
    with pytest.raises(AsyncbackupError, match="it is gone") as caught:
        reading.manifest_of(replace(backup, problem="it has 4 bytes, its manifest says 5"))
    assert not isinstance(caught.value, THEIRS)
