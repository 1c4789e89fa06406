"""The whole server stops, crashes or comes back in the middle of a dump."""

import os
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import OwnServer
from tests.invariants import Site, until, wait_for, wrapper
from tests.servers import Database

IMMEDIATE, FAST = signal.SIGQUIT, signal.SIGINT
OURS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'asyncbackup' ORDER BY backend_start DESC LIMIT 1"


@pytest.fixture
def held(own: OwnServer, tmp_path: Path) -> Path:
    """A pg_dump that stands still in the middle until there is a file `go`."""
    go = tmp_path / "go"
    script = f'[ -e {go} ] && exec "$REAL" "$@"; set -o pipefail; "$REAL" "$@" | (head -c 500000; touch {tmp_path}/ready; {until(go)}; cat)'
    return wrapper(tmp_path / "bin", own.postgres.bindir, script)


@pytest.mark.parametrize("way", [IMMEDIATE, FAST, "crash"], ids=["immediate", "fast", "a backend crashes"])
def test_f08_it_comes_back(
    site: Site, own: OwnServer, filled: Database, held: Path, tmp_path: Path, way: int | str
) -> None:
    site.use(own.postgres, NUM_BACKUPS="1").configure(filled)
    site.old_good(filled.spec)
    before = site.files
    child = site.start(PG_BINDIRS=f"{held}", DUMP_RETRIES="3", RETRY_DELAY="0.5s")
    wait_for((tmp_path / "ready").exists, "the dump")
    if isinstance(way, int):
        own.stop(way)
        assert site.files.items() >= before.items()
        own.start()
    else:
        os.kill(int(filled.query(OURS)), signal.SIGKILL)
        wait_for(own.answers, "the end of its recovery")
    (tmp_path / "go").touch()
    done = site.end(child)
    assert done.returncode == 0, done.stderr
    assert done.manifest.rows == 20_000
    assert len(done.named("backup.retried")) == 1
    site.check(done)


def test_f08_it_stays_away(site: Site, own: OwnServer, filled: Database, held: Path, tmp_path: Path) -> None:
    site.use(own.postgres, NUM_BACKUPS="1").configure(filled).good()
    before = site.files
    child = site.start(PG_BINDIRS=f"{held}", DUMP_RETRIES="2")
    wait_for((tmp_path / "ready").exists, "the dump")
    own.stop(IMMEDIATE)
    (tmp_path / "go").touch()
    done = site.end(child)
    assert (done.returncode, done.only["category"]) == (1, "unreachable")
    assert len(done.named("backup.retried")) == 2
    own.start()
    site.check(done, before)
    site.check_recovery()
