"""Restoring a database so that the old one is untouched until the new one is proven.

lock → empty database under a working name → load → compare → ANALYZE → swap by rename, in one transaction.
Whatever stops it before the swap, the half-made database is dropped and the old one was never touched.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyncbackup import multiset
from asyncbackup.errors import AsyncbackupError, DamagedError, LoadError, RefusedError, StorageError
from asyncbackup.model import Difference
from asyncbackup.postgres import parallel, readback
from asyncbackup.postgres import swap as swap_of
from asyncbackup.postgres import target as target_of
from asyncbackup.postgres.connect import (
    JIT_SINCE,
    Connection,
    child_environment,
    connection,
    conninfo,
    mapped,
)
from asyncbackup.postgres.load import Door, Loaded, load, restricts
from asyncbackup.postgres.properties import quoted
from asyncbackup.postgres.retelling import WithoutTablespaces
from asyncbackup.restoring.halfmade import AGAIN, PATIENCE, Restored, Run, half_made, make
from asyncbackup.restoring.restoration import Restoration, Tools, Work
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread, see_through
from asyncbackup.unpack import Unpacked

_DEADLINE = 30.0  # seconds in which the sessions of both databases must end
_BEAT = 30.0  # seconds between two signs of life on the connection that holds the lock
_COMPARING = 2  # connections that count rows
_SHOWN = 10  # differences in a sentence
_READ_WRITE = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0"
"""Against what is set for the role; a dump itself lifts the rest."""


async def restore(plan: Restoration, tools: Tools, work: Work) -> Restored:
    """Carry out what was decided; raises what stopped it, with the old database as it was."""
    spec = plan.request.target
    events = tools.events.bind(host=spec.host, port=spec.port, dbname=spec.dbname)
    run = Run(plan=plan, tools=tools, work=work, events=events)
    selected = plan.evidence.selected
    events.emit(
        "restore.started",
        path=str(selected.backup.path),
        bytes=selected.backup.bytes,
        server_version=str(plan.target.server_version),
        psql=str(plan.psql.version),
        replaces=plan.target.present is not None,
    )
    for said in plan.warnings:
        run.warn(said)
    try:
        restored = await _restore(run)
    except asyncio.CancelledError:
        if run.restored is not None:
            _finished(run, run.restored)
        else:
            _failed(run, error="interrupted", category="interrupted", hint=_left(run))
        raise
    except AsyncbackupError as error:
        error.hint = "; ".join(part for part in (error.hint, _left(run)) if part)
        _failed(run, error=str(error), category=error.category, hint=error.hint)
        raise
    except Exception as error:
        said = f"{spec}: {type(error).__name__}: {error}"
        _failed(run, error=said, category="bug", hint=_left(run), exc_info=error)
        raise AsyncbackupError(said, hint=f"this is a defect: please report it; {_left(run)}") from error
    _finished(run, restored)
    return restored


def _left(run: Run) -> str:
    if not run.left:
        return "the old database is as it was" if run.plan.target.present else ""
    return (
        f"left behind, since the server did not answer: {', '.join(run.left)}; the next restore of this"
        " database removes it"
    )


def _failed(run: Run, **fields: Any) -> None:  # noqa: ANN401
    run.events.error(
        "restore.failed", stage=run.work.stage, left=list(run.left), seconds=run.seconds, **fields
    )


def _finished(run: Run, restored: Restored) -> None:
    run.events.emit(
        "restore.finished",
        kept=restored.kept or None,
        tables=restored.tables,
        rows=restored.rows,
        load_seconds=restored.load_seconds,
        errors=len(restored.errors),
        differences=[str(one) for one in restored.differences[:_SHOWN]],
        warnings=list(restored.warnings),
        seconds=restored.seconds,
    )


async def _restore(run: Run) -> Restored:
    async with run.session() as admin:
        with mapped(run.target):
            run.enter("locking")
            run.admin = await swap_of.identity(admin)
            await swap_of.lock(admin, run.target.dbname, str(run.target))
            for name in await swap_of.leftovers(admin, run.target.dbname):
                await swap_of.drop(admin, name)
                run.events.warning("restore.leftover", database=name)
            await _unchanged(run, admin)
            async with half_made(run, admin):
                await make(run, admin)
                async with _alive(admin):
                    loaded = await _load(run)
                    compared = await _compare(run)
                    await _analyze(run)
                await _swap(run, admin, loaded, compared)
            return await _afterwards(run)


async def _unchanged(run: Run, admin: Connection) -> None:
    """Raise RefusedError if what stood there when somebody said yes is not what stands there now."""
    before = run.plan.target.present
    now = (await target_of.look(admin, run.target.dbname)).present
    if (before.oid if before else None) != (now.oid if now else None):
        raise RefusedError(
            f"{run.target}: another database stands there than a moment ago", hint="restore again"
        )
    if now is not None and now.hindrances:
        raise RefusedError(f"{run.target}: it {'; it '.join(now.hindrances)}")


@contextlib.asynccontextmanager
async def _alive(admin: Connection) -> AsyncIterator[None]:
    """Let no firewall on the way take the connection that holds the lock for dead."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(_BEAT)
            await admin.execute("SELECT 1")

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        if not beating.cancelled():
            beating.exception()  # the swap will tell


