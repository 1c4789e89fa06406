"""A run: every configured database, many at once; one that fails never stops another."""

import asyncio
import errno
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from asyncbackup import conf, dbspec, descriptors, inventory, journey, locks, naming, records, retention
from asyncbackup import outcomes as outcomes_of
from asyncbackup.configuration import credentials
from asyncbackup.errors import AsyncbackupError, ConnectError, Exit, LockedError
from asyncbackup.events import Events
from asyncbackup.model import GLOBALS, DatabaseSpec, Outcome, Report, Status
from asyncbackup.offsite import shipping as offsite
from asyncbackup.offsite.shipping import Offsite
from asyncbackup.postgres import client as clients_of
from asyncbackup.postgres import dump as dumps
from asyncbackup.settings import Settings
from asyncbackup.slots import Slots
from asyncbackup.stream import Progress, compressor, lacking
from asyncbackup.survey import Fleet, survey
from asyncbackup.targets.configured import warnings as insecure
from asyncbackup.threads import in_thread
from asyncbackup.tools import Journey, Tools

_PUBLISHING_AT_ONCE = 8
"""Backups that may be synced and published while the next ones are dumped: disks like company, and
open files stay few."""


_WARNINGS = 20
"""What is kept and logged of a database's warnings; all of them stand in its manifest."""

_OPEN_FILES = "raise the limit on open files (ulimit -n), or lower MAX_CONCURRENT_DUMPS"

_INTERRUPTED = {"error": "interrupted", "category": "interrupted", "warnings": []}


@dataclass(slots=True)
class Board:
    """What a run is doing right now, for a live display and for the summary of an interrupted one."""

    waiting: int = 0
    running: dict[DatabaseSpec, Journey] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


def new_run_id(now: datetime) -> str:
    """Return a run's name: sortable by time, unique among jobs that share a volume."""
    return f"{now.strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(4)}"


