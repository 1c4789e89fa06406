"""What happens to ourselves: we are stopped for a while (F36), or have few files to open (F37)."""

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.invariants import Result, Site, until, wait_for, wrapper
from tests.servers import Database, Databases


def test_f36_a_process_that_was_stopped_does_not_take_a_living_dump_for_a_dead_one(
    site: Site, big: Database, tmp_path: Path
) -> None:
    """As when a machine or a container is frozen: its clock has gone on, and nothing has come meanwhile."""
    go = tmp_path / "go"
    script = f'set -o pipefail; "$REAL" "$@" | (head -c 500000; touch {tmp_path}/ready; {until(go)}; cat)'
    bindir = wrapper(tmp_path / "bin", big.server.bindir, script)
    child = site.use(big.server).configure(big).start(PG_BINDIRS=f"{bindir}", DUMP_STALL_TIMEOUT="3s")
    wait_for((tmp_path / "ready").exists, "the dump")
    os.kill(child.pid, signal.SIGSTOP)
    go.touch()
    time.sleep(4)
    os.kill(child.pid, signal.SIGCONT)
    done = site.end(child)
    assert done.returncode == 0, done.stderr
    site.check(done)


@pytest.mark.parametrize("files", [64, 128])
def test_f37_few_open_files(site: Site, databases: Databases, files: int) -> None:
    made = [databases(sql="CREATE TABLE t AS SELECT 1 AS a") for _ in range(8)]
    site.use(made[0].server, MAX_CONCURRENT_DUMPS="32", MAX_CONCURRENT_DUMPS_PER_SERVER="32").configure(*made)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    command = [site.cli.path("asyncbackup"), "backup", "--json"]
    environment = site.cli.environment(site.env)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit)  # fmt: skip
    done = Result(returncode=ran.returncode, stdout=ran.stdout, stderr=ran.stderr)
    assert done.returncode == 0, done.stderr
    (limited,) = done.named("run.limited")
    assert 1 <= limited["dumps"] < 8
    assert "ulimit -n" in limited["hint"]
    site.check(done)


def test_f37_the_soft_limit_is_raised_as_far_as_it_may(site: Site, small: Database) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))

    site.use(small.server, MAX_CONCURRENT_DUMPS="32").configure(small)
    command = [site.cli.path("asyncbackup"), "backup", "--json"]
    environment = site.cli.environment(site.env)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit)  # fmt: skip
    done = Result(returncode=ran.returncode, stdout=ran.stdout, stderr=ran.stderr)
    assert done.returncode == 0, done.stderr
    assert done.named("run.limited") == []
    site.check(done)


def test_f37_none_are_left(site: Site, small: Database) -> None:
    """So few that not even one dump can be made: an error that says so, and nothing left behind."""
    site.use(small.server).configure(small).good()
    before = site.files

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (14, 14))

    command = [site.cli.path("asyncbackup"), "backup", "--json"]
    environment = site.cli.environment(site.env)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit)  # fmt: skip
    done = Result(returncode=ran.returncode, stdout=ran.stdout, stderr=ran.stderr)
    assert done.returncode == 1
    assert "too many open files" in done.stderr.lower()
    site.check(done, before)
    site.check_recovery(before)
