"""The throw-away servers of a run of verifications, one for each major version of PostgreSQL."""

import asyncio
import contextlib
import ctypes
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from asyncbackup.errors import ClientError, LackingError
from asyncbackup.events import Events
from asyncbackup.postgres import client as clients_of
from asyncbackup.postgres.cluster import SCRATCH, Cluster, cluster
from asyncbackup.postgres.scratch import Scratch, scratch_of
from asyncbackup.postgres.versions import Client, server_for
from asyncbackup.settings import Settings

_PR_SET_DUMPABLE = 4
_CONNECTIONS = 6  # of one trial: to watch, to load, to compare, and those that are ending
_LOCKS = 512  # for each of 50 connections: with them, one trial has the locks of some thousand tables


class Servers:
    """Starts a server when it is first asked for, and another one when that has ended."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        events: Events,
        stack: AsyncExitStack,
        *,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet  # what there is to say of this system was said
        self._settings = settings
        self._environ = environ
        self._events = events
        self._stack = stack
        self._lock = asyncio.Lock()
        self._programs: tuple[Client, ...] | None = None
        self._running: dict[Path, Scratch] = {}
        self._failed: dict[Path, ClientError] = {}

    async def of(self, major: int) -> Scratch:
        """Return a server that takes a dump of this major version.

        Raises LackingError where none is installed, ClientError where it does not come up.
        """
        async with self._lock:
            if self._programs is None:
                path = self._environ.get("PATH", os.defpath)
                found = await clients_of.clients(
                    clients_of.bindirs(self._settings.pg_bindirs, path),
                    self._environ.get("LD_LIBRARY_PATH", ""),
                )
                self._programs = clients_of.servers(found)
            client = _server_for(major, self._programs)
            server = self._running.get(client.bindir)
            if server is None or not server.usable:
                server = self._running[client.bindir] = await self._start(client)
            return server

    async def _start(self, client: Client) -> Scratch:
        """Start a server; one that would not come up is not waited for once more."""
        if failure := self._failed.get(client.bindir):
            raise ClientError(failure.message, hint=failure.hint)
        templates, at_once = self._settings.verify_templates, self._settings.max_concurrent_verifications
        try:
            started = await self._stack.enter_async_context(
                cluster(
                    client.bindir,
                    root=self._settings.verify_dir or Path(tempfile.gettempdir()),
                    settings={
                        **SCRATCH,
                        "max_connections": f"{max(50, _CONNECTIONS * at_once)}",
                        "max_locks_per_transaction": f"{_LOCKS * max(2, at_once)}",
                    },
                    superuser=f"s{secrets.token_hex(8)}",
                    isolated=True,
                    template=templates / str(client.version.major) if templates else None,
                    environ=self._environ,
                    patience=self._settings.database_server_timeout,
                )
            )
        except ClientError as error:
            self._failed[client.bindir] = error
            raise
        if not self._running and not self._quiet:
            self._tell(started)
        if started.swept.removed:
            files = [str(path) for path in started.swept.removed]
            self._events.emit("leftovers.removed", files=files)
        if started.swept.stuck:
            self._events.warning(
                "leftovers.stuck",
                files=[str(path) for path in started.swept.stuck],
                hint="folders of servers whose run was killed; remove them by hand",
            )
        return await scratch_of(started, at_once)

    def _tell(self, started: Cluster) -> None:
        """Tell what stands between the dumps' code and us, where that is less than it should be."""
        if not started.isolated:
            self._events.warning(
                "verify.not_isolated",
                hint="this system gives no network namespace: what a dump runs could reach the network; "
                "deny it by other means, such as a NetworkPolicy",
            )
        if started.account is None:
            _keep_to_ourselves()
            if os.access(self._settings.backup_dir, os.W_OK):
                self._events.warning(
                    "verify.same_user",
                    hint="the throw-away server runs as our own user, who may write to the backups, and so "
                    "could what a dump runs; verify as a user that may only read them, or as root, which "
                    "becomes another user",
                )


def _keep_to_ourselves() -> None:
    """Close our memory and environment to other processes of the same user."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _server_for(major: int, programs: Sequence[Client]) -> Client:
    try:
        return server_for(major, programs)
    except ClientError as error:
        wanted = f"a server of PostgreSQL {major} or newer" if major else "a PostgreSQL server"
        raise LackingError(error.message, lacking=(wanted,), hint=error.hint) from error
