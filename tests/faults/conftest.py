"""What the faults are done to: a database with enough in it to be interrupted, beside old backups."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.invariants import Site
from tests.servers import Cli, Database, Databases, Postgres

ROWS = 60_000
SIZE = ROWS * 193  # bytes of its rows; it does not compress well


@pytest.fixture
def site(tmp_path: Path, run_cli: Cli) -> Site:
    """A backup directory and a configuration of one's own."""
    return Site(run_cli, tmp_path, {"BACKUP_DIR": f"{tmp_path / 'backups'}"})


@pytest.fixture
def databases(pg15: Postgres) -> Iterator[Databases]:
    with Databases(pg15) as factory:
        yield factory


@pytest.fixture(scope="module")
def big_template(pg15: Postgres) -> Iterator[Database]:
    """About 12 MB of rows."""
    text = "md5(i::text) || md5((i * 3)::text) || md5((i * 7)::text) || md5((i * 11)::text) || md5((i * 13)::text) || md5((i * 17)::text)"
    with Databases(pg15) as factory:
        yield factory(
            "big_template", sql=f"CREATE TABLE big AS SELECT {text} AS t FROM generate_series(1, {ROWS}) i"
        )


@pytest.fixture
def big(databases: Databases, big_template: Database) -> Database:
    return databases(template=big_template)


@pytest.fixture
def small(databases: Databases) -> Database:
    return databases(sql="CREATE TABLE small AS SELECT generate_series(1, 10) AS a")
