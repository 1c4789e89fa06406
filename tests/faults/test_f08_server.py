"""What a server does to a dump: F9 to F14."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.invariants import Site, at_bytes, stopped, until, wait_for, wrapper
from tests.servers import Database, Databases, Postgres

ACTIVE = "application_name = 'asyncbackup' AND pid <> pg_backend_pid()"


@pytest.fixture
def held(big: Database, tmp_path: Path) -> Path:
    """A pg_dump that stands still in the middle until there is a file `go`, and the second time not."""
    go = tmp_path / "go"
    script = f'[ -e {go} ] && exec "$REAL" "$@"; set -o pipefail; "$REAL" "$@" | (head -c 500000; touch {tmp_path}/ready; {until(go)}; cat)'
    return wrapper(tmp_path / "bin", big.server.bindir, script)


@pytest.mark.parametrize("retries", ["0", "2"])
@pytest.mark.parametrize("function", ["pg_terminate_backend", "pg_cancel_backend"])
def test_f09_the_backend_is_terminated(
    site: Site, big: Database, tmp_path: Path, held: Path, function: str, retries: str
) -> None:
    site.use(big.server).configure(big).good()
    before = site.files
    child = site.start(PG_BINDIRS=f"{held}", DUMP_RETRIES=retries)
    wait_for((tmp_path / "ready").exists, "the dump")
    assert big.query(f"SELECT count({function}(pid)) FROM pg_stat_activity WHERE {ACTIVE}") != "0"
    (tmp_path / "go").touch()
    done = site.end(child)
    site.check(done, before)
    if function == "pg_terminate_backend":
        assert (done.returncode, done.only["category"]) == (
            (1, "dump_killed") if retries == "0" else (0, None)
        )
        assert len(done.named("backup.retried")) == (0 if retries == "0" else 1)
    else:
        assert done.returncode == 1  # somebody wanted it to end
    site.check_recovery(before)


def test_f10_the_database_is_dropped(
    site: Site, big: Database, small: Database, tmp_path: Path, held: Path
) -> None:
    site.use(big.server, NUM_BACKUPS="1").configure(big).good()
    site.old_good(big.spec)
    before = site.files
    child = site.configure(big).start(PG_BINDIRS=f"{held}", DUMP_RETRIES="2")
    wait_for((tmp_path / "ready").exists, "the dump")
    big.server.drop(big.name)
    (tmp_path / "go").touch()
    done = site.end(child)
    assert (done.returncode, done.only["category"]) == (1, "absent")
    site.check(done, before)
    site.configure(small).check_recovery(before)


def test_f10_absent_is_not_unreachable(site: Site, small: Database) -> None:
    absent = small.server.spec("no_such_database")
    unreachable = "127.0.0.1:1/app"
    site.use(small.server).configure(small, absent, unreachable)
    done = site.backup(POSTGRESQL_USER="x", DUMP_RETRIES="1")
    assert {one["dbname"]: one["category"] for one in done.databases} == {
        small.name: None,
        "no_such_database": "absent",
        "app": "unreachable",
    }
    assert done.returncode == 3
    assert {event["dbname"] for event in done.named("backup.retried")} == {"app"}
    site.check(done)


@pytest.fixture
def table_lock(small: Database) -> Iterator["subprocess.Popen[str]"]:
    command = [f"{small.server.bindir}/psql", "-X", "-q", "-A", "-t"]
    environment = {**small.server.libpq, "PGDATABASE": small.name}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as psql:
        assert psql.stdin is not None
        assert psql.stdout is not None
        psql.stdin.write("BEGIN; LOCK TABLE small; SELECT 'locked';\n")
        psql.stdin.flush()
        assert psql.stdout.readline() == "locked\n"
        yield psql
        psql.kill()


def test_f11_a_lock_is_not_waited_for_for_ever(
    site: Site, small: Database, table_lock: "subprocess.Popen[str]"
) -> None:
    done = site.use(small.server).configure(small).backup(LOCK_WAIT_TIMEOUT="0.5s")
    assert (done.returncode, done.only["category"]) == (1, "dump_transient")
    assert "LOCK_WAIT_TIMEOUT" in done.only["hint"]
    site.check(done)


def test_f11_a_lock_that_is_released_is_got_in_the_next_try(
    site: Site, small: Database, table_lock: "subprocess.Popen[str]"
) -> None:
    site.use(small.server).configure(small)
    child = site.start(LOCK_WAIT_TIMEOUT="0.5s", DUMP_RETRIES="9")
    assert child.stderr is not None
    lines: list[str] = []
    while "backup.retried" not in "".join(lines[-1:]):
        lines.append(child.stderr.readline())
        assert lines[-1], "the run ended without a new try"
    table_lock.kill()
    done = site.end(child)
    assert done.returncode == 0, done.stderr
    site.check_files(left_behind=False)


def test_f11_others_go_on_while_one_waits_for_its_next_try(
    site: Site, small: Database, databases: Databases, table_lock: "subprocess.Popen[str]"
) -> None:
    other = databases(sql="CREATE TABLE t AS SELECT 1 AS a")
    site.use(small.server, MAX_CONCURRENT_DUMPS="1", BACKUP_ORDER="listed").configure(small, other)
    child = site.start(LOCK_WAIT_TIMEOUT="0.5s", DUMP_RETRIES="1", RETRY_DELAY="60s")
    assert child.stderr is not None
    lines: list[str] = []
    while "backup.finished" not in "".join(lines[-1:]):
        lines.append(child.stderr.readline())
        assert lines[-1], "the run ended before"
        assert "backup.retried" not in lines[-1], "the pause is over, and the other one had to wait for it"
    assert json.loads(lines[-1])["dbname"] == other.name
    child.terminate()
    done = site.end(child)
    assert done.returncode == 143
    (failed,) = done.named("backup.failed")
    assert (failed["dbname"], failed["stage"]) == (small.name, "pausing")
    site.check(done)


def test_f11_the_deadline_strikes_in_a_pause(
    site: Site, small: Database, table_lock: "subprocess.Popen[str]"
) -> None:
    site.use(small.server).configure(small)
    done = site.backup(LOCK_WAIT_TIMEOUT="0.2s", DUMP_RETRIES="1", RETRY_DELAY="1h", BACKUP_DEADLINE="3s")
    assert (done.returncode, done.only["category"]) == (1, "stalled")
    assert [event["stage"] for event in done.named("backup.failed")] == ["pausing"]
    site.check(done)


@pytest.fixture
def role(pg15: Postgres, small: Database) -> Iterator[str]:
    pg15.psql("postgres", "CREATE ROLE limited LOGIN PASSWORD 'limited-secret'")
    try:
        yield "limited"
    finally:
        small.psql("DROP OWNED BY limited; DROP ROLE limited")


@pytest.mark.parametrize(
    ("sql", "category", "hint"),
    [
        ("", "access", "pg_read_all_data"),
        (
            "GRANT SELECT ON small TO limited; ALTER TABLE small ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON small USING (a > 5)",
            "access",
            "BYPASSRLS",
        ),
        (
            "GRANT SELECT ON small TO limited; ALTER ROLE limited CONNECTION LIMIT 1",
            "busy",
            "MAX_CONCURRENT",
        ),
    ],
    ids=["no SELECT", "row security", "too many connections"],
)
def test_f13_f14_rights(site: Site, small: Database, databases: Databases, role: str, sql: str, category: str, hint: str) -> None:  # fmt: skip
    site.use(small.server).configure(small).good()
    before = site.files
    if sql:
        small.psql(sql)
    prefix = f"127_0_0_1_{small.server.cluster.port}"
    done = site.backup(**{f"{prefix}_USER": role, f"{prefix}_PASSWORD": "limited-secret"})
    assert (done.returncode, done.only["category"]) == (1, category), done.stderr
    assert hint in done.only["hint"]
    assert "limited-secret" not in done.stderr + done.stdout
    site.check(done, before)
    site.check_recovery(before)


def test_f13_a_wrong_password(site: Site, small: Database) -> None:
    site.use(small.server).configure(small).good()
    before = site.files
    done = site.backup(**{f"127_0_0_1_{small.server.cluster.port}_PASSWORD": "a-wrong-one"}, DUMP_RETRIES="3")
    assert (done.returncode, done.only["category"]) == (1, "access")
    assert done.named("backup.retried") == []
    assert "a-wrong-one" not in done.stderr + done.stdout
    site.check(done, before)
    site.check_recovery(before)


def test_f14_a_dump_is_not_hit_by_limits_of_the_role(site: Site, big: Database, tmp_path: Path) -> None:
    name = big.name
    for setting in (
        "idle_in_transaction_session_timeout = '200ms'",
        "statement_timeout = '200ms'",
        "lock_timeout = '1ms'",
    ):
        big.server.psql("postgres", f'ALTER DATABASE "{name}" SET {setting}')
    bindir = wrapper(
        tmp_path / "bin",
        big.server.bindir,
        at_bytes(2_000_000, "kill -STOP $PID; sleep 0.5; kill -CONT $PID"),
    )
    done = site.use(big.server).configure(big).good(PG_BINDIRS=f"{bindir}")
    assert done.manifest.rows > 0
    assert stopped(big.server) == 0
