"""What lies at the secondary locations: listed, and checked."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncbackup import inventory, locks
from asyncbackup.cli import elsewhere, findings, logs, render, text
from asyncbackup.cli import session as session_of
from asyncbackup.cli.findings import Result
from asyncbackup.cli.session import Session
from asyncbackup.errors import AsyncbackupError, Exit, NoBackupError, TargetError
from asyncbackup.events import Events
from asyncbackup.model import DatabaseSpec
from asyncbackup.offsite import checking, known
from asyncbackup.offsite import copies as copies_of
from asyncbackup.offsite.copies import Copy
from asyncbackup.offsite.location import Location
from asyncbackup.proof.check import State
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread

_AT_ONCE = 2  # copies that are read at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A copy at a location, known by its name alone."""

    location: str
    copy: Copy
    spec: DatabaseSpec | None
    here: bool
    """Whether the backup directory has it, too."""


async def listed(
    session: Session, specs: tuple[DatabaseSpec, ...], pattern: str
) -> tuple[list[Listed], list[TargetError]]:
    """Return the copies at all locations, by database and newest first, and why some could not be asked."""
    whose = elsewhere.owners(session, specs)
    root = session.settings.backup_dir
    here = {
        (entry.path.name, entry.bytes)
        for entry in await in_thread(None, lambda: inventory.scan(root).entries)
    }
    cores = {core for spec in specs for core in inventory.cores_of(spec)} or None
    lock_folder = locks.folder(root, session.settings.lock_dir)
    found: list[Listed] = []
    errors: list[TargetError] = []
    for location in elsewhere.locations(session):
        try:
            listing = await location.listing()
        except TargetError as error:
            errors.append(error)
            continue
        remembered = known.load(lock_folder, location.label).series
        for copy in copies_of.copies(listing, cores):
            if pattern in copy.name:
                by_manifest = remembered.get((copy.name, copy.bytes))
                spec = (by_manifest,) if by_manifest else whose.of(copy.core)
                found.append(
                    Listed(
                        location=location.label,
                        copy=copy,
                        spec=spec[0] if len(spec) == 1 else None,
                        here=(copy.name, copy.bytes) in here,
                    )
                )
    found.sort(key=lambda one: str(one.spec) if one.spec else one.copy.core)
    return found, errors


def list_remote(session: Session, specs: tuple[DatabaseSpec, ...], *, pattern: str, as_json: bool) -> Exit:
    """Print what lies at the secondary locations, by their listings alone."""
    result = session_of.run(listed(session, specs, pattern))
    if isinstance(result, Exit):
        return result
    found, errors = result
    now = datetime.now(UTC)
    if as_json:
        session_of.show(render.as_json([_listed_object(one, now) for one in found]))
    else:
        session_of.show(_listed_text(found, now))
    for error in errors:
        session_of.fail(error)
    if not errors:
        return Exit.OK
    return Exit.PARTIAL if found or len(errors) < len(elsewhere.locations(session)) else Exit.FAILED


def _listed_object(one: Listed, now: datetime) -> dict[str, Any]:
    return {
        "location": one.location,
        "name": one.copy.name,
        "host": one.spec.host if one.spec else None,
        "port": one.spec.port if one.spec else None,
        "dbname": (one.spec.dbname or "@globals") if one.spec else None,
        "taken_at": one.copy.taken_at.isoformat(),
        "age_seconds": round((now - one.copy.taken_at).total_seconds()),
        "bytes": one.copy.bytes,
        "has_manifest": one.copy.committed,
        "here": one.here,
    }


def _listed_text(found: Sequence[Listed], now: datetime) -> str:
    if not found:
        return "No backups there."
    rows = [
        (
            text.database(one.spec) if one.spec else f"{text.plain(one.copy.core)} (?)",
            text.age(one.copy.taken_at, now),
            text.size(one.copy.bytes),
            "whole" if one.copy.committed else "without manifest",
            "yes" if one.here else "",
            text.plain(one.copy.name),
            text.plain(one.location),
        )
        for one in found
    ]
    head = ("DATABASE", "AGE", "SIZE", "KIND", "HERE", "NAME", "LOCATION")
    total = sum(one.copy.bytes for one in found)
    summary = (
        f"{text.counted(len(found), 'backup')}, {text.size(total)}; known by their names and sizes alone"
    )
    return f"{text.table(head, rows, right=frozenset({1, 2}))}\n\n{summary}"


