"""Comparing a restored database with what its backup says, by asyncpg.

Each table is read back column by column as its COPY header names them, in the encoding and with the
settings that pg_dump uses, so that equal rows are equal bytes; docs/explanation/proof.md says why not with
pg_dump. An ordered digest that differs is no verdict yet: rows may have come in another order. Then both
sides are compared as multisets.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from blake3 import blake3

from asyncbackup.model import CopyBlock, Difference, LargeObject, Level, Manifest, SequenceValue
from asyncbackup.multiset import Multiset, Table
from asyncbackup.postgres import large_objects
from asyncbackup.postgres.connect import Connection
from asyncbackup.postgres.facts import COUNTS
from asyncbackup.postgres.properties import quoted
from asyncbackup.unpack import Unpacked

Connect = Callable[[], AbstractAsyncContextManager[Connection]]

# pg_dump's own settings, and those that it is given (connect.SESSION).
_SESSION = """
SET search_path = ''; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
SET bytea_output = 'hex'; SET extra_float_digits = 3; SET synchronize_seqscans = off; SET row_security = off;
SET xmloption = content; SET statement_timeout = 0; SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0; SET jit = off; SET default_transaction_read_only = on
"""
_RELATIONS = """
SELECT wanted.i, c.relkind::text, (
  SELECT e.extcondition[array_position(e.extconfig, c.oid)] FROM pg_catalog.pg_extension e
  WHERE c.oid = ANY (e.extconfig))
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(nspname, relname, i)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.nspname
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relname
"""
_VIEW = """
DO $do$ BEGIN
  EXECUTE 'CREATE VIEW pg_temp.asyncbackup AS ' || pg_catalog.convert_from('\\x{}', 'SQL_ASCII');
END $do$
"""
_NONE = "SQL_ASCII"
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a restored database must hold."""

    tables: tuple[CopyBlock, ...]
    sequences: tuple[SequenceValue, ...]
    large_objects: tuple[LargeObject, ...]
    object_counts: Mapping[str, int]
    encoding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What was compared, and what was not as expected."""

    differences: tuple[Difference, ...]
    tables: int
    rows: int
    """Rows that were found, in the tables of the backup."""


Again = Callable[[frozenset[Table]], Awaitable[Mapping[Table, Multiset]]]
"""Reads the backup's own rows of some tables once more, as multisets."""


@dataclass(frozen=True, slots=True)
class _Relation:
    """A table as the backup names it, with its blocks, and as the restored database has it."""

    table: Table
    blocks: tuple[CopyBlock, ...]
    kind: str | None
    condition: str

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def bytes(self) -> int:
        return sum(block.bytes for block in self.blocks)

    def select(self, what: str = "") -> str:
        """Return the query for exactly what pg_dump dumped: not the rows of children, but all of a root's."""
        columns = what or ", ".join(quoted(column) for column in self.blocks[0].columns)
        only = "" if self.kind == "p" else "ONLY "
        name = ".".join(map(quoted, self.table))
        return f"SELECT {columns} FROM {only}{name} {self.condition}"  # noqa: S608 - quoted names


@dataclass(slots=True)
class _Findings:
    differences: list[Difference] = field(default_factory=list)
    doubtful: list[_Relation] = field(default_factory=list)
    rows: int = 0

    def differs(self, kind: str, name: object, expected: object, found: object) -> None:
        if expected != found:
            self.differences.append(
                Difference(kind=kind, name=str(name), expected=str(expected), found=str(found))
            )


def of_manifest(manifest: Manifest) -> Expected:
    """Return what a manifest says."""
    return Expected(
        tables=manifest.tables,
        sequences=manifest.sequences,
        large_objects=manifest.large_objects,
        object_counts=manifest.object_counts,
        encoding=manifest.encoding,
    )


def of_dump(unpacked: Unpacked) -> Expected:
    """Return what a dump says itself, where there is no manifest: that it was loaded can be proven by it."""
    scan = unpacked.scan
    return Expected(
        tables=scan.blocks,
        sequences=scan.sequences,
        large_objects=scan.large_objects,
        object_counts={},
        encoding=scan.encoding,
    )


