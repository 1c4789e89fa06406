"""Copies of a run's backups to every secondary location, beside the next dumps."""

import asyncio
import contextlib
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
        shipments = (self._ship(of, spec, new, local, events, progress) for of in self.stocks)
        return tuple(await asyncio.gather(*shipments))

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
        with _failing(spec) as failures:
            if new is not None:
                copied = await self._send(of, new, copied, events, progress)
            for older in await self._missing(of, spec, local):
                copied = await self._send(of, older, copied, events, progress)
        for error in failures:
            copied = replace(copied, error=str(error), hint=error.hint, category=error.category)
        if not failures:
            with _failing(spec) as failures:
                copied = replace(copied, removed=await stock.prune(of, spec, local, self.now(), events))
            for error in failures:
                events.warning("remote.not_pruned", error=str(error), hint=error.hint)
        return replace(copied, seconds=round(time.monotonic() - clock, 3))

    async def _missing(self, of: Stock, spec: DatabaseSpec, local: Sequence[Backup]) -> tuple[Backup, ...]:
        listing = await of.location.listing()
        absent = [
            one
            for one in local
            if one.proven and not one.bad and not copies_of.is_stored(listing, one.path.name, one.bytes)
        ]
        if not absent:
            return ()
        return copies_of.lacking(await of.of(spec, local), absent, of.keeping, self.now())

    async def _send(
        self, of: Stock, backup: Backup, copied: Copied, events: Events, progress: Progress
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
            bug = {} if error is failure else {"exc_info": failure}
            events.error(
                "upload.failed", **told, error=str(error), category=error.category, hint=error.hint, **bug
            )
            raise
        events.emit("upload.finished", **told, seconds=round(time.monotonic() - clock, 3))
        return replace(copied, stored=(*copied.stored, backup.path.name), bytes=copied.bytes + backup.bytes)


def _still_there(backups: Sequence[Backup]) -> tuple[Backup, ...]:
    return tuple(one for one in backups if one.path.exists())


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
def _failing(subject: object) -> Iterator[list[AsyncbackupError]]:
    """Collect what stops the block, instead of passing it on."""
    failures: list[AsyncbackupError] = []
    try:
        yield failures
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
