"""What a restore will do, and what came of it: for people, and as JSON."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from asyncbackup.cli import text
from asyncbackup.errors import AsyncbackupError
from asyncbackup.model import DatabaseSpec, Level
from asyncbackup.restoring.halfmade import Restored
from asyncbackup.restoring.restoration import Restoration, Tools


def plan_text(plan: Restoration, now: datetime) -> str:
    """Return what will happen, for whoever has to say yes."""
    selected, scan = plan.evidence.selected, plan.evidence.unpacked.scan
    backup, manifest, present = selected.backup, selected.manifest, plan.target.present
    tables = len({(block.schema, block.table) for block in scan.blocks})
    checked = (
        "it is exactly what was written" if manifest else "whole, but without a manifest to compare with"
    )
    who = "superuser" if plan.target.superuser else "no superuser"
    sizes = f"{text.size(backup.bytes)}, {text.size(scan.bytes)} of SQL"
    rows = [
        ("Backup", str(backup.path)),
        ("", f"of {text.database(plan.request.spec)}, taken {text.age(backup.taken_at, now)} ago"),
        ("", f"{sizes}, {scan.rows:,} rows in {_tables(tables)}"),
        ("", f"checked: {checked}"),
        ("Onto", f"{text.database(plan.request.target)}, PostgreSQL {plan.target.server_version}"),
        ("", f"as {plan.target.user} ({who}), by psql {plan.psql.version}"),
    ]
    if present is None:
        rows.append(("There now", "nothing of that name"))
    else:
        size = "size unknown" if present.size is None else text.size(present.size)
        sessions = "1 session" if present.sessions == 1 else f"{present.sessions} sessions"
        rows.append(("There now", f"{size}, owned by {present.properties.owner}, {sessions}"))
        kept = f"it stays as {plan.kept}"
        rows.append(("", f"{kept}, and is dropped in the end" if plan.request.drop_old else kept))
    if plan.roles:
        rows.append(("Roles made", ", ".join(role.name for role in plan.roles)))
    shown = [text.table(("Restore", ""), rows)]
    shown.append(text.lines("Warnings:", plan.warnings))
    return "\n\n".join(part for part in shown if part)


def _tables(count: int) -> str:
    return "1 table" if count == 1 else f"{count:,} tables"


def report_text(plan: Restoration, restored: Restored) -> str:
    """Return what came of it."""
    seconds = max(restored.load_seconds, 0.001)
    rate = f"{restored.rows / seconds:,.0f} rows/s"
    file = text.plain(plan.evidence.selected.backup.path.name)
    loaded, whole = text.seconds(restored.load_seconds), text.seconds(restored.seconds)
    lines = [
        f"{text.database(restored.target)} is restored from {file}",
        f"{restored.rows:,} rows in {_tables(restored.tables)}, compared: {_compared(plan)}",
        f"loaded in {loaded} ({rate}), in place after {whole}",
    ]
    if restored.kept:
        lines.append(
            f"the old database is {text.plain(restored.kept)}; drop it when you do not need it any more"
        )
    blocks = [
        "\n".join(lines),
        text.lines(f"{len(restored.errors)} errors were gone on after:", restored.errors),
        text.lines("Not as backed up:", [str(one) for one in restored.differences]),
        text.lines("Warnings:", restored.warnings),
    ]
    return "\n\n".join(block for block in blocks if block)


def _compared(plan: Restoration) -> str:
    what = "every value" if plan.request.level is Level.CONTENT else "the number of rows of every table"
    if plan.evidence.selected.manifest:
        return f"{what}, with the manifest"
    return f"{what}, with what the dump itself says: there is no manifest"


def as_object(plan: Restoration, tools: Tools, restored: Restored) -> dict[str, Any]:
    """Return what came of it as a JSON object."""
    return {
        **_identity(plan, tools),
        "status": "good" if restored.whole else "partial",
        "kept": restored.kept or None,
        "tables": restored.tables,
        "rows": restored.rows,
        "seconds": restored.seconds,
        "load_seconds": restored.load_seconds,
        "rows_per_second": round(restored.rows / max(restored.load_seconds, 0.001)),
        "errors": list(restored.errors),
        "differences": [
            {"kind": one.kind, "name": one.name, "expected": one.expected, "found": one.found}
            for one in restored.differences
        ],
        "warnings": list(restored.warnings),
        "error": None,
        "category": None,
        "hint": None,
    }


def failed_object(
    plan: Restoration, tools: Tools, error: AsyncbackupError, mask: Callable[[Any], Any]
) -> dict[str, Any]:
    """Return why nothing was restored as a JSON object, with the same fields."""
    nothing = {"kept", "tables", "rows", "seconds", "load_seconds", "rows_per_second"}
    return {
        **_identity(plan, tools),
        "status": "failed",
        **dict.fromkeys(sorted(nothing)),
        "errors": [],
        "differences": [],
        "warnings": list(plan.warnings),
        "error": mask(error.message),
        "category": error.category,
        "hint": mask(error.hint) or None,
    }


def _identity(plan: Restoration, tools: Tools) -> dict[str, Any]:
    target: DatabaseSpec = plan.request.target
    selected, scan = plan.evidence.selected, plan.evidence.unpacked.scan
    return {
        "run_id": tools.run_id,
        "host": target.host,
        "port": target.port,
        "dbname": target.dbname,
        "server_version": str(plan.target.server_version),
        "path": str(selected.backup.path),
        "taken_at": selected.backup.taken_at.isoformat(),
        "bytes": selected.backup.bytes,
        "sql_bytes": scan.bytes,
        "sha256": plan.evidence.unpacked.sha256,
        "proven": selected.manifest is not None,
        "level": plan.request.level.value,
    }
