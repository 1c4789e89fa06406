"""A throw-away server as verifications use it: what a dump needs is made up there, or named as lacking.

Roles are stand-ins that nobody can log in as; those that must be superusers to own something are, since
whatever the dump can do, it does as the superuser who loads it, in a server of its own account without
secrets or network. Tablespaces are folders of its own. What cannot be made up (an extension, a locale) is
"could not verify", never "bad".
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from asyncbackup.errors import LackingError
from asyncbackup.model import DatabaseProperties, Manifest
from asyncbackup.postgres.cluster import Cluster
from asyncbackup.postgres.connect import JIT_SINCE, Connection, child_environment
from asyncbackup.postgres.connect import quoted as conninfo_value
from asyncbackup.postgres.load import Door, missing
from asyncbackup.postgres.properties import create_database, literal, quoted
from asyncbackup.unpack import Unpacked

IN_PLACE_SINCE = 15
_RESERVED = "pg_"
_ALWAYS_THERE = "plpgsql"  # a manifest lists it, a dump does not make it


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
    """A running throw-away server, and what was made up there so far."""

    cluster: Cluster
    extensions: frozenset[str]
    lock_slots: int
    made: asyncio.Lock = field(default_factory=asyncio.Lock)
    roles: set[str] = field(default_factory=set)
    superusers: set[str] = field(default_factory=set)
    tablespaces: set[str] = field(default_factory=set)

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
        return Door(conninfo=conninfo, env=env, account=self.cluster.account)


async def scratch_of(cluster: Cluster) -> Scratch:
    """Ask a fresh server what it has."""
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
    return Scratch(cluster=cluster, extensions=frozenset(row[0] for row in names), lock_slots=slots)


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


async def prepare(scratch: Scratch, needs: Needs, subject: str) -> None:
    """Make up the roles and tablespaces that a dump names; raises LackingError for what cannot be."""
    lacking = [f"extension {name}" for name in sorted(set(needs.extensions) - scratch.extensions)]
    if scratch.cluster.version.major < IN_PLACE_SINCE:
        lacking += [f"tablespace {name}" for name in sorted(set(needs.tablespaces) - scratch.tablespaces)]
    if lacking:
        raise LackingError(
            f"{subject}: PostgreSQL {scratch.cluster.version} here lacks {', '.join(lacking)}",
            lacking=tuple(lacking),
            hint="install what is missing on the machine that verifies; nothing is known of the backup",
        )
    async with scratch.made:  # one connection at a time: roles belong to the whole server
        roles = {role for role in needs.roles if not role.startswith(_RESERVED)}
        statements = [f"CREATE ROLE {quoted(role)} NOLOGIN" for role in sorted(roles - scratch.roles)]
        supers = {role for role in needs.superusers if not role.startswith(_RESERVED)} - scratch.superusers
        statements += [
            f"CREATE ROLE {quoted(role)} NOLOGIN" for role in sorted(supers - roles - scratch.roles)
        ]
        statements += [f"ALTER ROLE {quoted(role)} SUPERUSER" for role in sorted(supers)]
        spaces = set(needs.tablespaces) - scratch.tablespaces
        if not statements and not spaces:
            return
        async with scratch.connect() as connected:
            for statement in statements:
                await connected.execute(statement)
            if spaces:
                await connected.execute("SET allow_in_place_tablespaces = on")
            for space in sorted(spaces):
                await connected.execute(f"CREATE TABLESPACE {quoted(space)} LOCATION ''")
        scratch.roles |= roles | supers
        scratch.superusers |= supers
        scratch.tablespaces |= spaces


@asynccontextmanager
async def database(scratch: Scratch, properties: DatabaseProperties, subject: str) -> AsyncIterator[str]:
    """Make a fresh database for the block, and drop it afterwards, sessions and all; yield its name."""
    name = f"v{secrets.token_hex(8)}"
    statement = create_database(name, properties, scratch.cluster.version)
    async with scratch.connect() as connected:
        try:
            await connected.execute(statement)
        except asyncpg.PostgresError as error:
            said = str(error)
            lacking = missing(said) or (f"what its database was made with ({said})",)
            raise LackingError(
                f"{subject}: its database cannot be made here: {said}",
                lacking=lacking,
                hint="install the locale (Debian: locales-all), or a server built with it; "
                "nothing is known of the backup",
            ) from error
    try:
        yield name
    finally:
        if scratch.cluster.alive:
            async with scratch.connect() as connected:
                await connected.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")


async def oid_of(scratch: Scratch, dbname: str) -> int:
    """Return the number that a database's folder is named by."""
    async with scratch.connect() as connected:
        oid: int = await connected.fetchval(
            f"SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = {literal(dbname)}"  # noqa: S608
        )
        return oid
