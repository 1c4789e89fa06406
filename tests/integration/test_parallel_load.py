"""Loading over several connections gives what psql gives, or fails without leaving anything."""

import asyncio
import gzip
import os
import re
import signal
import subprocess
import tracemalloc
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from asyncbackup.errors import BusyError, ConnectError, DamagedError, LackingError, LoadError
from asyncbackup.postgres import parallel
from asyncbackup.postgres.lanes import Connect
from asyncbackup.postgres.load import Loaded
from asyncbackup.scanner import Scanner
from asyncbackup.stream import Progress
from asyncbackup.unpack import Unpacked
from tests.servers import Database, Databases, Postgres, bindir_of, running

BIG = 120_000_000
"""Bytes of SQL, several times as much as may be on its way."""

HEAD = """--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;

"""
TAIL = "--\n-- PostgreSQL database dump complete\n--\n\n"

Load = Callable[..., Coroutine[Any, Any, Loaded]]


def dump(database: Database, *options: str) -> bytes:
    """Return what pg_dump writes, with the settings of a backup."""
    environment = {
        **database.server.libpq,
        "PGDATABASE": database.name,
        "PGOPTIONS": "-c TimeZone=UTC -c bytea_output=hex -c DateStyle=ISO -c IntervalStyle=postgres",
    }
    command = [f"{database.server.bindir}/pg_dump", *options]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout


def contents(dumped: bytes) -> tuple[bytes, dict[bytes, list[bytes]]]:
    r"""Return a dump's text without the lines with a random key, and its rows by table, sorted."""
    rows: dict[bytes, list[bytes]] = defaultdict(list)
    text: list[bytes] = []
    table = b""

    class Tap:
        def text(self, piece: memoryview) -> None:
            text.append(bytes(piece))

        def end(self) -> None:
            pass

        def copy(self, schema: str, name: str, columns: tuple[str, ...]) -> None:
            nonlocal table
            table = repr((schema, name, columns)).encode()
            rows[table].append(b"")

        def rows(self, piece: memoryview) -> None:
            rows[table][-1] += bytes(piece)

        def rows_end(self) -> None:
            pass

    scanner = Scanner(Tap())
    scanner.feed(dumped)
    assert scanner.finish().problem == ""
    return b"".join(text), {
        name: sorted(line for block in blocks for line in block.splitlines(keepends=True))
        for name, blocks in rows.items()
    }


def pack(path: Path, text: bytes | str) -> None:
    path.write_bytes(gzip.compress(text.encode() if isinstance(text, str) else text, 1))


def connect_to(database: Database) -> Connect:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        connection = await database.connect()
        try:
            yield connection
        finally:
            connection.terminate()

    return connect


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Load a dump's text into a database over so many connections."""
    with ThreadPoolExecutor(2) as executor:

        async def load(database: Database, text: bytes | str | Path, jobs: int = 2, **options: Any) -> Loaded:
            path = text if isinstance(text, Path) else tmp_path / "dump.sql.gz"
            if not isinstance(text, Path):
                pack(path, text)
            with FileIO(path) as source:
                return await parallel.load(
                    source,
                    options.pop("connect", connect_to(database)),
                    jobs,
                    subject="somewhere/db",
                    progress=Progress(),
                    executor=executor,
                    **options,
                )

        yield load


def sessions(database: Database) -> int:
    return int(
        database.server.query(
            "postgres", f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database.name}'"
        )
    )


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it is another process's doing
            await asyncio.sleep(0.02)


# ------------------------------------------------------------------------------------------------
# What it gives


@pytest.fixture(scope="module")
def reference(server: Postgres, torture: Database) -> Iterator[tuple[bytes, bytes]]:
    """The torture database's dump, and that of what psql makes of it."""
    dumped = dump(torture)
    with Databases(server) as databases:
        restored = databases("by_psql", sql=dumped)
        yield dumped, dump(restored)


@pytest.mark.parametrize("jobs", [1, 2, 4])
async def test_everything_is_as_psql_would_have_made_it(
    jobs: int, reference: tuple[bytes, bytes], database: Databases, load: Load
) -> None:
    dumped, expected = reference
    restored = database()
    loaded = await load(restored, dumped, jobs)
    assert loaded.unpacked.problem == loaded.unpacked.scan.problem == ""
    assert loaded.errors == ()
    text, rows = contents(dump(restored))
    expected_text, expected_rows = contents(expected)
    assert text == expected_text
    assert rows == expected_rows
    await until(lambda: sessions(restored) == 0)


