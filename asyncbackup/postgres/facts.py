"""What is asked of a server and of a database before it is dumped, by asyncpg."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from asyncbackup import statements
from asyncbackup.errors import BusyError, ClientError, ConnectError, KilledDumpError, TransientDumpError
from asyncbackup.model import DatabaseProperties, Extension, Facts, PgVersion
from asyncbackup.postgres.connect import (
    APPLICATION_NAME,
    JIT_SINCE,
    Connection,
    Endpoint,
    connection,
    mapped,
)

FIRST_MODERN = 10
OLDEST = PgVersion(11, 0)
TRANSACTION_TIMEOUT_SINCE = 17
_LIBC = "c"
_PROVIDERS = {"i": "icu", _LIBC: "libc", "b": "builtin"}

# Objects made by users have oids from 16384 on (FirstNormalObjectId). What pg_dump leaves out does not
# count, or a good restore would be called bad: what belongs to an extension, and stands on its tables,
# comes back with it, in whatever number its version there has; temporary objects of other sessions, with
# all that hangs on them; indexes that are not valid; the schema public, made anew or not; triggers that
# partitions have from their parents; what the server makes of itself for a range type. NOT NULL
# constraints have been catalog entries since 18, so they do not count either: the columns do. Each
# catalog that a fresh session touches costs it a third of a millisecond; most are therefore counted
# by what pg_depend knows of them, which is every object that stands in a schema or on a table.
COUNTS = """
WITH gone AS MATERIALIZED (
  SELECT 1259 AS classid, oid FROM pg_class WHERE relpersistence = 't'
  UNION ALL
  SELECT 1259, i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
   WHERE c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready)
  UNION ALL
  SELECT 2615, oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'
), mine AS MATERIALIZED (
  SELECT classid, objid FROM pg_depend WHERE objid >= 16384
  EXCEPT SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
  EXCEPT SELECT classid, objid FROM pg_depend WHERE (refclassid, refobjid) IN (SELECT classid, oid FROM gone)
  EXCEPT SELECT classid, objid FROM pg_depend WHERE deptype IN ('a', 'i') AND refclassid = 1259
     AND refobjid IN (SELECT objid FROM pg_depend WHERE classid = 1259 AND deptype = 'e')
  EXCEPT SELECT classid, objid FROM pg_depend WHERE classid IN (1255, 2605) AND deptype = 'i'
  EXCEPT SELECT classid, oid FROM gone
)
SELECT json_object_agg(kind, n) FROM (
  SELECT 'pg_class.' || relkind::text AS kind, count(*) AS n FROM pg_class
   WHERE relkind <> 't' AND relnamespace <> 99
     AND (1259, oid) IN (SELECT classid, objid FROM mine) GROUP BY relkind
  UNION ALL
  SELECT 'pg_attribute', count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND a.attnum > 0 AND NOT a.attisdropped
     AND (1259, c.oid) IN (SELECT classid, objid FROM mine)
  UNION ALL
  SELECT 'pg_constraint.' || contype::text, count(*) FROM pg_constraint
   WHERE contype <> 'n' AND (2606, oid) IN (SELECT classid, objid FROM mine) GROUP BY contype
  UNION ALL
  SELECT 'pg_type.' || typtype::text, count(*) FROM pg_type
   WHERE typtype IN ('d', 'e', 'r') AND (1247, oid) IN (SELECT classid, objid FROM mine) GROUP BY typtype
  UNION ALL
  SELECT 'pg_proc.' || prokind::text, count(*) FROM pg_proc
   WHERE (1255, oid) IN (SELECT classid, objid FROM mine) GROUP BY prokind
  UNION ALL
  SELECT 'pg_trigger', count(*) FROM pg_trigger t
   WHERE NOT tgisinternal AND coalesce(to_json(t) ->> 'tgparentid', '0') = '0'
     AND (2620, oid) IN (SELECT classid, objid FROM mine)
  UNION ALL
  SELECT 'pg_namespace', count(*) FROM pg_namespace
   WHERE oid >= 16384 AND nspname !~ '^pg_(toast_)?temp_' AND nspname <> 'public'
     AND oid NOT IN (SELECT objid FROM pg_depend WHERE classid = 2615 AND deptype = 'e')
  UNION ALL
  SELECT classid::regclass::text, count(*) FROM mine
   WHERE classid NOT IN (1255, 1247, 1259, 2606, 2615, 2620, 3079) GROUP BY classid
) AS counted WHERE n > 0
"""
"""Counts what users made, by catalog; comparable between majors. Returns one JSON object."""

# to_json of a catalog's row takes the columns as they are in any version. Bytes are what comes, for
# the server refuses to send text that is not valid in its encoding, as it can be in SQL_ASCII.
_FACTS = """
SELECT replace(json_build_object(
  'snapshot', {snapshot},
  'recovery', pg_is_in_recovery(),
  'database', to_json(d),
  'owner', pg_get_userbyid(d.datdba),
  'encoding', pg_encoding_to_char(d.encoding),
  'acl', d.datacl::text[],
  'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = d.dattablespace),
  'comment', shobj_description(d.oid, 'pg_database'),
  'settings', (SELECT json_agg(json_build_array(role, setting) ORDER BY role, setting)
     FROM (SELECT CASE WHEN setrole <> 0 THEN pg_get_userbyid(setrole) ELSE '' END AS role,
       unnest(setconfig) AS setting FROM pg_db_role_setting WHERE setdatabase = d.oid) s),
  'labels', (SELECT json_agg(json_build_array(provider, label) ORDER BY provider) FROM pg_shseclabel
     WHERE objoid = d.oid AND classoid = 'pg_database'::regclass),
  'roles', (SELECT json_agg(DISTINCT pg_get_userbyid(s.refobjid)) FROM pg_shdepend s
     WHERE s.refclassid = 'pg_authid'::regclass
       AND (s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid)),
  'extensions', (SELECT json_agg(json_build_array(e.extname, e.extversion, n.nspname) ORDER BY e.extname)
     FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace),
  'more', EXISTS (SELECT FROM pg_depend WHERE objid >= 16384)
    OR EXISTS (SELECT FROM pg_namespace WHERE oid >= 16384)
)::text, chr(92), chr(92) || chr(92))::bytea, getdatabaseencoding()
FROM pg_database d WHERE d.datname = current_database()
"""
# Planning this costs an empty database, of which there may be a thousand, as much as all of the above.
_MORE = f"""
SELECT replace(json_build_object(
  'unlogged', (SELECT json_agg(n.nspname || '.' || c.relname ORDER BY 1) FROM pg_class c
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'p')),
  'counts', ({COUNTS})
)::text, chr(92), chr(92) || chr(92))::bytea, getdatabaseencoding()
"""  # noqa: S608 - a constant above

_SESSION = (
    "SET search_path = pg_catalog; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
)
_FILES = """
SELECT oid, relfilenode, replace(relname, chr(92), chr(92) || chr(92))::bytea
FROM pg_class WHERE relkind IN ('r', 'm') AND oid >= 16384
"""
_NAMES = 5
_BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# Names come as the bytes that they are: a database of another encoding may have made some that are
# not valid here, and one of SQL_ASCII knows no encoding at all.
_OVERVIEW = """
SELECT replace(datname, chr(92), chr(92) || chr(92))::bytea,
  CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END
FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2
ORDER BY datname
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A server's version and its connectable databases with their sizes in bytes."""

    dbname: str
    """The database that it was asked in, which can therefore be logged in to."""
    server_version: PgVersion
    sizes: dict[str, int]
    closed: tuple[str, ...]
    """Databases that the role may not connect to."""


def _version(reported: asyncpg.ServerVersion) -> PgVersion:
    # 15.18 is reported as (15, 0, 18); before 10, the second number belonged to the major one.
    return PgVersion(reported.major, reported.micro if reported.major >= FIRST_MODERN else reported.minor)


async def overview(endpoint: Endpoint) -> Overview:
    """Ask a server which databases it has; works from any of its databases."""
    async with connection(endpoint) as connected:
        version = _version(connected.get_server_version())
        with mapped(endpoint.spec):
            await connected.execute("SET statement_timeout = 0")
            rows = await connected.fetch(_OVERVIEW)
    return Overview(
        dbname=endpoint.spec.dbname,
        server_version=version,
        sizes={row[0].decode("utf-8", "surrogateescape"): row[1] for row in rows if row[1] is not None},
        closed=tuple(row[0].decode("utf-8", "surrogateescape") for row in rows if row[1] is None),
    )


# A session that waits for its client, or for a lock, is not at work, whatever its state is called.
_ACTIVITY = """
SELECT state IN ('active', 'fastpath function call')
    AND coalesce(wait_event_type, '') NOT IN ('Client', 'Lock') AS at_work,
  concat_ws(', ', state, wait_event_type, wait_event)
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND usename = session_user AND application_name = $1
  AND backend_type = 'client backend' AND pid <> pg_backend_pid()
ORDER BY at_work DESC LIMIT 1
"""


