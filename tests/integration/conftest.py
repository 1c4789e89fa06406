"""Fixtures for whole runs of the command, and for FTP servers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncbackup.samples.ftps_server import certify
from tests.ftp_places import Authority, Place, served
from tests.invariants import Site
from tests.servers import Cli


@pytest.fixture
def site(tmp_path: Path, run_cli: Cli) -> Site:
    """A backup directory and a configuration of one's own."""
    return Site(run_cli, tmp_path, {"BACKUP_DIR": f"{tmp_path / 'backups'}"})


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """What an FTP server proves itself with."""
    return Authority(*certify(tmp_path_factory.mktemp("authority"), "localhost", "127.0.0.1"))


@pytest.fixture
async def place(authority: Authority, tmp_path: Path) -> AsyncIterator[Place]:
    """An FTP server that asks for AUTH TLS; what a test changes on it, it does from then on."""
    async with served(authority, tmp_path) as found:
        yield found