async def test_the_rows_of_one_table_come_over_all_connections(pg15: Postgres, load: Load) -> None:
    with Databases(pg15) as databases:
        source = databases(
            sql="CREATE TABLE t (id bigint PRIMARY KEY, filling text);"
            "INSERT INTO t SELECT i, md5(i::text) || md5((i + 1)::text) FROM generate_series(1, 500000) i"
        )
        before = source.query("SELECT sum(hashtextextended(t::text, 0)) || ' ' || count(*) FROM t")
        restored = databases()
        pids: list[int] = []

        @asynccontextmanager
        async def connect() -> AsyncIterator[Any]:
            async with connect_to(restored)() as connection:
                pids.append(connection.get_server_pid())
                yield connection

        restored.psql(
            "CREATE FUNCTION public.noted() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN pg_backend_pid(); END $$"
        )
        text = dump(source).replace(b"filling text\n", b"filling text,\n    by int DEFAULT public.noted()\n")
        await load(restored, text, 3, connect=connect)
        assert (
            restored.query(
                "SELECT sum(hashtextextended(t::text, 0)) || ' ' || count(*) FROM (SELECT id, filling FROM t) t"
            )
            == before
        )
        # Every piece is loaded by whoever is free.
        shares = restored.query("SELECT string_agg(by::text, ' ') FROM (SELECT DISTINCT by FROM t) t").split()
        assert len(set(map(int, shares)) & set(pids)) >= 2


async def test_five_hundred_tables(pg16: Postgres, load: Load) -> None:
    with Databases(pg16) as databases:
        source = databases(
            sql="""
            DO $$ BEGIN FOR i IN 1..500 LOOP
              EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, other int, a text UNIQUE)', i);
              CONTINUE WHEN i > 450;
              EXECUTE format('INSERT INTO t%s SELECT n, n, n::text FROM generate_series(1, 3) n', i);
              EXECUTE format('ALTER TABLE t%s ADD FOREIGN KEY (other) REFERENCES t%s', i, (i + 6) / 7);
              EXECUTE format('ALTER TABLE t%s ADD FOREIGN KEY (id) REFERENCES t%s', (i + 6) / 7, i);
            END LOOP; END $$;
            """
        )
        dumped = dump(source)
        deadlocks = "SELECT sum(deadlocks) FROM pg_stat_database"
        before = pg16.query("postgres", deadlocks)
        restored = databases()
        await load(restored, dumped, 4)
        assert contents(dump(restored)) == contents(dumped)
        assert pg16.query("postgres", deadlocks) == before


LATIN1 = """
CREATE TABLE "Größe" ("naïve" text DEFAULT 'é', "ÿ" int PRIMARY KEY);
INSERT INTO "Größe" SELECT 'ein äußerst schöner Wert ' || chr(160 + i % 90), i FROM generate_series(1, 1000) i;
CREATE FUNCTION "à"() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''ça''; END';
CREATE INDEX "clé" ON "Größe" (("naïve" || 'ö'));
CREATE INDEX "autre" ON "Größe" ("naïve") WHERE "naïve" <> 'ü';
COMMENT ON TABLE "Größe" IS 'für später';
"""


async def test_a_database_in_latin1(database: Databases, load: Load) -> None:
    options = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    source = database(sql=LATIN1, options=options)
    dumped = dump(source)
    assert b"SET client_encoding = 'LATIN1';" in dumped
    restored = database(options=options)
    loaded = await load(restored, dumped)
    assert parallel.possible(loaded.unpacked.scan.encoding, loaded.unpacked.scan.blocks) == ""
    assert contents(dump(restored)) == contents(dumped)