async def _load(run: Run) -> Loaded:
    run.enter("loading")
    run.work.progress = Progress()
    try:
        return await (_by_connections(run) if run.plan.jobs > 1 else _by_psql(run))
    except OSError as error:
        path = run.plan.evidence.selected.backup.path
        raise StorageError(f"{path}: it cannot be read: {error.strerror or error}") from error


async def _by_psql(run: Run) -> Loaded:
    plan = run.plan
    at = run.endpoint(plan.restoring)
    env = child_environment(run.tools.environ, jit=plan.target.server_version.major >= JIT_SINCE)
    env["PGOPTIONS"] += f" {_READ_WRITE}"

    def without_tablespaces(write: Callable[[bytes | memoryview], object]) -> WithoutTablespaces:
        return WithoutTablespaces(write, older_server=plan.older_server)

    return await load(
        plan.psql.bindir / "psql",
        Door(conninfo=conninfo(at), env=env, password=at.password),
        plan.evidence.source,
        subject=str(run.target),
        one_transaction=plan.one_transaction,
        older_server=plan.older_server,
        go_on=plan.request.go_on,
        restrict=restricts(plan.psql.version),
        rewrite=None if plan.request.tablespaces else without_tablespaces,
        progress=run.work.progress,
        executor=run.tools.executor,
        accept=lambda unpacked: _same(run, unpacked),
    )


async def _by_connections(run: Run) -> Loaded:
    plan = run.plan
    return await parallel.load(
        plan.evidence.source,
        lambda: connection(run.endpoint(plan.restoring), answer=None),
        plan.jobs,
        subject=str(run.target),
        older_server=plan.older_server,
        tablespaces=plan.request.tablespaces,
        digests=False,
        progress=run.work.progress,
        executor=run.tools.executor,
        accept=lambda unpacked: _same(run, unpacked),
    )


def _same(run: Run, unpacked: Unpacked) -> None:
    """Raise DamagedError unless what was read for the load is what was checked."""
    if unpacked.sha256 != run.plan.evidence.unpacked.sha256:
        raise DamagedError(
            f"{run.plan.evidence.selected.backup.path}: it has changed since it was checked",
            hint="find out who writes to it",
        )


async def _compare(run: Run) -> readback.Compared:
    """Compare with the manifest, or else with what the dump said of itself; raises LoadError."""
    run.enter("comparing")
    plan = run.plan
    manifest = plan.evidence.selected.manifest
    expected = readback.of_manifest(manifest) if manifest else readback.of_dump(plan.evidence.unpacked)
    if manifest and not manifest.consistent:
        expected = replace(expected, object_counts={})  # they are of a moment before

    async def again(tables: frozenset[multiset.Table]) -> Mapping[multiset.Table, multiset.Multiset]:
        return await in_thread(run.tools.executor, multiset.rows_of, plan.evidence.source, tables)

    compared = await readback.compare(
        lambda: connection(run.endpoint(plan.restoring), answer=None),
        expected,
        plan.request.level,
        jobs=max(_COMPARING, plan.jobs),
        again=again,
    )
    counted = [one for one in compared.differences if one.kind == "objects"]
    grave = [one for one in compared.differences if one.kind != "objects"]
    if counted and not grave:
        # All rows are there, and every statement of the dump has run: no reason to withhold them.
        run.warn(f"the number of objects is not that of the source: {_some(counted)}")
    if grave and not plan.request.go_on:
        raise LoadError(
            f"{run.target}: what was restored is not what was backed up: {_some(grave)}",
            hint="try another backup (-f), or going on after errors (-I)",
        )
    return compared


