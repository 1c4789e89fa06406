"""Results on stdout: as JSON, or as text that a person reads."""

import json
import shutil
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from asyncbackup.cli import text
from asyncbackup.model import (
    Backup,
    Copied,
    Decision,
    Outcome,
    Report,
    Status,
    Verdict,
    Verification,
)
from asyncbackup.naming import MANIFEST


def as_json(result: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a result as JSON; only ASCII, so that no name can command a terminal."""
    return json.dumps(result, default=str, indent=2)


def outcome(result: Outcome) -> dict[str, Any]:
    """Return one database's outcome as a JSON object."""
    manifest = result.backup.manifest if result.backup else None
    return {
        "host": result.spec.host,
        "port": result.spec.port,
        "dbname": result.spec.dbname or "@globals",
        "status": result.status.value,
        "seconds": result.seconds,
        "path": str(result.backup.path) if result.backup else None,
        "bytes": result.backup.bytes if result.backup else None,
        "sql_bytes": manifest.sql_bytes if manifest else None,
        "rows": manifest.rows if manifest else None,
        "tables": manifest.table_count if manifest else None,
        "sha256": manifest.file.sha256 if manifest else None,
        "pruned": [str(path) for path in result.removed],
        "copies": [copied(one) for one in result.copies],
        "warnings": list(result.warnings),
        "error": result.error or None,
        "category": result.category or None,
        "hint": result.hint or None,
    }


def copied(one: Copied) -> dict[str, Any]:
    """Return what came of a series at a secondary location as a JSON object."""
    return {
        "location": one.location,
        "stored": list(one.stored),
        "pruned": list(one.removed),
        "bytes": one.bytes,
        "seconds": one.seconds,
        "error": one.error or None,
        "category": one.category or None,
        "hint": one.hint or None,
    }


def report(result: Report) -> dict[str, Any]:
    """Return a run's report as a JSON object."""
    return {
        "run_id": result.run_id,
        "started_at": result.started_at.isoformat(),
        "seconds": result.seconds,
        "databases": [outcome(one) for one in result.outcomes],
        "globals": [outcome(one) for one in result.globals],
        "warnings": list(result.warnings),
    }


def report_text(result: Report, width: int | None = None) -> str:
    """Return a run's report for people: what was written, and below it what went wrong, in full.

    File names are left out where the table would be wider than `width` columns; `list` has them.
    """
    everything = (*result.outcomes, *result.globals)
    if not everything:
        return "No database was backed up: none that the servers have matches the configuration."
    rows = []
    for one in everything:
        manifest = one.backup.manifest if one.backup else None
        rows.append(
            (
                _database(one),
                one.status.value,
                f"{manifest.rows:,}" if manifest else "",
                text.size(manifest.sql_bytes) if manifest else "",
                text.size(one.backup.bytes) if one.backup else "",
                text.seconds(one.seconds),
                one.backup.path.name if one.backup else "",
            )
        )
    head = ("DATABASE", "RESULT", "ROWS", "SQL", "BACKUP", "TIME", "FILE")
    right = frozenset({2, 3, 4, 5})
    shown = text.table(head, rows, right=right)
    if width and max(map(text.width, shown.splitlines())) > width:
        shown = text.table(head[:-1], [row[:-1] for row in rows], right=right)
    blocks = [shown, _summary(result)]
    blocks += _errors([one for one in everything if one.error])
    warnings = [f"{_database(one)}: {said}" for one in everything for said in one.warnings]
    blocks.append(text.lines("Warnings:", (*result.warnings, *warnings)))
    return "\n\n".join(block for block in blocks if block)


def _database(one: Outcome) -> str:
    # A database may be named so, but then time has passed until its backup failed.
    unanswered = one.spec.dbname == "*" and one.status is Status.FAILED and not one.seconds
    return f"{one.spec.server}/*" if unanswered else text.database(one.spec)


def _summary(result: Report) -> str:
    good = [one for one in result.outcomes if one.backup]
    backups = [one.backup for one in good if one.backup]
    manifests = [found.manifest for found in backups if found.manifest]
    of = text.counted(len(result.outcomes), "database")
    line = f"{len(good)} of {of} backed up in {text.seconds(result.seconds)}"
    if manifests:
        line += (
            f": {sum(m.rows for m in manifests):,} rows, {text.size(sum(m.sql_bytes for m in manifests))}"
            f" of SQL in {text.size(sum(b.bytes for b in backups))}"
        )
    pruned = sum(len(one.removed) for one in (*result.outcomes, *result.globals))
    if pruned:
        line += f"; {text.counted(pruned, 'old one')} pruned"
    stored: dict[str, int] = {}
    for one in (*result.outcomes, *result.globals):
        for copies in one.copies:
            stored[copies.location] = stored.get(copies.location, 0) + len(copies.stored)
    return "\n".join([line, *(f"{count:,} stored at {where}" for where, count in stored.items())])


def _errors(failed: Sequence[Outcome]) -> list[str]:
    """Return each error in full; a hint that several in a row share is given once."""
    lines: list[str] = []
    for hint, outcomes in groupby(failed, key=lambda one: one.hint):
        # Its databases often fail for the reason that a server's globals do.
        lines += dict.fromkeys(f"Error: {line}" for one in outcomes for line in one.error.splitlines())
        lines += [f"Try: {hint}"] if hint else []
    return ["\n".join(map(text.plain, lines))] if lines else []


def backup(found: Backup, now: datetime) -> dict[str, Any]:
    """Return a backup as a JSON object."""
    manifest = found.manifest
    return {
        "path": str(found.path),
        "host": found.spec.host if found.spec else None,
        "port": found.spec.port if found.spec else None,
        "dbname": (found.spec.dbname or "@globals") if found.spec else None,
        "tier": found.tier.value,
        "taken_at": found.taken_at.isoformat(),
        "age_seconds": round((now - found.taken_at).total_seconds()),
        "bytes": found.bytes,
        "good": found.good,
        "problem": found.problem or None,
        "kind": _kind(found),
        "rows": manifest.rows if manifest else None,
        "tables": manifest.table_count if manifest else None,
        "sql_bytes": manifest.sql_bytes if manifest else None,
        "server_version": manifest.server_version if manifest else None,
        "sha256": manifest.file.sha256 if manifest else None,
        "run_id": manifest.run_id if manifest else None,
        "verified": found.verified,
        "verification": to_jsonable_python(found.verification),
        "note": found.note or None,
    }


def tested(of: Verification | None, now: datetime) -> str:
    """Return what is known of a backup's test restore: that it was verified, and when; else why not."""
    if of is None:
        return ""
    age = text.age(of.started_at, now)
    when = age if age == "in the future" else f"{age} ago"
    if of.verdict is Verdict.BAD:
        return f"BAD as of {when}"
    if of.verdict is Verdict.UNVERIFIED:
        return f"could not be verified {when}"
    return f"verified {when} ({of.level})" if of.proven else f"loaded {when}"


def _kind(found: Backup) -> str:
    if found.manifest:
        return found.manifest.kind
    return "damaged" if not found.good else "without manifest"


def listing(backups: Sequence[Backup], root: Path, now: datetime, nothing: str) -> str:
    """Return the listing for people: newest first within each database, and the disk's use."""
    rows = [
        (
            text.database(b.spec) if b.spec else f"{b.core} (?)",
            text.age(b.taken_at, now),
            text.size(b.bytes),
            f"{b.manifest.rows:,}" if b.manifest else "?",
            b.tier.value,
            _kind(b) if b.good else "DAMAGED",
            tested(b.verification, now),
            text.seconds(b.verification.load_seconds) if b.verification and b.verification.good else "",
            _below(b.path, root),
        )
        for b in backups
    ]
    head = ("DATABASE", "AGE", "SIZE", "ROWS", "TIER", "KIND", "TEST RESTORE", "TOOK", "FILE")
    body = text.table(head, rows, right=frozenset({1, 2, 3, 7})) if rows else text.plain(nothing)
    damaged = [f"{_below(b.path, root)}: {problem(b, b.problem)}" for b in backups if not b.good]
    bad = [f"{_below(b.path, root)}: {_why_bad(b.verification)}" for b in backups if b.verification and b.bad]
    notes = [f"{_below(b.path, root)}: {b.note}" for b in backups if b.note]
    blocks = [
        body,
        text.lines("Damaged, and never counted as a backup:", damaged),
        text.lines("Found bad by a test restore, and not counted as a good backup:", bad),
        text.lines("Notes:", notes),
        disk_use(backups, root),
    ]
    return "\n\n".join(block for block in blocks if block)


def _why_bad(of: Verification) -> str:
    more = len(of.differences) - 1
    first = f"{of.differences[0]}{f', and {more} more differences' if more > 0 else ''}" if more >= 0 else ""
    return "; ".join(said for said in (of.error, first) if said) or "it does not say why"


def problem(found: Backup, said: str) -> str:
    """Return what is said of a backup, without the path that stands beside it anyway."""
    return said.replace(f"{found.path}{MANIFEST}: ", "its manifest: ")


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def disk_use(backups: Sequence[Backup], root: Path) -> str:
    """Return one line on the volume: what the backups take, and what is free."""
    total = sum(b.bytes for b in backups)
    line = f"{text.counted(len(backups), 'backup')}, {text.size(total)} in {root}"
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return line
    return f"{line}; {text.size(usage.free)} of {text.size(usage.total)} free"


def pruned(
    decisions: Iterable[Decision],
    removed: Collection[Backup],
    errors: Collection[str],
    *,
    dry_run: bool,
    left_alone: int,
) -> dict[str, Any]:
    """Return what retention decided, and what was done about it, as a JSON object."""
    gone = {found.path for found in removed}
    return {
        "dry_run": dry_run,
        "removed": len(gone),
        "freed_bytes": sum(found.bytes for found in removed),
        "backups": [
            {
                "path": str(d.backup.path),
                "bytes": d.backup.bytes,
                "keep": d.keep,
                "reason": d.reason,
                "removed": d.backup.path in gone,
            }
            for d in decisions
        ],
        "left_alone": left_alone,
        "errors": list(errors),
    }
