"""Whole journeys on real servers: what was backed up is what was there, and loads with plain psql."""

import contextlib
import dataclasses
import gzip
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from blake3 import blake3

from asyncbackup import locks, naming
from asyncbackup import manifest as manifests
from asyncbackup.model import CopyBlock, DatabaseSpec, Manifest
from tests.invariants import Site, dumps_of, small_disk, until, wait_for, wrapper
from tests.servers import ODD_NAMES, Database, Databases, Postgres

Factory = Callable[..., Database]

SESSION = "SET TimeZone = 'UTC'; SET bytea_output = 'hex'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; SET synchronize_seqscans = off; SET statement_timeout = 0; SET search_path = ''"
FAULTS_54 = ("b" * 63, "../x", "/abs", "-Fc", "a=b", "postgresql://evil/x", 'quo"te', "it's", "back\\slash", "new\nline", "%", "%41", "*", "a b", "😀", ".", "..", "CON", "${x}", "a,b", "A", "a", "\u202eltr")  # fmt: skip


@pytest.fixture
def on15(pg15: Postgres) -> Iterator[Databases]:
    with Databases(pg15) as factory:
        yield factory


@pytest.fixture
def on16(pg16: Postgres) -> Iterator[Databases]:
    with Databases(pg16) as factory:
        yield factory


