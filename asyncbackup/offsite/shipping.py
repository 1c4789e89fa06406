"""Copies of a run's backups to every secondary location, beside the next dumps."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncbackup import locks
from asyncbackup.errors import AsyncbackupError, TargetError
from asyncbackup.events import Events
from asyncbackup.model import Backup, Copied, DatabaseSpec, Policy, Tier
from asyncbackup.offsite import copies as copies_of
from asyncbackup.offsite import known, sending, stock
from asyncbackup.offsite.location import Location
from asyncbackup.offsite.rate import Rate
from asyncbackup.offsite.sending import TakenError
from asyncbackup.offsite.stock import Stock
from asyncbackup.settings import Settings
from asyncbackup.stream import Progress
from asyncbackup.targets.configured import targets
from asyncbackup.threads import in_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsite:
    """The secondary locations of a run, and what all its uploads share."""

    stocks: tuple[Stock, ...]
    terms: sending.Terms
    now: Callable[[], datetime]
    unread: set[str] = field(default_factory=set)
    """Locations whose listing could not be read, each told of once a run."""

    async def unsaved(
        self, spec: DatabaseSpec, local: Sequence[Backup], candidates: Sequence[Backup], events: Events
    ) -> frozenset[Path]:
        """Return those of the candidates for pruning that must stay, since no location has them yet.

        Where a location cannot be asked, nobody knows, and they stay.
        """
        needed = [one for one in candidates if one.proven and not one.bad]
        for of in self.stocks if needed else ():
            try:
                there = await of.of(spec, local)
            except TargetError as error:
                if of.location.label not in self.unread:
                    self.unread.add(of.location.label)
                    events.warning(
                        "remote.unread", location=of.location.label, error=str(error), hint=error.hint
                    )
                continue
            names = {one.path.name for one in there}
            absent = [one for one in needed if one.path.name not in names]
            needed = list(copies_of.irreplaceable(there, absent, of.keeping, self.now()))
        return frozenset(one.path for one in needed)

    async def ship(
        self,
        spec: DatabaseSpec,
        new: Backup | None,
        older: Sequence[Backup],
        events: Events,
        progress: Progress,
    ) -> tuple[Copied, ...]:
        """Store a new backup at every location, and what earlier runs could not store; then prune there.

        `older` are the other backups of the series that were here lately. What fails is told and stands in
        the result: the local backups are good whatever happens elsewhere.
        """
        there = await in_thread(self.terms.executor, _still_there, older)
        local = there if new is None else (new, *there)
        # Once cancelled, all of them have cleared up before anybody closes what they work with.
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._ship(of, spec, new, local, events, progress)) for of in self.stocks
            ]
        return tuple(task.result() for task in tasks)

    async def _ship(
        self,
        of: Stock,
        spec: DatabaseSpec,
        new: Backup | None,
        local: Sequence[Backup],
        events: Events,
        progress: Progress,
    ) -> Copied:
        clock = time.monotonic()
        events = events.bind(location=of.location.label)
        copied = Copied(location=of.location.label)
        failures: list[AsyncbackupError] = []
        unlooked: list[AsyncbackupError] = []
        missing: tuple[Backup, ...] = ()

        async def store(backup: Backup) -> None:
            nonlocal copied
            with _failing(spec, failures):
                copied = await self._send(of, spec, backup, copied, events, progress)

        if new is not None:
            await store(new)
        if _answers(failures):
            with _failing(spec, unlooked):
                missing = await self._missing(of, spec, new, local)
        for older in missing:
            if _answers(failures):
                await store(older)
        failures += unlooked
        if _answers(failures):
            with _failing(spec, unlooked):
                removed = await stock.prune(of, spec, local, self.now(), events, self.terms.slots)
                copied = replace(copied, removed=removed)
        for error in unlooked:
            events.warning("remote.not_pruned", error=str(error), hint=error.hint)
        if failures:
            said = "; ".join(dict.fromkeys(str(error) for error in failures))
            copied = replace(copied, error=said, hint=failures[0].hint, category=failures[0].category)
        return replace(copied, seconds=round(time.monotonic() - clock, 3))

    async def _missing(
        self, of: Stock, spec: DatabaseSpec, new: Backup | None, local: Sequence[Backup]
    ) -> tuple[Backup, ...]:
        stored = await of.of(spec, local)
        there = {one.path.name for one in stored}
        absent = [
            one
            for one in local
            if one is not new and one.proven and not one.bad and one.path.name not in there
        ]
        return copies_of.lacking(stored, absent, of.keeping, self.now())

    async def _send(
        self,
        of: Stock,
        spec: DatabaseSpec,
        backup: Backup,
        copied: Copied,
        events: Events,
        progress: Progress,
    ) -> Copied:
        clock = time.monotonic()
        told: dict[str, Any] = {"path": str(backup.path), "bytes": backup.bytes}
        events.emit("upload.started", **told)
        try:
            await sending.send(of.location, backup, self.terms, events, progress)
        except asyncio.CancelledError:
            hint = "the backup is good here; the next run stores it there"
            events.error("upload.failed", **told, error="interrupted", category="interrupted", hint=hint)
            raise
        except Exception as failure:
            error = _ours(failure, backup.path)
            if isinstance(error, TakenError):
                await of.learn({(error.there.file.name, error.there.file.bytes): error.there.spec})
            bug = {} if error is failure else {"exc_info": failure}
            events.error(
                "upload.failed", **told, error=str(error), category=error.category, hint=error.hint, **bug
            )
            raise
        events.emit("upload.finished", **told, seconds=round(time.monotonic() - clock, 3))
        await of.learn({(backup.path.name, backup.bytes): spec})
        return replace(copied, stored=(*copied.stored, backup.path.name), bytes=copied.bytes + backup.bytes)


def _still_there(backups: Sequence[Backup]) -> tuple[Backup, ...]:
    return tuple(one for one in backups if os.path.exists(one.path))  # noqa: PTH110 - it never raises


def _answers(failures: Sequence[AsyncbackupError]) -> bool:
    """Whether it is worth going on: what is wrong with one file keeps none of the others from there."""
    return all(isinstance(error, TakenError) or not isinstance(error, TargetError) for error in failures)


def of_settings(
    settings: Settings,
    policy: Policy,
    executor: Executor,
    now: Callable[[], datetime],
) -> Offsite | None:
    """Return the secondary locations that are configured, or None; nothing is connected to yet."""
    found = targets(settings)
    if not found:
        return None
    lock_folder = locks.folder(settings.backup_dir, settings.lock_dir)
    kept = settings.remote_retention
    return Offsite(
        stocks=tuple(
            stock.Stock(
                location=Location(target),
                policy=None if kept == "none" else policy if kept == "same" else _count(int(kept)),
                known=known.load(lock_folder, target.label),
                executor=executor,
            )
            for target in found
        ),
        terms=sending.Terms(
            slots=asyncio.Semaphore(settings.max_concurrent_uploads),
            rate=Rate(settings.upload_rate_limit),
            retries=settings.upload_retries,
            retry_delay=settings.retry_delay,
            executor=executor,
        ),
        now=now,
    )


def _count(number: int) -> Policy:
    return Policy(keep={Tier.DATED: number})


@contextlib.contextmanager
def _failing(subject: object, failures: list[AsyncbackupError]) -> Iterator[None]:
    """Collect what stops the block, instead of passing it on."""
    try:
        yield
    except Exception as failure:  # noqa: BLE001 - one location never stops another, nor the run
        failures.append(_ours(failure, subject))


def _ours(failure: Exception, subject: object) -> AsyncbackupError:
    if isinstance(failure, AsyncbackupError):
        return failure
    error = AsyncbackupError(
        f"{subject}: {type(failure).__name__}: {failure}", hint="this is a defect: please report it"
    )
    error.category = "bug"
    return error
