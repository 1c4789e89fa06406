"""A restore is interrupted at any point: we, psql, its session or the server (F42). The old database stays.

The database holds the restore up, so that nothing depends on how fast a machine is: its rows are checked by a
function that waits while a role of a certain name exists, and so is its index when it is analyzed.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from asyncbackup import threads
from asyncbackup.dbspec import spec_text
from asyncbackup.postgres import swap as swap_of
from asyncbackup.postgres.cluster import Cluster
from asyncbackup.restoring import restore as restore_of
from tests.invariants import Result, Site, nothing_of, wait_for
from tests.restores import (
    drop_kept,
    half_made,
    kept,
    properties,
    restore,
    restored,
    run_here,
    start,
    state,
    until_stage,
)
from tests.servers import Database, Databases, Postgres, bindir_of, running

LOADING, ANALYZING = "hold_loading", "hold_analyzing"
SQL = f"""
CREATE FUNCTION held(what text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  WHILE EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = what) LOOP
    PERFORM pg_catalog.pg_sleep(0.01);
  END LOOP;
  RETURN true;
END $$;
CREATE FUNCTION indexed(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.current_query() ~* '^analyze' THEN PERFORM public.held('{ANALYZING}'); END IF;
  RETURN $1;
END $$;
CREATE TABLE t (id int, text text, CONSTRAINT slow CHECK (id > 1 OR public.held('{LOADING}')));
INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 100) AS g;
CREATE INDEX ON t (public.indexed(id));
"""
SPOIL = "DELETE FROM t WHERE id > 10; COMMENT ON DATABASE {name} IS 'spoilt'; ALTER DATABASE {name} SET work_mem = '5MB'"
NAME = "interrupted"


@pytest.fixture(scope="module")
def backups(pg15: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup directory with one backup of the database."""
    from tests.servers import Cli  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("interrupted")
    site = Site(Cli(folder), folder, {"BACKUP_DIR": f"{folder / 'backups'}"})
    with Databases(pg15) as factory:
        site.use(pg15).configure(factory(NAME, sql=SQL))
        assert run_here(site, "backup").returncode == 0
    return folder / "backups"


@pytest.fixture
def target(pg15: Postgres, site: Site, backups: Path) -> Iterator[Database]:
    """The database as it is now, other than in its backup; nothing of restores may be left of it."""
    site.env["BACKUP_DIR"] = f"{backups}"
    with Databases(pg15) as factory:
        found = factory(NAME, sql=SQL)
        found.psql(SPOIL.format(name=NAME))
        site.use(pg15).configure(found)
        yield found
        drop_kept(pg15, NAME)
        for role in (LOADING, ANALYZING):
            pg15.psql("postgres", f"DROP ROLE IF EXISTS {role}")
    assert half_made(pg15) == set()


def end(child: "subprocess.Popen[str]") -> Result:
    stdout, stderr = child.communicate(timeout=60)
    assert "Traceback" not in stderr, stderr
    return Result(returncode=child.returncode, stdout=stdout, stderr=stderr)


