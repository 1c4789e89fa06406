"""What of one series lies at one location: whose each copy is, and which of them its retention removes."""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime

from asyncbackup import inventory, naming, retention
from asyncbackup import manifest as manifests
from asyncbackup.errors import ManifestError, TargetError
from asyncbackup.events import Events
from asyncbackup.model import Backup, DatabaseSpec, Manifest, Policy
from asyncbackup.offsite import copies as copies_of
from asyncbackup.offsite.copies import Copy
from asyncbackup.offsite.known import Known
from asyncbackup.offsite.location import Location
from asyncbackup.targets.target import Remote
from asyncbackup.threads import in_thread

_MAX_MANIFEST = 1 << 30


@dataclass(slots=True)
class Stock:
    """A location with its retention, and whose its copies are as far as that is known."""

    location: Location
    policy: Policy | None
    """What stays there; None removes nothing, ever."""
    known: Known
    executor: Executor
    learning: asyncio.Lock = field(default_factory=asyncio.Lock)
    doubtful: set[tuple[str, int]] = field(default_factory=set)
    """Copies whose manifest cannot be relied on, each looked at once a run."""
    tidied: bool = False

    @property
    def keeping(self) -> Policy:
        """The policy, or one that keeps everything."""
        return self.policy if self.policy is not None else Policy(keep={})

    async def of(self, spec: DatabaseSpec, local: Collection[Backup]) -> tuple[Backup, ...]:
        """Return the copies that are those of the series; raises TargetError.

        Their manifests tell, each read once. `local` are backups of the series in the backup directory: a
        copy of the same name and length is one without that, unless others use such names there, too.
        """
        listing = await self.location.listing()
        found = [copy for copy in copies_of.copies(listing, inventory.cores_of(spec)) if copy.committed]
        here = {(one.path.name, one.bytes) for one in local if one.proven}
        await self._learn([copy for copy in found if _key(copy) not in here])
        if any(self.known.series.get(_key(copy), spec) != spec for copy in found):
            await self._learn(found)
        # What is here is pruned here before it is pruned there: it must be known then without its manifest.
        sure = {
            _key(copy): spec
            for copy in found
            if _key(copy) in here and _key(copy) not in self.known.series and _key(copy) not in self.doubtful
        }
        if sure:
            await self.learn(sure)
        return tuple(
            copies_of.as_backup(copy, spec, self.keeping)
            for copy in found
            if self.known.series.get(_key(copy)) == spec
        )

    async def learn(self, found: Mapping[tuple[str, int], DatabaseSpec]) -> None:
        """Remember whose the copies of these names and lengths are."""
        async with self.learning:
            await in_thread(self.executor, self.known.learn, found)

    async def _learn(self, copies: Collection[Copy]) -> None:
        """Read the manifests of those that nobody has read yet, over one connection for all tasks."""
        if not self._unknown(copies):
            return
        async with self.learning, contextlib.AsyncExitStack() as stack:
            unknown = self._unknown(copies)
            if not unknown:
                return
            if not self.tidied:
                self.tidied = True
                await in_thread(self.executor, self.known.keep_only, tuple(await self.location.listing()))
            found = {}
            remote = await stack.enter_async_context(self.location.connect())
            try:
                for copy in unknown:
                    manifest = await read_manifest(remote, copy.name)
                    if manifest is not None and manifest.file.bytes == copy.bytes:
                        found[_key(copy)] = manifest.spec
                    else:
                        self.doubtful.add(_key(copy))
            finally:
                await in_thread(self.executor, self.known.learn, found)

    def _unknown(self, copies: Collection[Copy]) -> list[Copy]:
        return [
            copy for copy in copies if _key(copy) not in self.known.series and _key(copy) not in self.doubtful
        ]


def _key(copy: Copy) -> tuple[str, int]:
    return copy.name, copy.bytes


async def read_manifest(remote: Remote, name: str, *, brief: bool = True) -> Manifest | None:
    """Return a copy's manifest, None where there is none that can be relied on; raises TargetError."""
    content = bytearray()
    try:
        async with remote.get(name + naming.MANIFEST) as blocks:
            async for block in blocks:
                content += block
                if len(content) > _MAX_MANIFEST:
                    return None
    except TargetError as error:
        if error.missing:
            return None
        raise
    try:
        manifest = manifests.from_json(bytes(content), brief=brief)
    except ManifestError:
        return None
    return manifest if manifest.file.name == name else None


async def prune(
    stock: Stock,
    spec: DatabaseSpec,
    local: Collection[Backup],
    now: datetime,
    events: Events,
    slots: asyncio.Semaphore,
) -> tuple[str, ...]:
    """Delete what the location's retention does not keep of the series; raises TargetError.

    A copy counts once its manifest was seen to be that of the series. What is removed is the data first; its
    manifest is read again before. Files of others, and backups without a manifest, are left alone.
    """
    if stock.policy is None:
        return ()
    cores = inventory.cores_of(spec)
    plan = retention.plan(await stock.of(spec, local), stock.policy, now)
    listing = dict(await stock.location.listing())
    orphans = copies_of.orphans(listing, cores)
    abandoned = copies_of.abandoned(listing, cores, now)
    if not (plan.remove or orphans or abandoned):
        return ()
    removed = []
    async with slots, stock.location.connect() as remote:
        for backup in reversed(plan.remove):
            name = backup.path.name
            manifest = await read_manifest(remote, name)
            if manifest is not None and manifest.spec == spec:
                for part in (name, name + naming.MANIFEST):
                    await remote.delete(part)
                    stock.location.deleted(part)
                events.emit("remote.pruned", location=stock.location.label, file=name)
                removed.append(name)
        waste = [name for name in orphans if await _is_orphan(remote, name, spec)]
        # One that grows is being written: somebody stores an old backup only now.
        waste += [name for name in abandoned if await remote.size(name) == listing[name]]
        for name in waste:
            await remote.delete(name)
            stock.location.deleted(name)
            events.emit("remote.pruned", location=stock.location.label, file=name)
    return tuple(removed)


async def _is_orphan(remote: Remote, name: str, spec: DatabaseSpec) -> bool:
    """Whether it is a manifest of the series, and its data is really gone, not just late in the listing."""
    data = name.removesuffix(naming.MANIFEST)
    manifest = await read_manifest(remote, data)
    return manifest is not None and manifest.spec == spec and await remote.size(data) is None
