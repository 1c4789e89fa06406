"""One database's journey: facts → dump → compress and prove → publish → prune."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import stamina

from asyncbackup import __version__, inventory, locks, naming, prune, retention, space, volume
from asyncbackup import manifest as manifests
from asyncbackup.errors import AsyncbackupError, ClientError
from asyncbackup.model import (
    Backup,
    DatabaseProperties,
    DatabaseSpec,
    Facts,
    Manifest,
    Outcome,
    PgVersion,
    Status,
    StoredFile,
)
from asyncbackup.offsite import copies
from asyncbackup.postgres import dump as dumps
from asyncbackup.postgres import facts as facts_of
from asyncbackup.postgres.connect import Endpoint, endpoint
from asyncbackup.postgres.versions import Client, below_floor, choose
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread
from asyncbackup.tools import Journey, Tools
from asyncbackup.tries import Tries

_LONGEST_PAUSE = 60.0
_LOAD_INTO_OLDER = "zcat FILE | sed '/^SET transaction_timeout = 0;$/d' | psql …"


async def back_up(journey: Journey, tools: Tools, found: inventory.Inventory) -> Outcome:
    """Carry one database, or one server's globals, all the way; raises what stops it."""
    spec = journey.spec
    async with _lock(tools, spec):
        if found.partials or found.orphans:
            swept = await in_thread(tools.executor, inventory.sweep, found, spec, tools.owners)
            if swept:
                tools.events.emit("leftovers.removed", files=[str(path) for path in swept])
        backup = await _until_it_succeeds(journey, tools, found)
        removed = await _prune(journey, tools, found, backup)
    seconds, warnings = round(time.monotonic() - journey.started, 3), tuple(journey.warnings)
    return Outcome(
        spec=spec, status=Status.GOOD, seconds=seconds, backup=backup, removed=removed, warnings=warnings
    )


@contextlib.asynccontextmanager
async def _lock(tools: Tools, spec: DatabaseSpec) -> AsyncIterator[None]:
    with contextlib.ExitStack() as stack:
        lock = locks.hold(tools.lock_folder, naming.long_core(spec), str(spec), tools.run_id)

        def hold() -> None:
            volume.make_root(tools.root, tools.file_mode)  # the lock would make it, closed to the group
            stack.enter_context(lock)

        await in_thread(tools.executor, hold)
        yield


async def _until_it_succeeds(journey: Journey, tools: Tools, found: inventory.Inventory) -> Backup:
    """Try until it succeeds, or trying is over; the pauses are spent away from the journey's place."""
    tries = Tries(journey, tools)
    async for attempt in stamina.retry_context(
        on=tries.again,
        attempts=tools.retries + 1,
        timeout=None,
        wait_initial=tools.retry_delay,
        wait_max=max(_LONGEST_PAUSE, tools.retry_delay),
        wait_jitter=tools.retry_delay / 4,
    ):
        with attempt:
            if tries.last is not None:
                journey.stage = "waiting"
                with journey.clock_stopped():
                    await journey.place.take()
                tools.events.warning("backup.retried", attempt=attempt.num, error=str(tries.last))
            journey.progress = Progress()
            journey.warnings.clear()  # those of the last try stand in the event above
            if journey.spec.is_globals:
                return await _globals(journey, tools)
            return await _database(journey, tools, found, export=tries.export)
    raise AssertionError("a retry always ends in a result or an error")


def _endpoint(spec: DatabaseSpec, tools: Tools) -> Endpoint:
    return endpoint(spec, tools.credentials(spec), tools.environ, tools.connect_timeout)


async def _database(journey: Journey, tools: Tools, found: inventory.Inventory, *, export: bool) -> Backup:
    spec = journey.spec
    journey.stage = "connecting"
    at = _endpoint(spec, tools)
    async with contextlib.AsyncExitStack() as stack:
        snapshot = await stack.enter_async_context(facts_of.snapshot(at, export=export))
        client = _client(journey, tools, snapshot.facts)
        space.check(journey, tools, found)
        command = dumps.database_command(client, at, snapshot.facts, tools.limits)
        on_flow = snapshot.end
        if not export:
            # The role or the server may have no second connection to spare.
            await stack.aclose()
            on_flow = _nothing
        return await _write(journey, tools, command, at, client, snapshot.facts, on_flow)


