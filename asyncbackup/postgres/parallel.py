"""Loading a plain dump over several connections: rows side by side, then what is built on them.

A thread reads the file, as for psql, and takes the dump apart (`sections`). What it finds goes to the
event loop in order and with back-pressure (`handover`), and from there to whichever connection is free:
rows and large objects at once, statements in order and alone. What is built on tables is kept until
something else comes, or the end, and is then built side by side (`builds`).
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor
from io import FileIO

from asyncbackup import statements
from asyncbackup.errors import AsyncbackupError
from asyncbackup.model import CopyBlock
from asyncbackup.postgres.builds import Build, Plan, Reader
from asyncbackup.postgres.handover import Handover, HandoverClosedError
from asyncbackup.postgres.lanes import Connect, Lane, lanes
from asyncbackup.postgres.load import Loaded
from asyncbackup.postgres.sections import CHUNK, Objects, Piece, Rows, Sections, Statement, Table
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread, see_through
from asyncbackup.unpack import Unpacked, unpack

_AHEAD = 3  # pieces on their way for each connection
_TOO_NEW = "transaction_timeout"
_TABLESPACE = "default_tablespace"
_WORKERS = "max_parallel_maintenance_workers"

# To sort in runs that fit into a core's cache, and merge them, takes a sixth less time than to sort with all
# of the usual 64 MB; to join by a hash table that fits there, a third. With less than the root of what is
# sorted, times what a run needs while it is merged, they would be merged more than once.
_MEMORY = "maintenance_work_mem"
_CACHE = 4 << 20
_ROW = 64  # bytes of a key, with all that belongs to it
_RUN = 264 << 10  # bytes (PostgreSQL's tuplesort.c)
_LESS = (
    b"SELECT pg_catalog.set_config(name, least(reset_val::int8, %d) || 'kB', false)"
    b" FROM pg_catalog.pg_settings WHERE name = '%b';"
)
_CLIENT_ONLY = {"BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"}

# A server's tables with heirs or partitions, and all their descendants.
_FAMILIES = """
WITH RECURSIVE family (ancestor, member) AS (
    SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits
    UNION
    SELECT ancestor, inhrelid FROM family JOIN pg_catalog.pg_inherits ON inhparent = member
)
SELECT n.nspname, c.relname, array_agg(ns.nspname::text) AS schemas, array_agg(r.relname::text) AS tables
FROM family
JOIN pg_catalog.pg_class c ON c.oid = ancestor JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class r ON r.oid = member JOIN pg_catalog.pg_namespace ns ON ns.oid = r.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
GROUP BY 1, 2
"""

# Tables whose rows are looked at while they are loaded, by code that may look at other tables: triggers and
# foreign keys, which only an extension's own tables have that early, and checks and generated columns that
# call functions in SQL or PL/pgSQL. PostgreSQL's own functions are in no pg_depend.
_JUDGED = """
WITH RECURSIVE judges AS (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND l.lanname NOT IN ('internal', 'c')
    UNION
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_operator o ON o.oid = d.refobjid JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND l.lanname NOT IN ('internal', 'c')
), constrained AS (
    SELECT c.conrelid, c.contypid FROM pg_catalog.pg_constraint c JOIN judges j ON j.objid = c.oid
    WHERE j.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.contype = 'c'
), types (oid) AS (
    SELECT contypid FROM constrained WHERE contypid <> 0
    UNION
    SELECT made.oid FROM types JOIN (
        SELECT typelem AS of, oid FROM pg_catalog.pg_type
        UNION ALL SELECT typbasetype, oid FROM pg_catalog.pg_type
        UNION ALL SELECT rngsubtype, rngtypid FROM pg_catalog.pg_range
        UNION ALL SELECT a.atttypid, r.reltype FROM pg_catalog.pg_attribute a
            JOIN pg_catalog.pg_class r ON r.oid = a.attrelid WHERE NOT a.attisdropped
    ) AS made ON made.of = types.oid
), generated (oid) AS (
    SELECT e.adrelid FROM pg_catalog.pg_attrdef e JOIN judges j ON j.objid = e.oid
    JOIN pg_catalog.pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
    WHERE j.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND a.attgenerated <> ''
)
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND (c.relhastriggers OR c.oid IN (SELECT oid FROM generated)
    OR c.oid IN (SELECT conrelid FROM constrained) OR c.reltype IN (SELECT oid FROM types WHERE oid <> 0))
