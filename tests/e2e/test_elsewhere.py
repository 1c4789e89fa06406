"""Copies elsewhere as users meet them: stored beside the dumps, looked after, and brought back to an empty volume."""

import asyncio
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import inventory, naming
from asyncbackup.model import Secret
from asyncbackup.samples.ftps_server import FtpsServer, certify
from asyncbackup.samples.ftps_session import Session
from tests.e2e.conftest import MARKER, Fleet, Site, site_in, wait_until
from tests.processes import empty_place
from tests.restores import drop_kept
from tests.servers import Cli, Ran

STAMP_1, STAMP_2 = "2026-01-01_01-00-00", "2026-01-02_01-00-00"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The secondary location: a second volume."""
    folder = tmp_path / "second volume"
    folder.mkdir()
    return folder


@pytest.fixture
def copied(site: Site, there: Path) -> Site:
    """One database, whose backups also go to a second volume."""
    site.configure(site.fleet.specs[0])
    site.env |= {
        "SECONDARY_DIR": f"{there}",
        "DUMP_GLOBALS": "false",
        "UPLOAD_RETRIES": "0",
        "VERIFY_LEVEL": "rows",
    }
    return site


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet) -> Path:
    """Three backups of the first database and one of the second, with their copies; to be copied and not touched."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "second").mkdir()
    made = site_in(folder, fleet, Cli(folder))
    made.env |= {"SECONDARY_DIR": f"{folder / 'second'}", "DUMP_GLOBALS": "false"}
    for _ in range(3):
        assert made("backup", fleet.specs[0]).returncode == 0
    assert made("backup", fleet.specs[1]).returncode == 0
    assert len(names(folder / "second")) == 4
    return folder


@pytest.fixture
def full(copied: Site, there: Path, stored: Path) -> Site:
    """All of these, here and there."""
    shutil.copytree(stored / "backups", copied.backups)
    shutil.copytree(stored / "second", there, dirs_exist_ok=True)
    copied.configure(*copied.fleet.specs[:2])
    return copied


@pytest.fixture
def lost(full: Site) -> Site:
    """The same with an empty volume."""
    shutil.rmtree(full.backups)
    return full


def names(folder: Path) -> list[str]:
    """The backups that are there with a manifest, oldest first."""
    files = sorted(path.name for path in folder.glob("*.sql.gz"))
    return sorted(
        (name for name in files if (folder / f"{name}.json").is_file()), key=lambda name: name[-26:]
    )


def of(folder: Path, database: int) -> list[str]:
    return [name for name in names(folder) if f"_{database}_" in name]


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if naming.parse_part(path.name)]


def whole(folder: Path) -> None:
    """Every file under a final name is what its manifest says."""
    for name in names(folder):
        said = inventory.read_manifest(folder / name).file
        data = (folder / name).read_bytes()
        assert (said.name, said.bytes, said.sha256) == (name, len(data), hashlib.sha256(data).hexdigest())


