"""Whether a database's indexes are sound, by PostgreSQL's own amcheck."""

import secrets

import asyncpg

from asyncbackup.model import Difference
from asyncbackup.postgres.connect import Connection
from asyncbackup.postgres.properties import quoted

_INSTALLED = """
SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'amcheck'
"""
_AVAILABLE = "SELECT true FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'"
_TRIGGERS = "SELECT evtname FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'"

_BTREES = """
SELECT c.oid::bigint, n.nspname || '.' || c.relname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am a ON a.oid = c.relam
WHERE a.amname = 'btree' AND i.indisready AND i.indisvalid AND c.relkind = 'i' AND c.relpersistence <> 't'
  AND c.oid >= 16384 AND n.nspname <> 'pg_toast'
"""


async def check(connected: Connection, encoding: str) -> tuple[int, tuple[Difference, ...]] | None:
    """Check every valid B-tree index of a throw-away database by amcheck; None where there is none.

    The extension is made for it where the database does not have it, so nothing may be counted
    afterwards. `encoding` is the dump's.
    """
    if encoding == "SQL_ASCII":
        await connected.execute("SET client_encoding = 'LATIN1'")  # names are any bytes
    schema = await connected.fetchval(_INSTALLED)
    if schema is None:
        if not await connected.fetchval(_AVAILABLE):
            return None
        # A trigger of the dump's own may object to what it does not know.
        for row in await connected.fetch(_TRIGGERS):
            await connected.execute(f"ALTER EVENT TRIGGER {quoted(row[0])} DISABLE")
        schema = f"amcheck_{secrets.token_hex(8)}"
        await connected.execute(f"CREATE SCHEMA {schema}; CREATE EXTENSION amcheck SCHEMA {schema}")
    indexes = await connected.fetch(_BTREES)
    differences = []
    for oid, name in indexes:
        try:
            await connected.execute(f"SELECT {quoted(schema)}.bt_index_check({oid})")
        except (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError) as error:
            differences.append(
                Difference(kind="index", name=name, expected="a sound index", found=str(error))
            )
    return len(indexes), tuple(differences)
