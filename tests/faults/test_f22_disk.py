"""A disk that is full, read-only, or not where it was: F22, F25."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.invariants import Site, small_disk, until, wait_for, wrapper
from tests.servers import Database


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from small_disk(tmp_path / "disk", "size=64m")


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", f"{disk}"], check=True)


@pytest.mark.parametrize("size", ["1100k", "2m", "3m"])
def test_f22_it_fills_up(site: Site, big: Database, small: Database, disk: Path, size: str) -> None:
    # What the big one leaves must be enough for the small one.
    site.use(big.server, BACKUP_DIR=f"{disk}", MAX_CONCURRENT_DUMPS="1").configure(small).good()
    before = site.files
    remount(disk, f"size={size}")
    done = site.configure(big, small).backup()
    by_name = {one["dbname"]: one for one in done.databases}
    assert by_name[big.name]["category"] in {"storage", "space"}
    assert "free" in by_name[big.name]["hint"]
    assert by_name[small.name]["status"] == "good" or size == "1100k"
    site.check(done, before)
    remount(disk, "size=64m")
    site.check_recovery(before)


@pytest.mark.parametrize("inodes", range(2, 8))
def test_f22_no_more_inodes(site: Site, small: Database, disk: Path, inodes: int) -> None:
    site.use(small.server, BACKUP_DIR=f"{disk}").configure(small)
    remount(disk, f"nr_inodes={inodes}")
    done = site.backup()
    assert done.returncode == (0 if inodes > 5 else 1)
    assert done.only["category"] == (None if inodes > 5 else "storage")
    site.check(done)
    remount(disk, "nr_inodes=100")
    site.check_recovery()


def test_f25_read_only(site: Site, small: Database, disk: Path, tmp_path: Path) -> None:
    site.use(small.server, BACKUP_DIR=f"{disk}").configure(small).good()
    before = site.files
    remount(disk, "ro")
    for variables in ({}, {"LOCK_DIR": f"{tmp_path / 'locks'}"}):
        done = site.backup(**variables)
        assert (done.returncode, done.only["category"]) == (1, "storage")
        assert "Read-only" in done.only["error"]
        site.check(done, before)
    # A backup directory that is not even there.
    done = site.backup(BACKUP_DIR=f"{disk / 'deeper'}", LOCK_DIR=f"{tmp_path / 'locks'}")
    assert (done.returncode, done.only["category"]) == (1, "storage")
    remount(disk, "rw")
    site.check_recovery(before)


def test_f25_a_file_in_place_of_the_directory(site: Site, small: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = site.use(small.server).configure(small).backup(BACKUP_DIR=f"{tmp_path / 'file'}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BACKUP_DIR" in done.stderr


def test_f25_a_link_in_place_of_a_dated_folder(site: Site, small: Database, tmp_path: Path) -> None:
    path = site.use(small.server).configure(small).good().path
    elsewhere = tmp_path / "elsewhere"
    path.parent.rename(elsewhere)
    path.parent.symlink_to(elsewhere)
    there = sorted(elsewhere.iterdir())
    done = site.backup()
    assert (done.returncode, done.only["category"]) == (1, "storage")
    assert "link" in done.only["error"]
    assert sorted(elsewhere.iterdir()) == there
    path.parent.unlink()
    elsewhere.rename(path.parent)
    site.check_recovery()


@pytest.mark.parametrize("instead", ["link", "folder", "nothing"])
def test_f25_the_folder_is_replaced_meanwhile(
    site: Site, small: Database, tmp_path: Path, instead: str
) -> None:
    site.use(small.server).configure(small)
    go, elsewhere, other = tmp_path / "go", tmp_path / "moved", tmp_path / "other"
    other.mkdir()
    held = wrapper(
        tmp_path / "bin", small.server.bindir, f'touch {tmp_path}/ready; {until(go)}; exec "$REAL" "$@"'
    )
    child = site.start(PG_BINDIRS=f"{held}")
    wait_for((tmp_path / "ready").exists, "the dump")
    folder = site.partials[0].parent
    folder.rename(elsewhere)
    if instead == "link":
        folder.symlink_to(other)
    elif instead == "folder":
        folder.mkdir()
    go.touch()
    done = site.end(child)
    assert (done.returncode, done.only["category"]) == (1, "storage")
    assert list(other.iterdir()) == list(elsewhere.iterdir()) == []
    site.check(done)
    if instead == "link":
        folder.unlink()
    site.check_recovery()
