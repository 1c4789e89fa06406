"""What a run says of its surroundings: clients, compressors and volumes that are not as they should be."""

import gzip
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from asyncbackup import backup, configuration
from asyncbackup.events import Event, Events
from asyncbackup.model import DatabaseSpec, PgVersion, Report, Status
from asyncbackup.postgres import client as clients_of
from asyncbackup.postgres.versions import Client
from tests.invariants import Site
from tests.servers import Database, Databases, Postgres


async def run_with(
    site: Site, monkeypatch: pytest.MonkeyPatch, *clients: Client
) -> tuple[Report, list[Event]]:
    """Run in this process, as if no other clients were installed."""

    async def found(*_: object) -> tuple[Client, ...]:
        return clients

    monkeypatch.setattr(clients_of, "clients", found)
    told: list[Event] = []
    loaded, configured = configuration.read(site.env)
    return await backup.run(loaded, configured, site.env, Events(told.append)), told


def loads(command: str, into: Database) -> bool:
    """Run a shell command against a database, and return whether it went well."""
    environment = {**into.server.libpq, "PGDATABASE": into.name, "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=environment, check=False)
    return done.returncode == 0


async def test_a_newer_client_is_told_of_once_and_how_to_restore_what_it_dumped(
    site: Site, pg15: Postgres, pg18: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(bindir=pg18.bindir, version=pg18.cluster.version)
    with Databases(pg15) as database:
        made = [database(sql="CREATE TABLE t AS SELECT 1 AS a") for _ in range(2)]
        site.use(pg15, DUMP_GLOBALS="true").configure(*made)
        report, told = await run_with(site, monkeypatch, client)
        assert {one.status for one in report.outcomes} == {Status.GOOD}
        (event,) = [one for one in told if one.name == "client.newer"]
        assert event.fields["message"].startswith(f"{made[0].spec.server}: PostgreSQL 15")
        for one in report.outcomes:
            assert any("asyncbackup restore" in said for said in one.warnings)
        # It is as it says: psql stops, and what the hint names does not.
        (loadable,) = [word for word in event.fields["hint"].split("`") if word.startswith("zcat")]
        assert report.outcomes[0].backup
        path = report.outcomes[0].backup.path
        assert b"\nSET transaction_timeout = 0;\n" in gzip.decompress(path.read_bytes())
        psql = f"{pg15.bindir}/psql -X -q -v ON_ERROR_STOP=1"
        for command, works in (
            (f"zcat {path} | {psql}", False),
            (loadable.replace("FILE", f"{path}").replace("psql …", psql), True),
        ):
            assert loads(command, database()) == works


def test_without_isal_the_next_best_is_used_and_told_of(site: Site, pg15: Postgres, tmp_path: Path) -> None:
    with Databases(pg15) as database:
        site.use(pg15).configure(database(sql="CREATE TABLE t AS SELECT 1 AS a"))
        assert site.good().named("compressor.fallback") == []
        hiding = tmp_path / "hiding"
        hiding.mkdir()
        (hiding / "isal.py").write_text("raise ImportError\n")
        done = site.good(PYTHONPATH=f"{hiding}")
    (event,) = done.named("compressor.fallback")
    assert (event["level"], event["compressor"], event["hint"]) == ("warning", "zlib-ng", "pip install isal")
    assert any(event["message"] in said for said in done.report["warnings"])
    assert done.manifest.file.compressor == "zlib-ng"


async def test_without_a_client_the_failure_names_the_database(
    site: Site, pg18: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(bindir=Path("/usr/bin"), version=PgVersion(15, 18))
    site.use(pg18).configure(pg18.spec("postgres"))
    report, _ = await run_with(site, monkeypatch, client)
    (failed,) = report.outcomes
    assert (failed.category, failed.error.partition(": ")[0]) == ("client", f"{pg18.spec('postgres')}")


def test_a_login_without_any_password_says_what_to_set(site: Site, pg15: Postgres) -> None:
    pg15.psql("postgres", "CREATE ROLE hapless LOGIN PASSWORD 'x'")
    try:
        site.use(PGUSER="hapless").configure(pg15.spec("postgres"))
        done = site.backup()
        assert (done.returncode, done.only["category"]) == (1, "access")
        hint = done.only["hint"]
        assert hint.startswith(f"no password is configured for {pg15.spec('postgres').server}: set ")
        # What it names does help.
        assert "HOST_127_0_0_1_USER and HOST_127_0_0_1_PASSWORD" in hint
        pg15.psql("postgres", "GRANT pg_read_all_data TO hapless")
        site.good(HOST_127_0_0_1_USER="hapless", HOST_127_0_0_1_PASSWORD="x")
        # A wrong one is something else.
        wrong = site.backup(HOST_127_0_0_1_USER="hapless", HOST_127_0_0_1_PASSWORD="y")
        assert "configured" not in wrong.only["hint"]
    finally:
        pg15.psql("postgres", "DROP ROLE hapless")


def test_a_server_without_tls(site: Site, pg15: Postgres) -> None:
    done = site.use(pg15, PGSSLMODE="require").configure(pg15.spec("postgres")).backup()
    assert done.only["category"] == "access"
    assert done.only["error"] == (
        f"{pg15.spec('postgres')}: PGSSLMODE=require demands TLS, and the server refused it"
    )


@pytest.mark.parametrize("mode", ["require", "prefer"])
def test_a_connection_that_is_closed_at_once(site: Site, mode: str) -> None:
    def serve() -> None:
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return
            with client:
                client.recv(10_000)

    with socket.create_server(("127.0.0.1", 0)) as server:
        worker = threading.Thread(target=serve)
        worker.start()
        spec = DatabaseSpec("127.0.0.1", server.getsockname()[1], "app")
        try:
            done = site.use(POSTGRESQL_USER="x", PGSSLMODE=mode).configure(spec).backup()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            worker.join()
    assert done.only["category"] == "unreachable"
    assert done.only["error"] == f"{spec}: the server closed the connection before anybody could log in"
