"""A fleet that is backed up by the installed commands, logged in to as a role that has a password."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import Cli, Database, Databases, Postgres, Ran

ROLE = "e2e_backup"
MARKER = "Sw0rdfish"
PASSWORD = f"{MARKER}:with\\both"
"""What a password file has to escape; no output may hold the marker."""

TABLE = "CREATE TABLE t AS SELECT g AS id, 'row ' || g AS text FROM generate_series(1, {rows}) AS g;"


@dataclass(frozen=True)
class Fleet:
    """Three databases on one server, and the role that reads them."""

    server: Postgres
    databases: tuple[Database, ...]

    @property
    def port(self) -> int:
        return self.server.cluster.port

    def spec(self, name: str) -> str:
        return f"127.0.0.1:{self.port}/{name}"

    @property
    def specs(self) -> list[str]:
        return [self.spec(database.name) for database in self.databases]


@pytest.fixture(scope="session")
def fleet(pg15: Postgres) -> Iterator[Fleet]:
    pg15.psql(
        "postgres",
        f"CREATE ROLE {ROLE} LOGIN PASSWORD :'password'; GRANT pg_read_all_data TO {ROLE};",
        password=PASSWORD,
    )
    stored = pg15.query("postgres", f"SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}'")
    assert stored.startswith("SCRAM-SHA-256$")
    with Databases(pg15) as factory:
        yield Fleet(
            pg15,
            tuple(factory(f"e2e_{n}_{os.getpid()}", sql=TABLE.format(rows=1000 * n)) for n in (1, 2, 3)),
        )
    pg15.psql("postgres", f"DROP ROLE {ROLE};")


@dataclass
class Site:
    """A configuration and a backup directory of one test, and the commands run in it."""

    folder: Path
    fleet: Fleet
    run_cli: Cli
    env: dict[str, str]

    @property
    def backups(self) -> Path:
        return self.folder / "backups"

    def configure(self, *lines: str) -> None:
        (self.folder / "backup.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def __call__(self, *arguments: str, command: str = "asyncbackup", **env: str) -> Ran:
        ran = self.run_cli(*arguments, command=command, env=self.env | env, cwd=self.folder)
        assert MARKER not in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr
        return ran

    def backup_sh(self, *arguments: str, **env: str) -> Ran:
        return self(*arguments, command="backup.sh", **env)

    def start(self, *arguments: str, command: str = "asyncbackup", **env: str) -> "subprocess.Popen[str]":
        return self.run_cli.start(*arguments, command=command, env=self.env | env, cwd=self.folder)

    def files(self) -> list[Path]:
        """Return the backups that are there, by name."""
        return sorted(self.backups.rglob("*.sql.gz"))

    def leftovers(self) -> list[Path]:
        return sorted(self.backups.rglob("*.in_progress"))


def site_in(folder: Path, fleet: Fleet, run_cli: Cli) -> Site:
    secret = folder / "password"
    secret.write_text(f"{PASSWORD}\n", encoding="utf-8")
    made = Site(
        folder,
        fleet,
        run_cli,
        {
            "BACKUP_CONF": "backup.conf",
            "BACKUP_DIR": f"{folder / 'backups'}",
            "POSTGRESQL_USER": ROLE,
            # From a file, so that not even our own environment has it.
            "POSTGRESQL_PASSWORD_FILE": f"{secret}",
            "DUMP_RETRIES": "0",
        },
    )
    made.configure(*fleet.specs)
    return made


@pytest.fixture
def site(tmp_path: Path, fleet: Fleet, run_cli: Cli) -> Site:
    return site_in(tmp_path, fleet, run_cli)


@pytest.fixture(scope="session")
def three_backups(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet) -> Path:
    """Back up one database three times, for tests that need several and copy them."""
    folder = tmp_path_factory.mktemp("three")
    made = site_in(folder, fleet, Cli(folder))
    for _ in range(3):
        assert made("backup", fleet.specs[0], DUMP_GLOBALS="false").returncode == 0
    return made.backups


@pytest.fixture
def crowded(site: Site, three_backups: Path) -> Site:
    """Three backups of one database, where one is to be kept."""
    shutil.copytree(three_backups, site.backups)
    site.configure(site.fleet.specs[0])
    site.env |= {"NUM_BACKUPS": "1", "DUMP_GLOBALS": "false"}
    assert len(site.files()) == 3
    return site


def wait_until(seen: Callable[[], object], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, f"in {seconds} s there was no sign of {what}"
        time.sleep(0.02)


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Hold a lock for the block, for which a dump of the database waits."""
    server = database.server
    command = [f"{server.bindir}/psql", "-X", "-q", "-A", "-t", "-d", database.name, "-f", "-"]
    holder = subprocess.Popen(
        command, env=dict(server.libpq), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdin.write("BEGIN; LOCK TABLE t; SELECT 'held';\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.communicate()


def dumping(database: Database) -> bool:
    """Whether a pg_dump waits for the lock that `held` holds."""
    waiting = f"SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = '{database.name}' AND NOT granted"
    return database.server.query("postgres", waiting) != "0"


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(stat.parent.name)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]
