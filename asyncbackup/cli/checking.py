"""Reading backups again: which ones, several at a time, and what is said of them."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncbackup import backup, dbspec, inventory, naming
from asyncbackup.cli import findings, logs, render
from asyncbackup.cli import session as session_of
from asyncbackup.cli.findings import Result
from asyncbackup.cli.session import Session
from asyncbackup.errors import Exit, ManifestError, NoBackupError
from asyncbackup.events import Event, Events
from asyncbackup.model import Backup, DatabaseSpec
from asyncbackup.proof import check
from asyncbackup.proof.check import Checked, State
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread


@dataclass(slots=True)
class Work:
    """What is to be read, and how far that is."""

    root: Path
    backups: list[Backup]
    orphans: set[Path]
    """Manifests without data."""
    specs: tuple[DatabaseSpec, ...]
    required: tuple[DatabaseSpec, ...]
    """Series that must have a backup."""
    pattern: str
    owners: naming.Owners
    progress: list[Progress] = field(default_factory=list)
    results: dict[Path, Result] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def wanted(self, path: Path, core: str, spec: DatabaseSpec | None) -> bool:
        """Whether a file is meant; one that may be of a series that is, counts."""
        if self.pattern not in str(path):
            return False
        return not self.specs or any(_may_be(one, core, spec) for one in self.specs)


def _may_be(series: DatabaseSpec, core: str, spec: DatabaseSpec | None) -> bool:
    return spec == series if spec else core in inventory.cores_of(series)


def run(session: Session, specs: tuple[DatabaseSpec, ...], *, pattern: str, as_json: bool) -> Exit:
    """Check the backups of these databases, or all, and print what was found."""
    root, clock = session.settings.backup_dir, time.monotonic()
    run_id = backup.new_run_id(datetime.now(UTC))
    found = inventory.scan(root)
    work = _choose(session, found, specs, pattern)
    with ExitStack() as stack:
        events = _events(session, work, stack).bind(run_id=run_id)
        for warning in session.conf.warnings:
            events.warning("configuration.warning", message=warning)
        for folder in found.unreadable:
            events.warning("folder.unreadable", path=str(folder), hint="what lies in it was not checked")
        results = session_of.run(
            check_all(work, events),
            lambda: _finish(events, list(work.results.values()), clock, "run.interrupted"),
        )
        if isinstance(results, Exit):
            return results
        _finish(events, results, clock, "run.finished")
        if not results:
            raise _nothing(work)
    if as_json:
        shown = render.as_json([findings.as_object(one) for one in results])
    else:
        shown = findings.report_text(results, root, time.monotonic() - clock)
    session_of.show(shown, patient=False)
    return findings.exit_code(results)


def _choose(
    session: Session, found: inventory.Inventory, specs: tuple[DatabaseSpec, ...], pattern: str
) -> Work:
    configured = session.conf
    required = specs or (() if pattern else session.required())
    work = Work(
        root=found.root,
        backups=[],
        orphans=set(found.orphans),
        specs=specs,
        required=required,
        pattern=pattern,
        owners=naming.Owners.build([*configured.databases, *specs], configured.patterns, dbspec.matches),
    )
    loaded = inventory.load_all(found, found.by_core, work.owners)
    work.backups = [one for one in loaded if work.wanted(one.path, one.core, one.spec)]
    work.backups.sort(key=lambda one: one.taken_at, reverse=True)
    return work


def _nothing(work: Work) -> NoBackupError:
    if work.pattern:
        return NoBackupError(
            f"nothing was checked: no backup's path holds {dbspec.shown(work.pattern)}",
            hint="`asyncbackup list` shows all there are",
        )
    where = work.root if work.root.exists() else f"{work.root}, which does not exist yet"
    return NoBackupError(
        f"nothing was checked: there are no backups in {where}",
        hint="make one: asyncbackup backup",
    )


def _events(session: Session, work: Work, stack: ExitStack) -> Events:
    if not session_of.wants_display(session):
        log = session.log()
        stack.callback(logs.close, log, sys.stderr)
        return Events(log)
    from asyncbackup.cli import display  # noqa: PLC0415 - costs memory that only terminals need

    mask = logs.masker(session.secrets())
    shown = stack.enter_context(
        display.meter(
            lambda: sum(one.bytes for one in work.backups),
            lambda: sum(one.file_bytes for one in work.progress),
            lambda: f"{len(work.results):,} of {len(work.backups):,} checked",
            display.check_line,
        )
    )

    def sink(event: Event) -> None:
        shown(logs.masked_event(event, mask))

    return Events(sink)


async def check_all(work: Work, events: Events) -> list[Result]:
    """Read everything, newest first; the results are sorted by database, newest first."""
    events.emit(
        "run.started", action="check", files=len(work.backups), bytes=sum(b.bytes for b in work.backups)
    )
    at_once = len(os.sched_getaffinity(0))
    slots = asyncio.Semaphore(at_once)
    with ThreadPoolExecutor(at_once, "check") as executor:

        async def one(found: Backup) -> None:
            async with slots:
                await _read(found, work, _of(events, found.path, found.spec), executor)

        async with asyncio.TaskGroup() as group:
            for found in work.backups:
                group.create_task(one(found))
        missing = await in_thread(executor, _missing, work)
    for absent in missing:
        _tell(_of(events, absent.path, absent.spec), absent, "no_backup")
    in_order = sorted(
        zip(work.backups, map(work.results.get, (b.path for b in work.backups)), strict=True),
        key=lambda pair: str(pair[0].spec) if pair[0].spec else pair[0].core,
    )
    return [*(result for _, result in in_order if result is not None), *missing]


async def _read(found: Backup, work: Work, events: Events, executor: ThreadPoolExecutor) -> None:
    events.emit("check.started", bytes=found.bytes)
    started, progress = time.monotonic(), Progress()
    work.progress.append(progress)
    reading = asyncio.ensure_future(in_thread(executor, check.inspect, found.path, progress, work.stop))
    try:
        checked = await asyncio.shield(reading)
    except asyncio.CancelledError:
        work.stop.set()
        await asyncio.wait([reading])
        reading.exception()  # it ended because it was told to
        _tell(events, Result(path=found.path, spec=found.spec, state=State.BAD), "interrupted")
        raise
    except FileNotFoundError:
        events.emit("check.vanished")
        work.orphans.add(found.path.with_name(found.path.name + naming.MANIFEST))
        return
    except Exception as error:  # noqa: BLE001 - one file never stops another
        told = f"{found.path}: it could not be checked, which is a defect: {type(error).__name__}: {error}"
        work.results[found.path] = Result(
            path=found.path, spec=found.spec, state=State.BAD, problems=(told,), taken_at=found.taken_at
        )
        _tell(events, work.results[found.path], "bug", exc_info=error)
        return
    result = _result(found, checked, round(time.monotonic() - started, 3))
    work.results[found.path] = result
    _tell(events, result, "damaged")


def _result(found: Backup, checked: Checked, seconds: float) -> Result:
    if (unpacked := checked.unpacked) is None:
        return Result(
            path=found.path,
            spec=found.spec,
            state=checked.state,
            problems=checked.problems,
            taken_at=found.taken_at,
            seconds=seconds,
        )
    return Result(
        path=found.path,
        spec=found.spec,
        state=checked.state,
        problems=checked.problems,
        taken_at=found.taken_at,
        bytes=unpacked.bytes,
        sql_bytes=unpacked.scan.bytes,
        rows=unpacked.scan.rows,
        tables=len({(block.schema, block.table) for block in unpacked.scan.blocks}),
        sha256=unpacked.sha256,
        seconds=seconds,
    )


def _missing(work: Work) -> list[Result]:
    """Return what should be there and is not: looked at last, for jobs go on writing and pruning."""
    missing = []
    now = inventory.scan(work.root)
    for path in sorted(work.orphans.intersection(now.orphans)):
        data = path.with_name(path.name.removesuffix(naming.MANIFEST))
        parsed = naming.parse_name(data.name)
        try:
            spec: DatabaseSpec | None = inventory.read_manifest(data, brief=True).spec
        except ManifestError:
            whose = work.owners.of(parsed.core, ours=True) if parsed else ()
            spec = whose[0] if len(whose) == 1 else None
        if parsed and work.wanted(data, parsed.core, spec) and (said := check.orphan(path, now.partials)):
            missing.append(Result(path=data, spec=spec, state=State.MISSING, problems=(said,)))
    for spec in work.required:
        if any(_may_be(spec, one.core, one.spec) for one in work.backups):
            continue
        said = f"{spec}: there is no backup of it in {work.root}"
        if work.pattern:
            said = f"{spec}: no path of its backups holds {dbspec.shown(work.pattern)}"
        missing.append(Result(path=None, spec=spec, state=State.MISSING, problems=(said,)))
    return missing


def _of(events: Events, path: Path | None, spec: DatabaseSpec | None) -> Events:
    return events.bind(path=str(path) if path else None, **findings.identity(spec))


def _tell(events: Events, result: Result, category: str, **fields: Any) -> None:  # noqa: ANN401
    numbers: dict[str, Any] = {
        "verdict": result.state.value,
        "bytes": result.bytes,
        "sql_bytes": result.sql_bytes,
        "rows": result.rows,
        "tables": result.tables,
        "problems": findings.first(result.problems),
        "seconds": result.seconds,
    }
    if result.good:
        events.emit("check.finished", **numbers)
    elif category == "interrupted":
        events.error("check.failed", category=category, problems=[])
    else:
        events.error("check.failed", category=category, **numbers, **fields)


def _finish(events: Events, results: Sequence[Result], clock: float, name: str) -> None:
    good = [one for one in results if one.good]
    events.emit(
        name,
        action="check",
        good=len(good),
        whole=sum(one.state is State.WHOLE for one in good),
        failed=[str(one.path or one.spec) for one in results if not one.good],
        bytes=sum(one.bytes or 0 for one in good),
        sql_bytes=sum(one.sql_bytes or 0 for one in good),
        rows=sum(one.rows or 0 for one in good),
        seconds=round(time.monotonic() - clock, 3),
    )
