"""Real PostgreSQL servers for the tests, and the installed command, run as a user runs it.

A server runs on an event loop in a thread of its own, so that synchronous tests, asynchronous tests
and Hypothesis can all use one for the whole session, whatever loops they have.
"""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import asyncpg
import pytest

from asyncbackup.model import DatabaseSpec
from asyncbackup.postgres.cluster import Cluster, cluster, embedded_bindirs

DATA = Path(__file__).parent / "data"
DEBIAN = Path("/usr/lib/postgresql")

SETTINGS: Mapping[str, str] = {
    # What tests of standbys, slots and prepared transactions need.
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_prepared_transactions": "10",
    "max_connections": "200",
    # Statistics and dead rows change only when a test says so.
    "autovacuum": "off",
    "log_line_prefix": "%m [%p] %q%d %a ",
}

ODD_NAMES = (
    "Ünï cödé",
    'quo"te',
    "it's",
    "host=evil port=1",
    "postgresql://elsewhere/x",
    "new\nline",
    "-dash",
    "dot.dot/../slash",
    "back\\slash",
    "per%41cent",
    "at@sign",
    "$(touch pwned)",
    "*",
    "日" * 21,
)
"""Database names that PostgreSQL accepts, and careless code does not."""


@dataclass(frozen=True)
class Postgres:
    """A running test server, with the synchronous things that tests do to it."""

    name: str
    cluster: Cluster

    @property
    def major(self) -> int:
        return self.cluster.version.major

    @property
    def bindir(self) -> Path:
        return self.cluster.bindir

    @property
    def credentials(self) -> dict[str, str]:
        """The variables that asyncbackup logs in with, by TCP."""
        prefix = f"127_0_0_1_{self.cluster.port}"
        password = self.cluster.password.reveal()
        return {f"{prefix}_USER": self.cluster.user, f"{prefix}_PASSWORD": password}

    @property
    def libpq(self) -> dict[str, str]:
        """The variables that PostgreSQL's own clients log in with, by the socket."""
        c = self.cluster
        return {"PGHOST": f"{c.socket}", "PGPORT": f"{c.port}", "PGUSER": c.user, "LC_ALL": "C.UTF-8"}

    @property
    def has_xml(self) -> bool:
        """Whether the server was built with libxml."""
        return (
            self.query("postgres", r"SELECT count(*) FROM pg_config WHERE setting LIKE '%--with-libxml%'")
            == "1"
        )

    def spec(self, dbname: str) -> DatabaseSpec:
        """Name a database as the configuration does, by TCP."""
        return DatabaseSpec(self.cluster.host, self.cluster.port, dbname)

    async def connect(self, dbname: str = "postgres") -> "asyncpg.Connection[asyncpg.Record]":
        """Connect as superuser from the test's own loop."""
        return await self.cluster.connect(dbname)

    def psql(self, dbname: str, script: str | bytes | Path, **variables: str) -> str:
        """Run a script, which must succeed; return what psql prints, unaligned."""
        if isinstance(script, Path):
            script = script.read_bytes()
        elif isinstance(script, str):
            script = script.encode()
        command = [f"{self.bindir}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        command += [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        # The name goes by a variable of libpq's own, as an argument it would be a connection string.
        environment = {**self.libpq, "PGDATABASE": dbname, "PGCLIENTENCODING": "UTF8"}
        done = subprocess.run(
            [*command, "-f", "-"], input=script, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode()

    def query(self, dbname: str, sql: str) -> str:
        """Return the one value that a query gives, as text."""
        return self.psql(dbname, sql).removesuffix("\n")

    def drop(self, dbname: str) -> None:
        """Drop a database, in use or not."""
        self.psql("postgres", 'DROP DATABASE IF EXISTS :"name" WITH (FORCE);', name=dbname)


@dataclass(frozen=True)
class Database:
    """A database of a test server."""

    server: Postgres
    name: str

    @property
    def spec(self) -> DatabaseSpec:
        return self.server.spec(self.name)

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await self.server.connect(self.name)

    def psql(self, script: str | bytes | Path, **variables: str) -> str:
        return self.server.psql(self.name, script, **variables)

    def query(self, sql: str) -> str:
        return self.server.query(self.name, sql)


@dataclass
class Databases:
    """Makes databases on one server, and drops them at the end of its block.

    Callable: `database()`, `database('odd "name"')`, `database(sql="CREATE TABLE …")`, or a copy of
    another one: `database(template=torture)`.
    """

    server: Postgres
    made: list[str] = field(default_factory=list)

    def __call__(
        self,
        name: str | None = None,
        *,
        sql: str | bytes | Path | None = None,
        template: Database | None = None,
        options: str = "",
    ) -> Database:
        name = f"test_{os.getpid()}_{len(self.made) + 1}" if name is None else name
        self.made.append(name)
        variables = {"name": name, "template": template.name if template else "template0"}
        self.server.psql("postgres", f'CREATE DATABASE :"name" TEMPLATE :"template" {options};', **variables)
        database = Database(self.server, name)
        if sql is not None:
            database.psql(sql)
        return database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self.made:
            self.server.drop(self.made.pop())


def bindir_of(major: int) -> Path | None:
    """Find a server of this major version: the distribution's, else the embedded one."""
    places = [DEBIAN / f"{major}" / "bin", embedded_bindirs().get(major)]
    return next((place for place in places if place and (place / "initdb").is_file()), None)


@contextmanager
def running(name: str, bindir: Path, **options: object) -> Iterator[Postgres]:
    """Run a server in a thread; `options` are those of `cluster`."""
    started: Future[Cluster] = Future()
    loop_and_end: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        end = asyncio.Event()
        loop_and_end.set_result((asyncio.get_running_loop(), end))
        async with cluster(bindir, **options) as it:  # type: ignore[arg-type]
            started.set_result(it)
            await end.wait()

    def thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise  # pytest turns this into a warning, and that into an error
            started.set_exception(error)

    worker = threading.Thread(target=thread, name=name)
    worker.start()
    try:
        yield Postgres(name, started.result())
    finally:
        # Also after Ctrl-C, and also when that came while the server was starting.
        loop, end = loop_and_end.result()
        with suppress(RuntimeError):  # the loop is closed: the server never came up
            loop.call_soon_threadsafe(end.set)
        worker.join()


def server_or_skip(major: int) -> Iterator[Postgres]:
    """Run the server of a major version; without one, skip, or fail where all are required."""
    bindir = bindir_of(major)
    if bindir is None:
        reason = f"PostgreSQL {major} is not installed: neither in {DEBIAN} nor as the embedded extra"
        if os.environ.get("CI") or os.environ.get("ASYNCBACKUP_REQUIRE_SERVERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    with running(f"pg{major}", bindir, tcp=True, settings=SETTINGS) as server:
        yield server


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Cli:
    """Runs the installed commands in a clean environment; callable, or `start` for a running one."""

    home: Path
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(
        self,
        *arguments: str,
        command: str = "asyncbackup",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        timeout: float = 60,
    ) -> Ran:
        """Run to the end; the environment is only what stands in `env`, and a PATH and a HOME."""
        done = subprocess.run(
            [self.path(command), *arguments],
            env=self.environment(env),
            cwd=cwd or self.home,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(
        self,
        *arguments: str,
        command: str = "asyncbackup",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "subprocess.Popen[str]":
        """Start, for tests that interrupt it; killed at the end of the test at the latest."""
        child = subprocess.Popen(
            [self.path(command), *arguments],
            env=self.environment(env),
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
        self.children.append(child)
        return child

    def environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": f"{self.home}",
            "LANG": "C.UTF-8",
            **(env or {}),
        }

    @staticmethod
    def path(command: str) -> str:
        return f"{Path(sys.executable).parent / command}"

    def end(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
