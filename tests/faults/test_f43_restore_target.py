"""A restore's target lacks something, has too much, or may not be touched (F43); all before anything begins."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncbackup.dbspec import spec_text
from asyncbackup.model import DatabaseSpec, PgVersion
from asyncbackup.postgres.target import Target, refusals
from tests.invariants import Result, Site
from tests.restores import (
    drop_kept,
    half_made,
    kept,
    names,
    properties,
    restore,
    restored,
    rows,
    run_here,
    state,
)
from tests.servers import Cli, Database, Databases, Postgres

NAME = "needy"
SQL = """
CREATE ROLE needy_owner LOGIN CONNECTION LIMIT 3 CREATEDB;
ALTER ROLE needy_owner SET search_path = needy, public;
CREATE ROLE "needy ""the"" reader" NOLOGIN;
CREATE ROLE needy_gone;
ALTER ROLE needy_gone IN DATABASE needy SET work_mem = '7MB';
CREATE SCHEMA needy AUTHORIZATION needy_owner;
CREATE TABLE needy.t (id int, text text);
INSERT INTO needy.t VALUES (1, E'x\nSET default_tablespace = nowhere;\ny'), (2, E'\nSET default_tablespace = nowhere;');
ALTER TABLE needy.t OWNER TO needy_owner;
GRANT SELECT ON needy.t TO "needy ""the"" reader";
CREATE INDEX ON needy.t (id) TABLESPACE needy_space;
CREATE FUNCTION needy.text() RETURNS text LANGUAGE sql AS $$
SELECT '
SET default_tablespace = nowhere;';
$$;
CREATE TABLE needy.placed (a int) TABLESPACE needy_space;
INSERT INTO needy.placed VALUES (1), (2), (3);
"""
DROP = """
DROP ROLE IF EXISTS needy_owner; DROP ROLE IF EXISTS "needy ""the"" reader";
"""
SPACE = "SET allow_in_place_tablespaces = on; CREATE TABLESPACE needy_space LOCATION ''"


@pytest.fixture(scope="module")
def made(pg15: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A backup of a database whose roles, extension and tablespace are gone; and what it was."""
    folder = tmp_path_factory.mktemp("needy")
    site = Site(Cli(folder), folder, {"BACKUP_DIR": f"{folder / 'backups'}"})
    pg15.psql("postgres", SPACE)
    with Databases(pg15) as factory:
        needy = factory(NAME, sql=SQL)
        pg15.psql(
            "postgres",
            f'ALTER DATABASE {NAME} OWNER TO needy_owner; GRANT CONNECT ON DATABASE {NAME} TO "needy ""the"" reader"',
        )
        site.use(pg15).configure(needy)
        assert run_here(site, "backup", DUMP_GLOBALS="true").returncode == 0
        was = state(pg15, NAME)
    pg15.psql("postgres", f"{DROP} DROP TABLESPACE needy_space; DROP ROLE needy_gone")
    yield folder / "backups", was
    pg15.psql("postgres", DROP)


@pytest.fixture
def needy(pg15: Postgres, site: Site, made: tuple[Path, Any]) -> Iterator[DatabaseSpec]:
    site.use(pg15, BACKUP_DIR=f"{made[0]}").configure(pg15.spec(NAME))
    yield pg15.spec(NAME)
    pg15.drop(NAME)
    drop_kept(pg15, NAME)
    pg15.psql("postgres", DROP)
    assert half_made(pg15) == set()


def refused(done: Result, *words: str, code: int = 1) -> None:
    """Expect that it was refused before anything began, in a sentence that holds these words."""
    assert (done.returncode, done.stdout) == (code, ""), done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    assert "nothing was touched" in done.stderr


def everything(server: Postgres) -> tuple[set[str], str]:
    """Return what nobody may have changed: databases and roles."""
    return names(server), server.query("postgres", "SELECT string_agg(rolname, ',' ORDER BY 1) FROM pg_roles")


# What it lacks


def test_f43_everything_that_is_missing_is_listed_at_once(
    site: Site, pg15: Postgres, needy: DatabaseSpec
) -> None:
    before = everything(pg15)
    done = restore(site, needy)
    refused(
        done,
        'lacks role needy "the" reader, role needy_owner, tablespace needy_space',
        "--create-roles",
        "--no-tablespaces",
    )
    assert everything(pg15) == before


