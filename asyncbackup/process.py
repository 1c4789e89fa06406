"""Children that never outlive the block they were started in."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from asyncbackup.errors import ClientError
from asyncbackup.threads import see_through

_TERM_GRACE = 5.0  # seconds between SIGTERM and SIGKILL for a child that is not wanted any more
_KEEP_LINES = 400
_KEEP_LINE_BYTES = 2000


@dataclass(slots=True)
class Child:
    """A running program; `stderr` fills while it runs."""

    process: asyncio.subprocess.Process
    stderr: list[str] = field(default_factory=list)
    dropped_lines: int = 0
    _drained: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        """Return the exit status (negative: the signal that killed it) once stderr is read, too."""
        status = await self.process.wait()
        await self._drained.wait()
        return status

    def signal(self, number: int) -> None:
        """Send a signal to the child and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def die_with_parent() -> tuple[str, ...]:
    """Return what to put before a command so that the kernel ends it when we are killed.

    util-linux's setpriv does it in the child after the fork, which Python itself could only do with a
    hook that is unsafe beside threads. Without it a dump still ends at its next write, by SIGPIPE.
    """
    setpriv = shutil.which("setpriv")
    # busybox has one, too, which does not know the option.
    known = setpriv is not None and Path(setpriv).resolve().name == "setpriv"
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv and known else ()


@contextlib.asynccontextmanager
async def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    stdout: int | IO[bytes] = asyncio.subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Child]:
    """Start a program in a session of its own; on leaving the block it has ended, by force if need be.

    The session keeps a terminal's Ctrl-C from reaching it before we clean up. Its stderr is read all
    the time, bounded, so that a chatty program cannot block. Raises ClientError when it cannot run.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *(str(part).encode("utf-8", "surrogateescape") for part in argv),  # whatever our locale is
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
            limit=1 << 16,
        )
    except OSError as error:
        raise ClientError(
            f"cannot start {argv[0]}: {error.strerror}",
            hint="check that it exists, is executable, and that limits on processes are not reached",
        ) from error
    child = Child(process)
    reader = asyncio.create_task(_drain(child))
    try:
        yield child
    finally:
        await _end(child, reader)


async def _drain(child: Child) -> None:
    stream = child.process.stderr
    assert stream is not None  # noqa: S101 - asked for above; tells the type checker
    try:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit; the reader has thrown it away
                child.dropped_lines += 1
                continue
            if not line:
                break
            if len(child.stderr) < _KEEP_LINES:
                child.stderr.append(line[:_KEEP_LINE_BYTES].decode("utf-8", "replace").rstrip())
            else:
                child.dropped_lines += 1
    finally:
        child._drained.set()  # noqa: SLF001 - the other half of Child.wait


async def _end(child: Child, reader: asyncio.Task[None]) -> None:
    try:
        await see_through(asyncio.ensure_future(_terminate(child)))
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


async def _terminate(child: Child) -> None:
    if child.process.returncode is not None:
        return
    child.signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(child.process.wait(), _TERM_GRACE)
    except TimeoutError:
        child.signal(signal.SIGKILL)
        await child.process.wait()
