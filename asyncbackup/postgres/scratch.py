"""A throw-away server as verifications use it: what a dump needs is made up there, or named as lacking.

Roles are stand-ins that nobody can log in as; those that must be superusers to own something are, since
whatever the dump can do, it does as the superuser who loads it, in a server of its own account without
secrets or network. Tablespaces are folders of its own. What cannot be made up (an extension, a locale) is
"could not verify", never "bad".
"""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from asyncbackup import statements
from asyncbackup.errors import LackingError
from asyncbackup.model import DatabaseProperties, Manifest
from asyncbackup.postgres import folders
from asyncbackup.postgres.cluster import Cluster
from asyncbackup.postgres.connect import JIT_SINCE, Connection, child_environment
from asyncbackup.postgres.connect import quoted as conninfo_value
from asyncbackup.postgres.load import Door, missing
from asyncbackup.postgres.properties import create_database, quoted
from asyncbackup.threads import in_thread
from asyncbackup.unpack import Unpacked

IN_PLACE_SINCE = 15
_RESERVED = "pg_"
_ALWAYS_THERE = "plpgsql"  # a manifest lists it, a dump does not make it
_FAREWELL = 120.0  # seconds to drop a database in; what a dump left running may hold a lock on anything

# Functions instead of views, and prepared: a dump may have locked the catalogs.
_SESSIONS = "SELECT pid FROM pg_catalog.pg_stat_get_activity(NULL) WHERE datid = $1"
_END_SESSIONS = (
    "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_get_activity(NULL) WHERE datid = $1"
)
# Others may need the same ones; and what a dump does to them is its superuser's good right.
_ROLES = """
DO $do$ DECLARE
  one record;
BEGIN
  FOR one IN
    SELECT pg_catalog.convert_from(bytes, '{encoding}') AS name, is_super
    FROM (VALUES {values}) AS v (bytes, is_super)
  LOOP
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = one.name) THEN
      EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', one.name);
    END IF;
    IF one.is_super THEN
      EXECUTE pg_catalog.format('ALTER ROLE %I SUPERUSER', one.name);
    END IF;
  END LOOP;
END $do$
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a dump needs of a server before it can be loaded."""

    roles: Collection[str]
    superusers: Collection[str]
    tablespaces: Collection[str]
    extensions: Collection[str]
    properties: DatabaseProperties


@dataclass(slots=True, kw_only=True)
class Scratch:
    """A running throw-away server, and what it has."""

    cluster: Cluster
    extensions: frozenset[str]
    lock_slots: int
    """How many locks one dump may hold."""
    given_up: bool = False
    """Something went on in it that could not be ended."""
    making: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def usable(self) -> bool:
        """Whether dumps may still be loaded into it."""
        return self.cluster.alive and not self.given_up

    def give_up(self) -> None:
        """End the server at once: what it was told to do cannot be ended otherwise."""
        self.given_up = True
        self.cluster.server.signal(signal.SIGQUIT)

    @property
    def psql(self) -> Path:
        """The client of the same version."""
        return self.cluster.bindir / "psql"

    @asynccontextmanager
    async def connect(self, dbname: str = "postgres") -> AsyncIterator[Connection]:
        """Connect as superuser for the length of the block."""
        connected = await self.cluster.connect(dbname)
        try:
            yield connected
        finally:
            connected.terminate()

    def door(self, dbname: str) -> Door:
        """Return how psql gets in: without a password, by the socket, and without anything of ours."""
        parameters = {
            "host": f"{self.cluster.socket}",
            "port": f"{self.cluster.port}",
            "dbname": dbname,
            "user": self.cluster.user,
        }
        conninfo = " ".join(f"{name}={conninfo_value(value)}" for name, value in parameters.items())
        env = child_environment({}, jit=self.cluster.version.major >= JIT_SINCE)
        return Door(conninfo=conninfo, env=env, account=self.cluster.account, network=self.cluster.network)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A fresh database, and a connection beside it by which it is watched and removed."""

    name: str
    oid: int
    cluster: Cluster
    sessions: "asyncpg.prepared_stmt.PreparedStatement[Any]"

    async def pids(self) -> frozenset[int]:
        """Return the server processes that work in it."""
        return frozenset(row[0] for row in await self.sessions.fetch(self.oid))

    def usage(self, pids: Collection[int]) -> int:
        """Return the bytes on disk of the database and of what these processes write besides; blocking."""
        data = self.cluster.datadir
        places = (data / "base" / "pgsql_tmp", *data.glob("pg_tblspc/*/*/pgsql_tmp"))
        temporary = (path for place in places for pid in pids for path in place.glob(f"pgsql_tmp{pid}.*"))
        return self.cluster.usage_of(self.oid) + sum(map(folders.usage, temporary))


async def scratch_of(cluster: Cluster, at_once: int = 1) -> Scratch:
    """Ask a fresh server what it has; `at_once` dumps share it."""
    connected = await cluster.connect()
    try:
        names = await connected.fetch("SELECT name FROM pg_catalog.pg_available_extensions")
        slots = await connected.fetchval(
            "SELECT current_setting('max_locks_per_transaction')::int"
            " * (current_setting('max_connections')::int"
            " + current_setting('max_prepared_transactions')::int)"
        )
    finally:
        connected.terminate()
    _first_to_go(cluster.pid)
    return Scratch(
        cluster=cluster, extensions=frozenset(row[0] for row in names), lock_slots=slots // at_once
    )


def _first_to_go(pid: int) -> None:
    """Have the kernel end the server, and not us, where a dump eats up all memory."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", "ascii")


