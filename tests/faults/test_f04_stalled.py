"""A dump that stands still, or takes too long."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.invariants import Result, Site, at_bytes, stopped, wait_for, wrapper
from tests.servers import Database, Databases

SLOW = """
CREATE EXTENSION citext;
CREATE TABLE parts (a int);
INSERT INTO parts VALUES (1);
ALTER EXTENSION citext ADD TABLE parts;
CREATE FUNCTION wanted() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..6000 LOOP
    IF (pg_stat_file('GO', true)).size IS NOT NULL THEN RETURN true; END IF;
    PERFORM pg_sleep(0.01);
  END LOOP;
  RETURN false;
END $$;
UPDATE pg_extension SET extconfig = ARRAY['parts'::regclass::oid], extcondition = ARRAY['WHERE public.wanted()']
  WHERE extname = 'citext';
"""


def test_f04_the_watchdog_ends_a_dump_that_stands_still(
    site: Site, big: Database, small: Database, tmp_path: Path
) -> None:
    site.use(big.server).configure(big, small).good()
    before = site.files
    bindir = wrapper(tmp_path / "bin", big.server.bindir, at_bytes(2_000_000, "kill -STOP $PID"))
    started = time.monotonic()
    done = site.backup(PG_BINDIRS=f"{bindir}", DUMP_STALL_TIMEOUT="1s")
    assert time.monotonic() - started < 10
    by_name = {one["dbname"]: one for one in done.databases}
    assert (by_name[big.name]["category"], by_name[small.name]["status"]) == ("stalled", "good")
    assert done.returncode == 3
    (quiet,) = done.named("backup.quiet")
    assert (quiet["dbname"], quiet["goes_on"]) == (big.name, False)
    assert "Client" in quiet["server"]
    site.check(done, before)
    site.check_recovery(before)


def test_f04_a_server_that_cannot_be_asked_vouches_for_nothing(
    site: Site, big: Database, tmp_path: Path
) -> None:
    server, name = big.server, "one_connection"
    server.psql("postgres", f"CREATE ROLE {name} LOGIN PASSWORD 'a-secret' CONNECTION LIMIT 1; GRANT pg_read_all_data TO {name}")  # fmt: skip
    prefix = f"127_0_0_1_{server.cluster.port}"
    try:
        site.use(server, DUMP_RETRIES="2").configure(big)
        site.env |= {f"{prefix}_USER": name, f"{prefix}_PASSWORD": "a-secret"}
        bindir = wrapper(tmp_path / "bin", server.bindir, at_bytes(2_000_000, "kill -STOP $PID"))
        done = site.backup(PG_BINDIRS=f"{bindir}", DUMP_STALL_TIMEOUT="2s")
        assert done.only["category"] == "stalled"
        assert ["too many connections" in event["server"] for event in done.named("backup.quiet")] == [True]
        site.check(done)
    finally:
        server.psql("postgres", f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_f17_a_server_that_is_at_work_is_waited_for(site: Site, databases: Databases) -> None:
    """A query that takes long before its first row: what an extension adds to the dump of a table of its."""
    go = f"go-{os.getpid()}"
    source = databases(sql=SLOW.replace("GO", go))
    child = site.use(source.server).configure(source).start(DUMP_STALL_TIMEOUT="3s")
    assert child.stderr is not None
    lines: list[str] = []
    while "backup.quiet" not in "".join(lines[-1:]):
        lines.append(child.stderr.readline())
        assert lines[-1], "the run ended before"
    assert json.loads(lines[-1])["goes_on"]
    (source.server.cluster.datadir / go).touch()
    done = site.end(child)
    (source.server.cluster.datadir / go).unlink()
    assert done.returncode == 0, done.stderr
    assert done.manifest.rows == 1
    site.check(done)


def test_f04_one_that_goes_on_in_time_is_left_alone(site: Site, big: Database, tmp_path: Path) -> None:
    bindir = wrapper(tmp_path / "bin", big.server.bindir, at_bytes(2_000_000, "kill -STOP $PID"))
    child = site.use(big.server).configure(big).start(PG_BINDIRS=f"{bindir}", DUMP_STALL_TIMEOUT="30s")
    process = wait_for(lambda: stopped(big.server), "the dump to stand still")
    os.kill(process, signal.SIGCONT)
    done = site.end(child)
    assert done.returncode == 0, done.stderr
    site.check(done)


def test_f04_a_deadline(site: Site, big: Database, tmp_path: Path) -> None:
    site.use(big.server).configure(big).good()
    before = site.files
    bindir = wrapper(tmp_path / "bin", big.server.bindir, at_bytes(2_000_000, "kill -STOP $PID"))
    done = site.backup(PG_BINDIRS=f"{bindir}", BACKUP_DEADLINE="1s")
    assert (done.returncode, done.only["category"]) == (1, "stalled")
    site.check(done, before)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_f04_a_deadline_that_strikes_while_it_is_published_fails_nothing(site: Site, small: Database) -> None:
    site.use(small.server, BACKUP_DEADLINE="5s").configure(small)
    # Its four syncs take eight seconds and more.
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "--seccomp-bpf",
        "-e",
        "inject=fsync:delay_enter=2000000",
    ]
    command += [sys.executable, "-m", "asyncbackup", "backup", "--json"]
    environment = site.cli.environment(site.env)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    done = Result(returncode=ran.returncode, stdout=ran.stdout, stderr=ran.stderr)
    assert done.returncode == 0, done.stderr
    assert done.only["seconds"] > 5
    site.check(done)
