"""Fixtures for every test: `server` is each PostgreSQL in turn, `pg15` and its like are a certain one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.servers import DATA, Cli, Database, Databases, Postgres, server_or_skip

# A machine that is busy is no defect.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_sessionstart() -> None:
    """Let SIGTERM, which is how time limits end a run, stop the servers and remove their folders, too."""
    # What starts in the background of a script ignores these, and so would every command under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, _: pytest.exit("terminated", 128 + number))


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Keep a command that was run in this very process from closing the next test's files to others."""
    os.umask(0o022)  # a fixture of a module's may have run one
    yield
    os.umask(0o022)


@pytest.fixture(scope="session")
def pg15() -> Iterator[Postgres]:
    yield from server_or_skip(15)


@pytest.fixture(scope="session")
def pg16() -> Iterator[Postgres]:
    yield from server_or_skip(16)


@pytest.fixture(scope="session")
def pg18() -> Iterator[Postgres]:
    yield from server_or_skip(18)


@pytest.fixture(scope="session", params=["pg15", "pg16", "pg18"])
def server(request: pytest.FixtureRequest) -> Postgres:
    """Each server in turn: the test runs once on every one."""
    found: Postgres = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def database(server: Postgres) -> Iterator[Databases]:
    """A factory of databases on `server`, which are dropped after the test."""
    with Databases(server) as factory:
        yield factory


@pytest.fixture(scope="session")
def torture(server: Postgres) -> Iterator[Database]:
    """A database full of oddities; for all tests of the session, so look and do not touch."""
    with Databases(server) as factory:
        made = factory("torture")
        made.psql(DATA / "torture.sql", xml="on" if server.has_xml else "off")
        yield made


@pytest.fixture
def run_cli(tmp_path: Path) -> Iterator[Cli]:
    """Run the installed `asyncbackup` or `backup.sh` in a clean environment."""
    home = tmp_path / "home"
    home.mkdir()
    cli = Cli(home)
    try:
        yield cli
    finally:
        cli.end()