# --- check


def check_remote(session: Session, specs: tuple[DatabaseSpec, ...], *, pattern: str, as_json: bool) -> Exit:
    """Check every copy at the secondary locations, and print what was found."""
    clock = time.monotonic()

    async def work(told: Events, executor: ThreadPoolExecutor) -> list[Result]:
        return await _check_all(session, specs, pattern, told, executor)

    results = elsewhere.run(session, work)
    if isinstance(results, Exit):
        return results
    if not results:
        raise NoBackupError(
            "nothing was checked: no copy matches" if pattern else "nothing was checked: there are no copies",
            hint="`asyncbackup list --remote` shows all; `asyncbackup upload` stores what is missing",
        )
    if as_json:
        shown = render.as_json([findings.as_object(one) for one in results])
    else:
        shown = findings.report_text(results, session.settings.backup_dir, time.monotonic() - clock)
    session_of.show(shown, patient=False)
    return findings.exit_code(results)


async def _check_all(
    session: Session,
    specs: tuple[DatabaseSpec, ...],
    pattern: str,
    told: Events,
    executor: ThreadPoolExecutor,
) -> list[Result]:
    slots = asyncio.Semaphore(_AT_ONCE)
    whose = elsewhere.owners(session, specs)
    mask = logs.masker(session.secrets())
    cores = {core for spec in specs for core in inventory.cores_of(spec)} or None

    async def one(location: Location, copy: Copy) -> Result | None:
        events = told.bind(location=location.label, file=copy.name)
        started, problems = time.monotonic(), tuple[str, ...]()
        async with slots:
            try:
                checked = await checking.check(location, copy, executor, Progress())
            except AsyncbackupError as error:
                checked = None
                problems = (f"{copy.name}: could not be checked: {mask(error.message)}",)
        by_name = whose.of(copy.core)
        manifest = checked.manifest if checked else None
        spec = manifest.spec if manifest else by_name[0] if len(by_name) == 1 else None
        if specs and spec not in specs:
            return None  # another's, under the same name
        if checked is not None:
            problems = tuple(f"{copy.name}: {problem}" for problem in checked.problems)
        seconds = round(time.monotonic() - started, 3)
        if problems:
            category = "damaged" if checked is not None else "target"
            events.error("remote.check_failed", category=category, problems=findings.first(problems))
        else:
            events.emit("remote.checked", bytes=copy.bytes, seconds=seconds)
        return Result(
            path=Path(copy.name),
            location=location.label,
            spec=spec,
            state=checked.state if checked else State.BAD,
            problems=problems,
            taken_at=copy.taken_at,
            bytes=copy.bytes,
            sql_bytes=manifest.sql_bytes if manifest else None,
            rows=manifest.rows if manifest else None,
            tables=manifest.table_count if manifest else None,
            sha256=checked.sha256 if checked else None,
            seconds=seconds,
        )

    results: list[Result] = []
    for location in elsewhere.locations(session):
        try:
            listing = await location.listing()
        except TargetError as error:
            said = f"{location.label}: nothing there could be checked: {mask(error.message)}"
            told.error("remote.check_failed", location=location.label, category="target", problems=[said])
            results.append(_unlisted(location, said))
            continue
        found = [copy for copy in copies_of.copies(listing, cores) if pattern in copy.name]
        # Once cancelled, all of them have ended before anybody closes what they work with.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(location, copy)) for copy in found]
        checked = [task.result() for task in tasks]
        here = sorted(filter(None, checked), key=lambda one: str(one.spec or one.path))
        required = specs or (() if pattern else session.required())
        has = {one.spec for one in here}
        results += here
        results += [_missing(spec, location) for spec in required if spec not in has]
    return results


def _unlisted(location: Location, said: str) -> Result:
    return Result(path=None, location=location.label, spec=None, state=State.BAD, problems=(said,))


def _missing(spec: DatabaseSpec, location: Location) -> Result:
    said = f"{spec}: there is no copy at {location.label}"
    return Result(path=None, location=location.label, spec=spec, state=State.MISSING, problems=(said,))
