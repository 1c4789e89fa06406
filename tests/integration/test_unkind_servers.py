"""Servers that change while they are dumped, or let us in only so far."""

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Cli, Databases, Postgres, Ran


@pytest.fixture
def database(pg15: Postgres) -> Iterator[Databases]:
    with Databases(pg15) as factory:
        yield factory


def conf(tmp_path: Path, *lines: str) -> dict[str, str]:
    path = tmp_path / "backup.conf"
    path.write_text("".join(f"{line}\n" for line in lines))
    return {"BACKUP_CONF": f"{path}", "BACKUP_DIR": f"{tmp_path}/backups", "RETRY_DELAY": "0.2s"}


def results(ran: Ran) -> dict[str, dict[str, object]]:
    return {one["dbname"]: one for one in json.loads(ran.stdout)["databases"]}


def events(ran: Ran) -> list[str]:
    return [json.loads(line)["event"] for line in ran.stderr.splitlines()]


def address(server: Postgres) -> str:
    return f"127.0.0.1:{server.cluster.port}"


def test_a_table_that_is_replaced_meanwhile_is_never_backed_up_empty(
    pg15: Postgres, database: Databases, run_cli: Cli, tmp_path: Path
) -> None:
    """TRUNCATE and fill in one transaction: at no time is the table empty for anyone but old snapshots."""
    made = database(sql="CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 500);")
    env = {**conf(tmp_path, f"{address(pg15)}/{made.name}"), **pg15.credentials, "DUMP_GLOBALS": "false"}
    env["DUMP_RETRIES"] = "20"
    ended = threading.Event()
    refresh = "BEGIN; TRUNCATE t; INSERT INTO t SELECT generate_series(1, 600); SELECT pg_sleep(0.4); COMMIT;"

    def replace() -> None:
        for _ in range(6):
            if not ended.is_set():
                made.psql(refresh + "SELECT pg_sleep(0.3);")

    worker = threading.Thread(target=replace)
    worker.start()
    try:
        for _ in range(3):
            ran = run_cli("backup", "--json", env=env)
            assert ran.returncode == 0, ran.stderr
            assert results(ran)[made.name]["rows"] in {500, 600}
    finally:
        ended.set()
        worker.join()


def test_a_role_with_one_connection_is_enough(
    pg15: Postgres, database: Databases, run_cli: Cli, tmp_path: Path
) -> None:
    made = database(sql="CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2);")
    pg15.psql(
        "postgres",
        "CREATE ROLE lonely LOGIN PASSWORD 'pw-lonely' CONNECTION LIMIT 1; GRANT pg_read_all_data TO lonely;",
    )
    try:
        prefix = f"127_0_0_1_{pg15.cluster.port}"
        env = {
            **conf(tmp_path, f"{address(pg15)}/{made.name}"),
            f"{prefix}_USER": "lonely",
            f"{prefix}_PASSWORD": "pw-lonely",
            "DUMP_GLOBALS": "false",
        }
        ran = run_cli("backup", "--json", env=env)
        assert ran.returncode == 0, ran.stderr
        assert results(ran)[made.name]["rows"] == 2
        assert "backup.retried" in events(ran)
    finally:
        pg15.psql("postgres", "DROP ROLE lonely")


