"""Putting a new database in the place of an old one: names, the lock, and the swap itself.

A database is renamed only while nobody is connected to it. ALTER DATABASE takes a lock that newcomers wait
for, so one connection renames, while a second one ends the sessions that are there until it got through.
Both renames and the properties are one transaction: whoever connects meanwhile waits, and then gets the new
database, or is told that there is none of that name; nobody ever gets a half-made one.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from asyncbackup.dbspec import MAX_DBNAME
from asyncbackup.errors import AsyncbackupError, LockedError, RefusedError
from asyncbackup.postgres.connect import Connection
from asyncbackup.postgres.properties import Change, quoted
from asyncbackup.threads import see_through

_RESTORING = "_restoring_"
_BEFORE = "_before_"
_ID = 8  # hexadecimal digits
_FORCE_SINCE = 13
_COMMIT = 60.0  # seconds; whether it happened is then asked on another connection
_LOOK = 0.03  # seconds between two rounds of ending sessions
_PAUSE = 0.2
_AGAIN = 1.0
_ENDING = 60.0  # seconds that a session may take to end
TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What a server, or the way to it, answers a statement with."""
Identity = tuple[int, datetime]
"""A session's process id, and when it began."""

_IN_THE_WAY = (
    asyncpg.ObjectInUseError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
)

_SESSIONS = """
SELECT pid, usename::text AS usename, application_name, datname::text AS datname
FROM pg_catalog.pg_stat_activity
WHERE datid = ANY ($1::oid[]) AND pid <> pg_catalog.pg_backend_pid()
"""
_LEFTOVERS = r"""
SELECT datname::text FROM pg_catalog.pg_database
WHERE left(datname::text, length($1)) = $1 AND substr(datname::text, length($1) + 1) ~ '\A[0-9a-f]{8}\Z'
ORDER BY datname
"""
_END = """
SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
WHERE pid = $1 AND backend_start = $2
"""
_LOCK = "SELECT pg_catalog.pg_try_advisory_lock($1)"
# Advisory locks belong to a database, and another restore may not have been able to use the same one.
_HELD_ELSEWHERE = """
SELECT a.pid, a.usename::text AS usename, host(a.client_addr) AS client, a.backend_start
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND (l.classid::bigint << 32 | l.objid::bigint) = $1 AND l.pid <> pg_catalog.pg_backend_pid()
"""


def working_name(dbname: str, run: str) -> str:
    """Return the name that a database has until it is proven; `run` is 8 hexadecimal digits."""
    return _stem(dbname) + run


def kept_name(dbname: str, stamp: str) -> str:
    """Return the name that the replaced database is kept by."""
    return _cut(dbname, f"{_BEFORE}{stamp}")


def _stem(dbname: str) -> str:
    return _cut(dbname, _RESTORING + "0" * _ID)[:-_ID]


def _cut(dbname: str, suffix: str) -> str:
    """Return name and suffix in the bytes that a name may have, without splitting a character."""
    room = MAX_DBNAME - len(suffix.encode())
    return dbname.encode()[:room].decode("utf-8", "ignore") + suffix


