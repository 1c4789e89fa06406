"""The benchmarks' accounts: what a command costs, with all that it leaves behind."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from bench import measure, upload
from bench.report import Record
from tests.ftp_servers import PASSWORD, USER, FtpServer

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


def test_the_account_is_read_when_the_servers_work_is_in_it(tmp_path: Path) -> None:
    server = subprocess.Popen([sys.executable, "-I", "-S", "-c", BURN])
    run = measure.run(
        ["true"],
        environment=os.environ,
        stdin=None,
        log=tmp_path / "log",
        output=tmp_path,
        server_pid=server.pid,
        settled=lambda: os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT),
    )
    server.wait()
    assert run.server_cpu is not None
    assert run.server_cpu >= 0.4


def uploaded(contender: str, turn: int, group: str, wall: float, cpu: float) -> Record:
    run = measure.Run(
        wall=wall,
        cpu=cpu,
        own_cpu=cpu,
        server_cpu=1.0,
        other_cpu=0.0,
        own_rss=40_000_000,
        tree_rss=40_000_000,
        memory=0,
        output=1_000_000_000,
    )
    return Record(contender=contender, concurrency=1, round=turn, run=run, group=group)


@pytest.mark.parametrize(("cpu", "verdict"), [(1.35, "which is what is aimed for"), (1.45, "which is NOT")])
def test_uploads_are_compared_with_curls_to_the_same_server_in_the_same_round(
    cpu: float, verdict: str
) -> None:
    # The second round finds a machine half as fast, the second server is a slow one.
    records = [
        uploaded(name, turn, group, seconds * turn * slow, seconds * turn * slow * cost)
        for turn in (1, 2)
        for group, slow in (("near", 1), ("far", 10))
        for name, seconds, cost in ((upload.CURL, 2, 1), (upload.OURS, 1, 2 * cpu))
    ]
    chosen = [who for who in upload.contenders() if who.name in {upload.CURL, upload.OURS}]
    told = upload.comparison(records, chosen, {"near": 39_000_000}).splitlines()
    for group in ("near", "far"):
        (line,) = (line for line in told if line.startswith(f"{group}: asyncbackup has"))
        assert f"2.00 times curl's throughput with {cpu:.2f} times its CPU time, {verdict}" in line
    assert "near: its process has 40.0 MB at most, and 39.0 with a file of a 16th of the size" in told
    ratios = [entry for entry in upload.summary(records, chosen) if entry["contender"] == upload.OURS]
    assert [entry["speed_to_curl"] for entry in ratios] == [{"median": 2.0, "low": 2.0, "high": 2.0}] * 2


def test_nobody_learns_the_password_from_a_command_line(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    ended.wait()
    server = FtpServer(
        kind="vsftpd",
        host="127.0.0.1",
        port=2121,
        home=tmp_path,
        ca_file=tmp_path / "ca.pem",
        implicit=False,
        user=USER,
        process=ended,
        logs=(),
    )
    job = upload.Job(server=server, path=tmp_path / "file", scratch=tmp_path)
    secret = {PASSWORD, quote(PASSWORD, safe="")}
    for who in upload.contenders():
        assert not [word for word in who.command(job) if any(text in word for text in secret)]
        handed = [who.stdin(job), *who.environment(job).values()]
        assert [text for text in handed if any(password in text for password in secret)]