def begin(site: Site, target: Database, stage: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a restore, and wait until it is in a stage; in two of them it stays."""
    server = target.server
    for role, of in ((LOADING, "loading"), (ANALYZING, "analyzing")):
        if stage == of:
            server.psql("postgres", f"CREATE ROLE {role}")
    child = start(site, target, *arguments)
    until_stage(child, stage)
    if stage == "loading":
        wait_for(partial(at_work, server, "COPY%"), "the load")
    elif stage == "analyzing":
        wait_for(partial(at_work, server, "ANALYZE"), "ANALYZE")
    return child


def at_work(server: Postgres, query: str) -> bool:
    """Whether a session of ours runs such a query in a half-made database."""
    return (
        server.query(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asyncbackup'"
            f" AND datname LIKE '%\\_restoring\\_%' AND state = 'active' AND query LIKE '{query}'",
        )
        != "0"
    )


def release(server: Postgres) -> None:
    for role in (LOADING, ANALYZING):
        server.psql("postgres", f"DROP ROLE IF EXISTS {role}")


def as_it_was(target: Database, before: Any) -> None:
    """Expect the old database where it was, and nothing half-made."""
    assert state(target.server, target.name) == before
    assert half_made(target.server) == set()
    assert kept(target.server, target.name) == []
    wait_for(partial(nothing_of, target.server), "the end of our sessions", 10)


def all_or_nothing(target: Database, before: Any) -> None:
    """Expect the old database where it was, or the new one in its place and the old one beside it."""
    server = target.server
    if not kept(server, NAME):
        as_it_was(target, before)
        return
    (old,) = kept(server, NAME)
    assert state(server, old) == before
    assert target.query("SELECT count(*) FROM t") == "100"
    assert properties(server, NAME) == before[1]
    assert half_made(server) == set()


HELD = ("loading", "analyzing")
MOVING = ("creating", "comparing", "swapping")


@pytest.mark.parametrize(
    ("number", "code", "stage"),
    [
        *((signal.SIGTERM, 143, stage) for stage in (*HELD, *MOVING)),
        *((signal.SIGINT, 130, stage) for stage in ("loading", "swapping")),
    ],
)
def test_f42_we_are_told_to_stop(site: Site, target: Database, number: int, code: int, stage: str) -> None:
    before = state(target.server, NAME)
    child = begin(site, target, stage)
    child.send_signal(number)
    done = end(child)
    if stage in HELD:
        assert done.returncode == code
        (failed,) = done.named("restore.failed")
        assert (failed["category"], failed["stage"], failed["left"]) == ("interrupted", stage, [])
        as_it_was(target, before)
    else:
        assert done.returncode in {0, code}
        all_or_nothing(target, before)


@pytest.mark.parametrize("stage", [*HELD, "swapping"])
def test_f42_we_are_killed(site: Site, target: Database, stage: str) -> None:
    server = target.server
    before = state(server, NAME)
    child = begin(site, target, stage)
    child.kill()
    end(child)
    release(server)
    swapped = kept(server, NAME)
    if not swapped:
        assert state(server, NAME) == before
        wait_for(partial(nothing_of, server), "the end of our sessions", 20)
        left = half_made(server)
        done = restore(site, target)
        assert done.returncode == 0, done.stderr
        assert {event["database"] for event in done.named("restore.leftover")} == left
        if stage in HELD:
            assert len(left) == 1
    all_or_nothing(target, before)


def pids(server: Postgres, where: str) -> list[int]:
    found = server.query(
        "postgres",
        f"SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'asyncbackup' AND {where}",
    )
    return [int(pid) for pid in found.split()]


def children(pid: int, program: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and (process / "exe").readlink().name == program:
                found.append(int(process.name))
    return found


def test_f42_psql_is_killed(site: Site, target: Database) -> None:
    before = state(target.server, NAME)
    child = begin(site, target, "loading")
    (psql,) = children(child.pid, "psql")
    os.kill(psql, signal.SIGKILL)
    done = end(child)
    assert (done.returncode, done.report["category"]) == (1, "dump_killed")
    assert "killed by signal 9" in done.report["error"]
    as_it_was(target, before)


@pytest.mark.parametrize("how", ["we are told to stop", "we are killed", "a session is terminated"])
def test_f42_over_several_connections(site: Site, target: Database, how: str) -> None:
    server = target.server
    before = state(server, NAME)
    child = begin(site, target, "loading", "--jobs", "3")
    assert len(pids(server, "datname LIKE '%\\_restoring\\_%'")) == 3
    if how == "a session is terminated":
        (pid,) = pids(server, "datname LIKE '%\\_restoring\\_%' AND state = 'active'")
        server.query("postgres", f"SELECT pg_terminate_backend({pid})")
        assert (end(child).returncode, half_made(server)) == (1, set())
    elif how == "we are told to stop":
        child.terminate()
        assert end(child).returncode == 143
    else:
        child.kill()
        end(child)
        release(server)
        wait_for(partial(nothing_of, server), "the end of our sessions", 20)
        restored(site, target, "--jobs", "3", "--drop-old")
        assert properties(server, NAME) == before[1]
        return
    as_it_was(target, before)


@pytest.mark.parametrize("which", ["loading", "lock"])
def test_f42_a_session_is_terminated(site: Site, target: Database, which: str) -> None:
    server = target.server
    before = state(server, NAME)
    child = begin(site, target, "loading")
    where = "datname LIKE '%\\_restoring\\_%'" if which == "loading" else "datname = 'postgres'"
    (pid,) = pids(server, where)
    assert server.query("postgres", f"SELECT pg_terminate_backend({pid})") == "t"
    release(server)
    done = end(child)
    assert done.returncode == 1
    assert done.report["status"] == "failed"
    as_it_was(target, before)


@pytest.fixture
def comparing(pg15: Postgres, site: Site) -> Iterator[tuple[Database, "subprocess.Popen[str]", Any]]:
    """A restore that waits for a table, whose rows it is about to count; and what was before."""
    with Databases(pg15) as factory:
        # Large objects are loaded in transactions of their own, so that tables can be seen before the end.
        target = factory(
            "comparing", sql=SQL + "CREATE TABLE a AS SELECT 1 AS a; SELECT lo_from_bytea(0, 'x');"
        )
        site.use(pg15).configure(target)
        assert run_here(site, "backup").returncode == 0
        before = state(pg15, "comparing")
        child = begin(site, target, "loading")
        (name,) = half_made(pg15)
        with in_transaction(Database(pg15, name), "LOCK TABLE a"):
            release(pg15)
            until_stage(child, "comparing")
            wait_for(partial(at_work, pg15, "SELECT count(*)%"), "the count")
            yield target, child, before
    assert half_made(pg15) == set()


@contextlib.contextmanager
def in_transaction(database: Database, statement: str) -> Iterator[None]:
    """Have a session that has run a statement, and not committed it, until it is ended."""
    command = [f"{database.server.bindir}/psql", "-X", "-q", "-A", "-t", "-d", database.name, "-f", "-"]
    holder = subprocess.Popen(
        command,
        env=dict(database.server.libpq),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdin.write(f"BEGIN; {statement}; SELECT 'done';\n")
        holder.stdin.flush()
        while "done" not in holder.stdout.readline():
            pass
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            holder.communicate()


@pytest.mark.parametrize("how", ["we are told to stop", "the session is terminated"])
def test_f42_while_it_compares(comparing: tuple[Database, "subprocess.Popen[str]", Any], how: str) -> None:
    target, child, before = comparing
    if how == "we are told to stop":
        child.terminate()
        assert end(child).returncode == 143
    else:
        (pid,) = pids(target.server, "datname LIKE '%\\_restoring\\_%' AND wait_event_type = 'Lock'")
        target.server.query("postgres", f"SELECT pg_terminate_backend({pid})")
        done = end(child)
        assert (done.returncode, done.report["category"]) == (1, "unreachable"), done.stderr
    as_it_was(target, before)


def test_f42_a_session_crashes_and_the_server_restarts(site: Site, target: Database) -> None:
    server = target.server
    before = state(server, NAME)
    child = begin(site, target, "loading")
    (pid,) = pids(server, "datname LIKE '%\\_restoring\\_%'")
    os.kill(pid, signal.SIGKILL)  # then the postmaster ends all sessions, and recovers
    done = end(child)
    assert done.returncode == 1
    wait_for(partial(up, server), "the server")
    release(server)
    as_it_was(target, before)


def up(server: Postgres) -> bool:
    with contextlib.suppress(AssertionError):
        return server.query("postgres", "SELECT 1") == "1"
    return False


def started_again(cluster: Cluster) -> "subprocess.Popen[bytes]":
    """Start a server that was stopped, on the same data."""
    who = (
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"] if os.geteuid() == 0 else []
    )
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": f"{cluster.socket}",
        "fsync": "off",
        "max_prepared_transactions": "10",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [
        *who,
        f"{cluster.bindir}/postgres",
        "-D",
        f"{cluster.datadir}",
        "-p",
        f"{cluster.port}",
        *options,
    ]
    return subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_f42_the_server_stops_and_what_is_left_goes_with_the_next_restore(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindir = bindir_of(15)
    assert bindir is not None
    with running("stopped", bindir, tcp=True) as server, Databases(server) as factory:
        target = factory(NAME, sql=SQL)
        site.use(server).configure(target)
        assert run_here(site, "backup").returncode == 0
        target.psql(SPOIL.format(name=NAME))
        before = state(server, NAME)
        child = begin(site, target, "loading")
        left = half_made(server)
        os.kill(server.cluster.pid, signal.SIGQUIT)
        done = end(child)
        assert done.returncode == 1
        (failed,) = done.named("restore.failed")
        assert set(failed["left"]) == left
        assert len(left) == 1
        assert next(iter(left)) in done.stderr
        again = started_again(server.cluster)
        try:
            wait_for(partial(up, server), "the server")
            assert state(server, NAME) == before
            assert half_made(server) == left
            release(server)
            restored(site, target)
            all_or_nothing(target, before)
            drop_kept(server, NAME)
            site.servers.remove(server)
        finally:
            again.terminate()
            again.wait(30)
            factory.made.clear()


def test_f42_one_restore_of_a_database_at_a_time(site: Site, target: Database) -> None:
    before = state(target.server, NAME)
    child = begin(site, target, "loading")
    second = restore(site, target)
    assert second.returncode == 4
    assert "is being restored already, by postgres" in second.report["error"]
    assert len(half_made(target.server)) == 1
    release(target.server)
    assert end(child).returncode == 0
    all_or_nothing(target, before)


def test_f42_nor_from_another_database_of_the_server(site: Site, target: Database) -> None:
    """A lock of this kind belongs to a database; whoever may not use `postgres` works from another one."""
    number = swap_of.lock_number(NAME)
    with in_transaction(Database(target.server, "template1"), f"SELECT pg_advisory_xact_lock({number})"):
        done = restore(site, target)
    assert (done.returncode, done.report["category"]) == (4, "locked")
    assert "is being restored already, by postgres from a local socket since 20" in done.report["error"]
    assert half_made(target.server) == set()


# The swap


def test_f42_clients_that_keep_coming_get_the_old_or_the_new_one(
    site: Site, target: Database, server: Postgres
) -> None:
    """On every server: `target` is only there for its backup."""
    if server is target.server:
        crowded(site, target, target)
        return
    with Databases(server) as factory:
        site.use(server)
        elsewhere = factory(NAME, sql=SQL)
        elsewhere.psql(SPOIL.format(name=NAME))
        crowded(site, target, elsewhere)
        drop_kept(server, NAME)


def crowded(site: Site, backed_up: Database, target: Database) -> None:
    """Restore a database while clients come back as soon as they are sent away."""
    server = target.server
    before = state(server, NAME)
    seen: list[str] = []
    errors: set[str] = set()
    over = threading.Event()

    async def come() -> None:
        while not over.is_set():
            try:
                connected = await server.connect(NAME)
                try:
                    while not over.is_set():
                        seen.append(await connected.fetchval("SELECT count(*)::text FROM t"))
                finally:
                    connected.terminate()
            except swap_of.TROUBLE as error:
                errors.add(type(error).__name__)
                await asyncio.sleep(0)

    async def crowd() -> None:
        await asyncio.gather(*(come() for _ in range(8)))

    clients = threading.Thread(target=lambda: asyncio.run(crowd()))
    clients.start()
    try:
        wait_for(lambda: seen, "the clients")
        restored(site, backed_up, "--to", spec_text(target.spec))
        wait_for(lambda: "100" in seen, "clients of the new database")
    finally:
        over.set()
        clients.join()
    assert set(seen) == {"10", "100"}
    assert seen.index("100") > len(seen) - 1 - seen[::-1].index("10") - 8, (
        "some client went back to the old one"
    )
    assert errors
    all_or_nothing(target, before)


@pytest.fixture
def deaf(pg15: Postgres, site: Site) -> Iterator[Database]:
    """A database with a superuser's session, restored by an administrator who cannot end it."""
    pg15.psql(
        "postgres",
        "CREATE ROLE ordinary LOGIN CREATEDB PASSWORD 'ordinary-secret'; CREATE ROLE its_owner;"
        " GRANT its_owner TO ordinary",
    )
    with Databases(pg15) as factory:
        found = factory("deaf", options="OWNER its_owner")
        found.psql("SET ROLE its_owner; CREATE TABLE t AS SELECT 1 AS a")
        site.use(pg15, ADMIN_USER="ordinary", ADMIN_PASSWORD="ordinary-secret").configure(found)
        assert run_here(site, "backup").returncode == 0
        with superuser_in(found):
            yield found
    pg15.psql("postgres", "DROP ROLE its_owner, ordinary")


@contextlib.contextmanager
def superuser_in(target: Database) -> Iterator[None]:
    """Have a superuser's session in the database for the block, and nobody end it."""
    command = [f"{target.server.bindir}/psql", "-X", "-q", "-A", "-t", "-d", target.name, "-f", "-"]
    holder = subprocess.Popen(
        command, env=dict(target.server.libpq), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        for turn in ("before", "after"):
            holder.stdin.write("SELECT 'there';\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "there\n"
            if turn == "before":
                yield
    finally:
        holder.communicate()


def test_f42_sessions_that_cannot_be_ended_stop_the_swap(
    site: Site, deaf: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_of, "_DEADLINE", 0.5)
    before = state(deaf.server, "deaf")
    done = restore(site, deaf)
    assert (done.returncode, done.report["category"]) == (1, "refused")
    assert "these sessions could not be ended" in done.report["error"]
    assert "(postgres, psql)" in done.report["error"]
    assert (state(deaf.server, "deaf"), kept(deaf.server, "deaf")) == (before, [])


def test_f42_we_are_told_to_stop_while_the_swap_waits(site: Site, deaf: Database) -> None:
    server = deaf.server
    before = state(server, "deaf")
    child = start(site, deaf)
    until_stage(child, "swapping")
    renaming = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'ALTER DATABASE \"deaf\" RENAME%'"
    wait_for(lambda: server.query("postgres", renaming) != "0", "the rename")
    child.terminate()
    assert end(child).returncode == 143
    assert (state(server, "deaf"), kept(server, "deaf"), half_made(server)) == (before, [], set())


def test_f42_what_would_be_lost_may_come_while_it_loads(site: Site, target: Database) -> None:
    child = begin(site, target, "loading")
    target.psql("BEGIN; INSERT INTO t VALUES (99, ''); PREPARE TRANSACTION 'late'")
    try:
        before = state(target.server, NAME)
        release(target.server)
        done = end(child)
        assert (done.returncode, done.report["category"]) == (1, "refused")
        assert "the prepared transaction late" in done.report["error"]
        as_it_was(target, before)
    finally:
        target.psql("ROLLBACK PREPARED 'late'")


def test_f42_an_answer_to_commit_that_is_lost(
    site: Site, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the server knows whether it was done; it is asked."""
    before = state(target.server, NAME)
    real = threads.see_through

    async def lost(future: "asyncio.Future[Any]") -> Any:
        await real(future)
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    monkeypatch.setattr("asyncbackup.postgres.swap.see_through", lost)
    result = restored(site, target)
    assert any("at the very end" in said for said in result["warnings"])
    all_or_nothing(target, before)
    assert kept(target.server, NAME)