async def run(
    settings: Settings,
    configured: conf.Conf,
    environ: Mapping[str, str],
    events: Events,
    *,
    only: Sequence[DatabaseSpec] = (),
    board: Board | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Report:
    """Back up every configured database, or `only` these; the result is a value, not an exception.

    Raises StorageError when the backup directory cannot be read, before anything is touched.
    """
    board = board or Board()
    started, clock = now(), time.monotonic()
    run_id = new_run_id(started)
    events = events.bind(run_id=run_id)
    with (
        ThreadPoolExecutor(settings.max_concurrent_dumps, "pump") as pumps,
        ThreadPoolExecutor(_PUBLISHING_AT_ONCE, "file") as executor,
    ):
        if held := await in_thread(executor, _all_held, settings, configured, only):
            return _locked(held, run_id, started, events, board)
        clients = await clients_of.clients(
            clients_of.bindirs(settings.pg_bindirs, environ.get("PATH", os.defpath)),
            environ.get("LD_LIBRARY_PATH", ""),
        )
        apart = records.folder(settings.verify_dir)
        found = await in_thread(executor, inventory.scan, settings.backup_dir, apart)
        for folder in found.unreadable:
            events.warning("folder.unreadable", path=str(folder), hint="another user's job has made it")
        fleet = await survey(settings, configured, environ, events, only)
        servers = tuple(dict.fromkeys(spec.server for spec in fleet.databases))
        globals_ = [DatabaseSpec(s.host, s.port, GLOBALS) for s in servers] if settings.dump_globals else []
        known = frozenset({*configured.databases, *fleet.databases, *globals_})
        owners = naming.Owners.build(known, configured.patterns, dbspec.matches)
        policy = retention.policy(
            settings.backup_strategy,
            settings.num_backups,
            settings.daily_backups,
            settings.weekly_backups,
            settings.monthly_backups,
        )
        tools = Tools(
            root=settings.backup_dir,
            file_mode=settings.backup_file_mode,
            lock_folder=locks.folder(settings.backup_dir, settings.lock_dir),
            policy=policy,
            offsite=offsite.of_settings(settings, policy, executor, now),
            owners=owners,
            cores=naming.cores(known),
            credentials=lambda spec: credentials(settings, spec),
            environ=environ,
            connect_timeout=settings.connect_timeout,
            limits=dumps.Limits(
                lock_wait=settings.lock_wait_timeout,
                stall=settings.dump_stall_timeout,
            ),
            deadline=settings.backup_deadline or None,
            compressor=compressor(settings.compression_level),
            clients=clients,
            doors=fleet.doors,
            retries=settings.dump_retries,
            retry_delay=settings.retry_delay,
            globals_passwords=settings.globals_passwords,
            pumps=pumps,
            executor=executor,
            run_id=run_id,
            events=events,
            run_events=events,
            now=now,
        )
        slower = (*insecure(settings), *_slower(tools, events))
        for warning in insecure(settings):
            events.warning("remote.insecure", message=warning)
        events.emit(
            "run.started",
            databases=len(fleet.databases),
            servers=len(servers),
            compressor=f"{tools.compressor.name} {tools.compressor.level}",
            clients=[str(client.version) for client in clients],
        )
        board.outcomes.extend(fleet.failed)
        outcomes, of_globals = await _all(settings, tools, found, fleet, globals_, board)
    report = Report(
        run_id=run_id,
        started_at=started,
        seconds=round(time.monotonic() - clock, 3),
        outcomes=(*fleet.failed, *outcomes),
        globals=of_globals,
        warnings=(*slower, *tools.warned.values()),
    )
    finish(events, report)
    return report


def _slower(tools: Tools, events: Events) -> tuple[str, ...]:
    """Warn where the fastest compressor is not installed."""
    better = lacking(tools.compressor)
    if not better:
        return ()
    said = f"{better} is not installed here; {tools.compressor.name} compresses instead, and is slower"
    hint = f"pip install {better}"
    events.warning("compressor.fallback", message=said, hint=hint, compressor=tools.compressor.name)
    return (f"{said}: {hint}",)


def finish(events: Events, report: Report, name: str = "run.finished") -> None:
    """Tell the run's summary."""
    outcomes = report.outcomes
    made = [outcome for outcome in outcomes if outcome.backup]
    events.bind(run_id=report.run_id).emit(
        name,
        good=sum(o.status is Status.GOOD for o in outcomes),
        local_only=[str(o.spec) for o in outcomes if o.status is Status.LOCAL_ONLY],
        failed=[str(o.spec) for o in outcomes if o.status is Status.FAILED],
        locked=[str(o.spec) for o in outcomes if o.status is Status.LOCKED],
        bytes=sum(o.backup.bytes for o in made if o.backup),
        sql_bytes=sum(o.backup.manifest.sql_bytes for o in made if o.backup and o.backup.manifest),
        rows=sum(o.backup.manifest.rows for o in made if o.backup and o.backup.manifest),
        seconds=report.seconds,
    )


def exit_code(report: Report) -> Exit:
    """Return what the run comes to; globals that could not be had do not count."""
    statuses = {outcome.status for outcome in report.outcomes}
    if statuses <= {Status.GOOD}:
        return Exit.OK if statuses else Exit.FAILED
    if statuses & {Status.GOOD, Status.LOCAL_ONLY}:
        return Exit.PARTIAL
    return Exit.LOCKED if statuses == {Status.LOCKED} else Exit.FAILED


async def _all(
    settings: Settings,
    tools: Tools,
    found: inventory.Inventory,
    fleet: Fleet,
    of_globals: Sequence[DatabaseSpec],
    board: Board,
) -> tuple[tuple[Outcome, ...], tuple[Outcome, ...]]:
    dumps_at_once = descriptors.affordable(settings.max_concurrent_dumps)
    if dumps_at_once < settings.max_concurrent_dumps:
        tools.run_events.warning("run.limited", dumps=dumps_at_once, hint=_OPEN_FILES)
    slots = Slots(dumps_at_once, settings.max_concurrent_dumps_per_server, _PUBLISHING_AT_ONCE)
    order = list(fleet.databases)
    if settings.backup_order == "largest":
        order.sort(key=lambda spec: -fleet.sizes.get(spec, 0))
    # A server that does not answer must not keep the others waiting.
    order.sort(key=lambda spec: spec.server in fleet.silent)
    board.waiting = len(order) + len(of_globals)

    async def attempt(spec: DatabaseSpec) -> Outcome:
        try:
            async with slots.place(spec.server) as place:
                board.waiting -= 1
                clock = asyncio.timeout(tools.deadline)
                size = fleet.sizes.get(spec, 0)
                board.running[spec] = Journey(spec=spec, size=size, place=place, clock=clock)
                outcome = await _attempt(board.running[spec], tools, found)
            if tools.offsite is not None and outcome.backup is not None:
                outcome = await _ship(board, board.running[spec], outcome, tools.offsite, tools.events)
        finally:
            board.running.pop(spec, None)
        if not spec.is_globals:
            board.outcomes.append(outcome)
        return outcome

    async with asyncio.TaskGroup() as group:
        # Globals are small and come first: without its roles, a database is not whole.
        globals_tasks = [group.create_task(attempt(spec)) for spec in of_globals]
        tasks = [group.create_task(attempt(spec)) for spec in order]
    return tuple(task.result() for task in tasks), tuple(task.result() for task in globals_tasks)


async def _attempt(under_way: Journey, tools: Tools, found: inventory.Inventory) -> Outcome:
    """Turn whatever stops one database into its outcome: the only blanket `except` there is."""
    spec = under_way.spec
    events = outcomes_of.bound(tools.events, spec)
    events.emit("backup.started")
    try:
        async with under_way.clock:
            outcome = await journey.back_up(under_way, replace(tools, events=events), found)
    except asyncio.CancelledError:
        hint = "nothing was published of it; the next run makes a new one"
        if under_way.stage in {"publishing", "pruning"}:
            hint = "it may be there all the same: asyncbackup list tells"
        events.error(
            "backup.failed",
            **_INTERRUPTED,
            hint=hint,
            stage=under_way.stage,
            seconds=outcomes_of.since(under_way),
        )
        raise
    except Exception as error:  # noqa: BLE001 - one database never stops another
        if isinstance(error, ConnectError):
            tools.unreachable.add(spec.server)
        if under_way.clock.expired():
            error = outcomes_of.late(spec, tools, error)
        elif isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            error = AsyncbackupError(f"{spec}: too many open files", hint=_OPEN_FILES)
        outcome = outcomes_of.failed(
            spec, error, tuple(under_way.warnings[:_WARNINGS]), outcomes_of.since(under_way)
        )
        outcomes_of.tell_failure(outcome, error, under_way.stage, events)
        return outcome
    backup = outcome.backup
    if backup is not None and backup.manifest is not None:
        manifest = backup.manifest
        events.emit(
            "backup.finished",
            path=str(backup.path),
            bytes=backup.bytes,
            sql_bytes=manifest.sql_bytes,
            rows=manifest.rows,
            tables=manifest.table_count,
            server_version=manifest.server_version,
            pruned=len(outcome.removed),
            warnings=list(outcome.warnings[:_WARNINGS]),
            seconds=outcome.seconds,
        )
    return replace(outcome, warnings=outcome.warnings[:_WARNINGS])


async def _ship(
    board: Board, under_way: Journey, outcome: Outcome, elsewhere: Offsite, events: Events
) -> Outcome:
    """Store the backup elsewhere, too; meanwhile others are dumped, and nobody is locked out."""
    spec = outcome.spec
    under_way.stage, under_way.progress = "uploading", Progress()
    under_way.size = outcome.backup.bytes if outcome.backup else 0
    try:
        events = outcomes_of.bound(events, spec)
        copies = await elsewhere.ship(spec, outcome.backup, under_way.older, events, under_way.progress)
    except asyncio.CancelledError:
        if not spec.is_globals:
            board.outcomes.append(replace(outcome, status=Status.LOCAL_ONLY, error="interrupted"))
        raise
    failed = [copied for copied in copies if copied.error]
    if not failed:
        return replace(outcome, copies=copies)
    return replace(
        outcome,
        status=Status.LOCAL_ONLY,
        copies=copies,
        error="; ".join(copied.error for copied in failed),
        category=failed[0].category,
        hint=failed[0].hint,
    )


def _all_held(
    settings: Settings, configured: conf.Conf, only: Sequence[DatabaseSpec]
) -> dict[DatabaseSpec, LockedError]:
    """Return who holds each series that is asked for; none when one is free, or only servers know them all.

    A second run is told at once, whatever the servers do. The lock that a journey takes stays the truth.
    """
    if not only and conf.wanted_servers(configured.patterns):
        return {}
    specs = only or conf.resolve(configured.databases, configured.patterns, {}, lines=configured.lines)
    lock_folder = locks.folder(settings.backup_dir, settings.lock_dir)
    found = {}
    for spec in specs:
        error = locks.held(lock_folder, naming.long_core(spec), str(spec))
        if error is None:
            return {}
        found[spec] = error
    return found


def _locked(
    held: Mapping[DatabaseSpec, LockedError], run_id: str, started: datetime, events: Events, board: Board
) -> Report:
    """Tell a run that has nothing to do."""
    events.emit("run.started", databases=len(held), servers=len({spec.server for spec in held}))
    for spec, error in held.items():
        outcome = outcomes_of.failed(spec, error, (), 0.0)
        bound = outcomes_of.bound(events, spec)
        bound.emit("backup.started")
        outcomes_of.tell_failure(outcome, error, "waiting", bound)
        board.outcomes.append(outcome)
    report = Report(run_id=run_id, started_at=started, seconds=0.0, outcomes=tuple(board.outcomes))
    finish(events, report)
    return report
