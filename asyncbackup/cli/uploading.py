"""Storing by hand what is missing at the secondary locations."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from asyncbackup.cli import elsewhere, logs, pruning, render, text
from asyncbackup.cli import session as session_of
from asyncbackup.cli.session import Session
from asyncbackup.errors import Exit, NoBackupError
from asyncbackup.events import Events
from asyncbackup.model import Backup, Copied, DatabaseSpec
from asyncbackup.offsite import shipping
from asyncbackup.stream import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What came of one series."""

    spec: DatabaseSpec
    copies: tuple[Copied, ...]


def run(session: Session, specs: tuple[DatabaseSpec, ...], *, as_json: bool) -> Exit:
    """Store what is missing at the secondary locations, and print what came of it."""
    elsewhere.locations(session)
    found = session_of.backups(session, specs)
    series: dict[DatabaseSpec, list[Backup]] = {}
    for one in found:
        if one.spec is not None:
            series.setdefault(one.spec, []).append(one)
    missing = [spec for spec in specs if spec not in series]
    if missing or not series:
        what = f"of {'; '.join(map(str, missing))} " if missing else ""
        where = session.settings.backup_dir
        said = f"nothing was stored elsewhere: there is no backup {what}in {where}"
        raise NoBackupError(said, hint="make one: asyncbackup backup")

    mask = logs.masker(session.secrets())

    async def work(told: Events, executor: ThreadPoolExecutor) -> list[Shipped]:
        offsite = shipping.of_settings(
            session.settings, pruning.policy(session), executor, lambda: datetime.now(UTC)
        )
        assert offsite is not None  # noqa: S101 - it was asked for above

        async def one(spec: DatabaseSpec) -> Shipped:
            bound = told.bind(host=spec.host, port=spec.port, dbname=spec.dbname or "@globals")
            copies = await offsite.ship(spec, None, tuple(series[spec]), bound, Progress())
            masked = (replace(copied, error=mask(copied.error), hint=mask(copied.hint)) for copied in copies)
            return Shipped(spec=spec, copies=tuple(masked))

        # Once cancelled, all of them have cleared up before anybody closes what they work with.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(spec)) for spec in series]
        return [task.result() for task in tasks]

    shipped = elsewhere.run(session, work)
    if isinstance(shipped, Exit):
        return shipped
    session_of.show(
        render.as_json([_shipped_object(one) for one in shipped]) if as_json else _shipped_text(shipped),
        patient=False,
    )
    failed = [copied for one in shipped for copied in one.copies if copied.error]
    if not failed:
        return Exit.OK
    good = any(copied.stored or not copied.error for one in shipped for copied in one.copies)
    return Exit.PARTIAL if good else Exit.FAILED


def _shipped_object(one: Shipped) -> dict[str, Any]:
    return {
        "host": one.spec.host,
        "port": one.spec.port,
        "dbname": one.spec.dbname or "@globals",
        "copies": [render.copied(copied) for copied in one.copies],
    }


def _shipped_text(shipped: Sequence[Shipped]) -> str:
    rows = [
        (
            text.database(one.spec),
            copied.location,
            "FAILED" if copied.error else "complete",
            f"{len(copied.stored):,}",
            text.size(copied.bytes) if copied.bytes else "",
            f"{len(copied.removed):,}" if copied.removed else "",
            text.seconds(copied.seconds),
        )
        for one in shipped
        for copied in one.copies
    ]
    head = ("DATABASE", "LOCATION", "RESULT", "STORED", "SIZE", "PRUNED", "TIME")
    failed = [copied for one in shipped for copied in one.copies if copied.error]
    told = [f"Error: {text.plain(copied.error)}" for copied in failed]
    hints = [f"Try: {text.plain(hint)}" for hint in dict.fromkeys(copied.hint for copied in failed) if hint]
    return "\n\n".join(
        block
        for block in (
            text.table(head, rows, right=frozenset({3, 4, 5, 6})),
            "\n".join(dict.fromkeys([*told, *hints])),
        )
        if block
    )
