"""All that is found out before a restore changes anything: the server is only asked, the file only read.

The file is opened once and read from end to end; what is loaded later comes from the same descriptor.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from io import FileIO
from pathlib import Path

import asyncpg

from asyncbackup.errors import (
    AccessError,
    AsyncbackupError,
    DamagedError,
    DatabaseMissingError,
    RefusedError,
    StorageError,
    UsageError,
)
from asyncbackup.model import DatabaseSpec, Level
from asyncbackup.postgres import target as target_of
from asyncbackup.postgres.connect import Connection, Endpoint, connection, endpoint, mapped
from asyncbackup.postgres.target import Target
from asyncbackup.postgres.versions import Client, below_floor, loader
from asyncbackup.proof.check import judge
from asyncbackup.restoring import selection
from asyncbackup.restoring.restoration import Evidence, Request, Restoration, Tools, Work, decide, refuse
from asyncbackup.restoring.selection import Selected
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread
from asyncbackup.unpack import Unpacked, open_backup, unpack

_MAINTENANCE = ("postgres", "template1")
_HEAD = 4096
_SHOWN = 3  # problems of a damaged file; `check` tells them all


async def prepare(request: Request, tools: Tools, work: Work, stack: contextlib.ExitStack) -> Restoration:
    """Find out whether the restore can be carried out, and how; `stack` closes the file in the end.

    Raises what speaks against it; nothing was changed then.
    """
    if request.spec.is_globals or request.target.is_globals:
        raise UsageError(
            "roles and tablespaces are not restored by themselves",
            hint="--create-roles makes those that a database lacks; the rest stands in the file, for psql",
        )
    selected = await in_thread(
        tools.executor,
        selection.select,
        tools.root,
        tools.configured,
        request.spec,
        request.pattern,
        tools.started,
    )
    work.bytes = selected.backup.bytes
    if request.level is Level.CONTENT and selected.manifest is None:
        # How values are written depends on the settings of whoever dumped them, such as the time zone.
        note = "without a manifest only rows can be compared: their number in every table, not their values"
        request = replace(request, level=Level.ROWS)
        selected = replace(selected, notes=(*selected.notes, note))
    async with asked(request.target, tools) as (_, _, target):
        refuse(request, target, selected.manifest.loads_into if selected.manifest else 0)
        psql = _psql(request, tools, target)
    work.stage = "checking"
    source = stack.enter_context(await in_thread(tools.executor, _open, selected.backup.path))
    evidence = await _evidence(selected, source, tools, work)
    work.stage = "asking"
    # Reading may have taken a while: ask anew.
    async with asked(request.target, tools) as (connected, door, target):
        return await decide(request, tools, evidence, connected, door, target, psql)


@contextlib.asynccontextmanager
async def asked(spec: DatabaseSpec, tools: Tools) -> AsyncIterator[tuple[Connection, Endpoint, Target]]:
    """Connect to the server of a database, and ask what stands there; yields the answer."""
    door = await _door(spec, tools)
    async with connection(door, answer=None) as connected:
        with mapped(spec):
            await target_of.begin(connected)
            yield connected, door, await target_of.look(connected, spec.dbname)


async def _door(spec: DatabaseSpec, tools: Tools) -> Endpoint:
    """Find a database to work from: nobody can rename the one that they are connected to."""
    closed: AsyncbackupError | None = None
    for dbname in _MAINTENANCE:
        if dbname == spec.dbname:
            continue
        other = DatabaseSpec(spec.host, spec.port, dbname)
        at = endpoint(other, tools.login, tools.environ, tools.connect_timeout)
        try:
            async with connection(at):
                return at
        except DatabaseMissingError as error:
            closed = closed or error
        except AccessError as error:
            if not isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
                raise
            closed = closed or error
    assert closed is not None  # noqa: S101 - at least one was tried
    raise closed


def _psql(request: Request, tools: Tools, target: Target) -> Client:
    psql = loader(target.server_version, tools.clients)
    floor = below_floor(psql.version)
    if request.go_on and floor is not None:
        raise RefusedError(
            f"going on after errors is not safe with psql {psql.version}, which would run the rows of a table"
            f" that could not be made as commands; update it to {floor}",
            hint="update the PostgreSQL client, or restore without going on; nothing was touched",
        )
    return psql


def _open(path: Path) -> FileIO:
    try:
        return open_backup(path)
    except OSError as error:
        raise StorageError(f"{path}: it cannot be read: {error.strerror}") from error


class _UnwantedError(Exception):
    """Nobody waits for the rest of the file."""


async def _evidence(selected: Selected, source: FileIO, tools: Tools, work: Work) -> Evidence:
    """Read the whole file, and judge it; raises DamagedError."""
    path = selected.backup.path
    try:
        unpacked, head = await _read(source, tools, work)
    except OSError as error:
        raise StorageError(f"{path}: it cannot be read: {error.strerror}") from error
    if problems := judge(unpacked, selected.manifest):
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DamagedError(
            f"{path}: {'; '.join(problems[:_SHOWN])}{more}",
            hint="nothing was touched; choose another backup with -f (`asyncbackup list`)",
        )
    return Evidence(selected=selected, source=source, unpacked=unpacked, head=head)


async def _read(source: FileIO, tools: Tools, work: Work) -> tuple[Unpacked, bytes]:
    head, unwanted = bytearray(), threading.Event()

    def look(piece: memoryview) -> None:
        if unwanted.is_set():
            raise _UnwantedError
        head.extend(piece[: _HEAD - len(head)])

    work.progress = Progress()
    reading = asyncio.ensure_future(in_thread(tools.executor, unpack, source, work.progress, sink=look))
    try:
        return await asyncio.shield(reading), bytes(head)
    except asyncio.CancelledError:
        unwanted.set()
        await asyncio.wait([reading])
        reading.exception()  # it ended because it was told to
        raise
