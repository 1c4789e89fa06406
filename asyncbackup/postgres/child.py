"""The processes of a throw-away server: under whose id they run, and how they end.

PostgreSQL refuses to run as root, so root's run as an unprivileged user. Each gets a session of its
own, so that Ctrl-C in a terminal leaves it to us to end them, in order; and where the system can, it
gets a parent-death signal, so that a server does not outlive a parent that was killed.
"""

import asyncio
import os
import pwd
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from pwd import struct_passwd
from typing import IO

from asyncbackup.errors import ClientError
from asyncbackup.threads import see_through

_STOP: Sequence[tuple[signal.Signals, float]] = (
    (signal.SIGINT, 10),
    (signal.SIGQUIT, 5),
    (signal.SIGKILL, 60),
)
"""Fast shutdown, immediate shutdown, and the end; with the seconds that each is given."""

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""All that a child gets to see: none of our secrets."""


@asynccontextmanager
async def running(
    command: Sequence[str], account: struct_passwd | None, log: IO[bytes]
) -> AsyncIterator[Process]:
    """Run a server for the length of a block; `log` takes what it says."""
    process = await _spawn(command, account, log)
    try:
        yield process
    finally:
        await see_through(asyncio.ensure_future(_stop(process)))


async def finished(command: Sequence[str], account: struct_passwd | None, log: IO[bytes]) -> int:
    """Run a command to its end and return its status; nothing of it survives a cancellation."""
    process = await _spawn(command, account, log)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # initdb has children of its own in this group
            await see_through(asyncio.ensure_future(process.wait()))


def account_for(owner: str) -> struct_passwd | None:
    """Choose the user that the children run as: `owner` if we are root; None means our own.

    Raises:
        ClientError: initdb would refuse.
    """
    if uid := os.geteuid():
        try:
            pwd.getpwuid(uid)
        except KeyError:  # initdb looks itself up
            raise ClientError(
                f"cannot make a PostgreSQL server: user id {uid} has no entry in the user database",
                hint="run as a user who has one, or provide one with libnss_wrapper",
            ) from None
        return None
    with suppress(KeyError):
        account = pwd.getpwnam(owner)
        if account.pw_uid != 0:
            return account
    raise ClientError(
        f"cannot make a PostgreSQL server: it refuses to run as root, and there is no user {owner!r}",
        hint=f"run as an ordinary user, or create the user {owner!r}",
    )


async def _stop(process: Process) -> None:
    for number, seconds in _STOP:
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
                return


async def _spawn(command: Sequence[str], account: struct_passwd | None, log: IO[bytes]) -> Process:
    uid, gid, groups = (account.pw_uid, account.pw_gid, ()) if account else (None, None, None)
    if setpriv := _setpriv():
        words = [setpriv, "--no-new-privs", "--pdeathsig=INT"]
        if account:
            words += [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
            uid = gid = groups = None
        command = [*words, "--", *command]
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",  # ours may be a folder that the account cannot enter
            env=_ENVIRONMENT,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=groups,
        )
    except OSError as error:
        raise ClientError(f"cannot start {command[0]}: {error}") from error


def _setpriv() -> str | None:
    """Find util-linux's setpriv; busybox has one too, which knows none of these options."""
    found = shutil.which("setpriv")
    return found if found and Path(found).resolve().name == "setpriv" else None
