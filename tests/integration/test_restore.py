"""Restoring: what comes back, what is kept, and who may do it."""

import errno
import gzip
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncbackup import volume
from asyncbackup.dbspec import spec_text
from asyncbackup.model import DatabaseSpec, PgVersion
from asyncbackup.postgres import versions
from asyncbackup.restoring import restoration
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
from tests.servers import DATA, ODD_NAMES, Database, Databases, Postgres

TABLE = "CREATE TABLE t AS SELECT g AS id, 'row ' || g AS text FROM generate_series(1, 100) AS g;"
LACKING = """
DROP EXTENSION IF EXISTS hstore CASCADE;
DO $$
DECLARE name text;
BEGIN
  FOR name IN SELECT oid::regcollation FROM pg_collation WHERE collprovider = 'i' AND oid >= 16384 LOOP
    EXECUTE format('DROP COLLATION %s CASCADE', name);
  END LOOP;
END $$
"""
"""Drops what the torture database may have of the distribution's server, and the embedded one lacks."""
OWNER = "restore_owner"
READER = "restore_reader"


@pytest.fixture(scope="module", autouse=True)
def roles(pg15: Postgres, pg18: Postgres) -> Iterator[None]:
    for server in (pg15, pg18):
        server.psql("postgres", f"CREATE ROLE {OWNER}; CREATE ROLE {READER};")
    yield
    for server in (pg15, pg18):
        server.psql("postgres", f"DROP ROLE {OWNER}, {READER};")


@pytest.fixture
def databases(pg15: Postgres) -> Iterator[Databases]:
    """Databases on PostgreSQL 15; what restores have kept of them goes, too, and half-made ones may not stay."""
    yield from cleaned(pg15)


def cleaned(server: Postgres) -> Iterator[Databases]:
    with Databases(server) as factory:
        yield factory
        for name in factory.made:
            drop_kept(server, name)
    assert not half_made(server)


