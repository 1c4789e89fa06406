"""Test restores: run them, and say what they came to."""

import sys
from collections import deque
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncbackup import dbspec
from asyncbackup.cli import bringing, findings, logs, render, text
from asyncbackup.cli import session as session_of
from asyncbackup.cli.session import Session
from asyncbackup.errors import Exit, NoBackupError
from asyncbackup.events import Event, Events
from asyncbackup.model import DatabaseSpec, Level
from asyncbackup.proof import verify
from asyncbackup.proof.verify import Board, Result, State, VerifyReport

_SHOWN = 20  # differences of one backup that are shown; the JSON result has them all
_SHOUTED = {State.BAD: "BAD", State.MISSING: "MISSING", State.UNVERIFIED: "not verified"}
_MEANING = {
    Level.TABLES: "every table is there",
    Level.ROWS: "every row is there",
    Level.CONTENT: "every row came back as it was dumped",
}


def run(
    session: Session, specs: tuple[DatabaseSpec, ...], *, pattern: str, as_json: bool, remote: bool = False
) -> Exit:
    """Verify the newest backups of these databases, or of all, and print what was found."""
    report = verified(session, specs, pattern=pattern, remote=remote)
    if isinstance(report, Exit):
        return report
    if not report.results and not report.unreadable:
        raise _nothing(session.settings.backup_dir, pattern)
    shown = render.as_json(as_object(report)) if as_json else report_text(report, session.settings.backup_dir)
    session_of.show(shown, patient=False)
    return verify.exit_code(report)


def _nothing(root: Path, pattern: str) -> NoBackupError:
    if pattern:
        return NoBackupError(
            f"nothing was verified: no backup's path holds {dbspec.shown(pattern)}",
            hint="`asyncbackup list` shows all there are",
        )
    where = root if root.exists() else f"{root}, which does not exist yet"
    return NoBackupError(
        f"nothing was verified: there are no backups in {where}", hint="make one: asyncbackup backup"
    )


def verified(
    session: Session, specs: tuple[DatabaseSpec, ...], *, pattern: str, remote: bool = False
) -> VerifyReport | Exit:
    """Run the verifications with the live display or with logs."""
    board = Board()
    run_ids: deque[str] = deque(maxlen=1)
    started = datetime.now(UTC)
    with ExitStack() as stack:
        told = _events(session, board, stack)

        def listen(event: Event) -> None:
            if "run_id" in event.fields:
                run_ids.append(event.fields["run_id"])

        events = Events(listen, told)
        for warning in session.conf.warnings:
            events.warning("configuration.warning", message=warning)

        def interrupted() -> None:
            report = VerifyReport(
                run_id=run_ids[0] if run_ids else "",
                started_at=started,
                seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
                level=Level(session.settings.verify_level),
                results=tuple(board.results),
            )
            verify.finish(events.bind(run_id=report.run_id), report, "run.interrupted")

        async def work() -> VerifyReport:
            async with bringing.copies_at_hand(session, specs, pattern, events, fresh=remote) as copies:
                return await verify.run(
                    session.settings,
                    session.conf,
                    session.environ,
                    events,
                    only=specs,
                    required=() if pattern else session.required(),
                    pattern=pattern,
                    board=board,
                    elsewhere=copies,
                )

        return session_of.run(work(), interrupted)


def _events(session: Session, board: Board, stack: ExitStack) -> Any:  # noqa: ANN401 - a sink
    if not session_of.wants_display(session):
        log = session.log()
        stack.callback(logs.close, log, sys.stderr)
        return log
    from asyncbackup.cli import display  # noqa: PLC0415 - costs memory that only terminals need

    mask = logs.masker(session.secrets())
    shown = stack.enter_context(display.trials(board))
    return lambda event: shown(logs.masked_event(event, mask))


