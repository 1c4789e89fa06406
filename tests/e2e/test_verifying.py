"""`asyncbackup verify` as its users meet it: backups in a folder, no database server, no credentials."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import inventory
from tests.e2e.conftest import PASSWORD, Fleet, Site, descendants, site_in, wait_until
from tests.processes import empty_place, gone, processes_naming
from tests.servers import Cli, Postgres, Ran, bindir_of
from tests.trials import Forger

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else, or mount anything"
)
ROWS = 1000 + 2000 + 3000
# A table that never stops coming, once all of its rows have been loaded.
ENDLESS = (
    b"ALTER TABLE public.t RENAME TO was;\n"
    b"CREATE VIEW public.t AS SELECT id, text FROM public.was, pg_catalog.pg_sleep(100000);\n"
)
SLEEP = b"SELECT pg_catalog.pg_sleep(100000);\n"
TRAILER = b"--\n-- PostgreSQL database dump complete"


@pytest.fixture(scope="session")
def fleet_backups(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet) -> Path:
    """Back up all three once."""
    folder = tmp_path_factory.mktemp("verify")
    made = site_in(folder, fleet, Cli(folder))
    assert made("backup", DUMP_GLOBALS="false").returncode == 0
    return made.backups


@pytest.fixture
def place() -> Iterator[Path]:
    with empty_place() as folder:
        yield folder


@pytest.fixture
def backed_up(site: Site, fleet_backups: Path, place: Path) -> Site:
    """The backups of all three, and nothing that could log in anywhere."""
    shutil.copytree(fleet_backups, site.backups)
    site.env = {name: value for name, value in site.env.items() if not name.startswith("POSTGRESQL_")}
    site.env |= {"VERIFY_LEVEL": "rows", "VERIFY_DIR": f"{place}"}
    return site


def results(ran: Ran) -> dict[str, dict[str, Any]]:
    return {one["dbname"]: one for one in json.loads(ran.stdout)["backups"]}


def events(ran: Ran, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
    return [one for one in found if one["event"] == name]


def test_every_database_is_restored_and_the_list_says_so(backed_up: Site) -> None:
    ran = backed_up("verify", "all", VERIFY_LEVEL="content")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["DATABASE", "VERDICT", "ROWS", "TABLES", "RESTORE", "IN", "ALL", "BACKUP"]
    assert [line.split()[1] for line in lines[1:4]] == ["good"] * 3
    assert f"3 of 3 backups restore: every row came back as it was dumped, {ROWS:,} rows" in ran.stdout
    assert PASSWORD not in ran.stdout + ran.stderr
    for path in backed_up.files():
        record = path.with_name(f"{path.name}.verified.json")
        assert record.stat().st_mode & 0o777 == 0o600
        assert json.loads(record.read_text())["verdict"] == "good"
    listed = backed_up("list")
    assert listed.stdout.count("verified ") == 3
    assert "(content)" in listed.stdout
    of_json = json.loads(backed_up("list", "--json").stdout)
    assert [one["verified"] for one in of_json] == [True] * 3
    assert all(one["verification"]["load_seconds"] > 0 for one in of_json)


def test_one_of_them_as_json(backed_up: Site) -> None:
    ran = backed_up("verify", "--json", backed_up.fleet.specs[1])
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["exit_code"], found["level"]) == (0, "rows")
    (one,) = found["backups"]
    assert (one["verdict"], one["could_not_verify"], one["proven"], one["rows"]) == (
        "good",
        False,
        True,
        2000,
    )
    assert (one["error"], one["lacking"], one["differences"]) == ("", [], [])
    assert Path(one["record"]).is_file()
    assert len(events(ran, "verify.started")) == len(events(ran, "verify.finished")) == 1
    assert events(ran, "run.finished")[0]["rows"] == 2000


def test_a_filter_chooses_the_file(backed_up: Site) -> None:
    name = backed_up.files()[2].name
    ran = backed_up("verify", "-f", name, "--json")
    assert ran.returncode == 0, "nothing else was asked for"
    assert [(one["path"], one["verdict"]) for one in json.loads(ran.stdout)["backups"]] == [
        (str(backed_up.files()[2]), "good")
    ]
    missing = backed_up("verify", "-f", "no path has this in it")
    assert missing.returncode == 1
    assert "nothing was verified: no backup's path holds" in missing.stderr


def test_nothing_there_is_said_in_a_sentence(site: Site) -> None:
    (site.folder / "backup.conf").write_text("127.0.0.1:1/*\n")
    ran = site("verify", LOG_FORMAT="console")
    assert ran.returncode == 1
    assert f"nothing was verified: there are no backups in {site.backups}" in ran.stderr


@pytest.mark.parametrize("major", [15, 18])
def test_what_the_tool_of_old_has_dumped_loads_whatever_its_settings(
    backed_up: Site, major: int, pg15: Postgres
) -> None:
    """In another time zone, whose values read otherwise; and by a pg_dump newer than its server."""
    bindir = pg15.bindir if major == 15 else bindir_of(major)
    if bindir is None:
        pytest.skip(f"PostgreSQL {major} is not installed")
    database = backed_up.fleet.databases[0]
    database.psql("CREATE TABLE moments AS SELECT now() AS at, '\\x00ff'::bytea AS bytes")
    try:
        env = {**pg15.libpq, "PGOPTIONS": "-c timezone=America/Vancouver -c bytea_output=escape"}
        dump = subprocess.run(
            [f"{bindir}/pg_dump", database.name], env=env, capture_output=True, check=True
        ).stdout
    finally:
        database.psql("DROP TABLE moments")
    for path in backed_up.backups.rglob(f"*-{database.name}_*"):
        path.unlink()
    day = backed_up.files()[0].parent
    (day / f"127.0.0.1-{database.name}_2026-01-01_01-00-00.sql.gz").write_bytes(gzip.compress(dump))
    ran = backed_up("verify", backed_up.fleet.spec(database.name), "--json", VERIFY_LEVEL="content")
    (one,) = results(ran).values()
    assert (one["verdict"], one["proven"], one["error"], one["rows"]) == ("good", False, "", 1001)
    shown = backed_up("verify", backed_up.fleet.spec(database.name), VERIFY_LEVEL="content")
    assert "every row came back" not in shown.stdout
    assert "without a manifest: that they load is all that is known" in shown.stdout


def test_the_old_flags(backed_up: Site) -> None:
    everything = backed_up.backup_sh("-v", "all")
    assert everything.returncode == 0, everything.stderr
    assert "3 of 3 backups restore" in everything.stdout
    one = backed_up.backup_sh("-s", "-v", backed_up.fleet.specs[0])
    assert one.returncode == 0, one.stderr
    filtered = backed_up.backup_sh("-v", backed_up.fleet.specs[0], "-f", "nothing of the kind")
    assert filtered.returncode == 1


def test_nothing_to_verify_is_no_success(site: Site) -> None:
    ran = site("verify", "all")
    assert ran.returncode == 1
    assert ran.stdout.count("MISSING") == 3
    assert "0 of 3 backups restore" in ran.stdout
    assert len(events(ran, "verify.failed")) == 3


def test_one_that_is_missing_among_good_ones(backed_up: Site) -> None:
    lost = backed_up.fleet.databases[0].name
    for path in backed_up.backups.rglob(f"*-{lost}_*"):
        path.unlink()
    ran = backed_up("verify", "all", "--json")
    assert ran.returncode == 3
    assert {name: one["verdict"] for name, one in results(ran).items()} == {
        database.name: "missing" if database.name == lost else "good"
        for database in backed_up.fleet.databases
    }


def test_without_a_server_here_nobody_can_tell(backed_up: Site) -> None:
    ran = backed_up("verify", "--json", backed_up.fleet.specs[0], DATABASE_SERVER_TIMEOUT="0.001")
    assert ran.returncode == 3
    (one,) = results(ran).values()
    assert (one["verdict"], one["could_not_verify"], one["proven"]) == ("unverified", True, True)
    assert "did not come up within 0.001 s" in one["error"]
    assert events(ran, "verify.impossible")
    shown = backed_up("list")
    assert "could not be verified" in shown.stdout


@as_root
def test_backups_that_may_only_be_read(backed_up: Site, place: Path) -> None:
    """The records go into a folder of our own, from where `list` has them."""
    mount = ["mount", "--bind", f"{backed_up.backups}", f"{backed_up.backups}"]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", f"{backed_up.backups}"], check=True)
        ran = backed_up("verify", "all", "--json")
        assert ran.returncode == 0, ran.stderr
        names = {f"{path.name}.verified.json" for path in backed_up.files()}
        assert {Path(one["record"]) for one in results(ran).values()} == {
            place / "records" / name for name in names
        }
        assert events(ran, "verify.record_lost") == []
        assert backed_up("list").stdout.count("verified ") == 3
        nowhere = backed_up("verify", "--json", backed_up.fleet.specs[0], VERIFY_DIR="")
        assert nowhere.returncode == 0
        assert "VERIFY_DIR" in events(nowhere, "verify.record_lost")[0]["hint"]
    finally:
        subprocess.run(["umount", f"{backed_up.backups}"], check=True)
    shutil.rmtree(place / "records")


UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


@as_root
def test_any_user_can_verify_and_is_told_what_that_means(backed_up: Site, place: Path) -> None:
    """Apart from the job that makes backups: it needs to read them, and no more."""
    command = [*UNPRIVILEGED, backed_up.run_cli.path("asyncbackup"), "verify", "--json", "all"]
    own, backups = place / "own", place / "backups"
    own.mkdir()
    os.chown(own, 65534, 65534)
    shutil.copytree(backed_up.backups, backups)
    environment = backed_up.run_cli.environment(
        {**backed_up.env, "BACKUP_DIR": f"{backups}", "VERIFY_DIR": f"{own}"}
    )
    environment |= {"HOME": "/", "BACKUP_CONF": f"{place / 'backup.conf'}"}
    (place / "backup.conf").write_text("\n".join(backed_up.fleet.specs) + "\n")

    def run() -> Ran:
        done = subprocess.run(
            command, env=environment, cwd=place, capture_output=True, text=True, timeout=60, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    if subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-c", "import asyncbackup"], capture_output=True, check=False, cwd="/"
    ).returncode:
        pytest.skip("another user cannot read this installation")
    for path in (backups, *backups.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    ran = run()
    assert ran.returncode == 0, ran.stderr
    assert {Path(one["record"]).parent for one in results(ran).values()} == {own / "records"}
    assert events(ran, "verify.same_user") == []

    # There may be newer ones in it: to call those of other days the newest would be a guess.
    closed = backups / "2099-01-01"
    closed.mkdir(0o700)
    ran = run()
    assert (ran.returncode, json.loads(ran.stdout)["unreadable"]) == (3, [str(closed)])
    assert events(ran, "folder.unreadable")[0]["path"] == str(closed)
    closed.rmdir()

    unreadable, manifest_only = sorted(backups.rglob("*.sql.gz"))[:2]
    unreadable.chmod(0o600)
    manifest_only.with_name(f"{manifest_only.name}.json").chmod(0o600)
    day = unreadable.parent
    day.chmod(0o777)
    backups.chmod(0o777)
    ran = run()
    assert ran.returncode == 3, ran.stderr
    said = {Path(one["path"]): one for one in json.loads(ran.stdout)["backups"] if one["path"]}
    for path in (unreadable, manifest_only):
        assert (said[path]["verdict"], said[path]["could_not_verify"]) == ("unverified", True)
        assert "Permission denied" in said[path]["error"]
        assert "BACKUP_FILE_MODE" in said[path]["hint"]
    assert len(events(ran, "verify.same_user")) == 1
    shutil.rmtree(own)
    shutil.rmtree(backups)
    (place / "backup.conf").unlink()


def endless(site: Site, statements: bytes) -> str:
    """Put a backup there whose restore, or whose comparison, does not end; return its database."""
    original = site.files()[0]

    def change(sql: bytes) -> bytes:
        assert sql.count(TRAILER) == 1
        return sql.replace(TRAILER, statements + TRAILER)

    spec = Forger(original.parent, original).write(
        "endless", change, honest=True, fields={"object_counts": {}}
    )
    return f"{spec.host}:{spec.port}/{spec.dbname}"


def busy(pid: int, what: bytes) -> bool:
    """Whether a server of this process is at such a statement, as its process title says."""
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"postgres: s") and b"] " + what in title:
            return True
    return False


@pytest.mark.parametrize(
    ("number", "statements", "what", "code"),
    [
        (signal.SIGINT, SLEEP, b"SELECT", 130),
        (signal.SIGTERM, ENDLESS, b"COPY", 143),
    ],
    ids=["loading", "comparing"],
)
def test_an_interrupt_leaves_nothing(
    backed_up: Site, place: Path, number: signal.Signals, statements: bytes, what: bytes, code: int
) -> None:
    spec = endless(backed_up, statements)
    child = backed_up.start("verify", "--json", spec, VERIFY_LEVEL="content")
    wait_until(lambda: busy(child.pid, what), "a server at work", 60)
    child.send_signal(number)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == code, stderr
    assert list(place.iterdir()) == []
    assert gone(lambda: processes_naming(f"{place}"))
    assert "Traceback" not in stderr
    (interrupted,) = events(Ran(child.returncode, "", stderr), "run.interrupted")
    assert interrupted["good"] == 0
    assert not [*backed_up.backups.rglob("*.verified.json")], "nobody knows anything"


def test_what_a_killed_run_leaves_the_next_one_removes(backed_up: Site, place: Path) -> None:
    spec = endless(backed_up, SLEEP)
    child = backed_up.start("verify", spec)
    wait_until(lambda: busy(child.pid, b"SELECT"), "a server at work", 60)
    child.kill()
    child.communicate()
    assert [path.name.startswith("asyncbackup-pg-") for path in place.iterdir()] == [True]
    ran = backed_up("verify", backed_up.fleet.specs[0])
    assert ran.returncode == 0, ran.stderr
    assert list(place.iterdir()) == []
    assert gone(lambda: processes_naming(f"{place}"))


def test_no_temporary_folder_is_left_where_no_other_was_named(backed_up: Site, tmp_path: Path) -> None:
    own = Path(tempfile.mkdtemp(prefix="t"))
    own.chmod(0o711)
    try:
        ran = backed_up("verify", backed_up.fleet.specs[0], VERIFY_DIR="", TMPDIR=f"{own}")
        assert ran.returncode == 0, ran.stderr
        assert list(own.iterdir()) == []
    finally:
        own.rmdir()


def test_the_newest_is_verified_unless_it_is_of_the_future(backed_up: Site) -> None:
    newest = backed_up.files()[0]
    manifest = inventory.read_manifest(newest)
    later = newest.with_name(newest.name.replace(newest.name[-26:-16], "2199-01-01"))
    assert later != newest
    shutil.copy(newest, later)
    ran = backed_up("verify", "--json", f"{manifest.host}:{manifest.port}/{manifest.dbname}")
    assert [one["path"] for one in json.loads(ran.stdout)["backups"]] == [str(newest)]