def needs(manifest: Manifest | None, unpacked: Unpacked | None) -> Needs:
    """Return what a dump needs, by its manifest, or else by what it says itself."""
    if manifest is not None:
        return Needs(
            roles=manifest.roles,
            superusers=manifest.superusers,
            tablespaces=manifest.tablespaces,
            extensions=[one.name for one in manifest.extensions if one.name != _ALWAYS_THERE],
            properties=manifest.properties,
        )
    assert unpacked is not None  # noqa: S101 - what has no manifest is read before
    return Needs(
        roles=unpacked.scan.roles,
        superusers=unpacked.scan.superusers,
        tablespaces=unpacked.scan.tablespaces,
        extensions=unpacked.scan.extensions,
        properties=DatabaseProperties(encoding=unpacked.scan.encoding),
    )


@asynccontextmanager
async def database(scratch: Scratch, needs: Needs, subject: str) -> AsyncIterator[Database]:
    """Make a fresh database with all that a dump needs, and drop it afterwards, sessions and all.

    Raises LackingError for what cannot be made up. Where it cannot be dropped, the server is given up.
    """
    _require(scratch, needs, subject)
    name = f"v{secrets.token_hex(8)}"
    async with scratch.connect() as admin:
        await _create(admin, name, needs.properties, scratch, subject)
        oid: int = await admin.fetchval(
            "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = $1", name
        )
        made = Database(name=name, oid=oid, cluster=scratch.cluster, sessions=await admin.prepare(_SESSIONS))
        end_sessions = await admin.prepare(_END_SESSIONS)
        try:
            await _make_up(scratch, needs, name)
            yield made
        except asyncio.CancelledError:
            raise  # the whole server is about to go
        except BaseException:
            await _drop(scratch, admin, made, end_sessions)
            raise
        else:
            await _drop(scratch, admin, made, end_sessions)


async def _drop(
    scratch: Scratch,
    admin: Connection,
    made: Database,
    end_sessions: "asyncpg.prepared_stmt.PreparedStatement[Any]",
) -> None:
    if not scratch.usable:
        return
    try:
        async with asyncio.timeout(_FAREWELL):
            pids = await made.pids()
            await end_sessions.fetch(made.oid)
            await in_thread(None, _end_programs, pids, scratch.cluster.datadir)
            # Either would stand in the way, and both may come with a dump.
            await admin.execute("DELETE FROM pg_catalog.pg_subscription WHERE subdbid = $1", made.oid)
            await admin.execute(f"ALTER DATABASE {quoted(made.name)} IS_TEMPLATE false")
            await admin.execute(f"DROP DATABASE {quoted(made.name)} WITH (FORCE)")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        scratch.give_up()


def _end_programs(sessions: Collection[int], datadir: Path) -> None:
    """Kill what these server processes have started: one that waits for its program hears nothing else.

    The numbers come from a server in which a dump may have changed anything, so that only processes of the
    server's own user are touched.
    """
    owner = datadir.stat().st_uid
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = entry.read_text("ascii", "replace").rpartition(")")[2].split()[1]
            if int(parent) in sessions and entry.parent.stat().st_uid == owner:
                os.kill(int(entry.parent.name), signal.SIGKILL)


def _require(scratch: Scratch, needs: Needs, subject: str) -> None:
    lacking = [f"extension {name}" for name in sorted(set(needs.extensions) - scratch.extensions)]
    if scratch.cluster.version.major < IN_PLACE_SINCE:
        lacking += [f"tablespace {name}" for name in sorted(set(needs.tablespaces))]
    if lacking:
        raise LackingError(
            f"{subject}: PostgreSQL {scratch.cluster.version} here lacks {', '.join(lacking)}",
            lacking=tuple(lacking),
            hint="install what is missing on the machine that verifies; nothing is known of the backup",
        )


async def _create(
    admin: Connection, name: str, properties: DatabaseProperties, scratch: Scratch, subject: str
) -> None:
    try:
        await admin.execute(create_database(name, properties, scratch.cluster.version))
    except (asyncpg.PostgresConnectionError, asyncpg.InsufficientPrivilegeError):
        raise  # the latter: an earlier dump has taken something from the superuser
    except asyncpg.PostgresError as error:
        said = str(error)
        raise LackingError(
            f"{subject}: its database cannot be made here: {said}",
            lacking=missing(said) or (f"what its database was made with ({said})",),
            hint="install the locale (Debian: locales-all), or a server built with it; "
            "nothing is known of the backup",
        ) from error


async def _make_up(scratch: Scratch, needs: Needs, dbname: str) -> None:
    """Make stand-ins for the roles and tablespaces that a dump names.

    From inside of its own database: these names belong to the whole server, and are nothing but bytes,
    which mean the name that the dump says only in the dump's encoding.
    """
    encoding = needs.properties.encoding
    codec = statements.codec(encoding)
    roles = [name for name in {*needs.roles, *needs.superusers} if not name.startswith(_RESERVED)]
    values = [f"('\\x{role.encode(codec).hex()}'::bytea, {role in needs.superusers})" for role in roles]
    if not values and not needs.tablespaces:
        return
    async with scratch.making, scratch.connect(dbname) as connected:
        if values:
            await connected.execute(_ROLES.format(encoding=encoding, values=", ".join(values)))
        if needs.tablespaces:
            await connected.execute("SET allow_in_place_tablespaces = on")
        for space in sorted(set(needs.tablespaces)):
            with contextlib.suppress(asyncpg.DuplicateObjectError):  # of another dump
                await connected.execute(f"CREATE TABLESPACE {quoted(space)} LOCATION ''")
