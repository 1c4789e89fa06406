"""What the faults are done to: a database with enough in it to be interrupted, beside old backups."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.invariants import Site, wait_for
from tests.servers import Cli, Database, Databases, Postgres

ROWS = 60_000
SIZE = ROWS * 193  # bytes of its rows; it does not compress well


@pytest.fixture
def site(tmp_path: Path, run_cli: Cli) -> Site:
    """A backup directory and a configuration of one's own."""
    return Site(run_cli, tmp_path, {"BACKUP_DIR": f"{tmp_path / 'backups'}"})


@pytest.fixture
def databases(pg15: Postgres) -> Iterator[Databases]:
    with Databases(pg15) as factory:
        yield factory


@pytest.fixture(scope="module")
def big_template(pg15: Postgres) -> Iterator[Database]:
    """About 12 MB of rows."""
    text = "md5(i::text) || md5((i * 3)::text) || md5((i * 7)::text) || md5((i * 11)::text) || md5((i * 13)::text) || md5((i * 17)::text)"
    with Databases(pg15) as factory:
        yield factory(
            "big_template", sql=f"CREATE TABLE big AS SELECT {text} AS t FROM generate_series(1, {ROWS}) i"
        )


@pytest.fixture
def big(databases: Databases, big_template: Database) -> Database:
    return databases(template=big_template)


@pytest.fixture
def small(databases: Databases) -> Database:
    return databases(sql="CREATE TABLE small AS SELECT generate_series(1, 10) AS a")


@dataclass
class OwnServer:
    """A server of one test's own, which can be stopped in any way and started again; it trusts everybody."""

    like: Postgres
    base: Path
    port: int
    inside: tuple[str, ...] = ()
    """What to put before a command so that it runs in the server's network."""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def postgres(self) -> Postgres:
        made = replace(self.like.cluster, port=self.port, socket=self.base / "s", datadir=self.base / "data")
        return Postgres("own", made)

    def prepare(self) -> None:
        owner = self.like.cluster.datadir.stat()
        self.base.chmod(0o711)
        for name in ("data", "s"):
            (self.base / name).mkdir(0o700)
            os.chown(self.base / name, owner.st_uid, owner.st_gid)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        command = [f"{self.like.bindir}/initdb", "-D", f"{self.base}/data", *options]
        subprocess.run([*self.demoted, *command], check=True, capture_output=True, cwd=self.base)

    @property
    def demoted(self) -> list[str]:
        owner = self.like.cluster.datadir.stat()
        ids = [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
        return ["setpriv", *ids] if os.geteuid() == 0 else []

    def start(self) -> None:
        options = {"port": self.port, "unix_socket_directories": self.base / "s", "fsync": "off", "autovacuum": "off"}  # fmt: skip
        command = [f"{self.like.bindir}/postgres", "-D", f"{self.base}/data"]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, *self.demoted, *command], stdout=log, stderr=log, cwd=self.base
            )
        wait_for(self.answers, "the server")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.base / "log").read_text()
        command = [f"{self.like.bindir}/pg_isready", "-q"]
        return subprocess.run(command, env={**self.postgres.libpq}, check=False).returncode == 0

    def stop(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


@pytest.fixture
def own(pg15: Postgres) -> Iterator[OwnServer]:
    """A server that runs, and may be stopped and started."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    base = Path(tempfile.mkdtemp(prefix="asyncbackup-own-"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = OwnServer(pg15, base, port)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(base)


@pytest.fixture
def filled(own: OwnServer) -> Database:
    """A database of it with a few megabytes."""
    own.postgres.psql("postgres", "CREATE DATABASE filled")
    made = Database(own.postgres, "filled")
    made.psql("CREATE TABLE big AS SELECT repeat(md5(i::text), 6) AS t FROM generate_series(1, 20000) i")
    return made
