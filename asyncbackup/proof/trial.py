"""One backup's test restore: what it needs → a fresh database → load → compare → a verdict.

The verdict is `bad` only for what is the backup's own fault. Whatever the verifying machine lacks, or
however it fails, the verdict is `unverified`: neither good nor bad.
"""

import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from io import FileIO

import asyncpg

from asyncbackup import __version__, multiset
from asyncbackup.errors import (
    AsyncbackupError,
    BusyError,
    ConnectError,
    DamagedError,
    KilledDumpError,
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
from asyncbackup.postgres.facts import TRANSACTION_TIMEOUT_SINCE
from asyncbackup.postgres.load import Loaded, load, one_transaction, restricts
from asyncbackup.proof import allowance, reading
from asyncbackup.proof.check import judge
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread
from asyncbackup.unpack import Unpacked, unpack

_HEAD = 4096  # bytes of a dump in which it says where it comes from
_FROM = re.compile(rb"^-- Dumped from database version (\d+)", re.MULTILINE)
_JOBS = 2  # connections that read one database back
_SHOWN = 100  # differences that are kept of one backup
_TOLD = 5  # of what is wrong with a file
_FAULTS = (DamagedError, LoadError, LimitError, ManifestError)
_OF_SERVER = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    UnicodeError,  # it repeats a name that is not valid anywhere
)
_ENDED = (
    KilledDumpError,
    BusyError,
    ConnectError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # its state machine met the end of the connection
    OSError,
)


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
    at_hand: Callable[[Backup], AbstractAsyncContextManager[None]]
    """Brings a backup's file here for the block, if it lies elsewhere."""


