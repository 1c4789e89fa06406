"""Fixtures for whole runs of the command."""

from pathlib import Path

import pytest

from tests.invariants import Site
from tests.servers import Cli


@pytest.fixture
def site(tmp_path: Path, run_cli: Cli) -> Site:
    """A backup directory and a configuration of one's own."""
    return Site(run_cli, tmp_path, {"BACKUP_DIR": f"{tmp_path / 'backups'}"})
