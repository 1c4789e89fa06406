"""What is asked of a server before a database is restored there: whether it can be, and what it would cost.

Everything is a question: nothing here changes anything.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import asyncpg

from asyncbackup.model import DatabaseProperties, PgVersion
from asyncbackup.postgres.connect import Connection
from asyncbackup.postgres.load import missing
from asyncbackup.postgres.properties import PROVIDERS_SINCE, check_locale

SESSION = (
    "SET search_path = pg_catalog; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;"
    " SET default_transaction_read_only = off; SET lock_timeout = 0; SET standard_conforming_strings = on"
)
"""What a session sets that changes something, since its role or database may have set otherwise."""

TRANSACTION_TIMEOUT_SINCE = 17
_IDLE_SINCE = 14
_SET_OPTION_SINCE = 16
_ALWAYS_THERE = "plpgsql"
_PROVIDERS = {"i": "icu", "c": "libc", "b": "builtin"}
_INVALID = -2  # the connection limit of a database whose DROP was interrupted

_SERVER = """
SELECT current_user::text AS name, rolsuper, rolcreatedb, rolcreaterole, pg_is_in_recovery() AS in_recovery,
  current_setting('max_locks_per_transaction')::int
    * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) AS slots,
  CASE WHEN rolsuper OR pg_has_role('pg_read_all_settings', 'USAGE')
    THEN current_setting('data_directory') END AS data_directory
FROM pg_roles WHERE rolname = current_user
"""
_DATABASE = """
SELECT d.oid::bigint AS oid, to_json(d)::text AS database, pg_get_userbyid(d.datdba)::text AS owner,
  pg_encoding_to_char(d.encoding)::text AS encoding, d.datacl::text[] AS acl,
  (SELECT spcname::text FROM pg_tablespace t WHERE t.oid = d.dattablespace) AS tablespace,
  shobj_description(d.oid, 'pg_database') AS comment,
  (SELECT json_agg(json_build_array(role, setting) ORDER BY role, setting)::text
     FROM (SELECT CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole)::text ELSE '' END AS role,
       unnest(setconfig) AS setting FROM pg_db_role_setting WHERE setdatabase = d.oid) s) AS settings,
  (SELECT json_agg(json_build_array(provider, label) ORDER BY provider)::text FROM pg_shseclabel
     WHERE objoid = d.oid AND classoid = 'pg_database'::regclass) AS labels,
  CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END AS size,
  (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid) AS sessions,
  pg_has_role(d.datdba, 'USAGE') AS mine
FROM pg_database d WHERE d.datname = $1
"""
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = $1 ORDER BY gid"
_SLOTS = """
SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'logical' AND database = $1 ORDER BY 1
"""
_SUBSCRIPTIONS = """
SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
WHERE d.datname = $1 AND s.subenabled ORDER BY 1
"""
_EXTENSIONS = """
SELECT name::text, bool_or(coalesce((to_json(v) ->> 'trusted')::bool, NOT superuser) OR NOT superuser) AS open
FROM pg_available_extension_versions v GROUP BY name
"""
_OWNS = "SELECT pg_has_role(rolname, 'USAGE') AND pg_has_role(rolname, $2) FROM pg_roles WHERE rolname = $1"
# Asked by name: a server can have others, of databases in another encoding, that nobody can read here.
_ROLES = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1::text[])"
_SUPERUSERS = f"{_ROLES} AND rolsuper"
_TABLESPACES = "SELECT spcname::text FROM pg_tablespace WHERE spcname = ANY ($1::text[])"
_DATABASES = "SELECT datname::text FROM pg_database WHERE datname = ANY ($1::text[])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The database that a restore would replace."""

    oid: int
    properties: DatabaseProperties
    allow_connections: bool
    size: int | None
    """Bytes; None where the user may not know."""
    sessions: int
    mine: bool
    """Whether the user may rename it, other rights given."""
    hindrances: tuple[str, ...]
    """What would be lost or broken if it were replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, as the user sees it who restores there, and the place of one database on it."""

    server_version: PgVersion
    user: str
    superuser: bool
    createdb: bool
    createrole: bool
    in_recovery: bool
    lock_slots: int
    """How many locks there is room for, for all sessions together."""
    data_directory: str
    """Empty where the user may not know."""
    present: Present | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a dump, and the properties that its database will get, need of a server."""

    roles: Collection[str]
    tablespaces: Collection[str]
    extensions: Collection[str]
    properties: DatabaseProperties
    """Those that the database is made with."""


async def begin(connected: Connection) -> None:
    """Make a session fit for what follows, whatever its role or database has set."""
    await connected.execute(SESSION)
    if connected.get_server_version().major >= _IDLE_SINCE:
        await connected.execute("SET idle_session_timeout = 0")
    if connected.get_server_version().major >= TRANSACTION_TIMEOUT_SINCE:
        await connected.execute("SET transaction_timeout = 0")


async def look(connected: Connection, dbname: str) -> Target:
    """Ask what stands on the server, and what stands under that name."""
    version = connected.get_server_version()
    row = await connected.fetchrow(_SERVER)
    assert row is not None  # noqa: S101 - the role that asks is there
    return Target(
        server_version=PgVersion(version.major, version.micro),
        user=row["name"],
        superuser=row["rolsuper"],
        createdb=row["rolcreatedb"] or row["rolsuper"],
        createrole=row["rolcreaterole"] or row["rolsuper"],
        in_recovery=row["in_recovery"],
        lock_slots=row["slots"],
        data_directory=row["data_directory"] or "",
        present=await _present(connected, dbname),
    )


async def _present(connected: Connection, dbname: str) -> Present | None:
    row = await connected.fetchrow(_DATABASE, dbname)
    if row is None:
        return None
    database = json.loads(row["database"])
    return Present(
        oid=row["oid"],
        properties=DatabaseProperties(
            owner=row["owner"],
            acl=None if row["acl"] is None else tuple(row["acl"]),
            connection_limit=database["datconnlimit"],
            comment=row["comment"],
            encoding=row["encoding"],
            locale_provider=_PROVIDERS.get(database.get("datlocprovider", "c"), ""),
            collate=database["datcollate"],
            ctype=database["datctype"],
            locale=database.get("datlocale", database.get("daticulocale")),
            tablespace=row["tablespace"] or "",
            is_template=database["datistemplate"],
            settings=_pairs(row["settings"]),
            security_labels=_pairs(row["labels"]),
        ),
        allow_connections=database["datallowconn"],
        size=row["size"],
        sessions=row["sessions"],
        mine=row["mine"],
        hindrances=await hindrances(connected, dbname)
        if database["datconnlimit"] != _INVALID
        else ("is invalid, since a DROP DATABASE of it was interrupted: drop it",),
    )


def _pairs(found: str | None) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in json.loads(found or "[]"))


async def hindrances(connected: Connection, dbname: str) -> tuple[str, ...]:
    """Return what would be lost or broken if another database took this one's name, such as `has the …`."""
    found = []
    for query, one, more in (
        (_PREPARED, "the prepared transaction", "the prepared transactions"),
        (_SLOTS, "the logical replication slot", "the logical replication slots"),
        (_SUBSCRIPTIONS, "the enabled subscription", "the enabled subscriptions"),
    ):
        names = [row[0] for row in await connected.fetch(query, dbname)]
        if names:
            found.append(f"has {more if len(names) > 1 else one} {', '.join(names)}")
    return tuple(found)


