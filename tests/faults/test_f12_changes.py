"""Definitions change between the snapshot and the dump: what comes out is of one state, or nothing."""

import subprocess
from pathlib import Path

import pytest

from tests.invariants import Site, until, wait_for, wrapper
from tests.servers import Databases

SOURCE = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE SEQUENCE numbers;
CREATE FUNCTION twice(a int) RETURNS int LANGUAGE sql AS 'SELECT 2 * a';
CREATE TABLE t (a int PRIMARY KEY, b text DEFAULT 'x', c mood DEFAULT 'sad');
INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i;
CREATE VIEW doubled AS SELECT twice(a) AS a FROM t;
CREATE INDEX ON t (b);
"""


@pytest.mark.parametrize(
    ("change", "then"),
    [
        ("DROP TABLE t CASCADE", None),
        ("ALTER TABLE t RENAME TO u", "TABLE u"),
        ("ALTER TABLE t DROP COLUMN b", "SELECT a, c FROM t"),
        ("ALTER TABLE t ADD COLUMN d int DEFAULT 7", "SELECT a, b, c FROM t"),
        ("DROP VIEW doubled; ALTER TABLE t ALTER a TYPE bigint", "TABLE t"),
        ("DROP FUNCTION twice CASCADE", "TABLE t"),
        ("DROP TYPE mood CASCADE", "SELECT a, b FROM t"),
        ("ALTER TYPE mood ADD VALUE 'mad'; INSERT INTO t VALUES (0, 'x', 'mad')", None),
    ],
)
def test_f12_in_between(
    site: Site, databases: Databases, tmp_path: Path, change: str, then: str | None
) -> None:
    source, target = databases(sql=SOURCE), databases()
    ready, go = tmp_path / "ready", tmp_path / "go"
    held = wrapper(
        tmp_path / "bin",
        source.server.bindir,
        f'[ -e {go} ] || {{ touch {ready}; {until(go)}; }}; exec "$REAL" "$@"',
    )
    child = site.use(source.server, DUMP_RETRIES="2").configure(source).start(PG_BINDIRS=f"{held}")
    wait_for(ready.exists, "the dump")
    for statement in change.split("; "):
        source.psql(statement)
    go.touch()
    done = site.end(child)
    assert done.returncode == 0, done.stderr
    site.check(done)
    # Whatever state it is of, it is one that can be restored.
    psql = [f"{target.server.bindir}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"]
    with subprocess.Popen(["zcat", done.path], stdout=subprocess.PIPE) as unpacked:
        environment = {**target.server.libpq, "PGDATABASE": target.name}
        loaded = subprocess.run(psql, stdin=unpacked.stdout, env=environment, stderr=subprocess.PIPE, check=False)  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr.decode()
    if then:
        assert sorted(target.psql(then).splitlines()) == sorted(source.psql(then).splitlines())