@pytest.fixture(scope="module")
def backup_of_shop(pg15: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup directory with one backup of a database `shop`, which is gone."""
    from tests.servers import Cli  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("shop")
    site = Site(Cli(folder), folder, {"BACKUP_DIR": f"{folder / 'backups'}"})
    with Databases(pg15) as factory:
        shop = factory("shop", sql=TABLE)
        site.use(pg15).configure(shop)
        assert run_here(site, "backup").returncode == 0
    return folder / "backups"


@pytest.fixture
def shop(pg15: Postgres, site: Site, backup_of_shop: Path) -> DatabaseSpec:
    """A database of which there is a backup; on the server there is none."""
    shutil.copytree(backup_of_shop, site.root)
    site.use(pg15).configure(pg15.spec("shop"))
    return pg15.spec("shop")


def to(database: Database | DatabaseSpec) -> tuple[str, str]:
    return "--to", spec_text(database.spec if isinstance(database, Database) else database)


def back_up(site: Site, *of: Database, **variables: str) -> None:
    site.use(*(one.server for one in of)).configure(*of)
    done = run_here(site, "backup", **variables)
    assert done.returncode == 0, done.stderr


def refused(done: Result, category: str, *words: str, code: int = 1) -> None:
    """Expect an error, in one sentence that holds these words."""
    assert done.returncode == code, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: ")], done.stderr
    for word in words:
        assert word in done.stderr
    if done.stdout:
        assert done.report["category"] == category


# What comes back


@pytest.mark.parametrize(
    ("source", "target", "jobs"), [(15, 15, "1"), (16, 16, "2"), (18, 18, "1"), (15, 18, "2")]
)
def test_every_row_comes_back(
    request: pytest.FixtureRequest, site: Site, source: int, target: int, jobs: str
) -> None:
    origin: Postgres = request.getfixturevalue(f"pg{source}")
    server: Postgres = request.getfixturevalue(f"pg{target}")
    site.use(origin, server)
    with Databases(origin) as made, Databases(server) as there:
        torture = made(f"torture_{source}")
        torture.psql(DATA / "torture.sql", xml="on" if origin.has_xml and server.has_xml else "off")
        if source != target:
            torture.psql(LACKING)
        back_up(site, torture, DUMP_GLOBALS="true")
        before = rows(origin, torture.name)
        there.made.append("torture_back")
        words = (*to(server.spec("torture_back")), "--level", "content", "--create-roles", "--jobs", jobs)
        result = restored(site, torture.spec, *words)
        assert rows(server, "torture_back") == before
        assert (result["proven"], result["level"], result["differences"]) == (True, "content", [])
        assert result["server_version"].startswith(f"{target}.")
        wanted, found = properties(origin, torture.name), properties(server, "torture_back")
        # An access list that was never set on a new server is the default one.
        assert found == wanted


def test_the_old_database_is_kept_with_all_that_is_set_for_it(
    site: Site, pg15: Postgres, databases: Databases
) -> None:
    database = databases("app", sql=TABLE)
    back_up(site, database)
    pg15.psql(
        "postgres",
        f"""
        ALTER DATABASE app OWNER TO {OWNER};
        REVOKE ALL ON DATABASE app FROM PUBLIC;
        GRANT CONNECT ON DATABASE app TO {READER} WITH GRANT OPTION;
        SET ROLE {READER}; GRANT CONNECT ON DATABASE app TO pg_monitor; RESET ROLE;
        COMMENT ON DATABASE app IS 'it''s \\ "the" app';
        ALTER DATABASE app CONNECTION LIMIT 7;
        ALTER DATABASE app SET default_transaction_read_only = on;
        ALTER DATABASE app SET search_path = "Mixed, case", public;
        ALTER DATABASE app SET app.note = 'it''s, "odd" \\';
        ALTER ROLE {READER} IN DATABASE app SET work_mem = '5MB';
        """,
    )
    pg15.psql("app", "SET default_transaction_read_only = off; DELETE FROM t WHERE id > 50;")
    spoilt = state(pg15, "app")
    result = restored(site, database)
    assert properties(pg15, "app") == spoilt[1]
    assert pg15.query("app", "SELECT count(*) FROM t") == "100"
    assert [state(pg15, name) for name in kept(pg15, "app")] == [spoilt]
    assert result["kept"] == kept(pg15, "app")[0]
    assert re.fullmatch(r"app_before_\d{8}_\d{6}", result["kept"])
    assert [said for said in result["warnings"] if "psql" not in said] == []
    assert pg15.query("app", "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 't'") == "t", "ANALYZE"


def test_the_old_database_can_be_dropped(site: Site, pg15: Postgres, databases: Databases) -> None:
    database = databases("app", sql=TABLE)
    back_up(site, database)
    pg15.psql("postgres", "ALTER DATABASE app IS_TEMPLATE true")
    result = restored(site, database, "--drop-old")
    assert (result["kept"], kept(pg15, "app")) == (None, [])
    assert properties(pg15, "app")["template"] is True
    pg15.psql("postgres", "ALTER DATABASE app IS_TEMPLATE false")


def test_where_there_is_none_it_gets_the_properties_of_the_source(
    site: Site, pg15: Postgres, databases: Databases
) -> None:
    database = databases("app", sql=TABLE, options="ENCODING 'LATIN1' LOCALE 'C'")
    pg15.psql(
        "postgres",
        f"ALTER DATABASE app OWNER TO {OWNER}; REVOKE TEMP ON DATABASE app FROM PUBLIC;"
        f"COMMENT ON DATABASE app IS 'an app'; ALTER DATABASE app SET work_mem = '5MB';"
        f"ALTER DATABASE app CONNECTION LIMIT 3; ALTER ROLE {READER} IN DATABASE app SET work_mem = '6MB'",
    )
    before = state(pg15, "app")
    back_up(site, database)
    pg15.drop("app")
    result = restored(site, database)
    assert state(pg15, "app") == before
    assert result["kept"] is None


def test_another_target_needs_no_configuration(site: Site, shop: DatabaseSpec, databases: Databases) -> None:
    target = databases("elsewhere", sql="CREATE TABLE of_others (a int)")
    before = state(target.server, "elsewhere")
    restored(site, shop, *to(target))
    assert target.query("SELECT count(*) FROM t") == "100"
    assert "shop" not in names(target.server)
    (old,) = kept(target.server, "elsewhere")
    assert state(target.server, old) == before


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_can_be_a_target(
    site: Site, pg15: Postgres, shop: DatabaseSpec, databases: Databases, name: str
) -> None:
    target = databases(name, sql="CREATE TABLE old (a int)")
    result = restored(site, shop, *to(target))
    assert target.query("SELECT count(*) FROM t") == "100"
    assert result["kept"].encode() == result["kept"].encode()[:63]
    assert pg15.query(result["kept"], "SELECT count(*) FROM old") == "0"
    pg15.drop(result["kept"])


def test_a_backup_of_the_bash_tool_is_restored(site: Site, pg15: Postgres, databases: Databases) -> None:
    database = databases("app", sql=TABLE)
    dump = subprocess.run(
        [f"{pg15.bindir}/pg_dump", "-d", "app"], env=dict(pg15.libpq), capture_output=True, check=True
    ).stdout
    folder = site.root / "2026-01-02"
    folder.mkdir(parents=True)
    path = folder / "127.0.0.1-app_2026-01-02_03-04-05.sql.gz"
    # As pg_dump wrote it before there was \restrict.
    path.write_bytes(gzip.compress(re.sub(rb"(?m)^\\(un)?restrict .*\n\n", b"", dump)))
    database.psql("DELETE FROM t")
    site.use(pg15).configure(database)
    result = restored(site, database)
    assert (result["proven"], result["rows"], result["path"]) == (False, 100, str(path))
    assert any("\\restrict" in warning for warning in result["warnings"])
    assert database.query("SELECT count(*) FROM t") == "100"


def test_values_are_not_compared_with_those_of_a_dump_made_with_other_settings(
    site: Site, pg15: Postgres, databases: Databases
) -> None:
    database = databases("app", sql="CREATE TABLE t AS SELECT timestamptz '2026-01-02 03:04:05+00' AS at")
    dump = subprocess.run(
        [f"{pg15.bindir}/pg_dump", "-d", "app"],
        env={**pg15.libpq, "PGTZ": "Asia/Tokyo"},
        capture_output=True,
        check=True,
    ).stdout
    assert b"2026-01-02 12:04:05+09" in dump
    folder = site.root / "2026-01-02"
    folder.mkdir(parents=True)
    (folder / "127.0.0.1-app_2026-01-02_03-04-05.sql.gz").write_bytes(gzip.compress(dump))
    site.use(pg15).configure(database)
    result = restored(site, database, "--level", "content")
    assert (result["level"], result["proven"], result["rows"]) == ("rows", False, 1)
    assert any("without a manifest only rows can be compared" in said for said in result["warnings"])


# Which backup


def test_the_newest_good_one_or_the_one_that_is_named(
    site: Site, pg15: Postgres, databases: Databases
) -> None:
    database = databases("app", sql="CREATE TABLE t AS SELECT 1 AS a")
    back_up(site, database)
    database.psql("INSERT INTO t VALUES (2)")
    back_up(site, database)
    older, newer = site.backups
    assert restored(site, database)["path"] == str(newer)
    for pattern in (str(older), older.name, older.name.removeprefix("127.0.0.1-app_")):
        assert restored(site, database, "-f", pattern, "--drop-old")["path"] == str(older)
    assert database.query("SELECT count(*) FROM t") == "1"
    several = restored(site, database, "-f", older.parent.name)
    assert several["path"] == str(newer)
    assert any("2 backups match" in said for said in several["warnings"])
    elsewhere = site.home / "copied.sql.gz"
    shutil.copy(older, elsewhere)
    lost = restored(site, database, "-f", str(elsewhere), "--drop-old")
    assert (lost["path"], lost["rows"]) == (str(elsewhere), 1)
    assert any("manifest is missing" in said for said in lost["warnings"])
    newer.write_bytes(newer.read_bytes()[:-1])  # the size alone gives it away
    spared = restored(site, database, "--drop-old")
    assert spared["path"] == str(older)
    assert any("is newer, but damaged" in said for said in spared["warnings"])


def test_no_backup_no_match_or_another_database_s(
    site: Site, shop: DatabaseSpec, databases: Databases
) -> None:
    app = databases("app", sql=TABLE)
    path = site.backups[0]
    refused(restore(site, app), "no_backup", "there is no good backup")
    refused(restore(site, shop, "-f", "1999"), "no_backup", 'holds "1999"')
    refused(restore(site, app, "-f", path.name), "usage", f"is a backup of {shop}", "--to", code=2)
    refused(restore(site, DatabaseSpec(shop.host, shop.port, "")), "usage", "roles and tablespaces", code=2)
    assert app.query("SELECT count(*) FROM t") == "100"


def test_a_damaged_file_is_refused_before_the_server_is_touched(
    site: Site, pg15: Postgres, shop: DatabaseSpec, databases: Databases
) -> None:
    target = databases("app", sql="CREATE TABLE old (a int)")
    (path,) = site.backups
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before, all_names = state(pg15, "app"), names(pg15)
    refused(restore(site, shop, *to(target)), "damaged", "SHA-256", path.name)
    assert (state(pg15, "app"), names(pg15)) == (before, all_names)


# Who restores


ADMIN = {"ADMIN_USER": "restore_admin", "ADMIN_PASSWORD": "admin-secret"}


@pytest.fixture
def admin(pg15: Postgres, pg18: Postgres) -> Iterator[dict[str, str]]:
    """An administrator who is no superuser, and may set the owner."""
    create = "CREATE ROLE restore_admin LOGIN CREATEDB PASSWORD 'admin-secret'"
    for server in (pg15, pg18):
        server.psql("postgres", f"{create}; GRANT {OWNER} TO restore_admin")
    yield ADMIN
    for server in (pg15, pg18):
        server.psql("postgres", "DROP ROLE restore_admin")


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("major", [15, 18])
def test_no_superuser_is_needed(site: Site, request: pytest.FixtureRequest, major: int) -> None:
    server: Postgres = request.getfixturevalue(f"pg{major}")
    with Databases(server) as databases:
        database = databases("app", options=f"OWNER {OWNER}")
        server.psql("app", f"SET ROLE {OWNER}; {TABLE}")
        server.psql("postgres", f"GRANT CONNECT ON DATABASE app TO {READER}; COMMENT ON DATABASE app IS 'x'")
        back_up(site, database)
        before = state(server, "app")
        result = restored(site, database, **ADMIN)
        assert state(server, "app") == before
        assert any("restore_admin is no superuser" in said for said in result["warnings"])
        server.drop(result["kept"])
        server.drop("app")
        # An access list that is the default one can only be written out by who is no superuser.
        server.psql("postgres", f"CREATE DATABASE app OWNER {OWNER}")
        server.psql("app", f"SET ROLE {OWNER}; CREATE TABLE old (a int)")
        assert restored(site, database, **ADMIN)["rows"] == 100
        default = ["=Tc/restore_owner", "restore_owner=CTc/restore_owner"]
        assert properties(server, "app")["acl"] == default
        drop_kept(server, "app")


@pytest.mark.usefixtures("admin")
def test_an_owner_who_cannot_be_given_is_told(site: Site, pg18: Postgres) -> None:
    """Since PostgreSQL 16, a member may be one without the right to act as the other."""
    with Databases(pg18) as databases:
        database = databases("app", options=f"OWNER {OWNER}", sql="DROP SCHEMA public CASCADE")
        back_up(site, database)
        pg18.psql(
            "postgres", f"REVOKE {OWNER} FROM restore_admin; GRANT {OWNER} TO restore_admin WITH SET FALSE"
        )
        refused(restore(site, database, **ADMIN), "refused", f"may not give a database to its owner {OWNER}")
        pg18.drop("app")
        result = restored(site, database, **ADMIN)
        told = f"it will belong to restore_admin, who may not give it to {OWNER}"
        assert told in result["warnings"]
        assert properties(pg18, "app")["owner"] == "restore_admin"


def test_what_the_user_may_not_do_is_told_beforehand(
    site: Site, pg15: Postgres, shop: DatabaseSpec, databases: Databases, admin: dict[str, str]
) -> None:
    databases("app", sql="CREATE TABLE old (a int)")
    before = names(pg15)
    done = restore(site, shop, *to(pg15.spec("app")), **admin)
    refused(done, "refused", "restore_admin may not rename", "belongs to postgres")
    pg15.psql("postgres", "ALTER ROLE restore_admin NOCREATEDB")
    refused(restore(site, shop, **admin), "refused", "may not create databases")
    assert names(pg15) == before


def test_a_new_database_is_granted_to_its_own_user(
    site: Site, pg15: Postgres, shop: DatabaseSpec, databases: Databases
) -> None:
    databases.made.append("shop")
    prefix = f"127_0_0_1_{shop.port}"
    password = pg15.cluster.password.reveal()
    restored(site, shop, ADMIN_USER="postgres", ADMIN_PASSWORD=password, **{f"{prefix}_USER": READER})
    assert f"{READER}=CTc/postgres" in properties(pg15, "shop")["acl"]
    before = properties(pg15, "shop")
    restored(site, shop, "--drop-old", ADMIN_USER="postgres", ADMIN_PASSWORD=password)
    assert properties(pg15, "shop") == before


def test_a_name_that_is_taken_and_space_that_is_scarce(
    site: Site, pg15: Postgres, shop: DatabaseSpec, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = databases("app", sql="CREATE TABLE old (a int)")
    databases("taken")
    monkeypatch.setattr(restoration, "kept_name", lambda *_: "taken")
    refused(restore(site, shop, *to(target)), "refused", "there is a database taken already")
    assert target.query("SELECT count(*) FROM old") == "0"
    monkeypatch.setattr(volume, "free_space", lambda _: 10)
    result = restored(site, shop)
    databases.made.append("shop")
    assert any("only 10 bytes are free on the server" in said for said in result["warnings"])


def test_a_data_directory_that_may_not_be_looked_into_tells_nothing(
    site: Site, shop: DatabaseSpec, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_into, is_file = [], Path.is_file

    def closed(path: Path, **options: bool) -> bool:
        if path.name != "PG_VERSION":
            return is_file(path, **options)
        looked_into.append(path)
        raise PermissionError(errno.EACCES, "Permission denied", f"{path}")

    monkeypatch.setattr(Path, "is_file", closed)
    monkeypatch.setattr(volume, "free_space", lambda _: 10)
    result = restored(site, shop)
    databases.made.append("shop")
    assert looked_into
    assert not any("bytes are free" in said for said in result["warnings"])


def test_a_wrong_password_is_told(site: Site, shop: DatabaseSpec) -> None:
    done = restore(site, shop, ADMIN_USER="postgres", ADMIN_PASSWORD="wrong-one")
    refused(done, "access", "password authentication failed")
    assert "wrong-one" not in done.stderr


# Going on after errors


@pytest.fixture
def broken(site: Site, pg15: Postgres, databases: Databases) -> Database:
    """A database whose backup does not load: a check of one table looks at another one."""
    database = databases(
        "app",
        sql="""
        CREATE TABLE z (a int); INSERT INTO z VALUES (1);
        CREATE FUNCTION in_z(int) RETURNS bool LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.z WHERE a = $1)';
        CREATE TABLE a (a int CHECK (in_z(a))); INSERT INTO a VALUES (1);
        CREATE TABLE b AS SELECT 1 AS b;
        """,
    )
    back_up(site, database)
    return database


def test_a_dump_that_does_not_load_leaves_all_as_it_was(site: Site, pg15: Postgres, broken: Database) -> None:
    before, all_names = state(pg15, "app"), names(pg15)
    done = restore(site, broken)
    refused(done, "load", "does not load", "violates check constraint")
    assert done.report["status"] == "failed"
    assert (state(pg15, "app"), names(pg15)) == (before, all_names)


def test_errors_can_be_gone_on_after(
    site: Site, pg15: Postgres, broken: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(restore(site, broken, "-I"), "refused", "not safe with psql")
    monkeypatch.setattr(versions, "FLOOR", {15: PgVersion(15, 0)})
    done = restore(site, broken, "-I", "--drop-old")
    assert done.returncode == 3
    assert done.report["status"] == "partial"
    assert len(done.report["errors"]) == 1
    assert "violates check constraint" in done.report["errors"][0]
    assert [(one["kind"], one["name"]) for one in done.report["differences"]] == [("rows", "public.a")]
    assert rows(pg15, "app")["public.z"] == rows(pg15, done.report["kept"])["public.z"], (
        "kept in spite of --drop-old"
    )
    assert broken.query("SELECT count(*) FROM a") == "0"