async def _globals(journey: Journey, tools: Tools) -> Backup:
    """Back up roles and tablespaces; any database of the server serves to log in."""
    server = journey.spec.server
    journey.stage = "connecting"
    at = _endpoint(DatabaseSpec(server.host, server.port, tools.doors.get(server, "postgres")), tools)
    try:
        async with facts_of.snapshot(at, export=False) as snapshot:
            facts = snapshot.facts
            client = _client(journey, tools, facts)
        command = dumps.globals_command(client, at, tools.limits, passwords=tools.globals_passwords)
        return await _write(journey, tools, command, at, client, facts, _nothing)
    except AsyncbackupError as error:
        error.rename(at.spec, journey.spec)  # whichever database served may be good, or nobody's concern
        raise


async def _at_work(tools: Tools, at: Endpoint) -> bool:
    """Whether the server is at work on a dump that brings nothing; if it cannot be asked, it is not."""
    try:
        working, said = await facts_of.activity(at)
    except AsyncbackupError as error:
        working, said = False, str(error)
    tools.events.warning("backup.quiet", server=said, goes_on=working, seconds=tools.limits.stall)
    return working


async def _nothing() -> None:
    """Do nothing, where there is no snapshot to end."""


def _client(journey: Journey, tools: Tools, facts: Facts) -> Client:
    try:
        client = choose(facts.server_version, tools.clients)
    except ClientError as error:
        raise ClientError(f"{journey.spec}: {error.message}", hint=error.hint) from error
    floor = below_floor(client.version)
    if floor is not None and client not in tools.warned:
        tools.warned[client] = f"pg_dump {client.version} has known security holes; update to {floor}"
        tools.run_events.warning(
            "client.outdated", version=str(client.version), update_to=str(floor), bindir=str(client.bindir)
        )
    if client.version.major != facts.server_version.major:
        _tell_of_newer(journey, tools, facts.server_version, client.version)
    return client


def _tell_of_newer(journey: Journey, tools: Tools, server: PgVersion, client: PgVersion) -> None:
    """Warn of a dump that plain psql may not load into the server that it came from."""
    said = f"PostgreSQL {server} is dumped by the newer pg_dump {client}"
    hint = f"install the client of PostgreSQL {server.major}"
    if client.major >= facts_of.TRANSACTION_TIMEOUT_SINCE > server.major and not journey.spec.is_globals:
        said += f", and PostgreSQL {server.major} does not know its setting transaction_timeout"
        hint += f"; until then, restore by `asyncbackup restore`, or by `{_LOAD_INTO_OLDER}`"
    journey.warnings.append(f"{said}; {hint}")
    if not journey.spec.is_globals and journey.spec.server not in tools.dumped_by_newer:
        tools.dumped_by_newer.add(journey.spec.server)
        tools.events.warning(
            "client.newer",
            message=f"{journey.spec.server}: {said}",
            hint=hint,
            server_version=str(server),
            client_version=str(client),
        )


async def _write(
    journey: Journey,
    tools: Tools,
    command: list[str],
    at: Endpoint,
    client: Client,
    facts: Facts,
    on_flow: Callable[[], Awaitable[None]],
) -> Backup:
    """Dump into a partial file, and publish it once everything about it is known to be good."""
    spec, core = journey.spec, tools.cores[journey.spec]
    started = tools.now()
    local = started.astimezone().replace(tzinfo=None)
    tier = retention.tier(tools.policy, local)
    folder_names = volume.parts(tier, local)
    journey.stage = "dumping"
    async with _partial(tools, folder_names, core, local) as partial:
        dumped = await dumps.dump(
            command,
            at,
            environ=tools.environ,
            server_version=facts.server_version,
            target=partial.file,
            compressor=tools.compressor,
            progress=journey.progress,
            limits=tools.limits,
            executor=tools.pumps,
            on_flow=on_flow,
            at_work=lambda: _at_work(tools, at),
        )
        # From here on it is a matter of moments, and a backup that is there must not be called failed.
        journey.stage = "publishing"
        journey.clock.reschedule(None)
        await journey.place.hand_over()
        journey.warnings += dumped.warnings

        def describe(name: str) -> Manifest:
            return _manifest(journey, tools, name, started, client, facts, dumped)

        path, manifest = await in_thread(tools.executor, volume.publish, partial, core, local, describe)
    return Backup(
        path=path,
        core=core,
        tier=tier,
        taken_at=started,
        bytes=manifest.file.bytes,
        good=True,
        spec=spec,
        manifest=manifests.brief(manifest),
    )