def test_f43_roles_are_made_without_rights_over_the_server(
    site: Site, pg15: Postgres, needy: DatabaseSpec, made: tuple[Path, Any]
) -> None:
    refused(restore(site, needy, "--create-roles"), "lacks tablespace needy_space")
    result = restored(site, needy, "--create-roles", "--no-tablespaces", "--level", "content")
    assert rows(pg15, NAME) == made[1][0]
    was, found = dict(made[1][1]), properties(pg15, NAME)
    assert (was.pop("settings"), found.pop("settings")) == ([["needy_gone", "work_mem=7MB"]], None)
    assert found == was
    untold = 'the setting work_mem=7MB of needy_gone could not be set: role "needy_gone" does not exist'
    assert result["warnings"].count(untold) == 1
    role = "SELECT concat_ws(' ', rolcanlogin, rolconnlimit, rolcreatedb, rolsuper, rolconfig[1]) FROM pg_roles WHERE rolname = 'needy_owner'"
    assert pg15.query("postgres", role) == "t 3 f f search_path=needy, public"
    assert "the role needy_owner was made without CREATEDB" in result["warnings"]
    assert pg15.query(NAME, "SELECT count(*) FROM pg_class WHERE reltablespace <> 0 AND oid >= 16384") == "0"
    assert pg15.query(NAME, "SELECT needy.text()") == "\nSET default_tablespace = nowhere;"


def test_f43_roles_of_which_nothing_is_known_cannot_log_in(
    site: Site, pg15: Postgres, needy: DatabaseSpec, made: tuple[Path, Any], tmp_path: Path
) -> None:
    (path,) = [one for one in made[0].rglob("*.sql.gz") if "@globals" not in one.name]
    result = restored(
        site, needy, "--create-roles", "--no-tablespaces", "-f", f"{path}", BACKUP_DIR=f"{tmp_path}"
    )
    assert "the role needy_owner stands in no globals backup: nobody can log in as it" in result["warnings"]
    assert pg15.query("postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'needy_owner'") == "f"


def test_f43_roles_go_again_when_the_restore_fails(site: Site, pg15: Postgres, needy: DatabaseSpec) -> None:
    before = everything(pg15)
    pg15.psql("postgres", f"CREATE DATABASE {NAME}; ALTER DATABASE {NAME} SET work_mem = '5MB'")
    was = properties(pg15, NAME)
    site_env = {"PG_BINDIRS": f"{failing_psql(site.home, pg15)}", "PATH": "/nonexistent"}
    done = restore(site, needy, "--create-roles", "--no-tablespaces", **site_env)
    assert (done.returncode, done.report["status"]) == (1, "failed")
    assert properties(pg15, NAME) == was
    pg15.drop(NAME)
    assert everything(pg15) == before