def test_what_a_wildcard_means_and_the_role_may_not_enter_has_failed(
    pg15: Postgres, database: Databases, run_cli: Cli, tmp_path: Path
) -> None:
    for name in ("wild_open", "wild_closed"):
        database(name)
    pg15.psql("postgres", "REVOKE CONNECT ON DATABASE wild_closed FROM PUBLIC;")
    pg15.psql(
        "postgres", "CREATE ROLE visitor LOGIN PASSWORD 'pw-visitor'; GRANT pg_read_all_data TO visitor;"
    )
    try:
        prefix = f"127_0_0_1_{pg15.cluster.port}"
        env = {
            # The closed one is named first: another door of the server is found.
            **conf(tmp_path, f"{address(pg15)}/wild_closed", f"{address(pg15)}/wild_o*"),
            f"{prefix}_USER": "visitor",
            f"{prefix}_PASSWORD": "pw-visitor",
        }
        ran = run_cli("backup", "--json", env=env)
        found = results(ran)
        assert ran.returncode == 3, ran.stderr
        assert found["wild_open"]["status"] == "good"
        assert found["wild_closed"]["category"] == "access"
        env |= conf(tmp_path, f"{address(pg15)}/wild_*")
        ran = run_cli("backup", "--json", env=env)
        found = results(ran)
        assert ran.returncode == 3, ran.stderr
        assert {name: one["status"] for name, one in found.items()} == {
            "wild_open": "good",
            "wild_closed": "failed",
        }
        assert found["wild_closed"]["category"] == "access"
        listed = run_cli("-l", command="backup.sh", env=env).stdout
        assert "/wild_closed  not available: no right to connect\n" in listed
        # What is said does help.
        hint = str(found["wild_closed"]["hint"])
        assert "GRANT CONNECT" in hint
        excluded = hint.rpartition(" ")[2]
        assert excluded == f"!{address(pg15)}/wild_closed"
        env |= conf(tmp_path, f"{address(pg15)}/wild_*", excluded)
        ran = run_cli("backup", "--json", env=env)
        assert (ran.returncode, list(results(ran))) == (0, ["wild_open"]), ran.stderr
    finally:
        pg15.psql("postgres", "DROP ROLE visitor")


def test_another_client_encoding_does_not_lose_characters(
    pg15: Postgres, database: Databases, run_cli: Cli, tmp_path: Path
) -> None:
    made = database(sql="CREATE TABLE t (a text); INSERT INTO t VALUES ('ночь');")
    pg15.psql("postgres", f"ALTER DATABASE \"{made.name}\" SET client_encoding = 'LATIN1';")
    env = {**conf(tmp_path, f"{address(pg15)}/{made.name}"), **pg15.credentials, "DUMP_GLOBALS": "false"}
    ran = run_cli("backup", "--json", env=env)
    assert ran.returncode == 0, ran.stderr
    path = str(results(ran)[made.name]["path"])
    assert "ночь" in gzip.decompress(Path(path).read_bytes()).decode()


def test_a_pg_dump_that_says_nothing_is_no_client(
    pg15: Postgres, database: Databases, run_cli: Cli, tmp_path: Path
) -> None:
    made = database(sql="CREATE TABLE t (a int);")
    silent = tmp_path / "bin" / "pg_dump"
    silent.parent.mkdir()
    silent.write_text("#!/bin/sh\nexit 0\n")
    silent.chmod(0o755)
    env = {**conf(tmp_path, f"{address(pg15)}/{made.name}"), **pg15.credentials, "DUMP_GLOBALS": "false"}
    ran = run_cli("backup", "--json", env={**env, "PG_BINDIRS": f"{silent.parent}"}, timeout=30)
    assert ran.returncode == 0, ran.stderr


def test_a_database_that_takes_too_long_is_ended(
    pg15: Postgres, database: Databases, run_cli: Cli, tmp_path: Path
) -> None:
    made = database(sql="CREATE TABLE t (a int);")
    env = {**conf(tmp_path, f"{address(pg15)}/{made.name}"), **pg15.credentials, "DUMP_GLOBALS": "false"}
    held = threading.Event()

    def hold() -> None:
        held.set()
        made.psql("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(8); COMMIT;")

    worker = threading.Thread(target=hold)
    worker.start()
    held.wait()
    try:
        locks = (
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 't'::regclass"
        )
        while made.query(locks) == "0":  # others on this server hold such locks, too
            pass
        ran = run_cli("backup", "--json", env={**env, "BACKUP_DEADLINE": "2s"})
        assert ran.returncode == 1, ran.stderr
        assert results(ran)[made.name]["category"] == "stalled"
        assert "BACKUP_DEADLINE" in str(results(ran)[made.name]["hint"])
    finally:
        worker.join()
    assert not list((tmp_path / "backups").rglob("*.sql.gz*"))