def events(text: str, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [one for one in found if one["event"] == name]


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """Unmount the second volume, so to speak."""
    aside = folder.with_name("unmounted")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


# --- backing up


def test_every_backup_goes_there_too(copied: Site, there: Path) -> None:
    copied.configure(*copied.fleet.specs)
    copied.env["DUMP_GLOBALS"] = "true"
    ran = copied("backup")
    assert ran.returncode == 0, ran.stderr
    assert names(there) == [path.name for path in sorted(copied.files(), key=lambda p: p.name[-26:])]
    assert len(names(there)) == 4
    for path in copied.files():
        assert (there / path.name).read_bytes() == path.read_bytes()
        assert (there / path.name).stat().st_mode & 0o777 == 0o600
    assert f"4 stored at {there}/" in ran.stdout
    assert len(events(ran.stderr, "upload.finished")) == 4
    assert parts(there) == []


def test_the_result_as_json(copied: Site, there: Path) -> None:
    ran = copied("backup", "--json")
    (one,) = json.loads(ran.stdout)["databases"]
    (copy,) = one["copies"]
    assert one["status"] == "good"
    assert copy.pop("seconds") >= 0
    assert copy == {
        "location": f"{there}/", "stored": names(there), "pruned": [], "bytes": one["bytes"],
        "error": None, "category": None, "hint": None,
    }  # fmt: skip


def test_a_location_that_is_away_leaves_good_backups_here_and_says_so(copied: Site, there: Path) -> None:
    copied.configure(*copied.fleet.specs)
    with away(there):
        ran = copied("backup", "--json")
        assert ran.returncode == 3
        shown = copied("backup")
    assert not parts(there)
    databases = json.loads(ran.stdout)["databases"]
    for one in databases:
        assert (one["status"], one["category"]) == ("local only", "target")
        assert one["rows"] > 0
        assert f"cannot open the folder {there}" in one["error"]
        assert "mount its volume" in one["hint"]
        (copy,) = one["copies"]
        assert (copy["stored"], copy["error"], copy["category"]) == ([], one["error"], "target")
    (finished,) = events(ran.stderr, "run.finished")
    assert sorted(finished["local_only"]) == sorted(copied.fleet.specs)
    assert (finished["good"], finished["failed"]) == (0, [])
    assert len(events(ran.stderr, "backup.finished")) == 3
    assert len(events(ran.stderr, "upload.failed")) == 3
    assert shown.returncode == 3
    assert shown.stdout.count("local only") == 3
    assert "Try: SECONDARY_DIR is never made by asyncbackup: mount its volume" in shown.stdout
    assert copied("check").returncode == 0, "what is here is good"


def test_the_next_run_stores_what_is_missing(copied: Site, there: Path) -> None:
    with away(there):
        for _ in range(2):
            assert copied("backup").returncode == 3
    ran = copied("backup", "--json")
    assert ran.returncode == 0, ran.stdout
    (one,) = json.loads(ran.stdout)["databases"]
    assert len(names(there)) == 3
    assert one["copies"][0]["stored"] == names(there)[::-1], "the newest first"
    whole(there)


def test_what_is_nowhere_else_is_spared_until_it_is_or_newer_ones_are(copied: Site, there: Path) -> None:
    copied.env["NUM_BACKUPS"] = "2"
    with away(there):
        for count in (1, 2, 3, 4):
            ran = copied("backup")
            assert ran.returncode == 3
            assert len(copied.files()) == count, "nothing goes that is nowhere else"
        assert f"{there}/" in [one["location"] for one in events(ran.stderr, "remote.unread")]
    ran = copied("backup")
    assert ran.returncode == 0, ran.stdout
    assert len(names(there)) == 2
    ran = copied("backup")
    assert ran.returncode == 0
    here = sorted(path.name for path in copied.files())
    # The last one was stored after this run had pruned, and so what it displaces goes the next time.
    assert len(here) in {2, 3}
    assert copied("backup").returncode == 0
    assert len(copied.files()) in {2, 3}
    assert len(names(there)) == 2
    assert max(names(there)) == max(path.name for path in copied.files())


def test_retention_there_may_be_another(copied: Site, there: Path) -> None:
    copied.env |= {"NUM_BACKUPS": "3"}
    (there / "notes.txt").write_text("mine")
    for _ in range(3):
        assert copied("backup", REMOTE_RETENTION="2").returncode == 0
    assert len(copied.files()) == 3
    assert len(names(there)) == 2
    ran = copied("backup", "--json", REMOTE_RETENTION="none")
    assert len(names(there)) == 4, "nothing is ever removed there; what is here and not there is stored"
    assert len(copied.files()) == 4, "nor here, until it was stored"
    ran = copied("backup", "--json", REMOTE_RETENTION="same")
    (copy,) = json.loads(ran.stdout)["databases"][0]["copies"]
    assert len(copy["pruned"]) == 2
    assert sorted(names(there)) == sorted(path.name for path in copied.files())
    assert (there / "notes.txt").read_text() == "mine"


def test_of_two_locations_one_may_fail(copied: Site, there: Path, tmp_path: Path) -> None:
    ran = copied(
        "backup",
        "--json",
        FTP_URL="ftp://127.0.0.1:1/db",
        FTP_USER="u",
        FTP_PASSWORD=f"{MARKER}-ftp",
        CONNECT_TIMEOUT="2",
    )
    assert ran.returncode == 3
    (one,) = json.loads(ran.stdout)["databases"]
    assert one["status"] == "local only"
    by_location = {copy["location"]: copy for copy in one["copies"]}
    assert by_location[f"{there}/"]["stored"] == names(there) != []
    assert by_location["ftp://127.0.0.1:1/db/"]["error"] == one["error"]


# --- interrupted


def slow(site: Site) -> dict[str, str]:
    """Settings with which one upload takes many seconds."""
    return {"UPLOAD_RATE_LIMIT": "4k"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_upload_leaves_nothing_under_a_final_name(
    copied: Site, there: Path, number: signal.Signals
) -> None:
    copied.configure(copied.fleet.specs[2])
    child = copied.start("backup", **slow(copied))
    wait_until(lambda: parts(there), "an upload")
    child.send_signal(number)
    _, stderr = child.communicate(timeout=20)
    assert list(there.glob("*.sql.gz")) == [], "the last of it never came"
    assert len(copied.files()) == 1
    if number == signal.SIGKILL:
        assert child.returncode == -9
        assert len(parts(there)) == 1
    else:
        assert child.returncode == 128 + number
        assert parts(there) == []
        assert [one["category"] for one in events(stderr, "upload.failed")] == ["interrupted"]
        (told,) = events(stderr, "run.interrupted")
        assert told["local_only"] == [copied.fleet.specs[2]]
    assert copied("check").returncode == 0
    ran = copied("backup")
    assert ran.returncode == 0, ran.stderr
    assert names(there) == sorted(path.name for path in copied.files())
    assert len(names(there)) == 2
    whole(there)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_upload_by_hand_that_is_interrupted_is_gone_on_with(
    copied: Site, there: Path, number: signal.Signals
) -> None:
    with away(there):
        assert copied("backup").returncode == 3
    child = copied.start("upload", **slow(copied))
    wait_until(lambda: parts(there), "an upload")
    child.send_signal(number)
    child.communicate(timeout=20)
    assert child.returncode == (-9 if number == signal.SIGKILL else 143)
    assert list(there.glob("*.sql.gz")) == []
    assert copied("upload").returncode == 0
    assert names(there) == [path.name for path in copied.files()]
    whole(there)


# --- upload


def test_upload_stores_what_is_missing(copied: Site, there: Path) -> None:
    with away(there):
        assert copied("backup").returncode == 3
        failed = copied("upload")
        assert failed.returncode == 1
        assert "FAILED" in failed.stdout
        assert "Try: SECONDARY_DIR is never made" in failed.stdout
        as_json = copied("upload", "--json")
        assert as_json.returncode == 1
        assert json.loads(as_json.stdout)[0]["copies"][0]["category"] == "target"
    ran = copied("upload", copied.fleet.specs[0], "--json")
    assert ran.returncode == 0, ran.stderr
    (one,) = json.loads(ran.stdout)
    assert (one["host"], one["dbname"]) == ("127.0.0.1", copied.fleet.databases[0].name)
    assert one["copies"][0]["stored"] == names(there) == [path.name for path in copied.files()]
    again = copied("upload", "all")
    assert again.returncode == 0
    assert again.stdout.splitlines()[1].split()[-3:-1] != []
    assert "complete" in again.stdout
    assert events(again.stderr, "upload.started") == []


def test_upload_of_what_was_damaged_here_stores_nothing_of_it(full: Site, there: Path) -> None:
    path = next(path for path in full.files() if path.name == of(there, 1)[1])
    for name in (path.name, f"{path.name}.json"):
        (there / name).unlink()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    ran = full("upload", "--json")
    assert ran.returncode == 3
    errors = [copy["error"] for one in json.loads(ran.stdout) for copy in one["copies"]]
    assert [bool(error) for error in errors] == [True, False]
    assert f"{path}: it is not what was written" in (errors[0] or "")
    assert not (there / path.name).exists()
    assert parts(there) == []


def test_upload_of_what_is_nowhere(copied: Site) -> None:
    ran = copied("upload")
    assert ran.returncode == 1
    assert "there is no backup in" in ran.stderr
    assert "asyncbackup backup" in ran.stderr


# --- list


def test_list_remote(full: Site, there: Path) -> None:
    newest = of(there, 1)[-1]
    next(path for path in full.files() if path.name == newest).unlink()
    (there / f"{of(there, 1)[0]}.json").unlink()
    (there / "notes.txt").write_text("mine")
    ran = full("list", "--remote", "--json")
    assert ran.returncode == 0, ran.stderr
    listed = {one["name"]: one for one in json.loads(ran.stdout)}
    assert len(listed) == 4
    assert {one["dbname"] for one in listed.values()} == {one.name for one in full.fleet.databases[:2]}
    assert [name for name, one in listed.items() if not one["here"]] == [newest]
    assert sum(one["has_manifest"] for one in listed.values()) == 3
    assert {one["location"] for one in listed.values()} == {f"{there}/"}
    shown = full("list", "--remote", full.fleet.specs[1])
    assert shown.stdout.count(".sql.gz") == 1
    assert "1 backup" in shown.stdout
    assert full("list", "--remote", "-f", newest).stdout.count(".sql.gz") == 1
    assert "No backups there." in full("list", "--remote", "-f", "no such").stdout


def test_list_remote_where_one_location_is_away(full: Site, there: Path) -> None:
    more = {"FTP_URL": "ftp://127.0.0.1:1/", "CONNECT_TIMEOUT": "2"}
    ran = full("list", "--remote", **more)
    assert ran.returncode == 3
    assert ran.stdout.count(".sql.gz") == 4
    assert "127.0.0.1:1" in ran.stderr
    with away(there):
        assert full("list", "--remote").returncode == 1


# --- check


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def packed_anew(path: Path) -> None:
    """As long as before, and a whole gzip file of a whole dump, as far as that can be had."""
    sql = gzip.decompress(path.read_bytes()).replace(b"row 1\n", b"row 2\n")
    path.write_bytes(gzip.compress(sql)[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))


def without_manifest(path: Path) -> None:
    path.with_name(f"{path.name}.json").unlink()


def with_a_damaged_manifest(path: Path) -> None:
    flipped(path.with_name(f"{path.name}.json"))


def with_anothers_manifest(path: Path) -> None:
    other = next(one for one in path.parent.glob("*.json") if not one.name.startswith(path.name))
    shutil.copy(other, path.with_name(f"{path.name}.json"))


def test_check_remote_of_what_is_as_it_was_stored(full: Site, there: Path) -> None:
    ran = full("check", "--remote", "--json")
    assert ran.returncode == 0, ran.stdout
    found = json.loads(ran.stdout)
    assert [one["verdict"] for one in found] == ["good"] * 4
    assert {one["location"] for one in found} == {f"{there}/"}
    assert sorted(one["rows"] for one in found) == [1000, 1000, 1000, 2000]
    assert sorted(one["path"] for one in found) == sorted(names(there))
    assert len(events(ran.stderr, "remote.checked")) == 4
    assert f"at {there}/" in full("check", "--remote").stdout


@pytest.mark.parametrize(
    ("harm", "verdict"),
    [
        (flipped, "bad"),
        (truncated, "bad"),
        (packed_anew, "bad"),
        (without_manifest, "whole"),
        (with_a_damaged_manifest, "bad"),
        (with_anothers_manifest, "bad"),
    ],
)
def test_check_remote_finds_every_damage(
    full: Site, there: Path, harm: Callable[[Path], None], verdict: str
) -> None:
    name = of(there, 1)[1]
    harm(there / name)
    ran = full("check", "--remote", "--json")
    found = {one["path"]: one for one in json.loads(ran.stdout)}
    assert found[name]["verdict"] == verdict
    assert [one["verdict"] for path, one in found.items() if path != name] == ["good"] * 3
    assert ran.returncode == (0 if verdict == "whole" else 3)
    if verdict == "bad":
        assert found[name]["problems"]
        assert [one["file"] for one in events(ran.stderr, "remote.check_failed")] == [name]
        assert full("check", "--remote", "-f", name).returncode == 1


def test_check_remote_of_a_file_of_the_bash_tool(full: Site, there: Path) -> None:
    sql = gzip.decompress((there / names(there)[0]).read_bytes())
    name = f"127.0.0.1-{full.fleet.databases[0].name}_{STAMP_1}.sql.gz"
    (there / name).write_bytes(gzip.compress(sql))
    (there / name.replace(STAMP_1, STAMP_2)).write_bytes(gzip.compress(sql)[:-5])
    found = {one["path"]: one["verdict"] for one in json.loads(full("check", "--remote", "--json").stdout)}
    assert found.pop(name) == "whole"
    assert found.pop(name.replace(STAMP_1, STAMP_2)) == "bad"
    assert set(found.values()) == {"good"}


def test_check_remote_misses_what_the_configuration_names(full: Site, there: Path) -> None:
    full.configure(*full.fleet.specs)
    ran = full("check", "--remote", "--json")
    assert ran.returncode == 3
    assert [one["dbname"] for one in json.loads(ran.stdout) if one["verdict"] == "missing"] == [
        full.fleet.databases[2].name
    ]


def test_check_remote_where_one_location_is_away_checks_the_other(full: Site, there: Path) -> None:
    ran = full("check", "--remote", "--json", FTP_URL="ftp://127.0.0.1:1/", CONNECT_TIMEOUT="2")
    assert ran.returncode == 3
    found = json.loads(ran.stdout)
    assert [one["verdict"] for one in found if one["location"] == f"{there}/"] == ["good"] * 4
    (away_,) = [one for one in found if one["location"] != f"{there}/"]
    assert (away_["verdict"], away_["path"]) == ("bad", None)
    assert "nothing there could be checked" in away_["problems"][0]
    with away(there):
        assert full("check", "--remote").returncode == 1


def test_check_remote_of_nothing(copied: Site) -> None:
    ran = copied("check", "--remote", "-f", "nothing")
    assert ran.returncode == 1
    assert "nothing was checked" in ran.stderr


# --- fetch


def test_fetch_brings_the_newest_back_to_where_it_was(lost: Site, there: Path, stored: Path) -> None:
    ran = lost("fetch", lost.fleet.specs[0])
    assert ran.returncode == 0, ran.stderr
    (path,) = lost.files()
    assert ran.stdout.strip() == f"{path}"
    assert path.name == of(there, 1)[-1]
    before = next((stored / "backups").rglob(path.name))
    assert path.relative_to(lost.backups) == before.relative_to(stored / "backups")
    for suffix in ("", ".json"):
        assert (
            path.with_name(path.name + suffix).read_bytes()
            == before.with_name(before.name + suffix).read_bytes()
        )
        assert path.with_name(path.name + suffix).stat().st_mode & 0o777 == 0o600
    assert lost.leftovers() == []
    assert lost("check", lost.fleet.specs[0]).returncode == 0
    again = lost("fetch", lost.fleet.specs[0])
    assert (again.returncode, again.stdout) == (0, ran.stdout), "what is here stays as it is"
    assert events(again.stderr, "fetch.started") == []


def test_fetch_of_all_and_of_a_certain_one(lost: Site, there: Path) -> None:
    oldest = of(there, 1)[0]
    ran = lost("fetch", lost.fleet.specs[0], "-f", oldest, "--json")
    assert ran.returncode == 0, ran.stderr
    assert [Path(path).name for path in json.loads(ran.stdout)["paths"]] == [oldest]
    assert lost("fetch", "all").returncode == 0
    assert {path.name for path in lost.files()} == {oldest, of(there, 1)[-1], of(there, 2)[-1]}


def test_fetch_of_all_knows_what_a_wildcard_stood_for(lost: Site, there: Path) -> None:
    lost.configure(f"127.0.0.1:{lost.fleet.port}/*")
    assert lost("fetch", "all").returncode == 0
    assert {path.name for path in lost.files()} == {of(there, 1)[-1], of(there, 2)[-1]}


def test_fetch_to_another_folder(lost: Site, there: Path, tmp_path: Path) -> None:
    ran = lost("fetch", lost.fleet.specs[0], "--to", f"{tmp_path / 'else' / 'where'}")
    assert ran.returncode == 0, ran.stderr
    path = Path(ran.stdout.strip())
    assert path.is_relative_to(tmp_path / "else" / "where")
    assert path.read_bytes() == (there / path.name).read_bytes()
    assert lost.files() == []


def test_fetch_of_what_is_not_there(lost: Site, there: Path) -> None:
    ran = lost("fetch", lost.fleet.specs[2])
    assert ran.returncode == 1
    assert f"{lost.fleet.specs[2]}: there is no backup at {there}/" in ran.stderr
    both = lost("fetch", *lost.fleet.specs[1:], "--json")
    assert both.returncode == 3
    assert len(json.loads(both.stdout)["paths"]) == len(json.loads(both.stdout)["errors"]) == 1
    assert lost("fetch", lost.fleet.specs[0], "-f", "no such").returncode == 1
    no_spec = lost("fetch")
    assert no_spec.returncode == 2
    assert "`all`" in no_spec.stderr


def test_fetch_of_what_was_damaged_there(lost: Site, there: Path) -> None:
    flipped(there / of(there, 1)[-1])
    ran = lost("fetch", lost.fleet.specs[0])
    assert ran.returncode == 1
    assert "is not what was stored there" in ran.stderr
    assert lost.files() == lost.leftovers() == []


def test_fetch_passes_a_copy_over_whose_manifest_is_damaged_and_says_so(lost: Site, there: Path) -> None:
    with_a_damaged_manifest(there / of(there, 1)[-1])
    truncated(there / of(there, 1)[-2])
    ran = lost("fetch", lost.fleet.specs[0])
    assert ran.returncode == 0, ran.stderr
    assert [path.name for path in lost.files()] == [of(there, 1)[0]]
    assert [one["file"] for one in events(ran.stderr, "remote.check_failed")] == of(there, 1)[:0:-1]


def test_fetch_leaves_another_file_of_that_name_as_it_is(full: Site, there: Path) -> None:
    path = next(path for path in full.files() if path.name == of(there, 1)[-1])
    flipped(path)
    before = path.read_bytes()
    ran = full("fetch", full.fleet.specs[0])
    assert ran.returncode == 1
    assert f"{path} is there already, and is not what lies at {there}/" in ran.stderr
    assert path.read_bytes() == before
    path.unlink()
    path.symlink_to("/dev/null")
    assert full("fetch", full.fleet.specs[0]).returncode == 1
    assert path.is_symlink()


def test_fetch_takes_the_newest_wherever_it_lies(lost: Site, there: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for name in of(there, 1)[:-1]:
        for suffix in ("", ".json"):
            (there / f"{name}{suffix}").rename(older / f"{name}{suffix}")
    newest = of(there, 1)[-1]
    with served(tmp_path, older) as ftp:  # the FTP server is asked first
        ran = lost("fetch", lost.fleet.specs[0], **ftp)
    assert ran.returncode == 0, ran.stderr
    assert [path.name for path in lost.files()] == [newest]


def test_fetch_where_one_location_is_away_takes_the_other_and_says_so(lost: Site, there: Path) -> None:
    more = {"FTP_URL": "ftp://127.0.0.1:1/", "CONNECT_TIMEOUT": "2"}
    ran = lost("fetch", "all", **more)
    assert ran.returncode == 0, ran.stderr
    assert len(lost.files()) == 2
    assert [one["location"] for one in events(ran.stderr, "remote.unread")] == ["ftp://127.0.0.1:1/"]
    with away(there):
        ran = lost("fetch", "all", **more)
    assert ran.returncode == 1


def test_a_fetch_that_is_killed_leaves_nothing_that_counts(lost: Site, there: Path) -> None:
    with lost_lock(lost):
        ran = lost("fetch", lost.fleet.specs[0])
    assert ran.returncode == 4
    assert "is being worked on by" in ran.stderr


@contextmanager
def lost_lock(site: Site) -> Iterator[None]:
    """Hold the lock of the first series, as a run would."""
    database = site.fleet.databases[0]
    folder = site.backups / ".asyncbackup"
    folder.mkdir(parents=True)
    with (folder / f"{naming.long_core(database.spec)}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- an empty volume


@pytest.fixture
def restored(lost: Site) -> Iterator[Site]:
    """The database has lost rows, too."""
    fleet = lost.fleet
    database = fleet.databases[0]
    lost.env |= {
        "ADMIN_USER": fleet.server.cluster.user,
        "ADMIN_PASSWORD": fleet.server.cluster.password.reveal(),
    }
    database.psql("DELETE FROM t WHERE id <= 500")
    yield lost
    drop_kept(fleet.server, database.name)
    database.psql("DELETE FROM t; INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) AS g")


@pytest.mark.parametrize("wildcard", [False, True])
def test_an_empty_volume_and_the_configuration_bring_a_database_back(
    restored: Site, *, wildcard: bool
) -> None:
    fleet = restored.fleet
    if wildcard:
        restored.configure(f"127.0.0.1:{fleet.port}/*")
    ran = restored("restore", fleet.specs[0], "--yes", "--json")
    assert ran.returncode == 0, ran.stderr
    assert fleet.databases[0].query("SELECT count(*) FROM t") == "1000"
    assert len(restored.files()) == 1, "it was fetched, and is a backup like any other"


def test_a_restore_from_nowhere(restored: Site, there: Path) -> None:
    with away(there):
        ran = restored("restore", restored.fleet.specs[0], "--yes")
    assert ran.returncode == 1
    assert "cannot open the folder" in ran.stderr
    for path in there.iterdir():
        path.unlink()
    ran = restored("restore", restored.fleet.specs[0], "--yes")
    assert ran.returncode == 1
    assert "there is no backup at" in ran.stderr
    assert restored.fleet.databases[0].query("SELECT count(*) FROM t") == "500"


def test_a_restore_from_there_though_there_are_backups_here(restored: Site, there: Path) -> None:
    fleet = restored.fleet
    assert restored("backup", fleet.specs[0], SECONDARY_DIR="").returncode == 0
    local = restored("restore", fleet.specs[0], "--yes", "--json")
    assert local.returncode == 0, local.stderr
    assert fleet.databases[0].query("SELECT count(*) FROM t") == "500"
    remote = restored("restore", fleet.specs[0], "--remote", "--yes", "--json")
    assert remote.returncode == 0, remote.stderr
    assert fleet.databases[0].query("SELECT count(*) FROM t") == "1000"


def test_a_restore_never_takes_a_damaged_file_here_for_the_good_copy_there(
    restored: Site, there: Path, stored: Path
) -> None:
    fleet = restored.fleet
    newest = of(there, 1)[-1]
    source = next((stored / "backups").rglob(newest))
    path = restored.backups / source.relative_to(stored / "backups")
    path.parent.mkdir(parents=True)
    for suffix in ("", ".json"):
        shutil.copy(source.with_name(newest + suffix), path.with_name(newest + suffix))
    flipped(path)
    ran = restored("restore", fleet.specs[0], "--remote", "--yes")
    assert ran.returncode == 1
    assert f"{path} is there already, and is not what lies at {there}/" in ran.stderr
    assert "move it away" in ran.stderr
    assert fleet.databases[0].query("SELECT count(*) FROM t") == "500"
    path.rename(path.with_name("aside"))
    path.with_name(f"{newest}.json").unlink()
    assert restored("restore", fleet.specs[0], "--remote", "--yes").returncode == 0
    assert fleet.databases[0].query("SELECT count(*) FROM t") == "1000"


def test_without_a_location_a_restore_says_what_it_always_did(restored: Site) -> None:
    ran = restored("restore", restored.fleet.specs[0], "--yes", SECONDARY_DIR="")
    assert ran.returncode == 1
    assert "there is no good backup in" in ran.stderr


# --- verify


@pytest.fixture
def place() -> Iterator[Path]:
    """A VERIFY_DIR, where nothing but records is left."""
    with empty_place() as folder:
        yield folder
        shutil.rmtree(folder / "records", ignore_errors=True)


def verdicts(ran: Ran) -> dict[str, str]:
    return {one["dbname"]: one["verdict"] for one in json.loads(ran.stdout)["backups"]}


def test_verify_takes_from_there_what_is_not_here_and_keeps_none_of_it(
    full: Site, there: Path, place: Path
) -> None:
    first, second = (database.name for database in full.fleet.databases[:2])
    for path in full.files():
        if path.name in of(there, 2):
            shutil.rmtree(path.parent) if len(full.files()) == 1 else path.unlink()
            path.with_name(f"{path.name}.json").unlink(missing_ok=True)
    ran = full("verify", "--json", VERIFY_DIR=f"{place}")
    assert ran.returncode == 0, ran.stderr
    assert verdicts(ran) == {first: "good", second: "good"}
    assert [one["dbname"] for one in events(ran.stderr, "fetch.finished")] == [second]
    assert not [path for path in full.files() if path.name in of(there, 2)]
    assert [path.name for path in place.iterdir()] == ["records"]
    shown = full("verify", full.fleet.specs[1], VERIFY_DIR=f"{place}")
    assert f"fetched from {there}/" in shown.stdout


@pytest.mark.parametrize("wildcard", [False, True])
def test_verify_with_an_empty_volume(lost: Site, place: Path, *, wildcard: bool) -> None:
    if wildcard:
        lost.configure(f"127.0.0.1:{lost.fleet.port}/*")
    ran = lost("verify", "all", "--json", VERIFY_DIR=f"{place}")
    assert ran.returncode == 0, ran.stderr
    assert verdicts(ran) == {database.name: "good" for database in lost.fleet.databases[:2]}
    assert not lost.backups.exists()


def test_verify_makes_its_folder_for_its_server_too(lost: Site, place: Path) -> None:
    """As root, the server runs as somebody else."""
    new = place / "new" / "folder"
    ran = lost("verify", lost.fleet.specs[0], "--json", VERIFY_DIR=f"{new}")
    assert ran.returncode == 0, ran.stdout
    shutil.rmtree(place / "new")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_verification_leaves_no_copy_here(
    full: Site, tmp_path: Path, place: Path, number: signal.Signals
) -> None:
    with served(tmp_path, tmp_path / "second volume", Holding) as ftp:
        child = full.start("verify", "--remote", VERIFY_DIR=f"{place}", SECONDARY_DIR="", **ftp)
        wait_until(lambda: list(place.rglob("*.in_progress")), "a copy that is fetched")
        child.send_signal(number)
        child.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert list(place.rglob("*.in_progress"))
        assert full("verify", "--remote", full.fleet.specs[1], VERIFY_DIR=f"{place}").returncode == 0
    assert [path.name for path in place.iterdir() if path.name != "records"] == []


def test_verify_remote_verifies_what_is_there_and_nothing_here(full: Site, there: Path, place: Path) -> None:
    first, second = (database.name for database in full.fleet.databases[:2])
    flipped(there / of(there, 1)[-1])
    ran = full("verify", "--remote", "--json", VERIFY_DIR=f"{place}")
    assert ran.returncode == 3
    assert verdicts(ran) == {first: "bad", second: "good"}
    assert not list(full.backups.rglob("*.verified.json"))
    assert full("verify", "--json", VERIFY_DIR=f"{place}").returncode == 0


@pytest.mark.parametrize("wildcard", [False, True])
def test_verify_remote_of_nothing_there_verifies_nothing_here(
    full: Site, there: Path, place: Path, *, wildcard: bool
) -> None:
    if wildcard:
        full.configure(f"127.0.0.1:{full.fleet.port}/*")
    for path in there.iterdir():
        path.unlink()
    ran = full("verify", "--remote", "--json", VERIFY_DIR=f"{place}")
    assert ran.returncode == 1
    assert '"good"' not in ran.stdout
    assert events(ran.stderr, "verify.started") == []


def test_verify_does_not_depend_on_a_location(full: Site, there: Path, place: Path) -> None:
    full.configure(*full.fleet.specs)
    with away(there):
        ran = full("verify", "--json", VERIFY_DIR=f"{place}")
        assert ran.returncode == 3
        of_all = verdicts(ran)
        assert [of_all[database.name] for database in full.fleet.databases] == ["good", "good", "missing"]
        assert events(ran.stderr, "remote.unread")
        ran = full("verify", "--remote", VERIFY_DIR=f"{place}")
        assert ran.returncode == 1
        assert "cannot open the folder" in ran.stderr


# --- prune


def test_prune_by_hand_spares_what_is_nowhere_else(full: Site, there: Path) -> None:
    middle, oldest = of(there, 1)[1], of(there, 1)[0]
    for name in (middle, f"{middle}.json"):
        (there / name).unlink()
    ran = full("prune", "--yes", "--json", NUM_BACKUPS="1", REMOTE_RETENTION="none")
    assert ran.returncode == 0, ran.stderr
    decisions = {Path(one["path"]).name: one for one in json.loads(ran.stdout)["backups"]}
    assert decisions[middle]["keep"]
    assert "it is at no secondary location yet" in decisions[middle]["reason"]
    assert decisions[oldest]["removed"]
    assert middle in {path.name for path in full.files()}
    assert oldest not in {path.name for path in full.files()}


def test_prune_by_hand_spares_all_of_it_where_nobody_can_tell(full: Site, there: Path) -> None:
    with away(there):
        ran = full("prune", "--yes", NUM_BACKUPS="1")
    assert ran.returncode == 0
    assert "what may not be there stays here" in ran.stderr
    assert len(full.files()) == 4


def test_prune_of_a_chosen_one_says_that_it_is_nowhere_else(full: Site, there: Path) -> None:
    middle = of(there, 1)[1]
    for name in (middle, f"{middle}.json"):
        (there / name).unlink()
    # Retention would keep it.
    ran = full("prune", "-f", middle, "--dry-run", NUM_BACKUPS="31")
    assert "though it is at no secondary location yet" in ran.stdout
    ran = full("prune", "-f", of(there, 1)[0], "--dry-run")
    assert "secondary" not in ran.stdout


# --- settings


def test_wrong_settings_are_told_all_at_once(copied: Site, tmp_path: Path) -> None:
    wrong = {
        "S3_ENDPOINT": "https://s3.example",
        "S3_BUCKET": "",
        "FTP_URL": f"ftps://u:{MARKER}@host/",
        "FTP_TLS": "off",
        "FTP_CA_FILE": f"{tmp_path}/no such file",
        "UPLOAD_RATE_LIMIT": "fast",
        "REMOTE_RETENTION": "some",
    }
    for command in (["backup"], ["upload"], ["list", "--remote"], ["config"]):
        ran = copied(*command, **wrong)
        assert ran.returncode == 2
        for said in (
            "S3_BUCKET: must be set",
            "FTP_TLS=off: does not go with",
            "FTP_CA_FILE=",
            "UPLOAD_RATE_LIMIT=",
            "REMOTE_RETENTION=",
        ):
            assert said in ran.stderr, command
    assert not copied.backups.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["upload"],
        ["fetch", "all"],
        ["list", "--remote"],
        ["check", "--remote"],
        ["verify", "--remote"],
        ["restore", "h/d", "--remote", "--yes"],
    ],
)
def test_without_a_location_it_says_which_settings_make_one(copied: Site, words: list[str]) -> None:
    ran = copied(*words, SECONDARY_DIR="")
    assert ran.returncode == 2
    assert "no secondary location is configured" in ran.stderr
    assert "set FTP_URL, SECONDARY_DIR or S3_BUCKET" in ran.stderr


# --- an FTP server


class Holding(FtpsServer):
    """Hands out manifests, and never a backup."""

    def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Session:
        class Held(Session):
            async def _on_retr(self, argument: str) -> None:
                if argument.endswith(naming.SUFFIX):
                    await asyncio.Event().wait()
                await super()._on_retr(argument)

        return Held(self, reader, writer)


@contextmanager
def served(folder: Path, home: Path, kind: type[FtpsServer] = FtpsServer) -> Iterator[dict[str, str]]:
    """Run our strict FTP server in a thread; yield the settings that lead there."""
    tls, trusted = certify(folder, "127.0.0.1")
    password = f"{MARKER}/p@ss:w%rd"
    loop = asyncio.new_event_loop()
    ready, end = threading.Event(), asyncio.Event()
    server = kind(folder=home, user="backup", password=Secret(password), tls=tls)

    async def serve() -> None:
        async with server.serving():
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        secret = folder / "ftp password"
        secret.write_text(password)
        yield {
            "FTP_URL": f"ftp://127.0.0.1:{server.port}/",
            "FTP_USER": "backup",
            "FTP_PASSWORD_FILE": f"{secret}",
            "FTP_CA_FILE": f"{trusted}",
        }
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def test_the_whole_way_by_ftps(copied: Site, tmp_path: Path, place: Path) -> None:
    home = tmp_path / "ftp"
    home.mkdir()
    copied.env["SECONDARY_DIR"] = ""
    copied.configure(*copied.fleet.specs)
    with served(tmp_path, home) as ftp:
        copied.env |= ftp
        ran = copied("backup", "--json")
        assert ran.returncode == 0, ran.stderr
        assert len(names(home)) == 3
        whole(home)
        assert json.loads(ran.stdout)["databases"][0]["copies"][0]["location"] == ftp["FTP_URL"]
        assert copied("backup", NUM_BACKUPS="1").returncode == 0
        assert len(names(home)) == 3
        shutil.rmtree(copied.backups)
        assert copied("list", "--remote").stdout.count(".sql.gz") == 3
        assert copied("check", "--remote").returncode == 0
        assert copied("verify", VERIFY_DIR=f"{place}").returncode == 0
        assert copied("fetch", "all").returncode == 0
        assert len(copied.files()) == 3
        copied.env["FTP_PASSWORD_FILE"] = ""
        for words in (["backup"], ["upload"], ["list", "--remote"], ["check", "--remote"], ["fetch", "all"]):
            refused = copied(*words, FTP_PASSWORD=f"{MARKER}-wrong")
            assert refused.returncode in {1, 3}
            assert "530" in refused.stdout + refused.stderr
    assert parts(home) == []


def test_secrets_are_in_no_output_whatever_the_server_echoes(copied: Site, tmp_path: Path) -> None:
    """A server that repeats what it was told, in all its replies."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as lines:
                lines.write(b"220 hello\r\n")
                lines.flush()
                for line in lines:
                    code = b"331" if line.startswith(b"USER") else b"530"
                    lines.write(code + b" you said " + line)
                    lines.flush()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    ftp = {
        "FTP_URL": f"ftp://127.0.0.1:{listening.getsockname()[1]}/",
        "FTP_TLS": "off",
        "FTP_USER": "u",
        "FTP_PASSWORD": f"{MARKER}-echoed",
        "SECONDARY_DIR": "",
    }
    try:
        for words in (
            ["backup"],
            ["backup", "--json"],
            ["upload"],
            ["upload", "--json"],
            ["list", "--remote"],
            ["check", "--remote"],
            ["check", "--remote", "--json"],
            ["fetch", copied.fleet.specs[0], "--json"],
            ["fetch", "all"],
            ["verify", "--remote"],
            ["prune", "--yes"],
        ):
            ran = copied(*words, **ftp, LOG_FORMAT="console")  # which looks for the marker
            assert words == ["prune", "--yes"] or "you said" in ran.stdout + ran.stderr, words
            assert words == ["prune", "--yes"] or ran.returncode in {1, 3}
    finally:
        listening.close()


def test_clear_text_is_warned_of(copied: Site) -> None:
    ran = copied("backup", FTP_URL="ftp://127.0.0.1:1/", FTP_TLS="off", SECONDARY_DIR="", CONNECT_TIMEOUT="2")
    assert "clear text" in events(ran.stderr, "remote.insecure")[0]["message"]
    assert "clear text" in ran.stdout
