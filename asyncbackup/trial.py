"""One backup's test restore: what it needs → a fresh database → load → compare → a verdict.

The verdict is `bad` only for what is the backup's own fault. Whatever the verifying machine lacks, or
however it fails, the verdict is `unverified`: neither good nor bad.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime
from io import FileIO

from asyncbackup import __version__, inventory, multiset
from asyncbackup.check import judge
from asyncbackup.errors import (
    AsyncbackupError,
    DamagedError,
    LackingError,
    LimitError,
    LoadError,
    ManifestError,
)
from asyncbackup.events import Events
from asyncbackup.model import (
    Backup,
    Difference,
    Level,
    Manifest,
    Verdict,
    Verification,
)
from asyncbackup.postgres import globals as globals_of
from asyncbackup.postgres import indexes, readback, scratch
from asyncbackup.postgres.load import load, one_transaction
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread
from asyncbackup.unpack import Unpacked, open_backup, unpack

_BASE_SECONDS = 600.0
_BYTES_PER_SECOND = 1e6
_BASE_BYTES = 1 << 30
_LOOK = 0.5  # seconds between two looks at how large a database has grown
_FROM = re.compile(rb"^-- Dumped from database version (\d+)", re.MULTILINE)
_JOBS = 2  # connections that read one database back
_SHOWN = 100  # differences that are kept of one backup
_FAULTS = (DamagedError, LoadError, LimitError, ManifestError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """All that a trial needs, the same for all of a run."""

    level: Level
    table_schema: str
    timeout: float
    """Seconds that one trial may take; 0 goes by the size of the backup."""
    size_factor: int
    server: Callable[[int], Awaitable[scratch.Scratch]]
    """Returns a running server for a dump of this major version."""
    executor: Executor
    run_id: str
    events: Events
    now: Callable[[], datetime]


@dataclass(slots=True)
class Trial:
    """A trial under way, for whoever watches it."""

    backup: Backup
    stage: str = "waiting"
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)
    load_seconds: float = 0.0
    sha256: str = ""
    server_version: str = ""
    tables: int = 0
    rows: int = 0
    indexes: int | None = None
    differences: tuple[Difference, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """How the backup's series is called: the database, or what its file name begins with."""
        return str(self.backup.spec) if self.backup.spec else self.backup.core


async def verify(trial: Trial, tools: Tools) -> Verification:
    """Restore one backup for a test, and say what came of it; only a cancellation raises."""
    started_at = tools.now()
    verdict, error, hint = Verdict.GOOD, "", ""
    lacking: tuple[str, ...] = ()
    manifest: Manifest | None = None
    try:
        manifest = await in_thread(tools.executor, _manifest, trial.backup)
        async with _opened(trial.backup, tools) as source:
            await _try(trial, tools, source, manifest)
    except _FAULTS as fault:
        verdict, error, hint = Verdict.BAD, fault.message, fault.hint
    except AsyncbackupError as trouble:
        verdict, error, hint = Verdict.UNVERIFIED, trouble.message, trouble.hint
        lacking = trouble.lacking if isinstance(trouble, LackingError) else ()
    except Exception as bug:  # noqa: BLE001 - one backup never stops another, and trouble of ours is not its fault
        verdict, error = Verdict.UNVERIFIED, f"{trial.label}: {type(bug).__name__}: {bug}"
        tools.events.error("verify.bug", error=error, exc_info=bug)
    if trial.differences and verdict is Verdict.GOOD:
        verdict = Verdict.BAD
        error = f"{trial.label}: what was restored is not what was backed up"
    spec = trial.backup.spec
    return Verification(
        name=trial.backup.path.name,
        host=spec.host if spec else "",
        port=spec.port if spec else 0,
        dbname=spec.dbname if spec else "",
        verdict=verdict,
        level=tools.level,
        proven=manifest is not None,
        run_id=tools.run_id,
        started_at=started_at,
        seconds=round(time.monotonic() - trial.started, 3),
        load_seconds=round(trial.load_seconds, 3),
        bytes=trial.backup.bytes,
        # What did not load was not read to its end; the manifest says what it is.
        sha256=trial.sha256 or (manifest.file.sha256 if manifest else ""),
        server_version=trial.server_version,
        asyncbackup_version=__version__,
        tables=trial.tables,
        rows=trial.rows,
        indexes_checked=trial.indexes,
        differences=trial.differences[:_SHOWN],
        lacking=lacking,
        notes=tuple(trial.notes),
        error=error,
        hint=hint,
    )


