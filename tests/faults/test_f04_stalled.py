"""A dump that stands still, or takes too long."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.invariants import Result, Site, at_bytes, stopped, wait_for, wrapper
from tests.servers import Database


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
    site.check(done, before)
    site.check_recovery(before)


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
