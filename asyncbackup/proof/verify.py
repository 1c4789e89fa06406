"""A verification run: the newest backup of each series, restored into throw-away servers, several at once.

No credentials of any database are needed, and nothing is written beside the records.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from asyncbackup import conf, records
from asyncbackup.errors import Exit, StorageError
from asyncbackup.events import Events
from asyncbackup.model import Backup, DatabaseSpec, Level, Verdict, Verification
from asyncbackup.proof import trial
from asyncbackup.proof.candidates import choose
from asyncbackup.proof.servers import Servers
from asyncbackup.settings import Settings
from asyncbackup.threads import in_thread

_CLOSED = "let the user that verifies look into it (BACKUP_FILE_MODE=0640): there may be newer backups"
_THREADS = 4  # for each trial: one feeds psql, one may read the file again, one looks at sizes


class State(StrEnum):
    """What became of one series in a run."""

    GOOD = "good"
    BAD = "bad"
    UNVERIFIED = "unverified"
    MISSING = "missing"
    """There is no backup of it."""
    POSTPONED = "postponed"
    """VERIFY_BUDGET was used up before its turn; it comes first the next time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One series in a run."""

    label: str
    state: State
    spec: DatabaseSpec | None = None
    backup: Backup | None = None
    verification: Verification | None = None
    record: Path | None = None
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """A whole run's result."""

    run_id: str
    started_at: datetime
    seconds: float
    level: Level
    results: tuple[Result, ...]
    unreadable: tuple[Path, ...] = ()
    """Folders that could not be looked into: there may be newer backups in them."""


@dataclass(slots=True)
class Board:
    """What a run is doing right now, for a live display and for the summary of an interrupted one."""

    waiting: int = 0
    running: dict[Path, trial.Trial] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Copies that are verified without being kept here."""

    backups: tuple[Backup, ...]
    at_hand: Callable[[Backup], AbstractAsyncContextManager[None]]
    """Brings a copy to the path of its backup for the block, and does nothing for what is here."""
    only: bool
    """Whether nothing that lies here is verified."""


async def run(
    settings: Settings,
    configured: conf.Conf,
    environ: Mapping[str, str],
    events: Events,
    *,
    only: Sequence[DatabaseSpec] = (),
    required: Sequence[DatabaseSpec] = (),
    pattern: str = "",
    board: Board | None = None,
    elsewhere: Elsewhere | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> VerifyReport:
    """Verify the newest backup of every series, or of `only` these; the result is a value, no exception.

    A series of `only` or `required` without a backup is a failure. `pattern` is a text that a backup's
    path must hold. Raises StorageError when the backup directory cannot be read.
    """
    board = board or Board()
    started, clock = now(), time.monotonic()
    run_id = f"{started.strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(4)}"
    events = events.bind(run_id=run_id)
    at_once = settings.max_concurrent_verifications
    with ThreadPoolExecutor(at_once * _THREADS, "verify") as executor:
        closed: list[Path] = []
        chosen, missing = await in_thread(
            executor,
            choose,
            settings,
            configured,
            only=tuple(only),
            required=tuple(only or required),
            pattern=pattern,
            now=started,
            closed=closed,
        )
        for folder in closed:
            events.warning("folder.unreadable", path=str(folder), hint=_CLOSED)
        if elsewhere is not None:
            chosen = (*(() if elsewhere.only else chosen), *elsewhere.backups)
            wanted = tuple(only or required)
            missing = tuple(spec for spec in wanted if spec not in {one.spec for one in chosen})
        events.emit("run.started", action="verify", backups=len(chosen), compared=settings.verify_level)
        for spec in missing:
            board.results.append(_missing(spec, pattern))
            _tell(events, board.results[-1])
        async with AsyncExitStack() as stack:
            servers = Servers(settings, environ, events, stack)

            def fresh(of: AsyncExitStack) -> Servers:
                return Servers(settings, environ, events, of, quiet=True)

            tools = trial.Tools(
                level=Level(settings.verify_level),
                table_schema=settings.table_schema,
                timeout=settings.verify_timeout,
                size_factor=settings.verify_size_factor,
                server=servers.of,
                executor=executor,
                run_id=run_id,
                events=events,
                now=now,
                at_hand=elsewhere.at_hand if elsewhere is not None else lambda _: nullcontext(),
            )
            await _all(settings, tools, chosen, board, clock, fresh)
    order = {backup.path: number for number, backup in enumerate(chosen)}
    results = sorted(board.results, key=lambda one: order.get(one.backup.path, -1) if one.backup else -1)
    report = VerifyReport(
        run_id=run_id,
        started_at=started,
        seconds=round(time.monotonic() - clock, 3),
        level=tools.level,
        results=tuple(results),
        unreadable=tuple(closed),
    )
    finish(events, report)
    return report


def finish(events: Events, report: VerifyReport, name: str = "run.finished") -> None:
    """Tell the run's summary."""
    of = {state: [one.label for one in report.results if one.state is state] for state in State}
    events.emit(
        name,
        action="verify",
        good=len(of[State.GOOD]),
        bad=of[State.BAD],
        missing=of[State.MISSING],
        unverified=of[State.UNVERIFIED],
        postponed=of[State.POSTPONED],
        rows=sum(one.verification.rows for one in report.results if one.verification),
        compared=report.level.value,
        seconds=report.seconds,
    )


