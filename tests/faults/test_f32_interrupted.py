"""We are killed (F32), or told to stop (F33), at several points; and what a crash left behind (F30)."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from asyncbackup import inventory
from tests.invariants import Site, at_bytes, stopped, wait_for, wrapper
from tests.servers import Database

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def go_on(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def foreign(site: Site, spec_host: str, dbname: str) -> Path:
    """Put a file there that the bash tool is writing at this moment."""
    now = datetime.now()  # noqa: DTZ005 - local time, as in names
    folder = site.root / f"{now:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec_host}-{dbname}_{now:%Y-%m-%d}_00-00-01.sql.gz.in_progress"
    path.write_bytes(b"\x1f\x8b not ours")
    return path


@pytest.mark.parametrize("count", [0, 2_000_000, 9_000_000])
def test_f32_killed_while_it_dumps(site: Site, big: Database, tmp_path: Path, count: int) -> None:
    site.use(big.server, NUM_BACKUPS="2").configure(big).good()
    other = foreign(site, big.spec.host, big.name)
    before = site.files
    bindir = wrapper(tmp_path / "bin", big.server.bindir, at_bytes(count, "kill -STOP $PID"))
    child = site.start(PG_BINDIRS=f"{bindir}")
    process = wait_for(lambda: stopped(big.server), "the dump")
    child.kill()
    go_on(process)
    assert site.end(child).returncode == -signal.SIGKILL
    site.check(before=before, left_behind=True)
    ours = [path for path in site.partials if inventory.is_ours(path)]
    assert len(ours) == 1
    done = site.check_recovery(before)
    assert [event["files"] for event in done.named("leftovers.removed")] == [[f"{ours[0]}"]]
    assert site.partials == [other]


def traced(site: Site, *inject: str) -> int:
    """Run a backup under strace, which fakes a fault; return the exit status."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf"]
    for one in inject:
        command += ["-e", f"inject={one}"]
    command += [sys.executable, "-m", "asyncbackup", "backup"]
    environment = site.cli.environment(site.env)
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    assert b"defect" not in done.stderr, done.stderr.decode()
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.returncode


# The thread that publishes syncs the file, the manifest, the folder, and the folder again.
@strace
@pytest.mark.parametrize(
    "where",
    [*(f"fsync:signal=KILL:when={n}" for n in (1, 2, 3, 4)), "rename,renameat,renameat2:signal=KILL:when=1"],
)
def test_f32_killed_while_it_publishes(site: Site, small: Database, where: str) -> None:
    site.use(small.server).configure(small).good()
    other = foreign(site, small.spec.host, small.name)
    before = site.files
    assert traced(site, where) in {0, 137, -9}
    site.check(before=before, left_behind=True)
    site.check_recovery(before)
    assert site.partials == [other]


@strace
@pytest.mark.parametrize(
    "where",
    [
        "fsync:error=EIO:when=1",
        "fsync:error=EIO:when=2",
        "fsync:error=ENOSPC:when=3",
        "fsync:error=EIO:when=1+",
        "link,linkat:error=EIO:when=1",
    ],
)
def test_f24_the_disk_fails(site: Site, small: Database, where: str) -> None:
    site.use(small.server).configure(small).good()
    before = site.files
    status = traced(site, where)
    assert status in ({1} if "when=2" not in where and "when=3" not in where else {0, 1})
    site.check(before=before)
    site.check_recovery(before)


@pytest.mark.parametrize("count", [0, 2_000_000, 9_000_000])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)]
)
def test_f33_told_to_stop(
    site: Site, big: Database, tmp_path: Path, count: int, number: int, status: int
) -> None:
    if number == signal.SIGHUP and count:
        pytest.skip("once is enough")
    site.use(big.server, NUM_BACKUPS="1").configure(big).good()
    site.old_good(big.spec)
    before = site.files
    bindir = wrapper(tmp_path / "bin", big.server.bindir, at_bytes(count, "kill -STOP $PID"))
    child = site.start(PG_BINDIRS=f"{bindir}")
    process = wait_for(lambda: stopped(big.server), "the dump")
    child.send_signal(number)
    go_on(process)
    done = site.end(child, 10)
    assert done.returncode == status
    assert len(done.named("run.interrupted")) == 1
    assert set(site.files) == set(before)
    site.check(done, before)
    site.check_recovery()


def test_f33_a_dump_that_is_deaf_is_killed(site: Site, big: Database, tmp_path: Path) -> None:
    bindir = wrapper(tmp_path / "bin", big.server.bindir, at_bytes(2_000_000, "kill -STOP $PID"))
    child = site.use(big.server).configure(big).start(PG_BINDIRS=f"{bindir}")
    wait_for(lambda: stopped(big.server), "the dump")
    child.send_signal(signal.SIGTERM)
    done = site.end(child, 10)  # a stopped process does not hear SIGTERM
    assert done.returncode == 143
    site.check(done)


def test_f33_told_twice(site: Site, big: Database, tmp_path: Path) -> None:
    bindir = wrapper(tmp_path / "bin", big.server.bindir, at_bytes(2_000_000, "kill -STOP $PID"))
    child = site.use(big.server).configure(big).start(PG_BINDIRS=f"{bindir}")
    process = wait_for(lambda: stopped(big.server), "the dump")
    child.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(0.3)
    child.send_signal(signal.SIGTERM)
    assert site.end(child, 3).returncode == 143
    go_on(process)
    site.check(left_behind=True)
    site.check_recovery()


def test_f30_what_a_crash_left_is_swept_and_nothing_else(site: Site, small: Database) -> None:
    path = site.use(small.server).configure(small).good().path
    stem = path.name[: -len("_2026-01-31_23-59-59.sql.gz")]  # whatever digits the name itself has
    ours = path.with_name(f"{stem}_2026-01-01_00-00-00.sql.gz.in_progress")
    ours.write_bytes(path.read_bytes()[:50])
    torn = path.with_name(f"{stem}_2026-01-02_00-00-00.sql.gz.json")
    torn.write_bytes(path.with_name(path.name + ".json").read_bytes()[:100])
    empty = path.with_name(f"{stem}_2026-01-03_00-00-00.sql.gz.json")
    empty.touch()
    whole = path.with_name(f"{stem}_2026-01-04_00-00-00.sql.gz.json")
    whole.write_bytes(path.with_name(path.name + ".json").read_bytes())
    of_others = [
        path.with_name(f"{stem}_2026-01-01_00-00-01.sql.gz.in_progress"),  # the bash tool's
        path.with_name(f"x{stem}_2026-01-01_00-00-00.sql.gz.in_progress"),  # another series'
        path.with_name("notes.json"),
        path.with_name(f"{stem}_2026-01-05_00-00-00.sql.gz.json"),  # no manifest
    ]
    of_others[0].write_bytes(b"\x1f\x8b not ours")
    of_others[1].write_bytes(path.read_bytes()[:50])
    of_others[2].write_text("{}")
    of_others[3].write_text('{"mine": true}')
    before = {of: of.read_bytes() for of in of_others}
    done = site.backup()
    assert done.returncode == 0, done.stderr
    assert [sorted(event["files"]) for event in done.named("leftovers.removed")] == [
        sorted(map(str, (ours, torn, empty, whole)))
    ]
    assert {of: of.read_bytes() for of in of_others} == before
