"""The benchmarks' accounts: what a command costs, with all that it leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import measure

BENCH = Path(measure.__file__).parent
BURN = "import time\nwhile time.process_time() < 0.5: pass"


def reaped(*command: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(BENCH / "reaper.py"), *command]


@pytest.mark.parametrize("status", [0, 7])
def test_the_reaper_ends_as_its_command_did(status: int) -> None:
    assert subprocess.run(reaped("sh", "-c", f"exit {status}"), check=False).returncode == status


def test_the_reaper_ends_as_a_killed_command_does_in_a_shell() -> None:
    assert subprocess.run(reaped("sh", "-c", "kill -9 $$"), check=False).returncode == 128 + 9


def test_a_daemons_cpu_time_is_in_the_account_of_what_started_it(tmp_path: Path) -> None:
    done = tmp_path / "done"
    daemon = tmp_path / "daemon.py"
    daemon.write_text(f"{BURN}\nopen({str(done)!r}, 'w').close()\n")
    run = measure.run(
        reaped("sh", "-c", f"setsid {sys.executable} {daemon} > /dev/null 2>&1 &"),
        environment=os.environ,
        stdin=None,
        log=tmp_path / "log",
        output=tmp_path,
    )
    assert done.exists()
    assert run.cpu >= 0.5
    assert run.own_cpu < 0.5