def as_object(report: VerifyReport) -> dict[str, Any]:
    """Return a run's result as a JSON object."""
    return {
        "run_id": report.run_id,
        "started_at": report.started_at.isoformat(),
        "seconds": report.seconds,
        "level": report.level.value,
        "exit_code": int(verify.exit_code(report)),
        "backups": [_object(one) for one in report.results],
        "unreadable": [str(path) for path in report.unreadable],
    }


def _object(result: Result) -> dict[str, Any]:
    of = result.verification
    return {
        "path": str(result.backup.path) if result.backup else None,
        **findings.identity(result.spec),
        "verdict": result.state.value,
        "could_not_verify": result.state is State.UNVERIFIED,
        "proven": of.proven if of else False,
        "rows": of.rows if of else None,
        "tables": of.tables if of else None,
        "indexes_checked": of.indexes_checked if of else None,
        "server_version": of.server_version if of else None,
        "seconds": of.seconds if of else None,
        "load_seconds": of.load_seconds if of else None,
        "differences": [
            {"kind": one.kind, "name": one.name, "expected": one.expected, "found": one.found}
            for one in (of.differences if of else ())
        ],
        "lacking": list(of.lacking) if of else [],
        "notes": list(of.notes) if of else [],
        "record": str(result.record) if result.record else None,
        "error": result.error,
        "hint": result.hint,
    }


def report_text(report: VerifyReport, root: Path) -> str:
    """Return what was found for people: a line for each backup, and below what is wrong."""
    rows = []
    for one in report.results:
        of = one.verification
        rows.append(
            (
                text.database(one.spec) if one.spec else one.label,
                _SHOUTED.get(one.state, one.state.value)
                if not (of and of.good and not of.proven)
                else "loads",
                f"{of.rows:,}" if of and of.tables else "",
                f"{of.tables:,}" if of and of.tables else "",
                text.seconds(of.load_seconds) if of and of.load_seconds else "",
                text.seconds(of.seconds) if of else "",
                _file(one, root),
            )
        )
    head = ("DATABASE", "VERDICT", "ROWS", "TABLES", "RESTORE", "IN ALL", "BACKUP")
    blocks = [text.table(head, rows, right=frozenset({2, 3, 4, 5})), _summary(report)]
    closed = [str(path) for path in report.unreadable]
    blocks.append(text.lines("Could not be looked into; there may be newer backups:", closed))
    blocks += [text.lines(one.error, _details(one)) for one in report.results if one.state in _SHOUTED]
    return "\n\n".join(block for block in blocks if block)


def _file(result: Result, root: Path) -> str:
    if result.backup is None:
        return ""
    path = result.backup.path
    if result.backup.note:  # of a copy, which is not here any more
        return f"{path.name} ({result.backup.note})"
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _details(result: Result) -> list[str]:
    of = result.verification
    found = [str(one) for one in of.differences] if of else []
    more = len(found) - _SHOWN
    found = [*found[:_SHOWN], *([f"and {more:,} more; --json has them all"] if more > 0 else [])]
    return [*found, *([f"Try: {result.hint}"] if result.hint else [])] or [""]


def _summary(report: VerifyReport) -> str:
    proven = [one for one in report.results if one.state is State.GOOD and one.verification]
    rows = sum(one.verification.rows for one in proven if one.verification and one.verification.proven)
    loads = sum(1 for one in proven if one.verification and not one.verification.proven)
    share = f"{len(proven)} of {len(report.results)} backups restore"
    took = text.seconds(report.seconds)
    meaning = f"{share}: {_MEANING[report.level]}, {rows:,} rows in {took}"
    said = [meaning if len(proven) > loads else f"{share}; {took}"]
    if loads:
        said.append(f"{loads:,} without a manifest: that they load is all that is known.")
    if postponed := sum(one.state is State.POSTPONED for one in report.results):
        said.append(f"{postponed:,} postponed by VERIFY_BUDGET; they come first the next time.")
    if any(one.state is State.UNVERIFIED for one in report.results):
        said.append("Of what was not verified, nothing is known: it may be good.")
    return "\n".join(said)
