"""Results on stdout: as JSON, or as text that a person reads."""

import json
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncbackup.cli import text
from asyncbackup.conf import Conf
from asyncbackup.model import Backup, Decision, Outcome, Report, Secret
from asyncbackup.settings import Settings


def as_json(result: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a result as JSON; only ASCII, so that no name can command a terminal."""
    return json.dumps(result, default=str, indent=2)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return aligned columns; those in `right` are set flush right."""
    lines = [list(head), *([text.plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def cells(line: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()

    return "\n".join(cells(line) for line in lines)


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
        "warnings": list(result.warnings),
        "error": result.error or None,
        "category": result.category or None,
        "hint": result.hint or None,
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


def report_text(result: Report) -> str:
    """Return a run's report for people: what was written, and what went wrong."""
    rows = []
    for one in (*result.outcomes, *result.globals):
        manifest = one.backup.manifest if one.backup else None
        rows.append(
            (
                str(one.spec),
                one.status.value,
                f"{manifest.rows:,}" if manifest else "",
                text.size(manifest.sql_bytes) if manifest else "",
                text.size(one.backup.bytes) if one.backup else "",
                text.seconds(one.seconds),
                one.backup.path.name if one.backup else one.error,
            )
        )
    head = ("DATABASE", "RESULT", "ROWS", "SQL", "BACKUP", "TIME", "FILE")
    return table(head, rows, right=frozenset({2, 3, 4, 5}))


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
    }


def _kind(found: Backup) -> str:
    if found.manifest:
        return found.manifest.kind
    return "damaged" if not found.good else "without manifest"


def listing(backups: Sequence[Backup], root: Path, now: datetime) -> str:
    """Return the listing for people: newest first within each database, and the disk's use."""
    rows = [
        (
            str(b.spec) if b.spec else f"{b.core} (?)",
            text.age(b.taken_at, now),
            text.size(b.bytes),
            f"{b.manifest.rows:,}" if b.manifest else "?",
            b.tier.value,
            _kind(b) if b.good else f"BAD: {b.problem}",
            str(b.path.relative_to(root)) if b.path.is_relative_to(root) else str(b.path),
        )
        for b in backups
    ]
    head = ("DATABASE", "AGE", "SIZE", "ROWS", "TIER", "KIND", "FILE")
    body = table(head, rows, right=frozenset({1, 2, 3})) if rows else f"no backups in {root} yet"
    return f"{body}\n\n{disk_use(backups, root)}"


def disk_use(backups: Sequence[Backup], root: Path) -> str:
    """Return one line on the volume: what the backups take, and what is free."""
    total = sum(b.bytes for b in backups)
    line = f"{len(backups)} backups, {text.size(total)} in {root}"
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return line
    return f"{line}; {text.size(usage.free)} of {text.size(usage.total)} free"


def decisions(found: Sequence[Decision]) -> list[dict[str, Any]]:
    """Return what retention decided as JSON objects."""
    return [{"path": str(d.backup.path), "keep": d.keep, "reason": d.reason} for d in found]


def settings(values: Settings) -> dict[str, Any]:
    """Return every setting by its variable's name; secrets as *** when they are set."""
    shown: dict[str, Any] = {}
    for field in type(values).model_fields:
        value = getattr(values, field)
        if isinstance(value, Secret):
            value = str(value) if value else ""
        elif field == "backup_file_mode":
            value = f"{value:04o}"
        elif isinstance(value, tuple):
            value = ":".join(str(item) for item in value)
        shown[field.upper()] = value if isinstance(value, bool | int | float) else str(value or "")
    return shown


def configuration(values: Settings, found: Conf) -> dict[str, Any]:
    """Return settings, databases and schedules as a JSON object."""
    return {
        "settings": settings(values),
        "databases": [str(spec) for spec in found.databases],
        "patterns": [f"{'!' if p.exclude else ''}{p.host}:{p.port}/{p.pattern}" for p in found.patterns],
        "schedules": [
            {
                "line": s.line,
                "when": s.expression,
                "action": s.action.value,
                "spec": s.spec,
                "filter": s.filter,
            }
            for s in found.schedules
        ],
        "warnings": list(found.warnings),
    }


def configuration_text(values: Settings, found: Conf) -> str:
    """Return settings, databases and schedules for people."""
    shown = configuration(values, found)
    lines = ["Settings:"]
    lines += [
        f"  {name}={text.plain(str(value))}" for name, value in shown["settings"].items() if value != ""
    ]
    lines += ["", "Databases:"]
    lines += [f"  {text.plain(name)}" for name in (*shown["databases"], *shown["patterns"])]
    lines += ["", "Schedules:"]
    lines += [
        f"  {s['when']}  {s['action']} {s['spec']} {s['filter']}".rstrip() for s in shown["schedules"]
    ] or [f"  none: a cycle every {values.backup_period:g} s (legacy mode)"]
    return "\n".join(lines)