async def compare(connect: Connect, expected: Expected, level: Level, *, jobs: int, again: Again) -> Compared:
    """Compare a restored database with what is expected of it, over `jobs` connections.

    Raises what asyncpg raises where the database cannot be read.
    """
    findings = _Findings()
    async with _session(connect, expected.encoding) as connected:
        relations = await _relations(connected, expected.tables)
        if expected.object_counts:
            await _objects(connected, expected.object_counts, findings)
        if level is Level.CONTENT:
            await _sequences(connected, expected, findings)
            findings.differences += await large_objects.differences(connected, expected.large_objects)
    there = []
    for relation in relations:
        if relation.kind is None:
            findings.differs("table", _name(relation.table), "a table", "none")
        else:
            there.append(relation)
    if level is not Level.TABLES:
        await _tables(connect, expected.encoding, there, level, findings, jobs)
    if findings.doubtful:
        await _as_multisets(connect, expected.encoding, findings, again)
    findings.differences.sort(key=lambda difference: (difference.kind, difference.name))
    return Compared(differences=tuple(findings.differences), tables=len(relations), rows=findings.rows)


@asynccontextmanager
async def _session(connect: Connect, encoding: str) -> AsyncIterator[Connection]:
    async with connect() as connected:
        await connected.execute(_SESSION)
        if encoding == _NONE:
            # Names are any bytes there, which the manifest holds as LATIN1; the server converts nothing.
            await connected.execute("SET client_encoding = 'LATIN1'")
        yield connected


@asynccontextmanager
async def _sendable(connected: Connection, query: str, encoding: str) -> AsyncIterator[str]:
    """Yield the query as it can be sent: asyncpg writes UTF-8, whatever the session's encoding is.

    A name that is no UTF-8, as SQL_ASCII allows, is told the server by number, in a view that never was.
    """
    if encoding != _NONE or query.isascii():
        yield query
        return
    name = query.encode("latin-1")
    try:
        sendable = name.decode("utf-8")
    except UnicodeDecodeError:
        await connected.execute("BEGIN READ WRITE")
        try:
            await connected.execute(_VIEW.format(name.hex()))
            yield "SELECT * FROM pg_temp.asyncbackup"
        finally:
            await connected.execute("ROLLBACK")
    else:
        yield sendable


async def _relations(connected: Connection, blocks: Iterable[CopyBlock]) -> list[_Relation]:
    """Return every table of the backup, largest first, with what the restored database has of that name."""
    by_table: dict[Table, list[CopyBlock]] = {}
    for block in blocks:
        by_table.setdefault((block.schema, block.table), []).append(block)
    found = await _there(connected, list(by_table))
    relations = [
        _Relation(table, tuple(of_table), *found.get(table, (None, "")))
        for table, of_table in by_table.items()
    ]
    return sorted(relations, key=lambda relation: -relation.bytes)


async def _there(connected: Connection, names: Sequence[Table]) -> dict[Table, tuple[str, str]]:
    """Return kind and extension's condition of those relations that are there."""
    found: dict[Table, tuple[str, str]] = {}
    for begin in range(0, len(names), _BATCH):
        batch = names[begin : begin + _BATCH]
        rows = await connected.fetch(_RELATIONS, [one[0] for one in batch], [one[1] for one in batch])
        found |= {batch[i - 1]: (kind, condition or "") for i, kind, condition in rows}
    return found


async def _tables(
    connect: Connect,
    encoding: str,
    relations: Sequence[_Relation],
    level: Level,
    findings: _Findings,
    jobs: int,
) -> None:
    waiting = iter(relations)  # shared: each connection takes the next one

    async def work() -> None:
        async with _session(connect, encoding) as connected:
            for relation in waiting:
                if level is Level.ROWS:
                    await _count(connected, relation, encoding, findings)
                else:
                    await _read(connected, relation, encoding, findings)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(jobs, len(relations))):
                group.create_task(work())
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


async def _count(connected: Connection, relation: _Relation, encoding: str, findings: _Findings) -> None:
    query = f"SELECT count(*) FROM ({relation.select('1')}) AS counted"  # noqa: S608 - quoted names
    async with _sendable(connected, query, encoding) as sendable:
        rows = await connected.fetchval(sendable)
    findings.rows += rows
    findings.differs("rows", _name(relation.table), relation.rows, rows)