def _some(differences: Sequence[Difference]) -> str:
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return "; ".join(map(str, differences[:_SHOWN])) + more


async def _analyze(run: Run) -> None:
    """Collect statistics, so that the first queries are planned well; they are no reason to fail."""
    run.enter("analyzing")
    try:
        async with run.session(run.plan.restoring) as connected:
            await connected.execute("ANALYZE")
    except (AsyncbackupError, *swap_of.TROUBLE) as error:
        run.warn(f"ANALYZE failed, run it by hand: {error}")


async def _swap(run: Run, admin: Connection, loaded: Loaded, compared: readback.Compared) -> None:
    run.enter("swapping")
    plan = run.plan
    if plan.target.present and (found := await target_of.hindrances(admin, run.target.dbname)):
        raise RefusedError(f"{run.target}: it {'; it '.join(found)} now, which would be lost")
    oid = await swap_of.oid_of(admin, plan.restoring)
    if oid is None:
        raise LoadError(f"{run.target}: {plan.restoring} is gone: somebody has dropped it")
    wanted = swap_of.Swap(
        dbname=run.target.dbname,
        restoring=plan.restoring,
        restoring_oid=oid,
        kept=plan.kept,
        replaced_oid=plan.target.present.oid if plan.target.present else None,
        changes=plan.changes,
        deadline=_DEADLINE,
    )

    def committing() -> None:
        run.committing = True

    def in_place(failed: Sequence[str]) -> None:
        run.restored = Restored(
            target=run.target,
            kept=plan.kept,
            tables=compared.tables,
            rows=compared.rows,
            seconds=run.seconds,
            load_seconds=round(loaded.seconds, 3),
            differences=compared.differences,
            errors=loaded.errors,
            warnings=(*run.warnings, *failed),
        )

    async with run.session() as second:
        try:
            in_place(await swap_of.swap(admin, second, wanted, committing))
        except BaseException as error:
            # COMMIT was sent, and its answer was not seen: only the server knows.
            if not run.committing or run.admin is None:
                raise
            name = await see_through(
                asyncio.ensure_future(swap_of.settled(run.session, oid, run.admin, int(PATIENCE / AGAIN)))
            )
            interrupted = isinstance(error, asyncio.CancelledError)
            if name == run.target.dbname:
                in_place([] if interrupted else ["the connection broke at the very end, after the swap"])
            if name is None and not interrupted:
                raise AsyncbackupError(
                    f"{run.target}: the server went away while the swap was committed; if there is a database"
                    f" {plan.kept or run.target.dbname}, it was done, else not",
                    hint="look, once the server is back",
                ) from error
            if run.restored is None or interrupted:
                raise


async def _afterwards(run: Run) -> Restored:
    """Drop the old database if that was wanted and nothing had to be put up with."""
    restored = run.restored
    assert restored is not None  # noqa: S101 - it is in place
    if run.plan.request.drop_old and restored.kept:
        if not restored.whole:
            run.warn(f"the old database stays as {restored.kept}, since the new one is not whole")
        else:
            try:
                async with run.session() as connected:
                    if run.plan.target.present and run.plan.target.present.properties.is_template:
                        await connected.execute(f"ALTER DATABASE {quoted(restored.kept)} IS_TEMPLATE false")
                    await swap_of.drop(connected, restored.kept)
                restored = replace(restored, kept="")
            except (AsyncbackupError, *swap_of.TROUBLE) as error:
                run.warn(f"the old database could not be dropped, and stays as {restored.kept}: {error}")
    run.restored = replace(
        restored,
        warnings=tuple(dict.fromkeys((*restored.warnings, *run.warnings))),
        seconds=run.seconds,
    )
    return run.restored