@contextlib.asynccontextmanager
async def _partial(
    tools: Tools, names: tuple[str, ...], core: str, local: datetime
) -> AsyncIterator[volume.Partial]:
    """Open the folder and the partial file in a thread, for volumes that are slow or far away."""
    with contextlib.ExitStack() as stack:

        def begin() -> volume.Partial:
            folder = stack.enter_context(volume.open_folder(tools.root, names, file_mode=tools.file_mode))
            return stack.enter_context(volume.partial(folder, core, local))

        yield await in_thread(tools.executor, begin)


def _manifest(
    journey: Journey,
    tools: Tools,
    name: str,
    started: datetime,
    client: Client,
    facts: Facts,
    dumped: dumps.Dumped,
) -> Manifest:
    spec, scan = journey.spec, dumped.pumped.scan
    of_database = not spec.is_globals
    return Manifest(
        host=spec.host,
        port=spec.port,
        dbname=spec.dbname,
        kind="database" if of_database else "globals",
        run_id=tools.run_id,
        started_at=started,
        finished_at=tools.now(),
        local_time=started.astimezone().isoformat(timespec="seconds"),
        server_version=str(facts.server_version),
        client_version=str(client.version),
        # The client is never older than the server, so what it writes is the server's own language.
        loads_into=facts.server_version.major,
        file=StoredFile(
            name=name,
            bytes=dumped.pumped.bytes,
            sha256=dumped.pumped.sha256,
            compressor=tools.compressor.name,
            level=tools.compressor.level,
        ),
        sql_bytes=scan.bytes,
        rows=scan.rows,
        table_count=len({(block.schema, block.table) for block in scan.blocks}),
        encoding=scan.encoding,
        outside_blake3=scan.outside_blake3,
        restricted=scan.restricted,
        in_recovery=facts.in_recovery,
        consistent=facts.snapshot is not None,
        database_bytes=journey.size,
        asyncbackup_version=__version__,
        properties=facts.properties if of_database else DatabaseProperties(),
        roles=tuple(sorted({*scan.roles, *facts.roles})) if of_database else scan.roles,
        superusers=scan.superusers,
        tablespaces=scan.tablespaces,
        extensions=facts.extensions if of_database else (),
        object_counts=facts.object_counts if of_database else {},
        unlogged=facts.unlogged if of_database and facts.in_recovery else (),
        warnings=tuple(journey.warnings),
        sequences=scan.sequences,
        large_objects=scan.large_objects,
        tables=scan.blocks,
    )


async def _prune(
    journey: Journey, tools: Tools, found: inventory.Inventory, backup: Backup
) -> tuple[Path, ...]:
    """Prune this series, now that it has a new good backup; what cannot be removed is a warning."""
    journey.stage = "pruning"
    spec = journey.spec
    if not found.of(inventory.cores_of(spec)):
        return ()

    try:
        series = await in_thread(tools.executor, inventory.series, found, spec, tools.owners)
        journey.older = tuple(map(copies.light, series)) if tools.offsite is not None else ()
        plan = retention.plan((backup, *series), tools.policy, tools.now())
        if tools.offsite is not None and plan.remove:
            unsaved = await tools.offsite.unsaved(spec, series, plan.remove, tools.events)
            plan = retention.spare(plan, unsaved, "it is at no secondary location yet")
        removal = await in_thread(
            tools.executor, prune.carry_out, plan, tools.root, tools.lock_folder, tools.run_id, found.records
        )
    except Exception as error:  # noqa: BLE001 - the backup is good, whatever happens to older ones
        journey.warnings.append(f"older backups were not pruned: {error}")
        tools.events.warning("prune.failed", error=str(error))
        return ()
    for path in removal.removed:
        tools.events.emit("backup.pruned", path=str(path))
    journey.warnings += removal.problems
    return removal.removed
