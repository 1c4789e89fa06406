"""What reading backups again has come to: as JSON, and for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncbackup.cli import text
from asyncbackup.errors import Exit
from asyncbackup.model import DatabaseSpec
from asyncbackup.proof.check import State

_SHOWN = 20  # problems of one file that are shown and logged; the JSON result has them all


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one backup, without all that its manifest lists; `path` is None where there is none."""

    path: Path | None
    spec: DatabaseSpec | None
    state: State
    problems: tuple[str, ...] = ()
    taken_at: datetime | None = None
    bytes: int | None = None
    sql_bytes: int | None = None
    rows: int | None = None
    tables: int | None = None
    sha256: str | None = None
    location: str = ""
    """The secondary location that it lies at; empty is the backup directory."""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return self.state in {State.GOOD, State.WHOLE}


def exit_code(results: Sequence[Result]) -> Exit:
    """Return what the whole comes to."""
    good = sum(one.good for one in results)
    if good == len(results):
        return Exit.OK
    return Exit.PARTIAL if good else Exit.FAILED


def first(problems: Sequence[str]) -> list[str]:
    """Return the first of many problems, and how many more there are."""
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {more:,} more; --json has them all"] if more > 0 else [])]


def identity(spec: DatabaseSpec | None) -> dict[str, Any]:
    """Return whose a backup is as fields of a JSON object; null where nobody can tell."""
    if spec is None:
        return {"host": None, "port": None, "dbname": None}
    return {"host": spec.host, "port": spec.port, "dbname": spec.dbname or "@globals"}


def as_object(result: Result) -> dict[str, Any]:
    """Return what came of one backup as a JSON object."""
    return {
        "path": str(result.path) if result.path else None,
        "location": result.location or None,
        **identity(result.spec),
        "verdict": result.state.value,
        "taken_at": result.taken_at.isoformat() if result.taken_at else None,
        "bytes": result.bytes,
        "sql_bytes": result.sql_bytes,
        "rows": result.rows,
        "tables": result.tables,
        "sha256": result.sha256,
        "seconds": result.seconds,
        "problems": list(result.problems),
    }


def report_text(results: Sequence[Result], root: Path, seconds: float) -> str:
    """Return what was found for people: a line for each file, and below what is wrong, in full."""
    rows = [
        (
            _file(one, root),
            one.state.value if one.good else one.state.value.upper(),
            "" if one.rows is None else f"{one.rows:,}",
            "" if one.sql_bytes is None else text.size(one.sql_bytes),
            "" if one.bytes is None else text.size(one.bytes),
        )
        for one in results
    ]
    good = [one for one in results if one.good]
    read = sum(one.bytes or 0 for one in results)
    summary = (
        f"{len(good)} of {len(results)} backups are good:"
        f" {sum(one.rows or 0 for one in good):,} rows,"
        f" {text.size(sum(one.sql_bytes or 0 for one in good))} of SQL;"
        f" {text.size(read)} read in {text.seconds(seconds)}"
    )
    blocks = [
        text.table(("FILE", "VERDICT", "ROWS", "SQL", "SIZE"), rows, right=frozenset({2, 3, 4})),
        summary,
    ]
    if whole := sum(one.state is State.WHOLE for one in good):
        has = "1 of them has" if whole == 1 else f"{whole:,} of them have"
        blocks.append(f"{has} no manifest: whole, but nothing to compare with.")
    problems = [said for one in results for said in first(one.problems)]
    blocks.append(text.lines("Problems:", problems))
    bad = [one for one in results if one.state is State.BAD and one.path is not None]
    if any(not one.location for one in bad):
        blocks.append("Try: restore from another backup, and find out what happened to the volume.")
    if any(one.location for one in bad):
        again = "what is good here is stored there again by `asyncbackup upload`"
        blocks.append(f"Try: find out what happened there; delete what is damaged, and {again}.")
    return "\n\n".join(block for block in blocks if block)


def _file(result: Result, root: Path) -> str:
    if result.path is None:
        return text.database(result.spec) if result.spec else result.location
    if result.location:
        return f"{result.path} at {result.location}"
    return str(result.path.relative_to(root)) if result.path.is_relative_to(root) else str(result.path)
