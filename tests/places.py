"""Every kind of secondary location, each with a way to look at what really lies there."""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from asyncbackup.model import Secret
from asyncbackup.samples.ftps_server import FtpsServer, certify
from asyncbackup.targets.folder import Folder
from asyncbackup.targets.ftps import Ftps, Tls
from asyncbackup.targets.target import Target
from asyncbackup.targets.url import parse_ftp
from tests.s3_servers import Moto
from tests.targets import Memory

SECRET = "sEcReT/of+the&test"


@dataclass(frozen=True)
class Place:
    """A location under test."""

    kind: str
    target: Target
    files: Callable[[], Mapping[str, bytes]]
    """All that lies there by its name, parts and unfinished uploads, too, without asking the target."""
    plant: Callable[[str, bytes], None]
    """Puts a file there behind the target's back."""
    secrets: tuple[str, ...] = ()


def in_memory() -> Place:
    memory = Memory(hashes=True)
    return Place("memory", memory, lambda: memory.files | memory.parts, memory.files.__setitem__)


def in_folder(path: Path) -> Place:
    def files() -> Mapping[str, bytes]:
        return {found.name: found.read_bytes() for found in path.iterdir()}

    def plant(name: str, data: bytes) -> None:
        (path / name).write_bytes(data)

    return Place("folder", Folder(path, 0o600, 60), files, plant)


def in_bucket(server: Moto) -> Place:
    bucket = server.bucket(f"contract-{secrets.token_hex(6)}")
    prefix = "some/db/"

    def files() -> Mapping[str, bytes]:
        assert all(key.startswith(prefix) for key in bucket.files())
        whole = {key.removeprefix(prefix): data for key, data in bucket.files().items()}
        return whole | {f"{key} (unfinished)": b"" for key in bucket.unfinished()}

    def plant(name: str, data: bytes) -> None:
        bucket.put(prefix + name, data)

    target = bucket.target(prefix, password=Secret(SECRET))
    return Place("s3", target, files, plant, (SECRET,))


@asynccontextmanager
async def at_ftps(folder: Path, *, implicit: bool = False) -> AsyncIterator[Place]:
    """Run a server for the block."""
    tls, trusted = certify(folder, "127.0.0.1")
    home = folder / "home"
    home.mkdir()
    server = FtpsServer(folder=home, user="backup", password=Secret(SECRET), tls=tls, implicit=implicit)
    async with server.serving():
        url = parse_ftp(f"ftp{'s' * implicit}://127.0.0.1:{server.port}/some/db/")
        target = Ftps(
            url,
            "backup",
            Secret(SECRET),
            Tls(ca_file=trusted),
            "auto",
            connect_timeout=10,
            transfer_timeout=60,
        )
        place = home / "some" / "db"

        def files() -> Mapping[str, bytes]:
            return {found.name: found.read_bytes() for found in place.iterdir()} if place.exists() else {}

        def plant(name: str, data: bytes) -> None:
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)

        yield Place("ftps", target, files, plant, (SECRET,))