def _manifest(backup: Backup) -> Manifest | None:
    """Return the whole manifest; a backup that is known to be wrong needs no trial."""
    if backup.problem:
        raise DamagedError(f"{backup.path}: {backup.problem}", hint="see asyncbackup check")
    return inventory.read_manifest(backup.path) if backup.manifest else None


@contextlib.asynccontextmanager
async def _opened(backup: Backup, tools: Tools) -> AsyncIterator[FileIO]:
    try:
        source = await in_thread(tools.executor, open_backup, backup.path)
    except FileNotFoundError as error:
        raise AsyncbackupError(
            f"{backup.path}: it is gone, pruned perhaps", hint="verify again: there is a newer one"
        ) from error
    except OSError as error:
        raise DamagedError(f"{backup.path}: it cannot be read: {error.strerror}") from error
    with source:
        yield source


async def _try(trial: Trial, tools: Tools, source: FileIO, manifest: Manifest | None) -> None:
    known: Unpacked | None = None
    if manifest is None:
        trial.stage = "reading"
        known = await in_thread(tools.executor, unpack, source, Progress())
        _accept(trial, None, known)
        if not known.scan.restricted:
            trial.notes.append("the dump has no \\restrict line: psql ran it unrestricted")
    major = _major(manifest, source)
    trial.stage = "waiting for the server"
    server = await tools.server(major)
    trial.server_version = str(server.cluster.version)
    if server.cluster.version.major != major:
        trial.notes.append(f"a dump of PostgreSQL {major}, verified on {server.cluster.version}")
    if trial.backup.spec and trial.backup.spec.is_globals:
        await _globals(trial, tools, server, source, manifest)
        return
    needs = scratch.needs(manifest, known)
    await scratch.prepare(server, needs, trial.label)
    async with scratch.database(server, needs.properties, trial.label) as dbname:
        oid = await scratch.oid_of(server, dbname)
        sql_bytes = manifest.sql_bytes if manifest else known.scan.bytes if known else 0
        async with _limits(trial, tools, server, oid, sql_bytes):
            await _load_and_compare(trial, tools, server, dbname, source, manifest)


async def _load_and_compare(
    trial: Trial,
    tools: Tools,
    server: scratch.Scratch,
    dbname: str,
    source: FileIO,
    manifest: Manifest | None,
) -> None:
    trial.stage = "restoring"
    loaded = await load(
        server.psql,
        server.door(dbname),
        source,
        subject=trial.label,
        one_transaction=manifest is not None and one_transaction(manifest, server.lock_slots),
        progress=trial.progress,
        executor=tools.executor,
        accept=lambda unpacked: _accept(trial, manifest, unpacked),
    )
    trial.load_seconds = loaded.seconds
    trial.stage = "comparing"
    expected = readback.of_manifest(manifest) if manifest else readback.of_dump(loaded.unpacked)

    async def again(tables: frozenset[multiset.Table]) -> Mapping[multiset.Table, multiset.Multiset]:
        return await in_thread(tools.executor, multiset.rows_of, source, tables)

    compared = await readback.compare(
        lambda: server.connect(dbname), expected, tools.level, jobs=_JOBS, again=again
    )
    trial.differences, trial.tables, trial.rows = compared.differences, compared.tables, compared.rows
    if manifest is None:
        await _like_of_old(trial, tools, server, dbname)
    if tools.level is Level.CONTENT and not trial.differences:
        trial.stage = "checking indexes"
        async with server.connect(dbname) as connected:
            found = await indexes.check(connected)
        if found is None:
            trial.notes.append("indexes were not checked: the server has no amcheck")
        else:
            trial.indexes, trial.differences = found


