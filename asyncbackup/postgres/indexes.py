"""Whether a database's indexes are sound, by PostgreSQL's own amcheck."""

import asyncpg

from asyncbackup.model import Difference
from asyncbackup.postgres.connect import Connection

_BTREES = """
SELECT c.oid::bigint, n.nspname || '.' || c.relname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am a ON a.oid = c.relam
WHERE a.amname = 'btree' AND i.indisready AND i.indisvalid AND c.relkind = 'i' AND c.relpersistence <> 't'
  AND c.oid >= 16384 AND n.nspname <> 'pg_toast'
"""


async def check(connected: Connection) -> tuple[int, tuple[Difference, ...]] | None:
    """Check every valid B-tree index of a throw-away database by amcheck; None where there is none.

    The extension is made for it, so nothing may be counted afterwards.
    """
    if not await connected.fetchval(
        "SELECT count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'"
    ):
        return None
    await connected.execute("CREATE SCHEMA asyncbackup_amcheck")
    await connected.execute("CREATE EXTENSION amcheck SCHEMA asyncbackup_amcheck")
    indexes = await connected.fetch(_BTREES)
    differences = []
    for oid, name in indexes:
        try:
            await connected.execute(f"SELECT asyncbackup_amcheck.bt_index_check({oid})")
        except asyncpg.PostgresError as error:
            differences.append(
                Difference(kind="index", name=name, expected="a sound index", found=str(error))
            )
    return len(indexes), tuple(differences)
