"""Every kind of secondary location, each with a way to look at what really lies there."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asyncbackup.model import Secret
from asyncbackup.targets.folder import Folder
from asyncbackup.targets.target import Target
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

    return Place("folder", Folder(path, 0o600), files, plant)


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