async def _globals(
    trial: Trial, tools: Tools, server: scratch.Scratch, source: FileIO, manifest: Manifest | None
) -> None:
    """Load roles and tablespaces into a server of their own: nothing else may have made them before."""
    trial.stage = "restoring"
    started = time.monotonic()
    statements = globals_of.Statements(trial.label)
    unpacked = await in_thread(tools.executor, unpack, source, trial.progress, tap=statements)
    _accept(trial, manifest, unpacked)
    trial.differences = await globals_of.load(server, statements.found, unpacked.scan, trial.label)
    trial.load_seconds = time.monotonic() - started


def _accept(trial: Trial, manifest: Manifest | None, unpacked: Unpacked) -> None:
    """Raise DamagedError unless what was read is what was written."""
    trial.sha256 = unpacked.sha256
    if problems := judge(unpacked, manifest):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DamagedError(f"{trial.backup.path}: {problems[0]}{more}", hint="see asyncbackup check")


def _major(manifest: Manifest | None, source: FileIO) -> int:
    """Return the major version that the dump was made from; 0 where nobody knows."""
    if manifest is not None:
        return manifest.loads_into
    head: list[bytes] = []

    def take(piece: bytes) -> None:
        head.append(piece)
        raise EOFError

    with contextlib.suppress(EOFError):
        unpack(source, Progress(), sink=take)
    match = _FROM.search(head[0]) if head else None
    return int(match[1]) if match else 0


async def _like_of_old(trial: Trial, tools: Tools, server: scratch.Scratch, dbname: str) -> None:
    """Demand at least one table, as the bash tool's verification did: there is nothing else to go by."""
    async with server.connect(dbname) as connected:
        tables = await connected.fetchval(
            "SELECT count(*) FROM information_schema.tables"
            " WHERE table_schema = $1 AND table_type = 'BASE TABLE'",
            tools.table_schema,
        )
    if not tables:
        missing = Difference(kind="table", name=f"{tools.table_schema}.*", expected="a table", found="none")
        trial.differences = (*trial.differences, missing)
    trial.notes.append("there is no manifest: that it loads is all that is known")


@contextlib.asynccontextmanager
async def _limits(
    trial: Trial, tools: Tools, server: scratch.Scratch, oid: int, sql_bytes: int
) -> AsyncIterator[None]:
    """End the block when it takes longer, or its database grows larger, than a dump of that size should.

    The limits act from outside, since every dump begins by lifting the server's own.
    """
    seconds = tools.timeout or _BASE_SECONDS + sql_bytes / _BYTES_PER_SECOND
    most = _BASE_BYTES + tools.size_factor * sql_bytes
    grown = 0

    async def watch(limit: asyncio.Timeout) -> None:
        nonlocal grown
        while grown <= most:
            await asyncio.sleep(_LOOK)
            grown = await in_thread(tools.executor, server.cluster.usage_of, oid)
        limit.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(seconds) as limit:
            watcher = asyncio.create_task(watch(limit))
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError as error:
        if not limit.expired():
            raise
        if grown > most:
            raise LimitError(
                f"{trial.label}: its restore grew to {grown} bytes, and was ended",
                hint="raise VERIFY_SIZE_FACTOR, or find out what in the dump makes so much of it",
            ) from error
        raise LimitError(
            f"{trial.label}: its restore was ended after {seconds:.0f} s, while {trial.stage}",
            hint="raise VERIFY_TIMEOUT, or find out what in the dump runs for so long",
        ) from error
