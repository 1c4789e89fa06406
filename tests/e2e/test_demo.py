"""`asyncbackup demo`, as someone runs it who has nothing but the package."""

import gzip
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncbackup import demo
from asyncbackup.errors import StorageError, UsageError
from asyncbackup.postgres.cluster import embedded_bindirs
from tests.servers import Cli

embedded = pytest.mark.skipif(not embedded_bindirs(), reason="the embedded extra is not installed")


@embedded
def test_a_demo_backs_up_lists_and_says_what_to_type(run_cli: Cli) -> None:
    # What would send something away must not reach the demo's backup.
    done = run_cli("demo", env={"WEBHOOK_URL": "http://127.0.0.1:1/", "NUM_BACKUPS": "many"}, timeout=180)
    assert done.returncode == 0, done.stderr
    backups = run_cli.home / "asyncbackup-demo" / "backups"
    for name in demo.SAMPLES:
        (file,) = backups.rglob(f"localhost-{name}_*.sql.gz")
        assert file.name in done.stdout
        with gzip.open(file) as dump:
            assert b"PostgreSQL database dump" in dump.read(100)
    before, _, after = done.stdout.partition("Next, type:")
    assert "The server is gone" in before
    assert "Every row came back" in before
    for name in demo.SAMPLES:
        (record,) = backups.rglob(f"localhost-{name}_*.verified.json")
        assert '"verdict": "good"' in record.read_text()
    typed = [line.strip() for line in after.splitlines() if line.startswith("  ")]
    assert len(typed) == 3
    # They do what they say, in a shell, in this folder; the third needs a server of the reader's.
    for line in typed[:2]:
        shown = subprocess.run(
            ["/bin/sh", "-c", line.replace("less", "cat")], cwd=run_cli.home, capture_output=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        assert b"wiki" in shown.stdout


@embedded
def test_a_demo_that_is_interrupted_leaves_no_server(run_cli: Cli) -> None:
    child = run_cli.start("demo")
    assert child.stdout is not None
    line, port = "", ""
    while "Filling" not in line:
        line = child.stdout.readline()
        assert line, child.communicate()
        port = line.rpartition(":")[2].strip() if "listens on" in line else port
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in commands if b"-p\0" + port.encode() + b"\0" in line]


@embedded
def test_a_folder_with_something_else_in_it_is_left_alone(run_cli: Cli) -> None:
    folder = run_cli.home / "mine"
    folder.mkdir()
    (folder / "backup.conf").write_text("db/precious\n")
    done = run_cli("demo", "--dir", f"{folder}")
    assert done.returncode == 2
    assert "--dir" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["backup.conf"]
    assert (folder / "backup.conf").read_text() == "db/precious\n"


async def test_without_the_extra_it_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "embedded_bindirs", dict)
    with pytest.raises(UsageError) as caught:
        await demo.run(tmp_path / "demo")
    assert caught.value.hint == f"{sys.executable} -m pip install 'asyncbackup[embedded]'"
    assert not (tmp_path / "demo").exists()


@embedded
async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        await demo.run(tmp_path / "file" / "demo")
