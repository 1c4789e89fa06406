"""What is asked of a server and of a database before it is dumped, by asyncpg."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from asyncbackup.model import DatabaseProperties, Extension, Facts, PgVersion
from asyncbackup.postgres.connect import JIT_SINCE, Endpoint, connection

FIRST_MODERN = 10
_LIBC = "c"
_PROVIDERS = {"i": "icu", _LIBC: "libc", "b": "builtin"}

# Objects made by users have oids from 16384 on (FirstNormalObjectId). What belongs to an extension
# comes back with it, in whatever number its version there has, and does not count. NOT NULL
# constraints have been catalog entries since 18, so they do not count either: the columns do.
_COUNTS = """
WITH ext AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
SELECT json_object_agg(kind, n) FROM (
  SELECT 'pg_class.' || relkind::text AS kind, count(*) AS n FROM pg_class
   WHERE oid >= 16384 AND relpersistence <> 't' AND relnamespace <> 99 AND relkind NOT IN ('t')
     AND NOT EXISTS (SELECT FROM ext WHERE classid = 1259 AND objid = pg_class.oid) GROUP BY relkind
  UNION ALL
  SELECT 'pg_attribute', count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
   WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND a.attnum > 0
     AND NOT a.attisdropped AND c.relpersistence <> 't'
     AND NOT EXISTS (SELECT FROM ext WHERE classid = 1259 AND objid = c.oid)
  UNION ALL
  SELECT 'pg_constraint.' || contype::text, count(*) FROM pg_constraint
   WHERE oid >= 16384 AND contype <> 'n'
     AND NOT EXISTS (SELECT FROM ext WHERE classid = 2606 AND objid = pg_constraint.oid) GROUP BY contype
  UNION ALL
  SELECT 'pg_type.' || typtype::text, count(*) FROM pg_type
   WHERE oid >= 16384 AND typtype IN ('d', 'e', 'r', 'm')
     AND NOT EXISTS (SELECT FROM ext WHERE classid = 1247 AND objid = pg_type.oid) GROUP BY typtype
  UNION ALL
  SELECT 'pg_proc.' || prokind::text, count(*) FROM pg_proc
   WHERE oid >= 16384
     AND NOT EXISTS (SELECT FROM ext WHERE classid = 1255 AND objid = pg_proc.oid) GROUP BY prokind
  UNION ALL
  SELECT 'pg_trigger', count(*) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL
  SELECT 'pg_namespace', count(*) FROM pg_namespace
   WHERE oid >= 16384 AND nspname !~ '^pg_(toast_)?temp_'
     AND NOT EXISTS (SELECT FROM ext WHERE classid = 2615 AND objid = pg_namespace.oid)
  {simple}
) AS counted WHERE n > 0
"""
_SIMPLE = {
    "pg_cast": 2605, "pg_collation": 3456, "pg_conversion": 2607, "pg_event_trigger": 3466,
    "pg_foreign_data_wrapper": 2328, "pg_foreign_server": 1417, "pg_language": 2612,
    "pg_opclass": 2616, "pg_operator": 2617, "pg_opfamily": 2753, "pg_policy": 3256,
    "pg_publication": 6104, "pg_statistic_ext": 3381, "pg_transform": 3576, "pg_ts_config": 3602,
    "pg_ts_dict": 3600, "pg_ts_parser": 3601, "pg_ts_template": 3764, "pg_default_acl": 826,
    "pg_extension": 3079, "pg_am": 2601, "pg_largeobject_metadata": 2995,
}  # fmt: skip
_RULES = """
  UNION ALL
  SELECT 'pg_rewrite', count(*) FROM pg_rewrite WHERE oid >= 16384 AND rulename <> '_RETURN'
     AND NOT EXISTS (SELECT FROM ext WHERE classid = 2618 AND objid = pg_rewrite.oid)"""
COUNTS = _COUNTS.format(
    simple=_RULES
    + "".join(
        f"""
  UNION ALL
  SELECT '{catalog}', count(*) FROM {catalog} WHERE oid >= 16384
     AND NOT EXISTS (SELECT FROM ext WHERE classid = {number} AND objid = {catalog}.oid)"""  # noqa: S608 - names from the table above
        for catalog, number in _SIMPLE.items()
    )
)
"""Counts what users made, by catalog; comparable between majors. Returns one JSON object."""

# to_json of a catalog's row takes the columns as they are in any version.
_FACTS = f"""
SELECT json_build_object(
  'size', pg_database_size(d.oid),
  'recovery', pg_is_in_recovery(),
  'database', to_json(d),
  'owner', pg_get_userbyid(d.datdba),
  'encoding', pg_encoding_to_char(d.encoding),
  'acl', d.datacl::text[],
  'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = d.dattablespace),
  'comment', shobj_description(d.oid, 'pg_database'),
  'settings', (SELECT json_agg(json_build_array(coalesce(r.rolname, ''), s.setting)
     ORDER BY r.rolname, s.setting) FROM (SELECT setrole, unnest(setconfig) AS setting
     FROM pg_db_role_setting WHERE setdatabase = d.oid) s LEFT JOIN pg_roles r ON r.oid = s.setrole),
  'labels', (SELECT json_agg(json_build_array(provider, label) ORDER BY provider) FROM pg_shseclabel
     WHERE objoid = d.oid AND classoid = 'pg_database'::regclass),
  'roles', (SELECT json_agg(DISTINCT r.rolname) FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
     WHERE s.refclassid = 'pg_authid'::regclass
       AND (s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid)),
  'extensions', (SELECT json_agg(json_build_array(e.extname, e.extversion, n.nspname) ORDER BY e.extname)
     FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace),
  'unlogged', (SELECT json_agg(n.nspname || '.' || c.relname ORDER BY 1) FROM pg_class c
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'p')),
  'counts', ({COUNTS})
)::text FROM pg_database d WHERE d.datname = current_database()
"""  # noqa: S608 - a constant above

_SESSION = (
    "SET search_path = pg_catalog; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
)
_BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

_OVERVIEW = """
SELECT datname, CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END
FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A server's version and its connectable databases with their sizes in bytes."""

    server_version: PgVersion
    sizes: dict[str, int]


