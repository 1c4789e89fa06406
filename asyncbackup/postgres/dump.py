"""Running pg_dump and pg_dumpall into a file, and telling their failures apart."""

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from io import FileIO

from asyncbackup.errors import IncompleteDumpError, KilledDumpError, StalledDumpError, StorageError
from asyncbackup.model import DatabaseSpec, Facts, PgVersion
from asyncbackup.postgres.connect import JIT_SINCE, Endpoint, child_environment, conninfo, passfile, quoted
from asyncbackup.postgres.failures import classify
from asyncbackup.postgres.versions import Client
from asyncbackup.process import Child, spawn
from asyncbackup.stream import PIPE_SIZE, Compressor, Progress, Pumped, pump
from asyncbackup.threads import in_thread, see_through

_LOOK = 0.25  # seconds between two looks of the watchdog
_TRACE_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a dump may take, in seconds; 0 is for ever."""

    lock_wait: float
    stall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """A dump that ended well: status, trailer and writes; fsync and close are still to come."""

    pumped: Pumped
    warnings: tuple[str, ...]


def database_command(client: Client, endpoint: Endpoint, facts: Facts, limits: Limits) -> list[str]:
    """Return pg_dump's command line for a plain, consistent dump.

    It is in the database's own encoding, whatever client_encoding is set for the database or the role:
    another one may lack some of its characters.
    """
    command = [
        str(client.bindir / "pg_dump"),
        "--format=plain",
        "--no-password",
        f"--encoding={facts.properties.encoding}",
        f"--lock-wait-timeout={round(limits.lock_wait * 1000)}",
        f"--dbname={conninfo(endpoint)}",
    ]
    return [*command, f"--snapshot={facts.snapshot}"] if facts.snapshot else command


def globals_command(client: Client, endpoint: Endpoint, limits: Limits, *, passwords: bool) -> list[str]:
    """Return pg_dumpall's command line for roles and tablespaces."""
    command = [
        str(client.bindir / "pg_dumpall"),
        "--globals-only",
        "--no-password",
        f"--lock-wait-timeout={round(limits.lock_wait * 1000)}",
        f"--dbname={conninfo(endpoint)}",
        # It takes everything but the name from there, and would log in to postgres or template1.
        f"--database=dbname={quoted(endpoint.spec.dbname)}",
    ]
    return command if passwords else [*command, "--no-role-passwords"]


async def dump(
    command: Sequence[str],
    endpoint: Endpoint,
    *,
    environ: Mapping[str, str],
    server_version: PgVersion,
    target: FileIO,
    compressor: Compressor,
    progress: Progress,
    limits: Limits,
    executor: Executor,
    on_flow: Callable[[], Awaitable[None]],
    at_work: Callable[[], Awaitable[bool]],
) -> Dumped:
    """Run the command into the file `target`, which is left open and to be synced.

    Returns only if the program's exit status is 0, every write went well, and the dump is whole.
    Raises DumpError, StorageError and their kin otherwise; then the file is worth nothing. `on_flow`
    is called once when the first bytes have come: the program then holds all its locks and snapshots.
    `at_work` is asked whether the server is, when nothing has come for the time that `limits` allow.
    """
    env = child_environment(environ, jit=server_version.major >= JIT_SINCE)
    source, sink = _pipe()
    progress.moved_at = time.monotonic()
    pumping = asyncio.ensure_future(in_thread(executor, pump, source, target, compressor, progress))
    try:
        with sink, passfile(endpoint.password) as (variables, descriptors):
            async with spawn(
                command,
                env={**env, **variables},
                stdout=sink,
                pass_fds=descriptors,
            ) as child:
                sink.close()  # the pipe ends with its last writer
                flowing = await _watch(endpoint.spec, child, pumping, progress, limits, on_flow, at_work)
                pumped = await pumping
                status = await child.wait()
    except OSError as error:
        raise StorageError(
            f"{endpoint.spec}: cannot write the backup: {error.strerror or error}",
            hint="check the free space and the health of the backup volume",
        ) from error
    finally:
        # The child has ended, so the pipe has, and the thread will; nobody may touch its file before.
        with contextlib.suppress(OSError):
            await see_through(pumping)
    _judge(endpoint.spec, command, child, status, pumped)
    if not flowing:  # it was over before anybody looked
        await on_flow()
    return Dumped(pumped=pumped, warnings=_said(child))


def _pipe() -> tuple[FileIO, FileIO]:
    reader, writer = os.pipe()
    # Beyond their share of pipe memory, unprivileged users keep the default size.
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return FileIO(reader, "r"), FileIO(writer, "w")


async def _watch(
    spec: DatabaseSpec,
    child: Child,
    pumping: "asyncio.Future[Pumped]",
    progress: Progress,
    limits: Limits,
    on_flow: Callable[[], Awaitable[None]],
    at_work: Callable[[], Awaitable[bool]],
) -> bool:
    """Wait until the pump has ended, and end a dump that stands still; return whether `on_flow` ran."""
    flowing, vouched = False, 0.0
    while not pumping.done():
        await asyncio.wait([pumping], timeout=_LOOK)
        if progress.sql_bytes and not flowing:
            flowing = True
            await on_flow()
        since = max(progress.moved_at, vouched)
        if limits.stall and time.monotonic() - since > limits.stall:
            if await at_work():
                vouched = time.monotonic()
            elif progress.moved_at <= since and not pumping.done():
                child.signal(signal.SIGKILL)  # it may be stopped, and deaf to anything else
                raise StalledDumpError(
                    f"{spec}: the dump brought nothing for {limits.stall:g} s, while the server was not at "
                    "work on it, and was ended",
                    hint="look for locks and load on the server, or raise DUMP_STALL_TIMEOUT",
                )
    return flowing


def _judge(spec: DatabaseSpec, command: Sequence[str], child: Child, status: int, pumped: Pumped) -> None:
    program = os.path.basename(command[0])  # noqa: PTH119 - a name, not a path to follow
    if status < 0:
        name = signal.Signals(-status).name
        hint = "the kernel may have run out of memory: look into its log" if name == "SIGKILL" else ""
        raise KilledDumpError(f"{spec}: {program} was killed by {name}", hint=hint)
    if status:
        said = "; ".join(_said(child)[:_TRACE_LINES]) or f"exit status {status}"
        kind, hint = classify("\n".join(child.stderr))
        raise kind(f"{spec}: {said}", hint=hint or f"run {program} by hand to see more")
    if pumped.scan.problem:
        raise IncompleteDumpError(
            f"{spec}: {program} reported success, but {pumped.scan.problem}",
            hint="nothing was kept; check the client's installation and what stands between it and us",
        )


def _said(child: Child) -> tuple[str, ...]:
    lines = tuple(line for line in child.stderr if line.strip())
    return (*lines, f"({child.dropped_lines} more lines)") if child.dropped_lines else lines