async def _read(connected: Connection, relation: _Relation, encoding: str, findings: _Findings) -> None:
    if not relation.blocks[0].columns:  # COPY cannot select nothing
        await _count(connected, relation, encoding, findings)
        return
    digest, rows = blake3(), 0

    async def take(piece: bytes) -> None:
        nonlocal rows
        digest.update(piece)
        rows += piece.count(b"\n")

    if not await _copy(connected, relation, encoding, take, findings):
        return
    findings.rows += rows
    if rows != relation.rows:
        findings.differs("rows", _name(relation.table), relation.rows, rows)
    elif len(relation.blocks) > 1 or digest.hexdigest() != relation.blocks[0].blake3:
        findings.doubtful.append(relation)


async def _copy(
    connected: Connection,
    relation: _Relation,
    encoding: str,
    take: Callable[[bytes], Coroutine[Any, Any, None]],
    findings: _Findings,
) -> bool:
    """Read a table as pg_dump would; a column that is not there is a difference, and False."""
    in_encoding = None if encoding == _NONE else encoding
    try:
        async with _sendable(connected, relation.select(), encoding) as query:
            await connected.copy_from_query(query, output=take, format="text", encoding=in_encoding)
    except asyncpg.UndefinedColumnError as error:
        columns = ", ".join(relation.blocks[0].columns)
        findings.differs("table", _name(relation.table), f"the columns {columns}", str(error))
        return False
    return True


async def _as_multisets(connect: Connect, encoding: str, findings: _Findings, again: Again) -> None:
    """Compare what is not equal in order regardless of it, with the backup's own rows."""
    doubtful = sorted(findings.doubtful, key=lambda relation: relation.table)
    of_backup = await again(frozenset(relation.table for relation in doubtful))
    async with _session(connect, encoding) as connected:
        for relation in doubtful:
            restored = Multiset()

            async def take(piece: bytes, into: Multiset = restored) -> None:
                into.add(piece)

            await _copy(connected, relation, encoding, take, findings)
            if restored.value != of_backup[relation.table].value:
                digest = relation.blocks[0].blake3 if len(relation.blocks) == 1 else "those of the backup"
                findings.differs(
                    "content", _name(relation.table), f"{relation.rows} rows ({digest})", "other values"
                )


async def _objects(connected: Connection, expected: Mapping[str, int], findings: _Findings) -> None:
    found = json.loads(await connected.fetchval(COUNTS) or "{}")
    for kind in sorted({*expected, *found}):
        findings.differs("objects", kind, expected.get(kind, 0), found.get(kind, 0))


async def _sequences(connected: Connection, expected: Expected, findings: _Findings) -> None:
    sequences = expected.sequences
    kinds = await _there(connected, [(one.schema, one.name) for one in sequences])
    there = {table for table, (kind, _) in kinds.items() if kind == "S"}
    values = [one for one in sequences if (one.schema, one.name) in there]
    for one in sequences:
        if (one.schema, one.name) not in there:
            findings.differs("sequence", _name((one.schema, one.name)), "a sequence", "none")
    for begin in range(0, len(values), _BATCH):
        part = values[begin : begin + _BATCH]
        query = " UNION ALL ".join(
            f"SELECT {i} AS i, last_value, is_called FROM {quoted(one.schema)}.{quoted(one.name)}"  # noqa: S608
            for i, one in enumerate(part)
        )
        async with _sendable(connected, query, expected.encoding) as sendable:
            rows = await connected.fetch(sendable)
        for i, last_value, is_called in rows:
            wanted = (part[i].last_value, part[i].is_called)
            if wanted != (last_value, is_called):
                name = _name((part[i].schema, part[i].name))
                findings.differs("sequence", name, _state(*wanted), _state(last_value, is_called))


def _state(last_value: int, is_called: bool) -> str:  # noqa: FBT001 - as in setval()
    return f"{last_value}, {'called' if is_called else 'not called'}"


def _name(table: Table) -> str:
    return ".".join(table)
