"""Getting backups back from a secondary location."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from asyncbackup import manifest as manifests
from asyncbackup import naming
from asyncbackup.cli import elsewhere, logs, render, text
from asyncbackup.cli import session as session_of
from asyncbackup.cli.session import Session
from asyncbackup.errors import AsyncbackupError, Exit, LockedError, NoBackupError, TargetError
from asyncbackup.events import Events
from asyncbackup.model import Backup, DatabaseSpec, Tier
from asyncbackup.offsite import copies as copies_of
from asyncbackup.offsite import fetching
from asyncbackup.offsite.copies import Copy
from asyncbackup.offsite.fetching import Found
from asyncbackup.offsite.location import Location
from asyncbackup.offsite.stock import read_manifest
from asyncbackup.postgres import folders
from asyncbackup.proof import candidates
from asyncbackup.proof.verify import Elsewhere
from asyncbackup.restoring import selection
from asyncbackup.stream import Progress
from asyncbackup.targets.configured import targets
from asyncbackup.threads import in_thread


def run(
    session: Session, specs: tuple[DatabaseSpec, ...], *, pattern: str, to: Path | None, as_json: bool
) -> Exit:
    """Bring the newest backups of these databases back, or of all that the locations have."""
    there = elsewhere.locations(session)

    async def work(told: Events, executor: ThreadPoolExecutor) -> tuple[list[Path], list[AsyncbackupError]]:
        unread: set[str] = set()
        wanted = specs or await everything(session, there, told, unread)
        where = elsewhere.place(session, executor, to)
        slots = asyncio.Semaphore(session.settings.max_concurrent_uploads)
        errors: list[AsyncbackupError] = []
        whose = elsewhere.owners(session, specs)

        async def one(spec: DatabaseSpec) -> Path | None:
            bound = told.bind(host=spec.host, port=spec.port, dbname=spec.dbname or "@globals")
            async with slots:
                try:
                    now = datetime.now(UTC)
                    found = await fetching.find(there, spec, whose, now, pattern, bound, unread)
                    return await bring(session, found, where, bound)
                except AsyncbackupError as error:
                    bound.error("fetch.failed", error=str(error), category=error.category, hint=error.hint)
                    errors.append(error)
                    return None

        # Once cancelled, all of them have cleared up before anybody closes what they work with.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(spec)) for spec in wanted]
        return [path for task in tasks if (path := task.result()) is not None], errors

    result = elsewhere.run(session, work)
    if isinstance(result, Exit):
        return result
    paths, errors = result
    if as_json:
        mask = logs.masker(session.secrets())
        session_of.show(
            render.as_json({"paths": [str(path) for path in paths], "errors": [mask(str(e)) for e in errors]})
        )
    else:
        session_of.show("\n".join(text.plain(str(path)) for path in paths))
    for error in errors:
        session_of.fail(error)
    if not errors or paths:
        return Exit.PARTIAL if errors else Exit.OK
    return Exit.LOCKED if all(isinstance(error, LockedError) for error in errors) else Exit.FAILED


async def everything(
    session: Session, there: Sequence[Location], told: Events, unread: set[str]
) -> tuple[DatabaseSpec, ...]:
    """Return the configured databases, and every other series that has a copy at one of the locations.

    Where the name does not tell whose a copy is, the newest manifest of that name does. Raises TargetError
    where no location can be asked, NoBackupError where there is nothing.
    """
    found = dict.fromkeys(session.required())
    whose = elsewhere.owners(session, ())
    errors: list[TargetError] = []
    for location in there:
        try:
            found |= dict.fromkeys(await _series(location, whose))
        except TargetError as error:
            errors.append(error)
            fetching.tell_unread(location, error, told, unread)
    if len(errors) == len(there):
        raise errors[0]
    if not found:
        raise NoBackupError("there are no backups at the secondary locations", hint="look: list --remote")
    return tuple(found)


async def _series(location: Location, whose: naming.Owners) -> list[DatabaseSpec]:
    found: list[DatabaseSpec] = []
    doubtful: dict[str, Copy] = {}
    for copy in copies_of.copies(await location.listing()):
        specs = whose.of(copy.core)
        if len(specs) == 1:
            found.append(specs[0])
        elif copy.committed:
            doubtful.setdefault(copy.core, copy)
    if doubtful:
        async with location.connect() as remote:
            for copy in doubtful.values():
                manifest = await read_manifest(remote, copy.name)
                if manifest is not None:
                    found.append(manifest.spec)
    return found


async def bring(session: Session, found: Found, where: fetching.Place, told: Events) -> Path:
    """Fetch one backup as the settings say."""
    return await fetching.fetch(
        found,
        where,
        told,
        Progress(),
        retries=session.settings.upload_retries,
        retry_delay=session.settings.retry_delay,
    )


def at_hand(session: Session, spec: DatabaseSpec, pattern: str, *, fresh: bool) -> str | Exit:
    """Return the pattern for a restore; where none here fits, or `fresh`, the path of a fetched copy.

    Raises UsageError where `fresh` is wanted and there is no secondary location.
    """
    if not fresh and (_is_here(session, spec, pattern) or not targets(session.settings)):
        return pattern  # what there is to say of a backup that is nowhere, is said of the backup directory
    there = elsewhere.locations(session)

    async def work(told: Events, executor: ThreadPoolExecutor) -> Path:
        whose = elsewhere.owners(session, (spec,))
        bound = told.bind(host=spec.host, port=spec.port, dbname=spec.dbname or "@globals")
        found = await fetching.find(there, spec, whose, datetime.now(UTC), pattern, bound, set())
        return await bring(session, found, elsewhere.place(session, executor), bound)

    path = elsewhere.run(session, work)
    return path if isinstance(path, Exit) else str(path)


def _is_here(session: Session, spec: DatabaseSpec, pattern: str) -> bool:
    try:
        selection.select(session.settings.backup_dir, session.conf, spec, pattern, datetime.now(UTC))
    except NoBackupError:
        return False
    return True


@asynccontextmanager
async def copies_at_hand(
    session: Session, specs: tuple[DatabaseSpec, ...], pattern: str, told: Events, *, fresh: bool
) -> AsyncIterator[Elsewhere | None]:
    """Yield the newest copies of what has no backup here, or of everything if `fresh`, to be fetched in turn.

    They come into a folder of their own below VERIFY_DIR, and are gone afterwards. Yields None where there is
    no secondary location.
    """
    if not fresh and not targets(session.settings):
        yield None
        return
    there = elsewhere.locations(session)
    now = datetime.now(UTC)
    values = session.settings
    async with AsyncExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(elsewhere.THREADS, "file"))
        unread: set[str] = set()
        wanted = await _wanted(session, specs, pattern, there, told, unread, fresh=fresh)
        if not wanted:
            yield None
            return
        root = values.verify_dir or Path(tempfile.gettempdir())
        await in_thread(executor, folders.sweep, root)
        folder = await stack.enter_async_context(folders.folder(root, None))
        whose = elsewhere.owners(session, specs)
        found: dict[Path, tuple[Found, fetching.Place]] = {}
        for number, spec in enumerate(wanted):
            # Names of several databases may be the same.
            where = elsewhere.place(session, executor, folder.path / f"fetched-{number}")
            try:
                one = await fetching.find(there, spec, whose, now, pattern, told, unread)
            except NoBackupError:
                continue  # it stays missing
            except TargetError:
                if fresh:
                    raise
                continue  # it was told of; what is here is verified all the same
            found[where.path(one.copy)] = one, where

        @asynccontextmanager
        async def at_hand(backup: Backup) -> AsyncIterator[None]:
            if backup.path not in found:
                yield
                return
            one, where = found[backup.path]
            bound = told.bind(host=one.spec.host, port=one.spec.port, dbname=one.spec.dbname or "@globals")
            await bring(session, one, where, bound)
            try:
                yield
            finally:
                for path in (backup.path, backup.path.with_name(backup.path.name + naming.MANIFEST)):
                    path.unlink(missing_ok=True)

        yield Elsewhere(
            backups=tuple(_backup(one, path) for path, (one, _) in found.items()), at_hand=at_hand, only=fresh
        )


async def _wanted(
    session: Session,
    specs: tuple[DatabaseSpec, ...],
    pattern: str,
    there: Sequence[Location],
    told: Events,
    unread: set[str],
    *,
    fresh: bool,
) -> tuple[DatabaseSpec, ...]:
    if fresh:
        return specs or await everything(session, there, told, unread)
    chosen, missing = candidates.choose(
        session.settings,
        session.conf,
        only=specs,
        required=specs or session.required(),
        pattern=pattern,
        now=datetime.now(UTC),
    )
    if chosen or specs:
        return missing
    # With nothing here at all, the volume is gone: what a wildcard stood for, the locations still know.
    try:
        return await everything(session, there, told, unread)
    except (NoBackupError, TargetError):
        return missing


def _backup(found: Found, path: Path) -> Backup:
    return Backup(
        path=path,
        core=found.copy.core,
        tier=Tier.DATED,
        taken_at=found.manifest.started_at if found.manifest else found.copy.taken_at,
        bytes=found.copy.bytes,
        good=True,
        spec=found.spec,
        manifest=manifests.brief(found.manifest) if found.manifest else None,
        note=f"fetched from {found.location.label}",
    )