def exit_code(report: VerifyReport) -> Exit:
    """Return what the run comes to; to have had nothing to verify is a failure."""
    states = {one.state for one in report.results} - {State.POSTPONED}
    if states == {State.GOOD}:
        return Exit.PARTIAL if report.unreadable else Exit.OK
    # What could not be verified is no failure of a backup; beside one that is, it makes nothing better.
    return Exit.PARTIAL if State.GOOD in states or states == {State.UNVERIFIED} else Exit.FAILED


def _missing(spec: DatabaseSpec, pattern: str) -> Result:
    return Result(
        label=str(spec),
        state=State.MISSING,
        spec=spec,
        error=f"{spec}: there is no backup" + (f" whose path holds {pattern!r}" if pattern else ""),
        hint="asyncbackup list shows what there is; asyncbackup backup makes one",
    )


async def _all(
    settings: Settings,
    tools: trial.Tools,
    chosen: Sequence[Backup],
    board: Board,
    clock: float,
    fresh: Callable[[AsyncExitStack], Servers],
) -> None:
    board.waiting = len(chosen)
    own = records.folder(settings.verify_dir)
    disturbed: list[Backup] = []

    async def attempt(backup: Backup, tools: trial.Tools, *, alone: bool) -> None:
        board.waiting -= 1
        if settings.verify_budget and time.monotonic() - clock > settings.verify_budget:
            result = _result(State.POSTPONED, backup)
        else:
            under_way = trial.Trial(backup)
            events = tools.events.bind(**_where(backup.spec, backup))
            events.emit("verify.started", bytes=backup.bytes)
            board.running[backup.path] = under_way
            try:
                verification = await trial.verify(under_way, tools)
            finally:
                del board.running[backup.path]
            if under_way.disturbed and not alone:
                # Another dump may have ended, held up or changed the server that they shared.
                events.warning("verify.again", error=verification.error)
                board.waiting += 1
                disturbed.append(backup)
                return
            kept = await _keep(verification, backup, own, settings, tools)
            result = _result(State(verification.verdict.value), backup, verification, kept)
        board.results.append(result)
        _tell(tools.events, result)

    of_globals = [one for one in chosen if one.spec and one.spec.is_globals]
    others = [one for one in chosen if one not in of_globals]
    # Where time is short, they do not take the turn of what was verified longer ago.
    late = [one for one in of_globals if settings.verify_budget and others and not _due(one, others[0])]
    for backup in of_globals:
        if backup not in late:
            await attempt(backup, tools, alone=True)
    waiting = iter(others)  # shared: each worker takes the next one

    async def work() -> None:
        for backup in waiting:
            await attempt(backup, tools, alone=len(chosen) == 1)

    async with asyncio.TaskGroup() as group:
        for _ in range(settings.max_concurrent_verifications):
            group.create_task(work())
    for backup in (*late, *disturbed):
        async with AsyncExitStack() as stack:
            await attempt(backup, replace(tools, server=fresh(stack).of), alone=True)


def _due(backup: Backup, other: Backup) -> bool:
    """Whether it was verified no later than another; what never was, is due."""
    last, of_other = backup.verification, other.verification
    return last is None or (of_other is not None and last.started_at <= of_other.started_at)


def _result(
    state: State, backup: Backup, verification: Verification | None = None, record: Path | None = None
) -> Result:
    return Result(
        label=str(backup.spec) if backup.spec else backup.core,
        state=state,
        spec=backup.spec,
        backup=backup,
        verification=verification,
        record=record,
        error=verification.error if verification else "",
        hint=verification.hint if verification else "",
    )


async def _keep(
    verification: Verification, backup: Backup, own: Path | None, settings: Settings, tools: trial.Tools
) -> Path | None:
    """Write the record; that it cannot be kept does not change the verdict."""
    try:
        if not backup.path.is_relative_to(settings.backup_dir):  # its file was fetched, and is gone again
            if own is None:
                return None
            write = records.write_apart
            return await in_thread(tools.executor, write, verification, own, settings.backup_file_mode)
        return await in_thread(
            tools.executor,
            records.write,
            verification,
            backup.path,
            own,
            settings.backup_file_mode,
            root=settings.backup_dir,
        )
    except StorageError as error:
        tools.events.warning(
            "verify.record_lost", path=str(backup.path), error=error.message, hint=error.hint
        )
        return None


def _where(spec: DatabaseSpec | None, backup: Backup | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": str(backup.path)} if backup else {}
    return fields | (
        {"host": spec.host, "port": spec.port, "dbname": spec.dbname or "@globals"} if spec else {}
    )


def _tell(events: Events, result: Result) -> None:
    """Tell what came of one series: one event for each, whatever came of it."""
    of = result.verification
    told = events.bind(**_where(result.spec, result.backup))
    if of is None:
        if result.state is State.POSTPONED:
            told.emit("verify.postponed")
        else:
            told.error("verify.failed", error=result.error, hint=result.hint, category="no_backup")
        return
    fields: dict[str, Any] = {
        "compared": of.level.value,
        "proven": of.proven,
        "rows": of.rows,
        "tables": of.tables,
        "server_version": of.server_version,
        "load_seconds": of.load_seconds,
        "seconds": of.seconds,
        "notes": list(of.notes),
    }
    if of.verdict is Verdict.GOOD:
        told.emit("verify.finished", **fields)
        return
    fields |= {"error": of.error, "hint": of.hint, "lacking": list(of.lacking)}
    fields["differences"] = [str(difference) for difference in of.differences]
    bad = of.verdict is Verdict.BAD
    told.error(
        "verify.failed" if bad else "verify.impossible", **({"category": "refuted"} if bad else {}), **fields
    )