def failing_psql(folder: Path, server: Postgres) -> Path:
    """Make a folder of clients whose psql claims to be the newest, reads a bit and fails."""
    bindir = folder / "bin"
    bindir.mkdir()
    for name, script in (
        ("pg_dump", "echo 'pg_dump (PostgreSQL) 18.9'"),
        ("psql", "head -c 1000 > /dev/null; echo 'psql:<stdin>:7: ERROR:  no luck' >&2; exit 3"),
    ):
        (bindir / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        (bindir / name).chmod(0o755)
    del server
    return bindir


def test_f43_an_extension_or_a_locale_that_is_not_there(site: Site, pg15: Postgres, pg18: Postgres) -> None:
    site.use(pg15, pg18)
    with Databases(pg15) as factory:
        here = factory(
            sql="CREATE EXTENSION hstore; CREATE TABLE t (a hstore)",
            options="LOCALE_PROVIDER icu ICU_LOCALE 'de'",
        )
        site.configure(here)
        assert run_here(site, "backup").returncode == 0
    before = everything(pg18)
    done = restore(site, here, "--to", spec_text(pg18.spec("lacking")))
    refused(done, "extension hstore", "a server built with ICU")
    assert everything(pg18) == before


def test_f43_what_template1_has_does_not_come_along(site: Site, pg15: Postgres) -> None:
    with Databases(pg15) as factory:
        plain = factory("plain", sql="CREATE TABLE t AS SELECT 1 AS a")
        site.use(pg15).configure(plain)
        assert run_here(site, "backup").returncode == 0
        pg15.psql("template1", "CREATE TABLE of_the_site (a int)")
        try:
            restored(site, plain, "--level", "content", "--drop-old")
        finally:
            pg15.psql("template1", "DROP TABLE of_the_site")
        assert list(rows(pg15, "plain")) == ["public.t"]


# What it has


@pytest.fixture
def plain(site: Site, pg15: Postgres) -> Iterator[Database]:
    with Databases(pg15) as factory:
        found = factory("plain", sql="CREATE TABLE t AS SELECT 1 AS a")
        site.use(pg15).configure(found)
        assert run_here(site, "backup").returncode == 0
        yield found
        drop_kept(pg15, "plain")


HINDRANCES = {
    "the prepared transaction unfinished": (
        "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'unfinished'",
        "ROLLBACK PREPARED 'unfinished'",
    ),
    "the logical replication slot follower": (
        "SELECT pg_create_logical_replication_slot('follower', 'pgoutput')",
        "SELECT pg_drop_replication_slot('follower')",
    ),
    "the enabled subscription reads": (
        "CREATE SUBSCRIPTION reads CONNECTION 'host=/nowhere dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE, enabled = false); ALTER SUBSCRIPTION reads SET (slot_name = 's'); ALTER SUBSCRIPTION reads ENABLE",
        "ALTER SUBSCRIPTION reads DISABLE; ALTER SUBSCRIPTION reads SET (slot_name = NONE); DROP SUBSCRIPTION reads",
    ),
}


@pytest.mark.parametrize("what", HINDRANCES)
def test_f43_what_would_be_lost_is_named(site: Site, pg15: Postgres, plain: Database, what: str) -> None:
    make, undo = HINDRANCES[what]
    plain.psql(make)
    try:
        before = state(pg15, "plain"), everything(pg15)
        refused(restore(site, plain), f"has {what}")
        assert (state(pg15, "plain"), everything(pg15)) == before
        other = restored(site, plain, "--to", spec_text(pg15.spec("plain_copy")))
        assert other["rows"] == 1, "elsewhere it is in nobody's way"
    finally:
        plain.psql(undo)
        pg15.drop("plain_copy")
    restored(site, plain)
    assert len(kept(pg15, "plain")) == 1


def test_f43_an_invalid_database_is_not_kept(site: Site, pg15: Postgres, plain: Database) -> None:
    pg15.psql("postgres", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'plain'")
    refused(restore(site, plain), "is invalid, since a DROP DATABASE of it was interrupted: drop it")
    pg15.drop("plain")
    restored(site, plain)


def test_f43_an_older_server_is_refused(site: Site, pg15: Postgres, pg16: Postgres) -> None:
    site.use(pg15, pg16)
    with Databases(pg16) as factory:
        newer = factory("newer", sql="CREATE TABLE t AS SELECT 1 AS a")
        site.configure(newer)
        assert run_here(site, "backup").returncode == 0
        before = everything(pg15)
        done = restore(site, newer, "--to", spec_text(pg15.spec("newer")))
        refused(done, "the dump is one of PostgreSQL 16, and the server's 15.", "is older")
        assert everything(pg15) == before


def test_f43_the_dump_of_a_newer_client_is_restored_onto_its_own_server(
    site: Site, pg15: Postgres, pg18: Postgres, plain: Database
) -> None:
    """pg_dump 18 begins a dump with a setting that PostgreSQL 15 does not know."""
    command = [f"{pg18.bindir}/pg_dump", "-d", "plain"]
    dump = subprocess.run(command, env=dict(pg15.libpq), capture_output=True, check=True).stdout
    assert b"SET transaction_timeout = 0;" in dump
    path = site.home / "by_18.sql.gz"
    path.write_bytes(subprocess.run(["gzip", "-c"], input=dump, capture_output=True, check=True).stdout)
    for options in ((), ("--no-tablespaces",)):
        assert restored(site, plain, "-f", f"{path}", "--drop-old", *options)["rows"] == 1


def test_f43_a_standby_is_refused() -> None:
    standby = Target(
        server_version=PgVersion(15, 1), user="u", superuser=True, createdb=True, createrole=True,
        in_recovery=True, lock_slots=6400, data_directory="", present=None,
    )  # fmt: skip
    assert list(refusals(standby, 15)) == [
        "the server is a standby, which takes no changes: name its primary"
    ]