def _version(reported: asyncpg.ServerVersion) -> PgVersion:
    # 15.18 is reported as (15, 0, 18); before 10, the second number belonged to the major one.
    return PgVersion(reported.major, reported.micro if reported.major >= FIRST_MODERN else reported.minor)


async def overview(endpoint: Endpoint) -> Overview:
    """Ask a server which databases it has; works from any of its databases."""
    async with connection(endpoint) as connected:
        version = _version(connected.get_server_version())
        rows = await connected.fetch(_OVERVIEW)
    return Overview(
        server_version=version,
        sizes={row[0]: row[1] or 0 for row in rows},
    )


@contextlib.asynccontextmanager
async def snapshot(endpoint: Endpoint, *, export: bool) -> AsyncIterator[Facts]:
    """Read a database's facts in a snapshot that stays open for the block, for pg_dump to take over.

    What the manifest says of roles, extensions and catalogs is then true of the very state that was
    dumped, whatever is created or dropped meanwhile.
    """
    async with connection(endpoint) as connected:
        version = _version(connected.get_server_version())
        jit = "; SET jit = off" if version.major >= JIT_SINCE else ""
        await connected.execute(f"{_SESSION}{jit}; {_BEGIN}")
        exported = await connected.fetchval("SELECT pg_export_snapshot()") if export else None
        found: dict[str, Any] = json.loads(await connected.fetchval(_FACTS))
        yield _facts(found, version, exported)


def _facts(found: dict[str, Any], version: PgVersion, exported: str | None) -> Facts:
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
        tablespace=found["tablespace"] or "",
        is_template=database["datistemplate"],
        settings=_pairs(found["settings"]),
        security_labels=_pairs(found["labels"]),
    )
    return Facts(
        server_version=version,
        size=found["size"],
        in_recovery=found["recovery"],
        snapshot=exported,
        properties=properties,
        roles=tuple(sorted(found["roles"] or ())),
        extensions=tuple(
            Extension(name=name, version=release, schema=schema)
            for name, release, schema in found["extensions"] or ()
        ),
        object_counts=dict(sorted((found["counts"] or {}).items())),
        unlogged=tuple(found["unlogged"] or ()),
    )


def _pairs(found: Sequence[Sequence[str]] | None) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in found or ())