@dataclass(slots=True)
class Trial:
    """A trial under way, for whoever watches it."""

    backup: Backup
    stage: str = "waiting"
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)
    load_seconds: float = 0.0
    sha256: str = ""
    server: scratch.Scratch | None = None
    crashes: int = 0
    """How often the server had crashed when it began."""
    disturbed: bool = False
    """Whether what was found may be the doing of another dump on the same server."""
    tables: int = 0
    rows: int = 0
    indexes: int | None = None
    differences: tuple[Difference, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def server_version(self) -> str:
        """The version of the server that it was tried on."""
        return str(self.server.cluster.version) if self.server else ""

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
        async with tools.at_hand(trial.backup):
            manifest = await in_thread(tools.executor, reading.manifest_of, trial.backup)
            async with reading.opened(trial.backup, tools.executor) as source:
                await _try(trial, tools, source, manifest)
    except _FAULTS as fault:
        verdict, error, hint = Verdict.BAD, fault.message, fault.hint
        trial.disturbed = isinstance(fault, allowance.OvertimeError)
    except AsyncbackupError as trouble:
        verdict, error, hint = Verdict.UNVERIFIED, trouble.message, trouble.hint
        lacking = trouble.lacking if isinstance(trouble, LackingError) else ()
        trial.disturbed = isinstance(trouble, _ENDED)
    except _OF_SERVER as trouble:
        verdict = Verdict.UNVERIFIED
        error = f"{trial.label}: while {trial.stage}: {'; '.join(str(trouble).splitlines()) or repr(trouble)}"
        trial.disturbed = isinstance(trouble, _ENDED)
    except Exception as bug:  # noqa: BLE001 - one backup never stops another, and trouble of ours is not its fault
        verdict, error = Verdict.UNVERIFIED, f"{trial.label}: {type(bug).__name__}: {bug}"
        tools.events.error("verify.bug", error=error, exc_info=bug)
    if verdict is Verdict.UNVERIFIED and trial.server and (ended := trial.server.cluster.failure()):
        last = ended.message.splitlines()[-1]  # of its log
        said = ended.message.partition(": ")[0]
        error, hint, trial.disturbed = f"{error} ({said}: {last})", ended.hint, True
    if trial.differences and verdict is Verdict.GOOD:
        verdict = Verdict.BAD
        error = f"{trial.label}: what was restored is not what was backed up"
    if verdict is not Verdict.GOOD and trial.server:
        # What has crashed the server has ended sessions and emptied unlogged tables. And a dump runs as the
        # superuser: one that was on this server before could have done anything to it. Only what is not
        # installed, it cannot have taken away.
        now = await in_thread(tools.executor, trial.server.cluster.crashes)
        trial.disturbed = trial.disturbed or now > trial.crashes or not lacking
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


async def _try(trial: Trial, tools: Tools, source: FileIO, manifest: Manifest | None) -> None:
    known: Unpacked | None = None
    major = manifest.loads_into if manifest else 0
    if manifest is None:
        trial.stage = "reading"
        head = bytearray()
        known = await in_thread(
            tools.executor,
            unpack,
            source,
            Progress(),
            sink=lambda piece: head.extend(piece[: _HEAD - len(head)]),
        )
        _accept(trial, None, known)
        if match := _FROM.search(head):
            major = int(match[1])
    trial.stage = "waiting for the server"
    trial.server = server = await tools.server(major)
    trial.crashes = await in_thread(tools.executor, server.cluster.crashes)
    if server.cluster.version.major != major:
        trial.notes.append(f"a dump of PostgreSQL {major or '?'}, verified on {server.cluster.version}")
    if not restricts(server.cluster.version):
        trial.notes.append(f"psql {server.cluster.version} would have obeyed commands of its own in the dump")
    sql_bytes = manifest.sql_bytes if manifest else known.scan.bytes if known else 0
    if trial.backup.spec and trial.backup.spec.is_globals:
        before = await in_thread(tools.executor, server.cluster.usage)

        async def added() -> int:
            return await in_thread(tools.executor, server.cluster.usage) - before

        async with _limits(trial, tools, added, sql_bytes):
            await _globals(trial, tools, server, source, manifest)
        return
    async with scratch.database(server, scratch.needs(manifest, known), trial.label) as made:

        async def usage() -> int:
            pids = await made.pids()
            return await in_thread(tools.executor, made.usage, pids)

        async with _limits(trial, tools, usage, sql_bytes):
            await _load_and_compare(trial, tools, server, made.name, source, manifest)


def _limits(
    trial: Trial, tools: Tools, usage: Callable[[], Awaitable[int]], sql_bytes: int
) -> contextlib.AbstractAsyncContextManager[None]:
    return allowance.within(
        usage,
        subject=trial.label,
        stage=lambda: trial.stage,
        sql_bytes=sql_bytes,
        wanted=tools.timeout,
        size_factor=tools.size_factor,
    )


async def _load_and_compare(
    trial: Trial,
    tools: Tools,
    server: scratch.Scratch,
    dbname: str,
    source: FileIO,
    manifest: Manifest | None,
) -> None:
    trial.stage = "restoring"
    loaded = await _load(trial, tools, server, dbname, source, manifest)
    trial.load_seconds = loaded.seconds
    trial.stage = "comparing"
    expected = readback.of_manifest(manifest) if manifest else readback.of_dump(loaded.unpacked)

    async def again(tables: frozenset[multiset.Table]) -> Mapping[multiset.Table, multiset.Multiset]:
        return await in_thread(tools.executor, multiset.rows_of, source, tables)

    level = tools.level
    if manifest is None and level is Level.CONTENT:
        level = Level.ROWS  # how values read goes by the settings of whoever dumped them, which nobody knows
    compared = await readback.compare(
        lambda: server.connect(dbname), expected, level, jobs=_JOBS, again=again
    )
    trial.differences, trial.tables, trial.rows = compared.differences, compared.tables, compared.rows
    if manifest is None:
        await _like_of_old(trial, tools, server, dbname)
    if tools.level is Level.CONTENT and not trial.differences:
        trial.stage = "checking indexes"
        async with server.connect(dbname) as connected:
            found = await indexes.check(connected, expected.encoding)
        if found is None:
            trial.notes.append("indexes were not checked: the server has no amcheck")
        else:
            trial.indexes, trial.differences = found


async def _load(
    trial: Trial,
    tools: Tools,
    server: scratch.Scratch,
    dbname: str,
    source: FileIO,
    manifest: Manifest | None,
) -> Loaded:
    try:
        return await load(
            server.psql,
            server.door(dbname),
            source,
            subject=trial.label,
            one_transaction=manifest is not None and one_transaction(manifest, server.lock_slots),
            restrict=restricts(server.cluster.version),
            older_server=server.cluster.version.major < TRANSACTION_TIMEOUT_SINCE,
            progress=trial.progress,
            executor=tools.executor,
            accept=lambda unpacked: _accept(trial, manifest, unpacked),
        )
    except (LoadError, LackingError):
        # What does not load may not be what was written: then that is the reason, whatever psql says.
        if manifest is not None:
            trial.stage = "reading"
            _accept(trial, manifest, await in_thread(tools.executor, unpack, source, Progress()))
        raise


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
        more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        said = "; ".join(problems[:_TOLD])
        raise DamagedError(f"{trial.backup.path}: {said}{more}", hint="see asyncbackup check")


async def _like_of_old(trial: Trial, tools: Tools, server: scratch.Scratch, dbname: str) -> None:
    """Demand at least one table, as the bash tool's verification did: there is nothing else to go by."""
    async with server.connect(dbname) as connected:
        tables = await connected.fetchval(
            "SELECT count(*) FROM information_schema.tables"
            " WHERE table_schema = $1 AND table_type = 'BASE TABLE'",
            tools.table_schema,
        )
    if not tables:
        name = f"{tools.table_schema}.* (TABLE_SCHEMA)"
        missing = Difference(kind="table", name=name, expected="a table", found="none")
        trial.differences = (*trial.differences, missing)
    trial.notes.append("there is no manifest: that it loads is all that is known")
