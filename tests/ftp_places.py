"""Files at the project's own FTP server: reached, stored and fetched as a location does it."""

import asyncio
import contextlib
import gc
import hashlib
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from asyncbackup.errors import TargetError
from asyncbackup.model import Secret
from asyncbackup.targets.ftps import Ftps, Tls
from asyncbackup.targets.target import BLOCK, Upload
from asyncbackup.targets.url import parse_ftp
from tests.faulty_ftps import FaultyServer

NAME = "host-db_2026-01-31_23-59-59.sql.gz"
MIB = 1024 * 1024
PASSWORD = "pässword 2%"
MUCH = 12 * MIB
"""Enough to go on from when that has arrived, or most of it."""


@dataclass(frozen=True)
class Authority:
    """A server's TLS, and the file that one who trusts it needs."""

    tls: ssl.SSLContext
    file: Path


@dataclass
class Place:
    """A server, and how a location is reached on it."""

    server: FaultyServer
    authority: Authority
    path: str = ""

    @property
    def folder(self) -> Path:
        return self.server.folder / self.path

    def files(self) -> dict[str, bytes]:
        return {found.name: found.read_bytes() for found in self.folder.iterdir()}

    def target(self, scheme: str = "ftp", tls: Tls | None = None, **more: Any) -> Ftps:
        target = Ftps(
            parse_ftp(f"{scheme}://127.0.0.1:{self.server.port}/{self.path}"),
            self.server.user,
            Secret(PASSWORD),
            tls or Tls(ca_file=self.authority.file),
            passive="auto",
            connect_timeout=10,
            transfer_timeout=30,
        )
        return replace(target, **more)

    async def put(self, upload: Upload, part: str = "", **more: Any) -> None:
        async with self.target(**more).connect() as remote:
            await remote.put(upload, part)

    async def refusal(self, upload: Upload | None = None, part: str = "", **more: Any) -> TargetError:
        """Return the error that connecting, and storing if there is something to store, ends with."""

        async def meet() -> None:
            async with self.target(**more).connect() as remote:
                if upload is not None:
                    await remote.put(upload, part)

        with pytest.raises(TargetError) as caught:
            await meet()
        assert caught.value.message.startswith(f"{self.target(**more).label}: ")
        return caught.value


@contextlib.asynccontextmanager
async def served(authority: Authority, tmp_path: Path, **more: Any) -> AsyncIterator[Place]:
    folder = tmp_path / "served"
    folder.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"tls": authority.tls, "user": "backup", "password": Secret(PASSWORD)} | more
    known = asyncio.all_tasks()
    server = FaultyServer(folder=folder, **settings)
    connected = sockets()
    async with server.serving():
        yield Place(server, authority)
    for _ in range(5):  # what was aborted is closed a turn later
        await asyncio.sleep(0)
    gc.collect()  # what was not closed is a ResourceWarning, and that is an error here
    assert not asyncio.all_tasks() - known - {asyncio.current_task()}
    assert sockets() <= connected


def sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}


def data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def upload(content: bytes, name: str = NAME, sha256: str = "") -> Upload:
    async def blocks(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(content), BLOCK):
            yield content[at : at + BLOCK]

    digest = sha256 or hashlib.sha256(content).hexdigest()
    return Upload(name=name, size=len(content), sha256=digest, blocks=blocks)


async def fetch(target: Ftps, name: str = NAME) -> bytes:
    async with target.connect() as remote, remote.get(name) as blocks:
        return b"".join([block async for block in blocks])
