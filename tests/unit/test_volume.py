"""The one way to a final name: reserve, sync, rename; and nothing else is left behind."""

import errno
import os
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import inventory, naming, volume
from asyncbackup.errors import StorageError
from asyncbackup.model import Manifest, StoredFile, Tier
from asyncbackup.stream import HEADER

WHEN = datetime(2026, 3, 1, 12, 0, 0)  # noqa: DTZ001 - names carry local time
DATA = HEADER + b"data"


def manifest(name: str) -> Manifest:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return Manifest(
        host="h", port=5432, dbname="d", kind="database", run_id="r", started_at=at, finished_at=at,
        local_time="", server_version="15.1", client_version="15.1", loads_into=15,
        file=StoredFile(name=name, bytes=len(DATA), sha256="0" * 64, compressor="isal", level=1),
        sql_bytes=1, rows=0, table_count=0, encoding="UTF8", outside_blake3="0" * 64, restricted=True,
    )  # fmt: skip


def publish(root: Path, *, core: str = "h-d", mode: int = 0o600) -> Path:
    names = volume.parts(Tier.DATED, WHEN)
    with (
        volume.open_folder(root, names, file_mode=mode) as folder,
        volume.partial(folder, core, WHEN) as partial,
    ):
        partial.file.write(DATA)
        return volume.publish(partial, core, WHEN, manifest)[0]


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_is_published_is_found_again_and_good(tmp_path: Path) -> None:
    path = publish(tmp_path)
    assert everything(tmp_path) == [
        "2026-03-01/h-d_2026-03-01_12-00-00.sql.gz",
        "2026-03-01/h-d_2026-03-01_12-00-00.sql.gz.json",
    ]
    entry = inventory.scan(tmp_path).entries[0]
    assert entry.path == path
    assert inventory.load(entry, naming.Owners({}, {}, str.__eq__)).good


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o600, 0o700), (0o640, 0o750)])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mode: int, folder_mode: int) -> None:
    old = os.umask(0o077 if mode == 0o640 else 0)
    try:
        path = publish(tmp_path, mode=mode)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == mode
    assert path.with_name(path.name + ".json").stat().st_mode & 0o777 == mode
    assert path.parent.stat().st_mode & 0o777 == folder_mode


@pytest.mark.parametrize("taken", [".sql.gz", ".sql.gz.json"])
def test_a_final_name_is_never_replaced(tmp_path: Path, taken: str) -> None:
    other = tmp_path / "2026-03-01" / f"h-d_2026-03-01_12-00-00{taken}"
    other.parent.mkdir()
    other.write_bytes(b"somebody else's")
    path = publish(tmp_path)
    assert path.name == "h-d_2026-03-01_12-00-01.sql.gz"
    assert other.read_bytes() == b"somebody else's"
    assert len(everything(tmp_path)) == 3


@pytest.mark.parametrize("nth", range(1, 6))
def test_an_fsync_that_fails_is_not_repeated_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Folder, data, manifest, folder, folder: whichever fails, no name of ours stays."""
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == nth:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="Input/output error"):
        publish(tmp_path)
    assert len(calls) == nth
    assert everything(tmp_path) == []


def test_a_close_that_fails_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(FileIO):
        def close(self) -> None:
            closed = self.closed
            super().close()
            if not closed:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(volume, "FileIO", Late)
    with pytest.raises(StorageError, match="No space left"):
        publish(tmp_path)
    assert everything(tmp_path) == []


@pytest.mark.parametrize("operation", ["link", "open"])
def test_a_step_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    real: Any = getattr(os, operation)

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        if operation == "link" or str(path).endswith(".json"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, operation, refuse)
    with pytest.raises(StorageError, match="Read-only"):
        publish(tmp_path)
    monkeypatch.undo()
    assert everything(tmp_path) == []


def test_a_link_in_a_folders_place_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "2026-03-01").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="link"):
        publish(tmp_path / "root")
    assert everything(elsewhere) == []


def test_a_folder_that_is_moved_away_meanwhile_is_noticed(tmp_path: Path) -> None:
    names = volume.parts(Tier.DATED, WHEN)
    with volume.open_folder(tmp_path, names) as folder, volume.partial(folder, "h-d", WHEN) as partial:
        partial.file.write(DATA)
        folder.path.rename(tmp_path / "moved")
        folder.path.mkdir()
        with pytest.raises(StorageError):
            volume.publish(partial, "h-d", WHEN, manifest)
    assert everything(tmp_path) == []


def test_without_links_it_is_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert publish(tmp_path).read_bytes() == DATA
    assert len(everything(tmp_path)) == 2


def test_a_file_that_lost_data_is_not_published(tmp_path: Path) -> None:
    names = volume.parts(Tier.DATED, WHEN)
    with volume.open_folder(tmp_path, names) as folder, volume.partial(folder, "h-d", WHEN) as partial:
        partial.file.write(DATA[:-1])
        with pytest.raises(StorageError, match="were written"):
            volume.publish(partial, "h-d", WHEN, manifest)
    assert everything(tmp_path) == []


def test_a_file_that_another_tool_writes_to_is_not_published(tmp_path: Path) -> None:
    """As `gzip > name` does, when it begins in the same second."""
    names = volume.parts(Tier.DATED, WHEN)
    with volume.open_folder(tmp_path, names) as folder, volume.partial(folder, "h-d", WHEN) as partial:
        partial.file.write(DATA[:10])
        (folder.path / partial.name).write_bytes(b"")
        partial.file.write(DATA[10:])
        with pytest.raises(StorageError, match="something else wrote"):
            volume.publish(partial, "h-d", WHEN, manifest)
    assert everything(tmp_path) == []