def lock_number(dbname: str) -> int:
    """Return the number of the lock: the same for all databases whose working names begin alike."""
    digest = hashlib.sha256(f"asyncbackup restore {_stem(dbname)}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


async def lock(connected: Connection, dbname: str, subject: str) -> None:
    """Take the lock that one restore of a database holds until its connection ends, or raise LockedError."""
    key = lock_number(dbname)
    taken = await connected.fetchval(_LOCK, key)
    others = await connected.fetch(_HELD_ELSEWHERE, key)
    if not taken or others:
        who = ""
        if others:
            row = others[0]
            who = f", by {row['usename']} from {row['client'] or 'a local socket'}"
            who += f" since {row['backend_start']:%Y-%m-%dT%H:%M:%SZ}" if row["backend_start"] else ""
        raise LockedError(
            f"{subject} is being restored already{who}",
            hint="wait for it to end; the lock goes away with its connection",
        )


async def leftovers(connected: Connection, dbname: str) -> tuple[str, ...]:
    """Return the half-made databases of killed restores; ask under the lock only."""
    return tuple(row[0] for row in await connected.fetch(_LEFTOVERS, _stem(dbname)))


async def drop(connected: Connection, dbname: str) -> None:
    """Drop a database, sessions and all, if it is there."""
    if connected.get_server_version().major >= _FORCE_SINCE:
        await connected.execute(f"DROP DATABASE IF EXISTS {quoted(dbname)} WITH (FORCE)")
        return
    oid = await oid_of(connected, dbname)
    if oid is not None:
        await connected.execute(f"ALTER DATABASE {quoted(dbname)} CONNECTION LIMIT 0")
        await _end_sessions(connected, [oid])
        await connected.execute(f"DROP DATABASE IF EXISTS {quoted(dbname)}")


async def oid_of(connected: Connection, dbname: str) -> int | None:
    """Return the number of a database, which no renaming changes."""
    found: int | None = await connected.fetchval(
        "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = $1", dbname
    )
    return found


async def name_of(connected: Connection, oid: int) -> str | None:
    """Return what a database is called now."""
    found: str | None = await connected.fetchval(
        "SELECT datname::text FROM pg_catalog.pg_database WHERE oid = $1", oid
    )
    return found


async def apply(connected: Connection, changes: Sequence[Change]) -> tuple[str, ...]:
    """Apply changes in the open transaction; returns what could not be, and why, unless it is vital.

    Raises RefusedError for what is.
    """
    failed = []
    for change in changes:
        await connected.execute("SAVEPOINT change")
        try:
            for statement in change.statements:
                await connected.execute(statement)
        except asyncpg.PostgresError as error:
            said = f"{change.what} could not be set: {error}"
            if change.vital:
                raise RefusedError(
                    said, hint="restore as a superuser, or as a user who may do this (--admin-user)"
                ) from error
            await connected.execute("ROLLBACK TO SAVEPOINT change")
            failed.append(said)
        await connected.execute("RELEASE SAVEPOINT change")
    return tuple(failed)


async def rehearse(connected: Connection, changes: Sequence[Change]) -> tuple[str, ...]:
    """Do what `apply` does, and undo it: what cannot be set shall show before hours of loading."""
    await connected.execute("BEGIN")
    try:
        return await apply(connected, changes)
    finally:
        await connected.execute("ROLLBACK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What is to be swapped; databases by their numbers, too, since names can change."""

    dbname: str
    restoring: str
    restoring_oid: int
    kept: str
    """The replaced one's new name."""
    replaced_oid: int | None
    """None where there is none of that name."""
    changes: Sequence[Change]
    """Those of the new database, by its final name."""
    deadline: float
    """Seconds after which sessions that cannot be ended make it fail."""


@dataclass(slots=True)
class _Crowd:
    """The sessions that stood in the way when they were last looked at."""

    ended: int = 0
    deaf: dict[int, str] = field(default_factory=dict)


async def swap(
    connected: Connection, second: Connection, wanted: Swap, committing: Callable[[], None]
) -> tuple[str, ...]:
    """Put the new database in its place, all or nothing; return what could not be set, and why.

    `second` ends the sessions of both databases meanwhile. `committing` is called before the transaction
    is committed: when this raises afterwards, only the server knows whether it was.
    """
    end = time.monotonic() + wanted.deadline
    oids = [oid for oid in (wanted.restoring_oid, wanted.replaced_oid) if oid is not None]
    async with _alone(second, oids) as crowd:
        while True:
            try:
                return await _transaction(connected, wanted, committing)
            except _IN_THE_WAY as error:
                if time.monotonic() > end:
                    raise RefusedError(_crowded(wanted, crowd, error), hint=_HINT) from error
            await asyncio.sleep(_PAUSE)


_HINT = "end them, or restore as a superuser (--admin-user); the old database is as it was"


def _crowded(wanted: Swap, crowd: _Crowd, error: Exception) -> str:
    who = ", ".join(crowd.deaf.values())
    said = f"{wanted.dbname}: it could not be renamed in {wanted.deadline:g} s: {error}"
    return f"{said}; these sessions could not be ended: {who}" if who else said


async def _transaction(
    connected: Connection, wanted: Swap, committing: Callable[[], None]
) -> tuple[str, ...]:
    dbname = quoted(wanted.dbname)
    await connected.execute("BEGIN; SET LOCAL lock_timeout = '5s'")
    try:
        if wanted.replaced_oid is not None:
            await _put_aside(connected, wanted, wanted.replaced_oid)
        await connected.execute(f"ALTER DATABASE {quoted(wanted.restoring)} RENAME TO {dbname}")
        failed = await apply(connected, wanted.changes)
    except asyncpg.DuplicateDatabaseError as error:
        await connected.execute("ROLLBACK")
        raise RefusedError(
            f"{wanted.dbname}: a database came into being meanwhile: {error}",
            hint="restore again; nothing was changed",
        ) from error
    except (asyncpg.PostgresError, RefusedError):
        await connected.execute("ROLLBACK")
        raise
    committing()
    # Nothing may interrupt it, so that it must end by itself: a standby that has to agree may be down.
    await see_through(asyncio.ensure_future(connected.execute("COMMIT", timeout=_COMMIT)))
    return failed


async def _put_aside(connected: Connection, wanted: Swap, oid: int) -> None:
    await connected.execute(f"ALTER DATABASE {quoted(wanted.dbname)} RENAME TO {quoted(wanted.kept)}")
    if await oid_of(connected, wanted.kept) != oid:
        raise RefusedError(
            f"{wanted.dbname}: another database has taken this name since",
            hint="restore again; nothing was changed",
        )


@contextlib.asynccontextmanager
async def _alone(second: Connection, oids: Sequence[int]) -> AsyncIterator[_Crowd]:
    """End the sessions of some databases, again and again, for the length of the block."""
    crowd = _Crowd()

    async def clear() -> None:
        while True:
            crowd.deaf = await _end_sessions(second, oids)
            await asyncio.sleep(_LOOK)

    clearing = asyncio.create_task(clear())
    try:
        yield crowd
    finally:
        clearing.cancel()
        # Whatever stopped it, the renames have told by then whether it was needed.
        await asyncio.wait([clearing])
        if not clearing.cancelled():
            clearing.exception()


async def _end_sessions(connected: Connection, oids: Collection[int]) -> dict[int, str]:
    """End what is connected to these databases; return those that the user may not end."""
    deaf = {}
    for row in await connected.fetch(_SESSIONS, list(oids)):
        try:
            await connected.execute(f"SELECT pg_catalog.pg_terminate_backend({row['pid']:d})")
        except asyncpg.InsufficientPrivilegeError:
            deaf[row["pid"]] = f"{row['pid']} ({row['usename']}, {row['application_name'] or 'unnamed'})"
    return deaf


async def settled(
    connect: Callable[[], contextlib.AbstractAsyncContextManager[Connection]],
    oid: int,
    before: Identity,
    attempts: int,
) -> str | None:
    """Return what a database is called once the session that renamed it has ended; None if none can tell."""
    for _ in range(attempts):
        with contextlib.suppress(AsyncbackupError, *TROUBLE):
            async with connect() as connected:
                await end_session(connected, before)
                return await name_of(connected, oid) or ""
        await asyncio.sleep(_AGAIN)
    return None


async def identity(connected: Connection) -> Identity:
    """Return which session this is; no other one of the server ever was or will be the same."""
    row = await connected.fetchrow(
        "SELECT pid, backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()"
    )
    assert row is not None  # noqa: S101 - the session that asks is there
    return row["pid"], row["backend_start"]


async def end_session(connected: Connection, which: Identity) -> None:
    """End a session, and wait until it has: what it was doing is then done or undone."""
    end = time.monotonic() + _ENDING
    while True:
        if not await connected.fetchval(_END, *which) or time.monotonic() > end:
            return
        await asyncio.sleep(_LOOK)
