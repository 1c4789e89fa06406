"""A PostgreSQL server to measure against: one of our own for the time being, or the user's."""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from asyncbackup.postgres.cluster import LOOPBACK, cluster, embedded_bindirs

_KEPT = re.compile(r"PATH|HOME|LANG|LC_.*|TMPDIR|TZ|PG.*", re.DOTALL)
"""What contenders inherit: no setting of ours that happens to be in the shell's environment."""

_SETTINGS = {
    "autovacuum": "off",  # nothing of its own accord while the clock runs
    "max_connections": "100",
    "max_wal_size": "8GB",
    "shared_buffers": "256MB",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the databases are and with which programs to reach them; `pid` is 0 if not ours."""

    host: str
    port: int
    user: str
    bindir: Path
    passfile: Path | None = None
    pid: int = 0

    @property
    def options(self) -> list[str]:
        """The connection as options of pg_dump and psql; never prompts."""
        return ["-h", self.host, "-p", str(self.port), "-U", self.user, "-w"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of everything that is started."""
        environment = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
        if self.pid:
            environment = {name: value for name, value in environment.items() if not name.startswith("PG")}
        if self.passfile:
            environment["PGPASSFILE"] = str(self.passfile)
        environment["PATH"] = f"{self.bindir}{os.pathsep}{environment.get('PATH', os.defpath)}"
        return environment

    def psql(self, dbname: str, sql: str, variables: Mapping[str, object] | None = None) -> str:
        """Run SQL and return what it prints, unaligned."""
        assignments = [f"--set={name}={value}" for name, value in (variables or {}).items()]
        command = [str(self.bindir / "psql"), *self.options, "-XqAt", "-v", "ON_ERROR_STOP=1", *assignments]
        command += ["-d", dbname]
        environment = self.environment
        done = subprocess.run(
            command, input=sql, env=environment, text=True, capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"psql on {dbname} failed:\n{done.stderr[-2000:]}")
        return done.stdout.strip()

    def databases(self) -> list[str]:
        """Return every database that can be dumped, the largest first."""
        rows = self.psql(
            "postgres",
            "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
            " ORDER BY pg_database_size(oid) DESC, datname",
        )
        return rows.splitlines()


def client(major: int | None = None) -> Path:
    """Return the folder of the newest programs, or of those of one major version if there are any."""
    patterns = ("usr/lib/postgresql/*/bin/pg_dump", "usr/pgsql-*/bin/pg_dump")
    found = {_number(path): path.parent for pattern in patterns for path in Path("/").glob(pattern)}
    if found:
        return found.get(major or 0) or found[max(found)]
    if on_path := shutil.which("pg_dump"):
        return Path(on_path).resolve().parent
    if embedded := embedded_bindirs():
        return embedded.get(major or 0) or embedded[max(embedded)]
    raise SystemExit("no pg_dump found: install postgresql-client, or say where with --bindir")


def _number(path: Path) -> int:
    digits = re.sub(r"\D", "", str(path))
    return int(digits or 0)


def connect(host: str, port: int, user: str, passfile: Path | None, bindir: Path | None) -> Target:
    """Return the user's own server, with a client of the server's major version if there is one."""
    first = Target(host=host, port=port, user=user, passfile=passfile, bindir=bindir or client())
    major = int(first.psql("postgres", "SHOW server_version_num")) // 10000
    folder = bindir or client(major)
    return Target(host=host, port=port, user=user, passfile=passfile, bindir=folder)


@asynccontextmanager
async def own(
    folder: Path, bindir: Path | None, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Target]:
    """Run a server that is gone afterwards; its password goes to a file in the folder."""
    bindir = bindir or client()
    if not (bindir / "postgres").exists():
        raise SystemExit(f"no server in {bindir}: install postgresql, or use your own server with --host")
    async with cluster(
        bindir, root=folder.parent, settings={**_SETTINGS, **(settings or {})}, tcp=True
    ) as server:
        passfile = folder / "passfile"
        passfile.touch(0o600)
        passfile.write_text(f"{LOOPBACK}:{server.port}:*:{server.user}:{server.password.reveal()}\n")
        yield Target(
            host=server.host,
            port=server.port,
            user=server.user,
            bindir=server.bindir,
            passfile=passfile,
            pid=server.pid,
        )