"""


def possible(encoding: str, tables: Iterable[CopyBlock]) -> str:
    """Return why a dump has to be loaded by psql, over one connection; empty when it need not be.

    asyncpg speaks UTF-8. Rows go in the dump's own encoding nevertheless, and statements are converted by
    the server; but a COPY names its table and columns in UTF-8.
    """
    if encoding in _CLIENT_ONLY:
        return f"it is in {encoding}"
    known = encoding == "LATIN1" or statements.codec(encoding) != statements.codec("LATIN1")
    named = ("".join((block.schema, block.table, *block.columns)) for block in tables)
    return "" if known or all(map(str.isascii, named)) else f"it has names in {encoding}"


def _nothing(_unpacked: Unpacked) -> None:
    """Accept whatever was read."""


async def load(
    source: FileIO,
    connect: Connect,
    jobs: int,
    *,
    subject: str,
    older_server: bool = False,
    tablespaces: bool = True,
    digests: bool = True,
    progress: Progress,
    executor: Executor,
    accept: Callable[[Unpacked], None] = _nothing,
) -> Loaded:
    """Load a backup into a fresh database over `jobs` connections.

    `older_server` leaves out the one header line that servers before 17 do not know. Without `tablespaces`,
    everything is made in the default one. `accept` is called with what was read, before what depends on all
    of it is built, and may raise. Without `digests`, rows are neither counted nor hashed on the way, which
    is enough where the file was read before and `accept` looks at its digest.

    Raises LoadError, LackingError, or what the end of a connection means. Whatever it raises, the
    database is worth nothing then, and none of its sessions is left.
    """
    started = time.monotonic()
    handover: Handover[Piece] = Handover(jobs * _AHEAD * CHUNK)
    sections = Sections(
        lambda piece: handover.put(piece, _size(piece)),
        leave_out={
            *((_TOO_NEW,) if older_server else ()),
            *(() if tablespaces else (_TABLESPACE,)),
        },
    )

    def read() -> Unpacked | None:
        try:
            unpacked = unpack(source, progress, tap=sections, digests=digests)
            accept(unpacked)
        except HandoverClosedError:
            return None
        else:
            return unpacked
        finally:
            handover.end()

    reading: asyncio.Future[Unpacked | None] | None = None
    try:
        async with lanes(connect, jobs, subject) as opened:
            reading = asyncio.ensure_future(in_thread(executor, read))
            async with _first_failure(), asyncio.TaskGroup() as group:
                work = _Work(group, opened, handover)
                await work.follow()
                unpacked = await reading
                await work.build()
            await opened[0].flush()
    finally:
        handover.close()
        # Nobody may touch the file before the thread has ended.
        if reading is not None:
            with contextlib.suppress(OSError, AsyncbackupError):
                await see_through(reading)
    if unpacked is None:
        raise AssertionError  # the handover is closed only above
    return Loaded(unpacked=unpacked, seconds=time.monotonic() - started)


@contextlib.asynccontextmanager
async def _first_failure() -> AsyncIterator[None]:
    """Raise the first of the failures of a group: what ended the others tells nothing."""
    first: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
    if first is not None:
        raise first


def _size(piece: Piece) -> int:
    return len(piece.data if isinstance(piece, Rows) else piece.text)


class _Work:
    """What there is to do, and the connections that do it."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        opened: Sequence[Lane],
        handover: Handover[Piece],
    ) -> None:
        self._group = group
        self._lanes = opened
        self._handover = handover
        self._idle: asyncio.Queue[Lane] = asyncio.Queue()
        for lane in opened:
            self._idle.put_nowait(lane)
        self._reader = Reader()
        self._builds: list[Build] = []
        self._built = asyncio.Event()
        self._rows: Counter[Table] = Counter()
        self._judged: set[Table] | None = None

    async def follow(self) -> None:
        """Do what the thread hands over, in order where order matters."""
        while (piece := await self._handover.get()) is not None:
            match piece:
                case Statement():
                    await self._statement(piece)
                    self._handover.release(_size(piece))
                case Rows():
                    await self.build()  # there is nothing to build before rows in pg_dump's order
                    await self._copy(piece)
                case Objects():
                    await self._start(piece)

    async def _copy(self, rows: Rows) -> None:
        self._rows[rows.table] += rows.count
        if self._judged is None:
            await self._settled()
            self._judged = {(schema, table) for schema, table in await self._lanes[0].ask(_JUDGED)}
        if rows.table not in self._judged:
            await self._start(rows)
            return
        await self._settled()
        await self._start(rows)
        await self._settled()

    async def _start(self, piece: Rows | Objects) -> None:
        lane = await self._idle.get()
        self._group.create_task(self._load(lane, piece))

    async def _load(self, lane: Lane, piece: Rows | Objects) -> None:
        await (lane.copy(piece) if isinstance(piece, Rows) else lane.write(piece))
        self._handover.release(_size(piece))
        self._idle.put_nowait(lane)

    async def _settled(self) -> None:
        """Wait until every connection is idle."""
        for lane in [await self._idle.get() for _ in self._lanes]:
            self._idle.put_nowait(lane)

    async def _statement(self, statement: Statement) -> None:
        encoding = statements.client_encoding(statement.settings.get("client_encoding", b"")) or "SQL_ASCII"
        if build := self._reader.read(statement, encoding):
            self._builds.append(build)
            return
        await self.build()
        await self._settled()
        await self._lanes[0].run(statement)

    async def build(self) -> None:
        """Build what was kept for that."""
        if not self._builds:
            return
        await self._settled()
        families = {
            (schema, table): set(zip(schemas, tables, strict=True))
            for schema, table, schemas, tables in await self._lanes[0].ask(_FAMILIES)
        }
        plan = Plan(self._builds, families, self._rows)
        self._builds = []
        while not plan.over:
            self._built.clear()
            lane = await self._idle.get()
            if taken := plan.take():
                self._group.create_task(self._build(lane, plan, *taken))
            else:
                self._idle.put_nowait(lane)
                await self._built.wait()

    async def _build(self, lane: Lane, plan: Plan, number: int, build: Build) -> None:
        await lane.run(build.statement, **self._means(build, alone=plan.alone))
        plan.done(number)
        self._idle.put_nowait(lane)
        self._built.set()

    def _means(self, build: Build, *, alone: bool) -> dict[str, bytes]:
        """Return settings for a build: the server's own where nothing runs beside it, or else less."""
        own = {name: b"RESET %b;" % name.encode() for name in (_WORKERS, _MEMORY)}
        if alone or len(self._lanes) == 1:
            return own
        # As many run at once as there are connections; helpers would only come in their way.
        own[_WORKERS] = b"SET %b = 0;" % _WORKERS.encode()
        if build.sorts:
            rows = max(self._rows[table] for table in build.also or {build.table})
            memory = max(_CACHE, 1 << math.isqrt(rows * _ROW * _RUN).bit_length())
            own[_MEMORY] = _LESS % (memory >> 10, _MEMORY.encode())
        return own