async def test_a_database_without_an_encoding(database: Databases, load: Load) -> None:
    options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    source = database(options=options)
    environment = {**source.server.libpq, "PGDATABASE": source.name, "PGCLIENTENCODING": "SQL_ASCII"}
    script = (
        b"CREATE TABLE t (a text DEFAULT '\xe9'); INSERT INTO t VALUES ('\xff\xfe'), ('\xc3\xa9');"
        b"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ''\xfc''::text'; COMMENT ON TABLE t IS '\xdf';"
        b"CREATE INDEX \"\xe0\" ON t ((a || '\xe1'));"
    )
    psql = [f"{source.server.bindir}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    feed = partial(subprocess.run, psql, env=environment, check=True)
    feed(input=script)
    dumped = dump(source)
    restored = database(options=options)
    loaded = await load(restored, dumped)
    assert parallel.possible(loaded.unpacked.scan.encoding, loaded.unpacked.scan.blocks) == ""
    assert dump(restored).count(b"\xff\xfe") == 1
    assert contents(dump(restored)) == contents(dumped)
    # A COPY cannot be converted by the server, since it cannot be in a function.
    feed(input=b'CREATE TABLE "\xe2" (a int)')
    scanner = Scanner()
    scanner.feed(dump(source))
    scan = scanner.finish()
    assert parallel.possible(scan.encoding, scan.blocks) == "it has names in SQL_ASCII"


def test_encodings_that_only_clients_have_are_left_to_psql() -> None:
    assert parallel.possible("SJIS", []) == "it is in SJIS"
    assert parallel.possible("UTF8", []) == ""


async def test_large_objects(database: Databases, load: Load) -> None:
    source = database(
        sql="""
        SELECT lo_from_bytea(20000 + i, decode(repeat(md5(i::text), i), 'hex')) FROM generate_series(1, 200) i;
        SELECT lo_from_bytea(30000, decode(string_agg(md5(i::text), ''), 'hex')) FROM generate_series(1, 400000) i;
        SELECT lo_create(30001);
        SELECT lo_from_bytea(30002, decode(repeat('5c', 3000001), 'hex'));
        SELECT lo_create(30003); SELECT lo_put(30003, 5000000, 'the end');
        COMMENT ON LARGE OBJECT 30002 IS 'only backslashes';
        """
    )
    dumped = dump(source)
    assert dumped.count(b"lowrite") > 600
    restored = database()
    await load(restored, dumped, 3)
    assert contents(dump(restored)) == contents(dumped)


async def test_rows_that_look_at_other_rows_are_loaded_after_them(pg15: Postgres, load: Load) -> None:
    with Databases(pg15) as databases:
        source = databases(
            sql="""
            CREATE TABLE a (id int PRIMARY KEY, filling text);
            INSERT INTO a SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 40000) i;
            CREATE FUNCTION known(int) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.a WHERE id = $1)';
            CREATE FUNCTION described(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
              'BEGIN RETURN (SELECT md5(filling) FROM public.a WHERE id = $1); END';
            CREATE DOMAIN of_a AS int CHECK (known(VALUE));
            CREATE TYPE pair AS (one int, other of_a);
            CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
            CREATE FUNCTION alike(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 = $2 AND public.known($1)';
            CREATE OPERATOR ~~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = alike);
            CREATE TABLE b_checked (a int CHECK (known(a)));
            CREATE TABLE c_typed (a of_a, many of_a[], p pair);
            CREATE TABLE d_generated (a int, b text GENERATED ALWAYS AS (described(a)) STORED NOT NULL);
            CREATE TABLE e_operated (a int CHECK (a OPERATOR(public.~~~) a));
            INSERT INTO b_checked VALUES (40000);
            INSERT INTO c_typed VALUES (39999, '{40000}', (1, 39998));
            INSERT INTO d_generated VALUES (40000);
            INSERT INTO e_operated VALUES (40000);
            """
        )
        dumped = dump(source)
        for _ in range(3):
            restored = databases()
            await load(restored, dumped, 4)
            assert contents(dump(restored)) == contents(dumped)


async def test_builds_side_by_side_take_less_of_the_server_each(pg16: Postgres, load: Load) -> None:
    tables = "".join(
        f"CREATE TABLE public.t{i} (a int);\nCOPY public.t{i} (a) FROM stdin;\n1\n\\.\n\n" for i in (1, 2)
    )
    noting = (
        "CREATE TABLE public.noted (memory text, workers text);\n"
        "CREATE FUNCTION public.put() RETURNS void LANGUAGE sql AS 'INSERT INTO public.noted SELECT"
        " current_setting(''maintenance_work_mem''), current_setting(''max_parallel_maintenance_workers'')';\n"
        "CREATE FUNCTION public.note(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM public.put(); RETURN $1; END';\n"
    )
    indexes = "".join(f"CREATE INDEX i{i} ON public.t{i} USING btree (public.note(a));\n" for i in (1, 2))
    with Databases(pg16) as databases:
        for jobs, expected in ((1, "64MB|2\n64MB|2"), (2, "4MB|0\n4MB|0")):
            restored = databases()
            await load(restored, HEAD + noting + tables + indexes + TAIL, jobs)
            assert restored.query("SELECT * FROM noted") == expected


async def test_a_role_that_is_no_superuser_loads_what_it_may(pg16: Postgres, load: Load) -> None:
    with Databases(pg16) as databases:
        source = databases(sql="CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)")
        text = re.sub(rb"ALTER TABLE [^;]* OWNER TO [^;]*;", b"", dump(source))
        restored = databases()
        try:
            pg16.psql(
                "postgres", f"CREATE ROLE ordinary LOGIN; ALTER DATABASE {restored.name} OWNER TO ordinary"
            )

            @asynccontextmanager
            async def connect() -> AsyncIterator[Any]:
                async with connect_to(restored)() as connection:
                    await connection.execute("SET SESSION AUTHORIZATION ordinary")
                    yield connection

            await load(restored, text, 2, connect=connect)
            assert restored.query("SELECT tableowner FROM pg_tables WHERE tablename = 't'") == "ordinary"
        finally:
            restored.psql(
                'DROP OWNED BY ordinary; ALTER DATABASE :"DBNAME" OWNER TO postgres; DROP ROLE ordinary'
            )


async def test_settings_of_the_server_and_of_the_dump(pg15: Postgres, pg18: Postgres, load: Load) -> None:
    with Databases(pg15) as old, Databases(pg18) as new:
        newer = dump(new(sql="CREATE TABLE t (a timestamptz DEFAULT now())"))
        assert b"SET transaction_timeout = 0;" in newer
        text = newer.replace(
            b"SET default_table_access_method",
            b"SET default_tablespace = nowhere;\nSET default_table_access_method",
        )
        restored = old()
        pg15.psql("postgres", f"ALTER DATABASE {restored.name} SET default_transaction_read_only = on")
        with pytest.raises(LoadError, match="transaction_timeout"):
            await load(restored, text)
        with pytest.raises(LackingError, match="tablespace nowhere"):
            await load(restored, text, older_server=True)
        await load(restored, text, older_server=True, tablespaces=False)
        assert restored.query("SELECT count(*) FROM t") == "0"


async def test_what_was_loaded_is_on_disk_when_it_says_so(load: Load) -> None:
    bindir = bindir_of(15)
    assert bindir is not None
    slow = {"wal_level": "replica", "wal_writer_delay": "10s", "synchronous_commit": "on"}
    with running("slow", bindir, settings=slow) as server, Databases(server) as databases:
        sql = "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)"
        dumped = dump(databases(sql=sql))
        restored = databases()
        await load(restored, dumped)
        # Nothing else flushes what was written last, and nothing but that is ours.
        pending = "SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn()"
        assert server.query("postgres", pending) == "0"


async def test_memory_does_not_grow_with_the_dump(pg15: Postgres, load: Load, tmp_path: Path) -> None:
    row = b"%d\t" + b"a row of some length, as rows are " * 4 + b"\n"
    count = BIG // len(row)
    packed = tmp_path / "big.sql.gz"
    with gzip.open(packed, "wb", 1) as file:
        file.write(
            HEAD.encode() + b"CREATE TABLE public.t (a int, b text);\nCOPY public.t (a, b) FROM stdin;\n"
        )
        for number in range(count):
            file.write(row % number)
        file.write(b"\\.\n\n" + TAIL.encode())
    with Databases(pg15) as databases:
        restored = databases()
        tracemalloc.start()
        try:
            await load(restored, packed)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < BIG / 2, f"{peak / 1e6:.0f} MB"
        assert restored.query("SELECT count(*) FROM t") == str(count)


# ------------------------------------------------------------------------------------------------
# How it fails


def entry(kind: str, name: str, statement: str) -> str:
    return f"--\n-- Name: {name}; Type: {kind}; Schema: public; Owner: me\n--\n\n{statement}\n\n"


TABLE = entry("TABLE", "t", "CREATE TABLE public.t (a int, b int CHECK (b > 0));")
FAILING = {
    "a value": (
        TABLE + "COPY public.t (a, b) FROM stdin;\n1\t1\n2\thunter2\n\\.\n\n",
        "table public.t: invalid input syntax for type integer (column b)",
    ),
    "a row": (
        TABLE + "COPY public.t (a, b) FROM stdin;\n1\t-4711\n\\.\n\n",
        'table public.t: new row for relation "t" violates check constraint "t_b_check"',
    ),
    "a column too many": (
        TABLE + "COPY public.t (a, b) FROM stdin;\n1\t1\thunter2\n\\.\n\n",
        "table public.t: extra data after last expected column",
    ),
    "no such table": (
        "COPY public.t (a, b) FROM stdin;\n\\.\n\n",
        'table public.t: relation "public.t" does not exist',
    ),
    "a key": (
        TABLE
        + "COPY public.t (a, b) FROM stdin;\n4711\t1\n4711\t1\n\\.\n\n"
        + entry(
            "CONSTRAINT", "t t_pkey", "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (a);"
        ),
        'CONSTRAINT public.t t_pkey: could not create unique index "t_pkey"',
    ),
    "a foreign key": (
        TABLE
        + "COPY public.t (a, b) FROM stdin;\n1\t4711\n\\.\n\n"
        + entry(
            "CONSTRAINT", "t t_pkey", "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (a);"
        )
        + entry(
            "FK CONSTRAINT",
            "t t_fkey",
            "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_fkey FOREIGN KEY (b) REFERENCES public.t(a);",
        ),
        'FK CONSTRAINT public.t t_fkey: insert or update on table "t" violates foreign key constraint "t_fkey"',
    ),
    "a statement": (
        entry("VIEW", "v", "CREATE VIEW public.v AS SELECT nothing;"),
        'VIEW public.v: column "nothing" does not exist',
    ),
}


@pytest.mark.parametrize("name", FAILING)
async def test_what_does_not_load_is_named_without_values(name: str, pg16: Postgres, load: Load) -> None:
    body, message = FAILING[name]
    with Databases(pg16) as databases:
        restored = databases()
        with pytest.raises(LoadError) as raised:
            await load(restored, HEAD + body + TAIL)
        assert raised.value.message == f"somewhere/db: it does not load: {message}"
        assert "hunter2" not in raised.value.hint
        assert sessions(restored) == 0


@pytest.mark.parametrize(
    ("statement", "lacks"),
    [
        ("CREATE EXTENSION IF NOT EXISTS unheard_of WITH SCHEMA public;", "extension unheard_of"),
        ("ALTER SCHEMA public OWNER TO unheard_of;", "role unheard_of"),
        ("SET default_tablespace = unheard_of;\nCREATE TABLE public.t ();", "tablespace unheard_of"),
    ],
)
async def test_what_the_server_lacks_is_not_the_fault_of_the_backup(
    statement: str, lacks: str, pg15: Postgres, load: Load
) -> None:
    with Databases(pg15) as databases:
        with pytest.raises(LackingError) as raised:
            await load(databases(), HEAD + statement + "\n" + TAIL)
        assert raised.value.lacking == (lacks,)


MANY_ROWS = "COPY public.t (a) FROM stdin;\n" + "1234567890\n" * 2_000_000 + "\\.\n\n"
SLOW = (
    "CREATE FUNCTION public.slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
    " 'BEGIN PERFORM pg_catalog.pg_sleep(300); RETURN $1; END';\n"
)
# Where it stands still for five minutes, with more behind it than may be on its way.
STILL = {
    "in a statement": "CREATE TABLE public.t (a int);\nSELECT pg_catalog.pg_sleep(300);\n" + MANY_ROWS,
    "in rows": SLOW
    + "CREATE TABLE public.s (a int CHECK (public.slow(a) > 0));\nCREATE TABLE public.t (a int);\n"
    + "COPY public.s (a) FROM stdin;\n1\n\\.\n\n"
    + MANY_ROWS,
    "in an index": SLOW
    + "CREATE TABLE public.t (a int);\n"
    + "COPY public.t (a) FROM stdin;\n1\n\\.\n\n"
    + "CREATE INDEX i ON public.t USING btree (public.slow(a));\n",
}


def asleep(database: Database) -> str:
    return database.server.query(
        "postgres",
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{database.name}' AND wait_event = 'PgSleep'",
    )


@pytest.mark.parametrize("where", STILL)
async def test_a_session_that_is_ended_ends_them_all(where: str, pg16: Postgres, load: Load) -> None:
    with Databases(pg16) as databases:
        restored = databases()
        loading = asyncio.create_task(load(restored, HEAD + STILL[where] + TAIL, 3))
        await until(lambda: asleep(restored) != "" or loading.done())
        pg16.psql("postgres", f"SELECT pg_terminate_backend({asleep(restored)})")
        with pytest.raises((BusyError, ConnectError)) as raised:
            async with asyncio.timeout(60):
                await loading
        assert raised.value.message.startswith("somewhere/db: ")
        assert sessions(restored) == 0


@pytest.mark.parametrize("where", STILL)
async def test_a_load_that_is_cancelled_leaves_no_session(where: str, pg16: Postgres, load: Load) -> None:
    with Databases(pg16) as databases:
        restored = databases()
        loading = asyncio.create_task(load(restored, HEAD + STILL[where] + TAIL, 3))
        await until(lambda: asleep(restored) != "" or loading.done())
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(60):
                await loading
        assert sessions(restored) == 0


async def test_one_failure_ends_what_is_built_beside_it(pg16: Postgres, load: Load) -> None:
    text = (
        HEAD
        + SLOW
        + "CREATE TABLE public.s (a int);\nCREATE TABLE public.t (a int);\n"
        + "COPY public.s (a) FROM stdin;\n1\n\\.\n\nCOPY public.t (a) FROM stdin;\n1\n1\n\\.\n\n"
        + "CREATE INDEX i ON public.s USING btree (public.slow(a));\n"
        + "CREATE UNIQUE INDEX u ON public.t USING btree (a);\n"
        + TAIL
    )
    with Databases(pg16) as databases:
        restored = databases()
        with pytest.raises(LoadError, match='could not create unique index "u"'):
            async with asyncio.timeout(60):
                await load(restored, text, 2)
        assert sessions(restored) == 0


async def test_a_server_that_is_killed_is_told_apart_from_a_bad_backup(load: Load) -> None:
    bindir = bindir_of(15)
    assert bindir is not None
    with running("killed", bindir) as server:
        restored = Databases(server)()
        loading = asyncio.create_task(load(restored, HEAD + STILL["in a statement"] + TAIL, 2))
        await until(lambda: asleep(restored) != "" or loading.done())
        victim = int(asleep(restored))
        os.kill(server.cluster.pid, signal.SIGKILL)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises((BusyError, ConnectError)):
            async with asyncio.timeout(60):
                await loading


async def test_what_is_not_accepted_is_not_finished(pg15: Postgres, load: Load) -> None:
    seen: list[Unpacked] = []

    def refuse(unpacked: Unpacked) -> None:
        seen.append(unpacked)
        raise DamagedError("it has changed")

    body = (
        TABLE + "COPY public.t (a, b) FROM stdin;\n1\t1\n\\.\n\nCREATE INDEX i ON public.t USING btree (a);\n"
    )
    with Databases(pg15) as databases:
        restored = databases()
        with pytest.raises(DamagedError, match="it has changed"):
            await load(restored, HEAD + body + TAIL, accept=refuse)
        assert [unpacked.scan.rows for unpacked in seen] == [1]
        assert restored.query("SELECT count(*) FROM pg_class WHERE relname = 'i'") == "0"
        assert sessions(restored) == 0


async def test_a_dump_that_is_cut_off_says_so(pg15: Postgres, load: Load) -> None:
    body = TABLE + "COPY public.t (a, b) FROM stdin;\n1\t1\n2\t"
    with Databases(pg15) as databases:
        loaded = await load(databases(), HEAD + body)
        assert loaded.unpacked.scan.problem == "the dump ends inside the rows of public.t"


async def test_a_connection_that_cannot_be_had_closes_the_others(pg15: Postgres, load: Load) -> None:
    with Databases(pg15) as databases:
        restored = databases()
        tries = 0

        @asynccontextmanager
        async def connect() -> AsyncIterator[Any]:
            nonlocal tries
            tries += 1
            if tries == 3:
                raise ConnectError("somewhere/db: no route to host")
            async with connect_to(restored)() as connection:
                yield connection

        with pytest.raises(ConnectError, match="no route"):
            await load(restored, HEAD + TAIL, 4, connect=connect)
        await until(lambda: sessions(restored) == 0)
