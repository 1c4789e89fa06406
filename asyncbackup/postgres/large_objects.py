"""Comparing a restored database's large objects with their digests in the manifest."""

import hashlib
from collections.abc import Sequence

import asyncpg

from asyncbackup.model import Difference, LargeObject
from asyncbackup.postgres.connect import Connection

_MANY = 500
_LO_BATCH = 32 << 20  # bytes of large objects to hash in one query
_LO_PIECE = 8 << 20


async def differences(connected: Connection, objects: Sequence[LargeObject]) -> list[Difference]:
    """Compare all of them: small ones many at a time, where they are; large ones piece by piece, here."""
    found: list[Difference] = []
    batch: list[LargeObject] = []
    size = 0
    for one in objects:
        if one.bytes > _LO_BATCH:
            found += await _hashed_here(connected, one)
            continue
        if batch and (size + one.bytes > _LO_BATCH or len(batch) == _MANY):
            found += await _hashed_there(connected, batch)
            batch, size = [], 0
        batch.append(one)
        size += one.bytes
    return found + await _hashed_there(connected, batch)


async def _hashed_there(connected: Connection, batch: Sequence[LargeObject]) -> list[Difference]:
    rows = await connected.fetch(
        "SELECT m.oid::bigint, encode(sha256(lo_get(m.oid)), 'hex')"
        " FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = ANY ($1::oid[])",
        [one.oid for one in batch],
    )
    found = {row[0]: row[1] for row in rows}
    return [_difference(one, found.get(one.oid, "none")) for one in batch if found.get(one.oid) != one.sha256]


async def _hashed_here(connected: Connection, one: LargeObject) -> list[Difference]:
    digest, offset = hashlib.sha256(), 0
    try:
        while piece := await connected.fetchval("SELECT lo_get($1, $2, $3)", one.oid, offset, _LO_PIECE):
            digest.update(piece)
            offset += len(piece)
    except asyncpg.UndefinedObjectError:
        return [_difference(one, "none")]
    return [] if digest.hexdigest() == one.sha256 else [_difference(one, digest.hexdigest())]


def _difference(one: LargeObject, found: str) -> Difference:
    return Difference(kind="large object", name=str(one.oid), expected=one.sha256, found=found)
