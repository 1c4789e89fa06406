"""Comparing what was restored with its backup: each kind of damage is seen from the level on that promises it.

The damage is done to a restored database, where no check of the backup's file can see it.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from asyncbackup import inventory, multiset
from asyncbackup.model import Level, Manifest
from asyncbackup.postgres import readback
from asyncbackup.postgres.readback import Compared
from asyncbackup.unpack import open_backup
from tests.invariants import Site
from tests.servers import Cli, Database, Databases, Postgres

SQL = """
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 30) i;
CREATE TABLE u (id int, v text);
INSERT INTO u SELECT i, 'other ' || i FROM generate_series(1, 30) i;
CREATE TABLE twins (v text); INSERT INTO twins VALUES ('a'), ('a'), ('b'), (''), (NULL);
CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES;
CREATE TABLE root (k int, v text) PARTITION BY LIST (k);
CREATE TABLE leaf_1 PARTITION OF root FOR VALUES IN (1); CREATE TABLE leaf_2 PARTITION OF root FOR VALUES IN (2);
INSERT INTO root VALUES (1, 'one'), (1, 'more'), (2, 'two');
CREATE INDEX extra ON t (v);
CREATE VIEW seen AS SELECT id FROM t;
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER keep BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION keep();
CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 41);
SELECT lo_from_bytea(50001, '\\x00010203'), lo_from_bytea(50002, decode(repeat('ab', 5000), 'hex'));
"""
ORDER = [Level.TABLES, Level.ROWS, Level.CONTENT]


@dataclass(frozen=True)
class Restored:
    """A backup, and a database that it was restored into, to be copied and damaged."""

    manifest: Manifest
    backup: Path
    database: Database


@pytest.fixture(scope="module")
def restored(pg15: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    folder = tmp_path_factory.mktemp("readback")
    (folder / "home").mkdir()
    with Databases(pg15) as factory:
        site = Site(Cli(folder / "home"), folder).use(pg15).configure(factory("readback", sql=SQL))
        path = site.good().path
        yield Restored(
            inventory.read_manifest(path),
            path,
            factory("readback_restored", sql=gzip.decompress(path.read_bytes())),
        )


@pytest.fixture
def copy(restored: Restored) -> Iterator[Database]:
    with Databases(restored.database.server) as factory:
        yield factory("readback_copy", template=restored.database)


async def compared(
    restored: Restored, database: Database, level: Level, read_again: set[multiset.Table] | None = None
) -> Compared:
    @asynccontextmanager
    async def connect() -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        connection = await database.connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def again(tables: frozenset[multiset.Table]) -> Mapping[multiset.Table, multiset.Multiset]:
        if read_again is not None:
            read_again.update(tables)
        with open_backup(restored.backup) as source:
            return multiset.rows_of(source, tables)

    return await readback.compare(
        connect, readback.of_manifest(restored.manifest), level, jobs=2, again=again
    )


DAMAGE = [
    # what was done, from which level on it is seen, and what is said of it there
    ("DELETE FROM t WHERE id = 7", Level.ROWS, [("rows", "public.t", "30", "29")]),
    ("INSERT INTO t VALUES (31, 'value 31')", Level.ROWS, [("rows", "public.t", "30", "31")]),
    ("TRUNCATE bare", Level.ROWS, [("rows", "public.bare", "1", "0")]),
    ("DELETE FROM leaf_2", Level.ROWS, [("rows", "public.leaf_2", "1", "0")]),
    ("UPDATE t SET v = 'valuE 7' WHERE id = 7", Level.CONTENT, [("content", "public.t", "30 rows", "other values")]),
    ("UPDATE twins SET v = 'b' WHERE ctid = '(0,1)'", Level.CONTENT, [("content", "public.twins", "5 rows", "other values")]),
    ("UPDATE twins SET v = NULL WHERE v = ''", Level.CONTENT, [("content", "public.twins", "5 rows", "other values")]),
    ("UPDATE leaf_1 SET v = 'mode' WHERE v = 'more'", Level.CONTENT, [("content", "public.leaf_1", "2 rows", "other values")]),
    (
        "WITH gone AS (DELETE FROM t WHERE id = 3 RETURNING *), come AS (DELETE FROM u WHERE id = 3 RETURNING *), i AS (INSERT INTO u SELECT * FROM gone) INSERT INTO t SELECT id + 100, v FROM come",
        Level.CONTENT,
        [("content", "public.t", "30 rows", "other values"), ("content", "public.u", "30 rows", "other values")],
    ),
    ("SELECT setval('s', 1, false)", Level.CONTENT, [("sequence", "public.s", "41, called", "1, not called")]),
    ("SELECT setval('s', 41, false)", Level.CONTENT, [("sequence", "public.s", "41, called", "41, not called")]),
    ("SELECT lo_put(50002, 2500, '\\xac')", Level.CONTENT, [("large object", "50002", "3fed102f", "b1856dd5")]),
    ("SELECT lo_unlink(50001)", Level.CONTENT, [("large object", "50001", "054edec1", "none")]),
    ("ALTER TABLE u RENAME v TO w", Level.CONTENT, [("table", "public.u", "the columns id, v", 'column "v" does not exist')]),
    ("DROP INDEX extra", Level.TABLES, [("objects", "pg_class.i", "2", "1")]),
    ("DROP VIEW seen", Level.TABLES, [("objects", "pg_attribute", "", ""), ("objects", "pg_class.v", "1", "0"), ("objects", "pg_rewrite", "1", "0")]),
    ("DROP FUNCTION one()", Level.TABLES, [("objects", "pg_proc.f", "2", "1")]),
    ("DROP TRIGGER keep ON u", Level.TABLES, [("objects", "pg_trigger", "1", "0")]),
    ("ALTER TABLE u DROP COLUMN v", Level.TABLES, [("objects", "pg_attribute", "", "")]),
    ("DROP TABLE twins", Level.TABLES, [("objects", "pg_attribute", "", ""), ("objects", "pg_class.r", "6", "5"), ("table", "public.twins", "a table", "none")]),
    ("CREATE TABLE more ()", Level.TABLES, [("objects", "pg_class.r", "6", "7")]),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", Level.TABLES, [("objects", "pg_class.i", "2", "1"), ("objects", "pg_constraint.p", "1", "0")]),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "level", "expected"), DAMAGE, ids=[sql[:40] for sql, _, _ in DAMAGE])
async def test_damage_is_seen_from_the_level_on_that_promises_it(
    restored: Restored, copy: Database, sql: str, level: Level, expected: list[tuple[str, str, str, str]]
) -> None:
    await asyncio.to_thread(copy.psql, sql)
    for tried in ORDER:
        found = (await compared(restored, copy, tried)).differences
        if ORDER.index(tried) < ORDER.index(level):
            assert found == (), tried
            continue
        told = [(one.kind, one.name, one.expected, one.found) for one in found]
        # At a higher level, more of the same damage may be seen.
        for kind, name, was, now in expected:
            (one,) = [one for one in told if one[:2] == (kind, name)]
            assert one[2].startswith(was), one
            assert one[3].startswith(now), one
        if tried is level:
            assert [one[:2] for one in told] == [one[:2] for one in expected]


@pytest.mark.parametrize("level", ORDER)
async def test_nothing_is_seen_where_there_is_nothing(restored: Restored, level: Level) -> None:
    found = await compared(restored, restored.database, level)
    assert found.differences == ()
    assert found.tables == restored.manifest.table_count
    assert found.rows == (0 if level is Level.TABLES else restored.manifest.rows)


async def test_another_order_is_no_damage_and_costs_a_second_look(restored: Restored, copy: Database) -> None:
    await asyncio.to_thread(
        copy.psql,
        "CREATE TABLE kept AS SELECT * FROM t ORDER BY id DESC; TRUNCATE t; INSERT INTO t SELECT * FROM kept; DROP TABLE kept",
    )
    looked_at: set[multiset.Table] = set()
    for level in ORDER:
        assert (await compared(restored, copy, level, looked_at)).differences == ()
    assert looked_at == {("public", "t")}


async def test_a_table_that_cannot_be_read_is_no_difference(restored: Restored, copy: Database) -> None:
    """It is neither proven nor refuted; whoever asked is told what the server said, and not that of a group."""
    view = "ALTER TABLE u RENAME TO was; CREATE VIEW u AS SELECT id, (1 / (id - id))::text AS v FROM was"
    await asyncio.to_thread(copy.psql, view)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await compared(restored, copy, Level.CONTENT)


async def test_a_session_that_ends_is_told_as_what_it_is(restored: Restored, copy: Database) -> None:
    ends = "ALTER TABLE u RENAME TO was; CREATE VIEW u AS SELECT id, pg_terminate_backend(pg_backend_pid())::text AS v FROM was"
    await asyncio.to_thread(copy.psql, ends)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)):
        await compared(restored, copy, Level.CONTENT)