async def activity(endpoint: Endpoint) -> tuple[bool, str]:
    """Return whether the server is at work on a dump of this database, and what it says of it."""
    async with connection(endpoint) as connected:
        with mapped(endpoint.spec):
            row = await connected.fetchrow(_ACTIVITY, APPLICATION_NAME)
    return (bool(row[0]), str(row[1])) if row else (False, "no session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A database's facts, and the open transaction in which they are true."""

    facts: Facts
    endpoint: Endpoint
    connected: Connection

    async def end(self) -> None:
        """End the transaction, and make sure that no table was rewritten while pg_dump took it over.

        Call it when pg_dump holds its locks. TRUNCATE and some forms of ALTER TABLE are not safe for
        snapshots that are older: such a table would be dumped as empty, without any error
        (PostgreSQL documentation, MVCC Caveats). Raises TransientDumpError, naming the tables.
        """
        if any(kind in self.facts.object_counts for kind in ("pg_class.r", "pg_class.m")):
            try:
                with mapped(self.endpoint.spec):
                    before = {row[0]: row[1] for row in await self.connected.fetch(_FILES)}
                    await self.connected.execute("COMMIT")
                    after = await self.connected.fetch(_FILES)
            except (ConnectError, BusyError) as error:
                raise KilledDumpError(
                    f"{self.endpoint.spec}: the connection that held the snapshot is gone: {error.message}",
                    hint="look into the server's log",
                ) from error
            rewritten = [
                row[2].decode("utf-8", "replace") for row in after if before.get(row[0], row[1]) != row[1]
            ]
            if rewritten:
                raise TransientDumpError(
                    f"{self.endpoint.spec}: rewritten (TRUNCATE, ALTER TABLE …) while the dump began, and "
                    f"would have been dumped as empty: {', '.join(rewritten[:_NAMES])}",
                    hint="this passes; if it does not, back up when nothing replaces whole tables",
                )
        self.connected.terminate()


@contextlib.asynccontextmanager
async def snapshot(endpoint: Endpoint, *, export: bool) -> AsyncIterator[Snapshot]:
    """Read a database's facts in a snapshot that stays open for the block, for pg_dump to take over.

    What the manifest says of roles, extensions and catalogs is then true of the very state that was
    dumped, whatever is created or dropped meanwhile.
    """
    async with connection(endpoint) as connected:
        version = _version(connected.get_server_version())
        if version < OLDEST:
            raise ClientError(
                f"{endpoint.spec}: PostgreSQL {version} is older than {OLDEST.major}",
                hint="dump it with a pg_dump of its own, or upgrade it",
            )
        settings = [_SESSION]
        if version.major >= JIT_SINCE:
            settings.append("SET jit = off")
        if version.major >= TRANSACTION_TIMEOUT_SINCE:
            settings.append("SET transaction_timeout = 0")
        query = _FACTS.format(snapshot="pg_export_snapshot()" if export else "NULL")
        with mapped(endpoint.spec):
            await connected.execute("; ".join([*settings, _BEGIN]))
            found = await _object(connected, query)
            if found["more"]:
                found |= await _object(connected, _MORE)
        yield Snapshot(facts=_facts(found, version), endpoint=endpoint, connected=connected)


async def _object(connected: Connection, query: str) -> dict[str, Any]:
    """Return the JSON object that a query builds, as the scanner reads the dump: SQL_ASCII as LATIN1."""
    row = await connected.fetchrow(query)
    assert row is not None  # noqa: S101 - the database that answers is there
    found: dict[str, Any] = json.loads(row[0].decode(statements.codec(row[1]), "surrogateescape"))
    return found


def _facts(found: dict[str, Any], version: PgVersion) -> Facts:
    database = found["database"]
    properties = DatabaseProperties(
        owner=found["owner"],
        acl=None if found["acl"] is None else tuple(found["acl"]),
        connection_limit=database["datconnlimit"],
        comment=found["comment"],
        encoding=found["encoding"],
        locale_provider=_PROVIDERS.get(database.get("datlocprovider", _LIBC), ""),
        collate=database["datcollate"],
        ctype=database["datctype"],
        locale=database.get("datlocale", database.get("daticulocale")),
        collation_version=database.get("datcollversion"),
        icu_rules=database.get("daticurules"),
        tablespace=found["tablespace"] or "",
        is_template=database["datistemplate"],
        settings=_pairs(found["settings"]),
        security_labels=_pairs(found["labels"]),
    )
    return Facts(
        server_version=version,
        in_recovery=found["recovery"],
        snapshot=found["snapshot"],
        properties=properties,
        roles=tuple(sorted(found["roles"] or ())),
        extensions=tuple(
            Extension(name=name, version=release, schema=schema)
            for name, release, schema in found["extensions"] or ()
        ),
        object_counts=dict(sorted((found.get("counts") or {}).items())),
        unlogged=tuple(found.get("unlogged") or ()),
    )


def _pairs(found: Sequence[Sequence[str]] | None) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in found or ())
