"""pg_dump, killed by a signal."""

from pathlib import Path

import pytest

from tests.faults.conftest import SIZE
from tests.invariants import Site, at_bytes, wrapper
from tests.servers import Database

LATE = 0.5


@pytest.mark.parametrize(
    ("signal", "share"), [("KILL", 0.01), ("KILL", 0.5), ("KILL", 0.95), ("TERM", 0.5), ("SEGV", 0.5)]
)
def test_f01_at_a_share_of_the_dump(
    site: Site, big: Database, small: Database, tmp_path: Path, signal: str, share: float
) -> None:
    site.use(big.server).configure(big, small)
    old = site.good()
    before = site.files
    killed = tmp_path / "killed"
    count = round(SIZE * share)
    script = at_bytes(count, f"kill -{signal} $PID; touch {killed}")
    if share > LATE:  # whoever only watches may come too late
        script = f'"$REAL" "$@" | (head -c {count}; read -r _ || exit 0; touch {killed}; kill -{signal} $$)'
    done = site.backup(PG_BINDIRS=f"{wrapper(tmp_path / 'bin', big.server.bindir, script)}")
    assert killed.exists()
    assert done.returncode == 3
    by_name = {one["dbname"]: one for one in done.databases}
    assert by_name[small.name]["status"] == "good"
    assert by_name[big.name]["category"] == "dump_killed"
    # By TERM, pg_dump ends itself and says so.
    assert f"SIG{signal}" in by_name[big.name]["error"] or signal == "TERM"
    site.check(done, before)
    site.check_recovery(before)
    assert old.returncode == 0


def test_f01_after_the_last_byte(site: Site, small: Database, tmp_path: Path) -> None:
    site.use(small.server).configure(small).good()
    before = site.files
    bindir = wrapper(tmp_path / "bin", small.server.bindir, '"$REAL" "$@"; kill -KILL $$')
    done = site.backup(PG_BINDIRS=f"{bindir}")
    assert (done.returncode, done.only["category"]) == (1, "dump_killed")
    assert "memory" in done.only["hint"]
    assert set(site.files) == set(before)
    site.check(done, before)
    site.check_recovery(before)


@pytest.mark.parametrize("times", [1, 2])
def test_f01_it_is_tried_once_more_and_not_for_ever(
    site: Site, small: Database, tmp_path: Path, times: int
) -> None:
    script = f'echo >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -gt {times} ] || kill -KILL $$; exec "$REAL" "$@"'
    bindir = wrapper(tmp_path / "bin", small.server.bindir, script)
    done = site.use(small.server).configure(small).backup(PG_BINDIRS=f"{bindir}", DUMP_RETRIES="5")
    assert done.returncode == times - 1
    assert len(done.named("backup.retried")) == 1
    assert (tmp_path / "tries").read_text().count("\n") == 2
    site.check(done)
