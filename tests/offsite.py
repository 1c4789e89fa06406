"""Series of backups with true manifests, made without any server, and secondary locations to store them at."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import stamina.instrumentation

from asyncbackup import dbspec, inventory, manifest, naming
from asyncbackup.events import Event, Events
from asyncbackup.model import Backup, Copied, DatabaseSpec, Manifest, Policy, StoredFile, Tier
from asyncbackup.offsite import known, sending, stock
from asyncbackup.offsite.location import Location
from asyncbackup.offsite.rate import Rate
from asyncbackup.offsite.shipping import Offsite
from asyncbackup.stream import HEADER, Progress
from asyncbackup.targets.target import Target

stamina.instrumentation.set_on_retry_hooks([])  # as a command does

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
APP = DatabaseSpec("db", 5432, "app")
TWIN = DatabaseSpec("db", 5433, "app")
"""Whose files have the same names as those of `APP`, unless a configuration knows both."""


def proof(spec: DatabaseSpec, name: str, data: bytes, at: datetime) -> Manifest:
    return Manifest(
        host=spec.host, port=spec.port, dbname=spec.dbname, kind="database" if spec.dbname else "globals",
        run_id="r", started_at=at, finished_at=at, local_time=at.isoformat(), server_version="15.1",
        client_version="15.1", loads_into=15,
        file=StoredFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), compressor="isal", level=1),
        sql_bytes=1, rows=0, table_count=0, encoding="UTF8", outside_blake3="0" * 64, restricted=True,
    )  # fmt: skip


def name_of(spec: DatabaseSpec, at: datetime) -> str:
    return naming.backup_name(naming.short_core(spec), at.astimezone().replace(tzinfo=None))


def content_of(spec: DatabaseSpec, at: datetime, size: int) -> bytes:
    return HEADER + random.Random(f"{spec} {at}").randbytes(size)


@dataclass
class Volume:
    """A backup directory."""

    root: Path

    def put(
        self, spec: DatabaseSpec, at: datetime, size: int = 1000, *, content: bytes | None = None
    ) -> Backup:
        """Write a backup with its manifest, and return it as a run finds it."""
        name = name_of(spec, at)
        data = content_of(spec, at, size) if content is None else content
        path = self.root / f"{at.astimezone():%Y-%m-%d}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.with_name(name + naming.MANIFEST).write_bytes(manifest.to_json(proof(spec, name, data, at)))
        entry = inventory.Entry(
            path=path,
            core=naming.short_core(spec),
            stamp=at.astimezone().replace(tzinfo=None),
            tier=Tier.DATED,
            bytes=len(data),
            has_manifest=True,
        )
        return inventory.load(entry, naming.Owners.build({spec}, (), dbspec.matches))

    def days(self, spec: DatabaseSpec, count: int, size: int = 1000) -> list[Backup]:
        """Write one for each of the last days, and return them, newest first."""
        return [self.put(spec, NOW - timedelta(days=age), size) for age in range(count)]

    def series(self, spec: DatabaseSpec) -> tuple[Backup, ...]:
        owners = naming.Owners.build({spec}, (), dbspec.matches)
        return inventory.series(inventory.scan(self.root), spec, owners)


@dataclass
class Told:
    """Every event."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.fields) for event in self.events if event.name == name]


@dataclass
class Run:
    """One run's secondary locations."""

    offsite: Offsite
    told: Told

    async def ship(
        self, spec: DatabaseSpec, new: Backup | None, older: Iterable[Backup] = ()
    ) -> tuple[Copied, ...]:
        bound = Events(self.told).bind(host=spec.host, port=spec.port, dbname=spec.dbname or "@globals")
        return await self.offsite.ship(spec, new, tuple(older), bound, Progress())

    async def unsaved(
        self, spec: DatabaseSpec, local: Iterable[Backup], candidates: Iterable[Backup]
    ) -> set[str]:
        paths = await self.offsite.unsaved(spec, tuple(local), tuple(candidates), Events(self.told))
        return {path.name for path in paths}


@asynccontextmanager
async def a_run(
    *targets: Target,
    keep: int | Policy | None = 31,
    lock_folder: Path | None = None,
    slots: int = 2,
    rate: Rate | None = None,
    retries: int = 2,
    now: datetime = NOW,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Run]:
    """Begin a run; `keep` is what stays at the locations, None removes nothing."""
    policy = Policy(keep={Tier.DATED: keep}) if isinstance(keep, int) else keep
    with ThreadPoolExecutor(4) as executor:
        offsite = Offsite(
            stocks=tuple(
                stock.Stock(
                    location=Location(target) if clock is None else Location(target, clock),
                    policy=policy,
                    known=known.load(lock_folder or Path("/nonexistent"), target.label),
                    executor=executor,
                )
                for target in targets
            ),
            terms=sending.Terms(
                slots=asyncio.Semaphore(slots),
                rate=rate or Rate(0),
                retries=retries,
                retry_delay=0.001,
                executor=executor,
            ),
            now=lambda: now,
        )
        yield Run(offsite, Told())