async def missing_roles(connected: Connection, roles: Collection[str]) -> list[str]:
    """Return those of the roles that the server does not have."""
    return sorted(set(roles) - await _named(connected, _ROLES, roles))


async def not_superusers(connected: Connection, roles: Collection[str]) -> list[str]:
    """Return those of the roles that are there, but no superusers."""
    there = await _named(connected, _ROLES, roles)
    return sorted(there - await _named(connected, _SUPERUSERS, roles))


async def has_database(connected: Connection, dbname: str) -> bool:
    """Whether there is a database of that name."""
    return bool(await _named(connected, _DATABASES, [dbname]))


async def _named(connected: Connection, query: str, names: Collection[str]) -> set[str]:
    return {row[0] for row in await connected.fetch(query, list(names))} if names else set()


async def lacking(connected: Connection, target: Target, needs: Needs) -> tuple[str, ...]:
    """Return everything that the server lacks, such as `extension postgis`; all at once."""
    found = [f"role {role}" for role in await missing_roles(connected, needs.roles)]
    extensions = {row["name"]: row["open"] for row in await connected.fetch(_EXTENSIONS)}
    for name in sorted({*needs.extensions} - {_ALWAYS_THERE}):
        if name not in extensions:
            found.append(f"extension {name}")
        elif not target.superuser and not extensions[name]:
            found.append(f"a superuser, to make the extension {name}")
    spaces = set(needs.tablespaces)
    found += [
        f"tablespace {space}" for space in sorted(spaces - await _named(connected, _TABLESPACES, spaces))
    ]
    return (*found, *await _locales(connected, target, needs.properties))


async def _locales(connected: Connection, target: Target, properties: DatabaseProperties) -> tuple[str, ...]:
    """Return the locales that no database can be made with; by trying, since no catalog lists them all."""
    found: dict[str, None] = {}
    libc = replace(properties, locale_provider="libc", locale=None)
    wanted = [libc] if properties.collate and properties.ctype else []
    if properties.locale and target.server_version.major >= PROVIDERS_SINCE:
        wanted.append(properties)
    for one in wanted:
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):  # then CREATE DATABASE will tell
            await connected.execute("BEGIN")
            try:
                await connected.execute(check_locale(one))
            except asyncpg.InsufficientPrivilegeError:
                raise
            except asyncpg.PostgresError as error:
                # Another encoding than this very database's may be its only fault.
                found |= dict.fromkeys(missing(str(error)) or _unknown_provider(one, error))
            finally:
                await connected.execute("ROLLBACK")
    return tuple(found)


def _unknown_provider(properties: DatabaseProperties, error: Exception) -> Sequence[str]:
    if "provider" in str(error):
        return [f"the locale provider {properties.locale_provider}"]
    return []


async def may_own(connected: Connection, target: Target, role: str) -> bool:
    """Whether the user may make a database that belongs to the role, and have it in hand afterwards."""
    if target.superuser or role == target.user:
        return not await missing_roles(connected, [role])
    become = "SET" if target.server_version.major >= _SET_OPTION_SINCE else "MEMBER"
    return bool(await connected.fetchval(_OWNS, role, become))


def refusals(target: Target, loads_into: int) -> Iterator[str]:
    """Yield every reason for which nothing may be restored there."""
    if target.in_recovery:
        yield "the server is a standby, which takes no changes: name its primary"
    if target.server_version.major < loads_into:
        yield (
            f"the dump is one of PostgreSQL {loads_into}, and the server's {target.server_version} is older;"
            f" restore it on PostgreSQL {loads_into} or newer"
        )
    if not target.createdb:
        yield f"the user {target.user} may not create databases: name another with --admin-user"
    if target.present is None:
        return
    if not target.superuser and not target.present.mine:
        yield (
            f"the user {target.user} may not rename the database that is there, which belongs to"
            f" {target.present.properties.owner}: name another with --admin-user"
        )
    for hindrance in target.present.hindrances:
        yield f"the database that would be replaced {hindrance}"
