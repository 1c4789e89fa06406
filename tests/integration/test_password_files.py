"""Logins by a password file: for our own connections and for pg_dump."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.invariants import Site
from tests.servers import Databases, Postgres

PASSWORD = "a:b\\c d"
ESCAPED = "a\\:b\\\\c d"


@pytest.fixture
def role(pg15: Postgres) -> Iterator[str]:
    pg15.psql(
        "postgres", f"CREATE ROLE by_file LOGIN PASSWORD '{PASSWORD}'; GRANT pg_read_all_data TO by_file"
    )
    try:
        yield "by_file"
    finally:
        pg15.psql("postgres", "DROP ROLE by_file")


def passfile(folder: Path, mode: int) -> Path:
    file = folder / "pass"
    file.write_text(f"127.0.0.1:*:*:by_file:{ESCAPED}\n")
    file.chmod(mode)
    return file


def test_an_escaped_password(site: Site, pg15: Postgres, role: str, tmp_path: Path) -> None:
    with Databases(pg15) as database:
        made = database(sql="CREATE TABLE t AS SELECT 1 AS a")
        site.use(DUMP_GLOBALS="true", PGUSER=role, PGPASSFILE=f"{passfile(tmp_path, 0o600)}").configure(made)
        done = site.good()
    assert done.only["rows"] == 1
    assert [one["status"] for one in done.report["globals"]] == ["good"]
    assert PASSWORD not in done.stderr
    assert done.named("passfile.ignored") == []


def test_one_that_others_may_read_is_told_of_once(
    site: Site, pg15: Postgres, role: str, tmp_path: Path
) -> None:
    file = passfile(tmp_path, 0o644)
    site.use(PGUSER=role, PGPASSFILE=f"{file}").configure(pg15.spec("postgres"), pg15.spec("template1"))
    done = site.backup()
    assert (done.returncode, {one["category"] for one in done.databases}) == (1, {"access"})
    (told,) = done.named("passfile.ignored")
    assert (told["level"], f"{file}" in told["message"], told["hint"]) == (
        "warning",
        True,
        f"chmod 0600 {file}",
    )
    assert len(done.events) == len(done.stderr.splitlines()), "every line is one of ours"
