"""Children that never outlive the block they were started in, nor us.

A child may run as somebody else: root gives what reads untrusted input, and a PostgreSQL server, which
refuses to run as root, an unprivileged user's id.
"""

import asyncio
import contextlib
import errno
import functools
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from io import FileIO
from pathlib import Path
from pwd import struct_passwd
from typing import IO

from asyncbackup.errors import ClientError
from asyncbackup.threads import see_through

Stop = Sequence[tuple[signal.Signals, float]]
"""The signals that end a child which is not wanted any more, each with the seconds it is given."""

TERMINATE: Stop = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 60.0))
KILL: Stop = ((signal.SIGKILL, 60.0),)


class Network(Enum):
    """What a child has of the network; Unix sockets in the file system reach it in any case."""

    OURS = auto()
    NONE = auto()
    """A namespace of its own, made with root's rights before they are dropped."""
    NONE_OF_USER = auto()
    """The same, where an ordinary user may make one inside a user namespace."""


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


@contextlib.asynccontextmanager
async def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    stdin: int | FileIO | IO[bytes] = asyncio.subprocess.DEVNULL,
    stdout: int | FileIO | IO[bytes] = asyncio.subprocess.DEVNULL,
    stderr: FileIO | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    account: struct_passwd | None = None,
    network: Network = Network.OURS,
    stop: Stop = TERMINATE,
) -> AsyncIterator[Child]:
    """Start a program in a session of its own; on leaving the block it has ended, by force if need be.

    The session keeps a terminal's Ctrl-C from reaching it before we clean up. Its stderr is read all
    the time, bounded, so that a chatty program cannot block; or goes to the file `stderr`. `account` is
    whom it runs as, in `/`, with none of our privileges; None means as ourselves. Setuid programs give
    it no more.

    Raises ClientError when it cannot run; with an `account`, that may show in its status only. An
    account or a network that cannot be had never means that it runs without.
    """
    program = str(argv[0])
    confinement = _confinement(account, network, stop[0][0])
    switch = None if confinement else account  # else setpriv does it
    try:
        if account is None:
            _require(Path(program))
        process = await asyncio.create_subprocess_exec(
            *(
                str(part).encode("utf-8", "surrogateescape") for part in (*confinement, *argv)
            ),  # whatever our locale is
            env=dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr or asyncio.subprocess.PIPE,
            cwd="/" if account else None,  # ours may be a folder that the account cannot enter
            start_new_session=True,
            pass_fds=pass_fds,
            limit=1 << 16,
            user=switch.pw_uid if switch else None,
            group=switch.pw_gid if switch else None,
            extra_groups=() if switch else None,
        )
    except OSError as error:
        raise ClientError(
            f"cannot start {program}: {error.strerror}",
            hint="check that it exists, is executable, and that limits on processes are not reached",
        ) from error
    child = Child(process)
    reader = asyncio.create_task(_drain(child))
    try:
        yield child
    finally:
        await _end(child, reader, stop)


def _require(program: Path) -> None:
    """Raise OSError where setpriv would only end with a status."""
    if not os.access(program, os.X_OK):
        program.stat()  # says what is wrong, unless it is this:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


async def without_network(account: struct_passwd | None, env: Mapping[str, str]) -> Network:
    """Find out how this account's children can be kept off the network; OURS if this system cannot."""
    if _util_linux("setpriv") and _util_linux("unshare"):
        for network in (Network.NONE, Network.NONE_OF_USER):
            try:
                async with spawn(
                    ["/usr/bin/env", "true"], env=env, account=account, network=network
                ) as child:
                    if await child.wait() == 0:
                        return network
            except ClientError:
                break  # there is no env(1) to try it with
    return Network.OURS


def _confinement(account: struct_passwd | None, network: Network, last: signal.Signals) -> tuple[str, ...]:
    """Return what to put before a command so that it runs as it should, and ends when we are killed.

    util-linux's programs do it in the child after the fork, which Python itself could only do with a
    hook that is unsafe beside threads. Each becomes the next by exec, so that the process stays the
    same. Without them, a child of a killed parent ends when it next reads or writes a pipe of ours.
    """
    setpriv, unshare = _util_linux("setpriv"), _util_linux("unshare")
    if network is not Network.OURS and not (setpriv and unshare):
        raise ClientError("cannot keep a child off the network without util-linux's setpriv and unshare")
    if setpriv is None:
        return ()
    with_us = f"--pdeathsig={last.name[3:]}"  # comes last: the kernel forgets it when privileges change
    drop: tuple[str, ...] = ("--no-new-privs",)
    if account:
        drop += (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
    match network:
        case Network.OURS:
            return (setpriv, *drop, with_us, "--")
        case Network.NONE:
            return (f"{unshare}", "--net", "--", setpriv, *drop, with_us, "--")
        case Network.NONE_OF_USER:
            own = (f"{unshare}", "--user", "--map-current-user", "--net", "--")
            return (setpriv, *drop, "--", *own, setpriv, with_us, "--")


@functools.cache
def _util_linux(name: str) -> str | None:
    """Find a program of util-linux; busybox has some of them, too, which know fewer options."""
    found = shutil.which(name)
    return found if found and Path(found).resolve().name == name else None


async def _drain(child: Child) -> None:
    stream = child.process.stderr
    try:
        while stream is not None:
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


async def _end(child: Child, reader: asyncio.Task[None], stop: Stop) -> None:
    try:
        await see_through(asyncio.ensure_future(_stop(child, stop)))
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


async def _stop(child: Child, stop: Stop) -> None:
    for number, seconds in stop:
        if child.process.returncode is not None:
            return
        child.signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.process.wait(), seconds)