def identifier(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def columns_of(block: CopyBlock) -> str:
    return ", ".join(map(identifier, block.columns))


def load(path: Path, into: Database) -> None:
    """Load a backup as anybody would: zcat into psql."""
    command = f'zcat "$FILE" | {into.server.bindir}/psql -X -q -v ON_ERROR_STOP=1 -o /dev/null'
    environment = {
        **into.server.libpq,
        "PGDATABASE": into.name,
        "FILE": f"{path}",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


async def content(database: Database, manifest: Manifest) -> dict[tuple[str, str], tuple[int, str, str]]:
    """Read every table of a manifest back: its rows, their digest, and their digest when sorted."""
    found: dict[tuple[str, str], tuple[int, str, str]] = {}
    connection = await database.connect()
    try:
        await connection.execute(SESSION)
        for block in manifest.tables:
            table = f"{identifier(block.schema)}.{identifier(block.table)}"
            partitioned = await connection.fetchval("SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = $1::text::pg_catalog.regclass", table)  # fmt: skip
            only = "" if partitioned else "ONLY "
            rows = bytearray()

            async def take(data: bytes, rows: bytearray = rows) -> None:
                rows += data

            await connection.copy_from_query(f"SELECT {columns_of(block)} FROM {only}{table}", output=take)
            lines = bytes(rows).splitlines(keepends=True) if b"\r" not in rows else bytes(rows).split(b"\n")
            found[block.schema, block.table] = (
                rows.count(b"\n"),
                blake3(rows).hexdigest(),
                blake3(b"".join(sorted(lines))).hexdigest(),
            )
    finally:
        await connection.close()
    return found


async def test_the_torture_database(site: Site, torture: Database, database: Factory) -> None:
    done = site.use(torture.server).configure(torture).good()
    manifest = done.manifest
    assert manifest.spec == torture.spec
    assert manifest.client_version == manifest.server_version == str(torture.server.cluster.version)
    jsonschema.validate(json.loads(manifests.to_json(manifest)), manifests.schema())

    # What the manifest says is what the server says.
    source = await content(torture, manifest)
    assert len(source) > 40
    rows: dict[tuple[str, str], int] = {}
    for block in manifest.tables:
        rows[block.schema, block.table] = rows.get((block.schema, block.table), 0) + block.rows
    assert rows == {table: count for table, (count, _, _) in source.items()}
    once = [b for b in manifest.tables if rows[b.schema, b.table] == b.rows]
    assert len(once) >= len(rows) - 1
    assert {(b.schema, b.table): b.blake3 for b in once} == {
        (b.schema, b.table): source[b.schema, b.table][1] for b in once
    }
    await check_catalogs(torture, manifest)

    # And it all comes back.
    restored = database()
    load(done.path, restored)
    again = await content(restored, manifest)
    assert {table: (count, in_any_order) for table, (count, _, in_any_order) in again.items()} == {
        table: (count, in_any_order) for table, (count, _, in_any_order) in source.items()
    }
    second = site.configure(restored).good().manifest
    assert second.object_counts == manifest.object_counts
    assert second.sequences == manifest.sequences
    assert second.large_objects == manifest.large_objects
    assert second.extensions == manifest.extensions


async def check_catalogs(torture: Database, manifest: Manifest) -> None:
    connection = await torture.connect()
    try:
        objects = await connection.fetch(
            "SELECT oid::bigint, length(lo_get(oid)), encode(sha256(lo_get(oid)), 'hex') FROM pg_largeobject_metadata ORDER BY oid"
        )
        assert [tuple(row) for row in objects] == sorted(
            (o.oid, o.bytes, o.sha256) for o in manifest.large_objects
        )
        assert len(objects) == 8
        for sequence in manifest.sequences:
            name = f"{identifier(sequence.schema)}.{identifier(sequence.name)}"
            row = await connection.fetchrow(f"SELECT last_value, is_called FROM {name}")
            assert row is not None
            assert tuple(row) == (sequence.last_value, sequence.is_called)
        count = await connection.fetchval("SELECT count(*) FROM pg_class WHERE relkind = 'S'")
        assert count == len(manifest.sequences)
        extensions = await connection.fetch("SELECT extname::text, extversion FROM pg_extension ORDER BY 1")
        assert [tuple(row) for row in extensions] == [(e.name, e.version) for e in manifest.extensions]
        tables = await connection.fetchval("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND oid >= 16384 AND oid NOT IN (SELECT objid FROM pg_depend WHERE deptype = 'e')")  # fmt: skip
        assert manifest.object_counts["pg_class.r"] == tables
    finally:
        await connection.close()
    assert {"torture_owner", "torture_reader", "torture_heir", "Tor\"ture ' röle", "postgres"} <= set(
        manifest.roles
    )
    found = manifest.properties
    assert found.owner == "torture_owner"
    assert found.comment == "a database's comment\n\\."
    assert found.connection_limit == 90
    assert found.encoding == manifest.encoding == "UTF8"
    assert found.locale_provider == "libc"
    assert found.acl is not None
    assert any("torture_reader=" in entry for entry in found.acl)
    assert ("", "TimeZone=America/St_Johns") in found.settings or (
        "",
        "timezone=America/St_Johns",
    ) in found.settings
    assert ("torture_reader", "work_mem=8MB") in found.settings
    assert ("", 'torture.note=it\'s\n"a" note') in found.settings
    assert manifest.restricted
    assert manifest.consistent
    assert not manifest.in_recovery
    assert manifest.loads_into == torture.server.major


def test_settings_of_the_database_do_not_change_its_rows(
    site: Site, server: Postgres, database: Factory
) -> None:
    sql = "CREATE TABLE t AS SELECT '2020-06-01 12:00+00'::timestamptz + i * interval '1 hour' AS at, decode(md5(i::text), 'hex') AS b, interval '1 day' * i AS v, i / 7.0::float8 AS f FROM generate_series(1, 200000) i"
    plain, odd = database(sql=sql), database(sql=sql)
    for setting in (
        "timezone = 'America/St_Johns'",
        "bytea_output = 'escape'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = 0",
        "standard_conforming_strings = off",
        "client_encoding = 'LATIN1'",
        "default_transaction_read_only = on",
        # Longer than a busy machine takes to say that it is not to hold, shorter than the rows take.
        "statement_timeout = '50ms'",
        "lock_timeout = '1ms'",
    ):
        server.psql("postgres", f'ALTER DATABASE "{odd.name}" SET {setting}')
    site.use(server).configure(plain, odd)
    by_name = {found["dbname"]: json_manifest(found) for found in site.good().databases}
    one, other = by_name[plain.name], by_name[odd.name]
    assert one.tables == other.tables
    assert (one.rows, other.properties.settings != ()) == (200_000, True)


def json_manifest(found: dict[str, object]) -> Manifest:
    path = Path(str(found["path"]))
    return manifests.from_json(path.with_name(path.name + naming.MANIFEST).read_bytes())


@pytest.mark.parametrize(
    ("encoding", "client", "name", "value"),
    [("LATIN1", "UTF8", "é", "ÿ"), ("SQL_ASCII", "SQL_ASCII", "é", "日"), ("UTF8", "UTF8", "日", "😀")],
)
def test_encodings(site: Site, database: Factory, server: Postgres, encoding: str, client: str, name: str, value: str) -> None:  # fmt: skip
    source = database(options=f"ENCODING '{encoding}' LOCALE 'C'")
    source.psql(f"SET client_encoding = '{client}'; CREATE TABLE \"{name}\" (\"{name}\" text); INSERT INTO \"{name}\" VALUES ('{value}'), ('plain'); COMMENT ON DATABASE \"{source.name}\" IS '{name}'")  # fmt: skip
    done = site.use(server).configure(source).good()
    manifest = done.manifest
    assert (manifest.encoding, manifest.properties.encoding, manifest.rows) == (encoding, encoding, 2)
    (block,) = manifest.tables
    if encoding != "SQL_ASCII":  # where names are bytes, not text
        assert (block.table, block.columns) == (name, (name,))
    raw = value.encode("latin-1" if encoding == "LATIN1" else "utf-8")
    assert block.blake3 == blake3(raw + b"\nplain\n").hexdigest()
    restored = database(options=f"ENCODING '{encoding}' LOCALE 'C'")
    load(done.path, restored)
    assert restored.psql(f"SET client_encoding = '{client}'; SELECT * FROM \"{name}\"") == f"{value}\nplain\n"


def test_bytes_that_are_no_utf8_in_names_and_comments(site: Site, pg15: Postgres, on15: Databases) -> None:
    source = on15(options="ENCODING 'SQL_ASCII' LOCALE 'C'")
    script = 'SET client_encoding = \'SQL_ASCII\'; CREATE UNLOGGED TABLE "t\xe9" (a text); INSERT INTO "t\xe9" VALUES (\'\xff\'); COMMENT ON DATABASE "%s" IS \'\xe9\'; ALTER DATABASE "%s" SET "my.note" = \'\xfc\''
    source.psql((script % (source.name, source.name)).encode("latin-1"))
    manifest = site.use(pg15).configure(source).good().manifest
    assert manifest.rows == 1
    assert manifest.tables[0].table == "té"


@pytest.fixture
def undecodable(pg15: Postgres, on15: Databases) -> Iterator[str]:
    """A database and a role whose names are no UTF-8, as a LATIN1 database can make them."""
    latin = on15(options="ENCODING 'LATIN1' LOCALE 'C'")
    latin.psql('CREATE DATABASE "odd_café"; CREATE ROLE "röle"; GRANT ALL ON DATABASE "odd_café" TO "röle"')
    try:
        yield latin.name
    finally:
        latin.psql('DROP DATABASE "odd_café"; DROP ROLE "röle"')


def test_a_name_that_is_no_utf8_stops_no_other_database(
    site: Site, pg15: Postgres, on15: Databases, undecodable: str
) -> None:
    good = on15("odd_good", sql="CREATE TABLE t (a int)")
    site.use(pg15).configure(f"127.0.0.1:{pg15.cluster.port}/odd_*")
    done = site.backup()
    assert done.returncode in {0, 3}, done.stderr
    site.check(done)
    assert {one["status"] for one in done.databases if one["dbname"] == good.name} == {"good"}


def test_odd_names_lead_to_their_own_databases(site: Site, pg15: Postgres, on15: Databases) -> None:
    server, database = pg15, on15
    names = dict.fromkeys((*FAULTS_54, *ODD_NAMES))
    sql = "CREATE TABLE who AS SELECT current_database()::text AS name; CREATE TABLE decoy (a int)"
    made = [database(name) for name in names]
    for database_ in made:
        database_.psql(sql)
    site.use(server, MAX_CONCURRENT_DUMPS="6", MAX_CONCURRENT_DUMPS_PER_SERVER="6").configure(*made)
    done = site.good()
    assert {one["dbname"] for one in done.databases} == set(names)
    for one in done.databases:
        manifest = json_manifest(one)
        assert manifest.dbname == one["dbname"]
        (who,) = [block for block in manifest.tables if block.table == "who"]
        text = str(one["dbname"]).replace("\\", "\\\\").replace("\n", "\\n").encode()
        assert who.blake3 == blake3(text + b"\n").hexdigest(), one["dbname"]
        assert Path(str(one["path"])).parent.parent == site.root
    # A pattern finds the same.
    escaped = site.configure(f"127.0.0.1:{server.cluster.port}/*", *(f"!127.0.0.1:{server.cluster.port}/{n}" for n in ("postgres", "torture", "test_*"))).good()  # fmt: skip
    assert set(names) <= {one["dbname"] for one in escaped.databases}


def test_an_empty_database_and_one_of_large_objects_only(
    site: Site, server: Postgres, database: Factory
) -> None:
    empty, objects = database(), database(sql="SELECT lo_from_bytea(0, '\\x00ff'), lo_from_bytea(0, '')")
    site.use(server).configure(empty, objects)
    by_name = {one["dbname"]: json_manifest(one) for one in site.good().databases}
    none, two = by_name[empty.name], by_name[objects.name]
    assert (none.rows, none.tables, none.large_objects) == (0, (), ())
    assert (two.tables, sorted(o.bytes for o in two.large_objects)) == ((), [0, 2])


def test_wildcards_and_exclusions(site: Site, pg15: Postgres, on15: Databases) -> None:
    copies = ("wild_restoring_0b886fb4", "wild_before_20261123_041002", "wild_before_2020")
    for name in ("wild_a", "wild_b", "wild_no", *copies, "other", "wild%2A"):
        on15(name)
    pg15.psql("postgres", "ALTER DATABASE wild_b WITH ALLOW_CONNECTIONS false")
    address = f"127.0.0.1:{pg15.cluster.port}"
    site.use(pg15).configure(
        f"{address}/wild_*", f"!{address}/wild_no", f"!{address}/nothing", f"{address}/other"
    )
    done = site.good()
    assert {one["dbname"] for one in done.databases} == {"wild_a", "other"}
    # No restore gives the last of these names: somebody has chosen it, and might miss its backups.
    assert [event["databases"] for event in done.named("databases.skipped")] == [["wild_before_2020"]]
    # Only one, by name; it need not be listed.
    assert site.good(f"{address}/wild_no").only["dbname"] == "wild_no"


def test_names_that_would_collide(site: Site, pg15: Postgres, on15: Databases, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ab-"))
    try:
        for name in ("a", "a-b"):
            (folder / name).symlink_to(pg15.cluster.socket)
        made = [
            DatabaseSpec(f"{folder}/a-b", pg15.cluster.port, "c"),
            DatabaseSpec(f"{folder}/a", pg15.cluster.port, "b-c"),
        ]
        for spec in made:
            on15(spec.dbname, sql=f"CREATE TABLE who AS SELECT '{spec.dbname}' AS name")
        site.use(pg15, NUM_BACKUPS="1", POSTGRESQL_USER="postgres").configure(*made)
        alone = site.good(
            f"{folder}/a-b:{pg15.cluster.port}/c".replace("/", "%2F", folder.as_posix().count("/") + 1)
        ).path
        for _ in range(2):
            found = {json_manifest(one).dbname: json_manifest(one) for one in site.good().databases}
            assert {name: m.tables[0].blake3 for name, m in found.items()} == {
                name: blake3(name.encode() + b"\n").hexdigest() for name in ("c", "b-c")
            }
        assert len(site.backups) == 2
        assert not alone.exists()  # the manifest says whose it was
    finally:
        shutil.rmtree(folder)


def test_one_host_with_two_ports(site: Site, on15: Databases, on16: Databases) -> None:
    sql = "CREATE TABLE who AS SELECT current_setting('server_version_num')::int / 10000 AS major"
    one, two = on15("app", sql=sql), on16("app", sql=sql)
    site.use(one.server, two.server, NUM_BACKUPS="1")
    first = site.configure(one).good().path
    assert first.name.startswith("127.0.0.1-app_")  # the name of old, as long as it is certain
    other = site.configure(two).good().path
    assert first.exists()
    for _ in range(2):
        found = {found["port"]: json_manifest(found) for found in site.configure(one, two).good().databases}
    assert {port: m.server_version.partition(".")[0] for port, m in found.items()} == {
        one.spec.port: "15",
        two.spec.port: "16",
    }
    assert len(site.backups) == 2
    assert not first.exists()
    assert not other.exists()


def test_two_jobs_that_share_a_volume_do_not_sweep_each_other(
    site: Site, on15: Databases, on16: Databases, tmp_path: Path
) -> None:
    # Alone in its configuration, each of the two writes under the same short name.
    one, two = on15("app", sql="CREATE TABLE t (a int)"), on16("app", sql="CREATE TABLE t (a int)")
    go = tmp_path / "go"
    script = f'"$REAL" "$@" | (head -c 600; {until(go)}; cat)'
    slow = wrapper(tmp_path / "slow", one.server.bindir, script)
    site.use(one.server, two.server)
    first = site.configure(one).start(PG_BINDIRS=f"{slow}")
    wait_for(lambda: site.partials, "the first job's partial file")
    done = site.configure(two).backup()
    assert done.returncode == 0, done.stderr
    assert site.partials, "the second job swept the first one's file"
    go.touch()
    result = site.end(first)
    assert result.returncode == 0, result.stderr
    site.check(result)
    assert len(site.backups) == 2


@pytest.mark.parametrize("strategy", ["daily", "rolling"])
def test_folders(site: Site, pg15: Postgres, on15: Databases, strategy: str) -> None:
    source = on15()
    path = site.use(pg15, BACKUP_STRATEGY=strategy).configure(source).good().path
    stamp = naming.parse_name(path.name)
    assert stamp is not None
    assert path.parent.name == f"{stamp.stamp:%Y-%m-%d}"
    assert abs(stamp.stamp - datetime.now()) < timedelta(minutes=1)  # noqa: DTZ005 - local time, as in names
    last_of_month = (stamp.stamp + timedelta(days=1)).day == 1
    tier = "monthly" if last_of_month else "weekly" if stamp.stamp.isoweekday() == 7 else "daily"
    assert path.parent.parent == (site.root / tier if strategy == "rolling" else site.root)


def test_local_time_in_names(site: Site, pg15: Postgres, on15: Databases) -> None:
    source = on15()
    site.use(pg15).configure(source)
    for zone, hours in (("UTC", 0), ("Etc/GMT-14", 14), ("Etc/GMT+12", -12)):
        done = site.good(TZ=zone)
        parsed = naming.parse_name(done.path.name)
        assert parsed is not None
        local = done.manifest.started_at.replace(tzinfo=None, microsecond=0) + timedelta(hours=hours)
        assert timedelta(0) <= parsed.stamp - local < timedelta(seconds=5)


def test_pruning_after_success(site: Site, pg15: Postgres, on15: Databases) -> None:
    source = on15()
    old = [site.use(pg15, NUM_BACKUPS="2").old_good(source.spec, days) for days in (1, 2, 3, 4)]
    like = dataclasses.replace(source.spec, dbname=f"{source.name}_old")
    foreign = [site.old_good(like, 3), site.old_good(dataclasses.replace(source.spec, host="x127.0.0.1"), 9)]
    folder = old[3].parent
    (folder / "notes.txt").write_text("mine")
    (folder / f"{old[3].name}.md5").write_text("mine")
    (folder / f"{old[3].name}.in_progress").write_text("the bash tool's")
    foreign += [folder / "notes.txt", folder / f"{old[3].name}.md5", folder / f"{old[3].name}.in_progress"]
    imitation = folder / f"{source.spec.host}-{source.name}_2020-01-01_00-00-00.sql.gz"
    imitation.mkdir()
    link = folder / f"{source.spec.host}-{source.name}_2020-01-02_00-00-00.sql.gz"
    link.symlink_to("/nowhere")
    future = site.old_good(source.spec, -400)
    done = site.configure(source).good()
    assert sorted(map(Path, done.only["pruned"])) == sorted(old[1:])
    assert [event["path"] for event in done.named("backup.pruned")] == done.only["pruned"]
    assert all(path.exists() for path in (*foreign, imitation, old[0], future, done.path))
    assert link.is_symlink()
    assert not old[1].parent.exists()  # nothing else was in it
    # Each run removes one of its own then.
    again = site.good()
    assert list(map(Path, again.only["pruned"])) == [old[0]]
    last = site.good()
    assert list(map(Path, last.only["pruned"])) == [done.path]
    assert not done.path.with_name(done.path.name + ".json").exists()


def test_nothing_is_pruned_when_the_dump_fails(site: Site, pg15: Postgres) -> None:
    spec = pg15.spec("not_there")
    old = [site.use(pg15, NUM_BACKUPS="1").old_good(spec, days) for days in (1, 2, 3)]
    done = site.configure(spec).backup()
    assert (done.returncode, done.only["category"]) == (1, "absent")
    assert all(path.exists() for path in old)
    site.check(done)


class TestGlobals:
    def test_as_superuser(self, site: Site, server: Postgres, database: Factory) -> None:
        source = database()
        server.psql("postgres", "CREATE ROLE \"some one\" PASSWORD 'hunter22'")
        try:
            site.use(server, DUMP_GLOBALS="true").configure(source, server.spec("postgres"))
            plain = site.good()
            with_passwords = site.good(GLOBALS_PASSWORDS="true")
        finally:
            server.psql("postgres", 'DROP ROLE "some one"')
        texts = []
        for done in (plain, with_passwords):
            (found,) = done.report["globals"]
            assert found["status"] == "good"
            assert "-@globals_" in found["path"] or "@globals" in found["path"]
            manifest = json_manifest(found)
            assert (manifest.kind, manifest.dbname) == ("globals", "")
            assert "some one" in manifest.roles
            texts.append(gzip.decompress(Path(found["path"]).read_bytes()).decode())
        assert all('CREATE ROLE "some one"' in text for text in texts)
        assert ["SCRAM-SHA-256" in text for text in texts] == [False, True]

    def test_as_an_ordinary_role(self, site: Site, pg15: Postgres, on15: Databases, ordinary: str) -> None:
        source = on15(sql="CREATE TABLE t (a int); GRANT SELECT ON t TO PUBLIC")
        site.use(pg15, DUMP_GLOBALS="true").configure(source)
        site.env |= as_role(pg15, ordinary)
        done = site.good()
        assert done.report["globals"][0]["status"] == "good"
        denied = site.good(GLOBALS_PASSWORDS="true")
        (found,) = denied.report["globals"]
        assert (found["status"], found["category"]) == ("failed", "access")
        assert denied.only["status"] == "good"
        (event,) = denied.named("backup.failed")
        assert event["dbname"] == "@globals"
        assert found["error"].startswith(f"{source.spec.server}/@globals: pg_dumpall: ")

    def test_nobody_to_ask(self, site: Site) -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        site.use(DUMP_GLOBALS="true").configure(f"127.0.0.1:{port}/*", f"127.0.0.1:{port}/app")
        done = site.backup()
        said = {one["error"].rpartition(": ")[0] for one in (*done.databases, *done.report["globals"])}
        assert said == {f"127.0.0.1:{port}/{name}" for name in ("*", "app", "@globals")}


@pytest.fixture
def ordinary(pg15: Postgres) -> Iterator[str]:
    pg15.psql("postgres", "CREATE ROLE ordinary LOGIN PASSWORD 'ordinary-secret'")
    try:
        yield "ordinary"
    finally:
        pg15.psql("postgres", "DROP ROLE ordinary")


def as_role(server: Postgres, name: str, password: str | None = None) -> dict[str, str]:
    prefix = f"127_0_0_1_{server.cluster.port}"
    return {f"{prefix}_USER": name, f"{prefix}_PASSWORD": password or f"{name}-secret"}


def test_what_is_made_meanwhile_is_neither_in_the_dump_nor_in_the_manifest(
    site: Site, server: Postgres, database: Factory, tmp_path: Path
) -> None:
    source = database(sql="CREATE TABLE t AS SELECT generate_series(1, 10) AS a; CREATE SEQUENCE s")
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = f'touch {ready}; {until(go)}; exec "$REAL" "$@"'
    held = wrapper(tmp_path / "held", server.bindir, script)
    child = site.use(server).configure(source).start(PG_BINDIRS=f"{held}")
    wait_for(ready.exists, "pg_dump")
    source.psql("INSERT INTO t VALUES (11); CREATE TABLE later AS SELECT 1 AS a; CREATE TYPE late AS ENUM ('x'); CREATE ROLE latecomer; ALTER TABLE later OWNER TO latecomer; SELECT lo_create(0);")  # fmt: skip
    go.touch()
    try:
        done = site.end(child)
        site.check(done)
        manifest = done.manifest
        assert [(block.table, block.rows) for block in manifest.tables] == [("t", 10)]
        assert manifest.object_counts["pg_class.r"] == 1
        assert "pg_type.e" not in manifest.object_counts
        assert "pg_largeobject_metadata" not in manifest.object_counts
        assert "latecomer" not in manifest.roles
        assert manifest.consistent
    finally:
        source.psql("DROP TABLE later; DROP ROLE latecomer")


@pytest.fixture
def standby(pg15: Postgres) -> Iterator[Postgres]:
    """A streaming standby of the server, made as an administrator makes one."""
    base = Path(tempfile.mkdtemp(prefix="asyncbackup-standby-"))
    base.chmod(0o711)
    data = base / "data"
    copy = [f"{pg15.bindir}/pg_basebackup", "-D", f"{data}", "-R", "-X", "stream", "-c", "fast"]
    subprocess.run(copy, env={**pg15.libpq}, check=True, capture_output=True)
    owner = pg15.cluster.datadir.stat()
    subprocess.run(["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", f"{data}"], check=True)
    sockets = base / "s"
    sockets.mkdir(0o700)
    os.chown(sockets, owner.st_uid, owner.st_gid)
    port = free_port()
    options = {"port": port, "unix_socket_directories": sockets, "listen_addresses": "127.0.0.1", "hot_standby": "on", "wal_level": "logical", "max_wal_senders": 10, "max_prepared_transactions": 10, "max_connections": 200, "fsync": "off", "allow_in_place_tablespaces": "on"}  # fmt: skip
    command = [f"{pg15.bindir}/postgres", "-D", f"{data}"]
    command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    ids = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with (base / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, **ids) as server:  # type: ignore[call-overload]
        it = Postgres("standby", dataclasses.replace(pg15.cluster, port=port, socket=sockets, datadir=data, pid=server.pid))  # fmt: skip
        try:
            wait_for(lambda: answers(it) or server.poll(), "the standby")
            assert server.poll() is None, (base / "log").read_text()
            yield it
        finally:
            server.send_signal(2)
            server.wait(30)
            shutil.rmtree(base)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(server: Postgres) -> bool:
    command = [f"{server.bindir}/pg_isready", "-q"]
    return subprocess.run(command, env={**server.libpq}, check=False).returncode == 0


def test_a_standby(site: Site, pg15: Postgres, on15: Databases, standby: Postgres) -> None:
    source = on15(
        sql="CREATE TABLE t AS SELECT generate_series(1, 100) AS a; CREATE UNLOGGED TABLE gone AS SELECT 1 AS a"
    )
    lsn = source.query("SELECT pg_current_wal_lsn()")
    wait_for(
        lambda: standby.query("postgres", f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") == "t", "replay"
    )
    done = site.use(standby, DUMP_GLOBALS="true").configure(standby.spec(source.name)).good()
    manifest = done.manifest
    assert manifest.in_recovery
    assert manifest.unlogged == ("public.gone",)
    assert {block.table: block.rows for block in manifest.tables} == {"t": 100}
    assert done.report["globals"][0]["status"] == "good"
    # On the primary, the table has its row.
    there = site.use(pg15).configure(source).good().manifest
    assert (there.in_recovery, there.unlogged, there.rows) == (False, (), 101)


def test_f16_a_standby_that_cancels_a_dump_to_keep_up(
    site: Site, on15: Databases, standby: Postgres, tmp_path: Path
) -> None:
    rows = 60_000
    source = on15(sql=f"CREATE TABLE t AS SELECT i AS a, repeat(md5(i::text), 6) AS b FROM generate_series(1, {rows}) i")  # fmt: skip

    def replayed(lsn: str) -> bool:
        return standby.query("postgres", f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") == "t"

    def written() -> str:
        return source.query("SELECT pg_current_wal_lsn()")

    standby.psql("postgres", "ALTER SYSTEM SET max_standby_streaming_delay = 0; SELECT pg_reload_conf()")
    before = written()
    wait_for(lambda: replayed(before), "replay")
    ready, go = tmp_path / "ready", tmp_path / "go"
    held = wrapper(
        tmp_path / "held",
        standby.bindir,
        f'[ -e {go} ] && exec "$REAL" "$@"; set -o pipefail; "$REAL" "$@" | (head -c 300000; touch {ready}; {until(go)}; cat)',
    )
    site.use(standby, DUMP_RETRIES="2").configure(standby.spec(source.name))
    child = site.start(PG_BINDIRS=f"{held}")
    wait_for(ready.exists, "the dump")
    # What the dump has not read yet is taken away under its hands.
    source.psql("DELETE FROM t WHERE a % 2 = 0")
    before = written()
    source.psql("VACUUM t")
    after = written()
    # It gets past that as soon as the dump is cancelled, which a dump that cannot write may not notice yet.
    with contextlib.suppress(AssertionError):
        wait_for(lambda: replayed(after), "replay", 3)
    go.touch()
    done = site.end(child)
    assert done.returncode == 0, done.stderr
    assert "conflict with recovery" in done.named("backup.retried")[0]["error"]
    assert (done.manifest.rows, done.manifest.in_recovery) == (rows // 2, True)
    site.check(done)


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("mode", ["", "0640"])
def test_permissions(site: Site, pg15: Postgres, on15: Databases, umask: int, mode: str) -> None:
    source = on15()
    parent = site.home / "shared"
    parent.mkdir()
    parent.chmod(0o2755)
    os.chown(parent, -1, os.getegid() if os.geteuid() else 12345)
    root = parent / "deep" / "backups"
    before = os.umask(umask)
    try:
        path = site.use(pg15, BACKUP_FILE_MODE=mode, BACKUP_DIR=f"{root}").configure(source).good().path
    finally:
        os.umask(before)
    files = {path, path.with_name(path.name + ".json")}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640 if mode else 0o600}
    for folder in (root.parent, root, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == (0o2750 if mode else 0o2700)
    assert {found.stat().st_gid for found in (*files, path.parent)} == {parent.stat().st_gid}


@pytest.mark.parametrize("lock_dir", ["", "locks"])
def test_a_second_run_for_the_same_series_is_told_who_holds_it(
    site: Site, pg15: Postgres, on15: Databases, tmp_path: Path, lock_dir: str
) -> None:
    source, other = on15(), on15()
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = f'touch {ready}; {until(go)}; exec "$REAL" "$@"'
    held = wrapper(tmp_path / "held", pg15.bindir, script)
    site.use(pg15, LOCK_DIR=f"{tmp_path / lock_dir}" if lock_dir else "").configure(source)
    child = site.start(PG_BINDIRS=f"{held}")
    wait_for(ready.exists, "pg_dump")
    started = time.monotonic()
    second = site.backup()
    assert time.monotonic() - started < 30
    assert second.returncode == 4
    assert second.only["seconds"] < 1
    assert f"process {child.pid} on " in second.only["error"]
    assert second.only["category"] == "locked"
    # Another series is free; in one run with the locked one, that makes "some".
    both = site.configure(source, other).backup()
    assert {one["dbname"]: one["status"] for one in both.databases} == {
        source.name: "locked",
        other.name: "good",
    }
    assert both.returncode == 3
    go.touch()
    first = site.end(child)
    assert first.returncode == 0, first.stderr
    site.check(first)
    site.check_recovery()


def test_a_second_run_is_told_at_once_whatever_the_server_does(site: Site) -> None:
    """The server takes connections and never answers: nobody may have to wait for that."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        spec = DatabaseSpec("127.0.0.1", deaf.getsockname()[1], "app")
        other = dataclasses.replace(spec, dbname="other")
        site.use(POSTGRESQL_USER="x", CONNECT_TIMEOUT="60s").configure(spec, f"!{spec.host}:{spec.port}/gone")
        folder = site.root / ".asyncbackup"
        with locks.hold(folder, naming.long_core(spec), "", "run-1"):
            started = time.monotonic()
            done = site.backup()
            assert time.monotonic() - started < 30
            assert (done.returncode, done.only["category"]) == (4, "locked")
            assert f"run run-1 (process {os.getpid()} on " in done.only["error"]
            assert [event["event"] for event in done.events] == [
                "run.started", "backup.started", "backup.failed", "run.finished",
            ]  # fmt: skip
            site.check(done)
            # Another one is free: that one is tried, and the server asked.
            site.configure(spec, other)
            done = site.backup(CONNECT_TIMEOUT="0.5s")
            assert {one["dbname"]: one["category"] for one in done.databases} == {
                "app": "locked",
                "other": "unreachable",
            }
            site.check(done)
        assert site.configure(spec).backup(CONNECT_TIMEOUT="0.5s").only["category"] == "unreachable"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from small_disk(tmp_path / "disk", "size=3m")


def test_not_enough_space(site: Site, pg15: Postgres, on15: Databases, disk: Path) -> None:
    source = on15(sql="CREATE TABLE t (a int)")
    site.use(pg15, BACKUP_DIR=f"{disk}", NUM_BACKUPS="1").configure(source)
    before = [site.old_good(source.spec)]
    before[0].write_bytes(os.urandom(1_900_000))
    # It may not fit: a warning. It took 1.9 MB last time, and there is one.
    done = site.good(NUM_BACKUPS="5")
    assert any("are free in" in warning for warning in done.only["warnings"])
    names = [event["event"] for event in done.events]
    assert names.index("space.low") < names.index("backup.finished")
    (event,) = done.named("space.low")
    assert event["level"] == "warning"
    assert f"the last backup took {event['last'] / 1e6:.1f} MB, the database has" in event["message"]
    # A first backup has no last one.
    first = on15(sql="CREATE TABLE t (a int)")
    told = site.configure(first).good().named("space.low")
    assert [(one["last"], "the last backup" in one["message"]) for one in told] == [(0, False)]
    site.configure(source)
    (disk / "ballast").write_bytes(bytes(600_000))
    files = site.files
    done = site.backup()
    assert (done.returncode, done.only["category"]) == (1, "space")
    site.check(done, files)
    (disk / "ballast").unlink()
    site.check_recovery()


async def test_by_socket_and_without_any_password(site: Site, pg15: Postgres, on15: Databases) -> None:
    source = on15(sql="CREATE TABLE t (a int)")
    spec = DatabaseSpec(f"{pg15.cluster.socket}", pg15.cluster.port, source.name)
    site.use(pg15).configure(spec)
    for name in list(pg15.credentials):
        del site.env[name]
    assert site.good(PGUSER="postgres").manifest.spec == spec


def test_what_libpq_inherits_leads_nowhere_else(site: Site, pg15: Postgres, on15: Databases) -> None:
    source = on15(sql="CREATE TABLE t AS SELECT now() AS at")
    lies = {"PGHOST": "evil", "PGPORT": "1", "PGDATABASE": "evil", "PGUSER": "evil", "PGPASSWORD": "evil-secret", "PGOPTIONS": "-c search_path=evil", "PGTZ": "Asia/Tokyo", "PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "German", "PGAPPNAME": "evil"}  # fmt: skip
    site.use(pg15).configure(source)
    assert site.good(**lies).manifest.tables == site.good().manifest.tables
    assert dumps_of(pg15) == []
