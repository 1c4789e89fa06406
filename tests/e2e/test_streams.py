"""Streams that are closed, full or read by nobody, and signals: none of them costs a backup."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncbackup.cli import logs
from asyncbackup.events import Event, Level
from tests.e2e.conftest import Site, dumping, held, wait_until
from tests.servers import Cli

_HANGS = """
import os, time
from asyncbackup.cli import session

async def hang():
    print("hangs", flush=True)
    time.sleep(60)

session.run(hang())
"""


def event(name: str = "backup.started", **fields: object) -> Event:
    return Event(name=name, level=Level.INFO, at=datetime.now(UTC), fields=fields)


@contextmanager
def full_pipe() -> Iterator[int]:
    """Give the end for writing of a pipe that is full, and whose other end nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(writer, b"\n" * size)
        except BlockingIOError:
            pass
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(writer)
        os.close(reader)


def start(site: Site, *arguments: str, stdout: int, stderr: int, **env: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [Cli.path("asyncbackup"), *arguments],
        env=site.run_cli.environment(site.env | {"DUMP_GLOBALS": "false"} | env),
        cwd=site.folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
    )
    site.run_cli.children.append(child)
    return child


# Closed


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_backup_needs_no_streams(site: Site, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" backup {closed}', Cli.path("asyncbackup")],
        env=site.run_cli.environment(site.env), cwd=site.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr if "2>&-" in closed else "") == (0, "")
    assert len(site.files()) == 4
    if ">&-" not in closed.replace("2>&-", ""):
        assert "3 of 3 databases backed up" in done.stdout


def test_an_error_with_nowhere_to_tell_it_keeps_its_exit_code(site: Site) -> None:
    command = ["sh", "-c", '"$0" backup 2>&-', Cli.path("asyncbackup")]
    env = site.run_cli.environment(site.env | {"NUM_BACKUPS": "many"})
    assert subprocess.run(command, env=env, cwd=site.folder, check=False).returncode == 2


# Full


def test_a_log_that_nobody_reads_stops_no_backup(site: Site) -> None:
    with full_pipe() as writer:
        child = start(site, "backup", "--json", stdout=subprocess.PIPE, stderr=writer)
        stdout, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert [one["status"] for one in json.loads(stdout)["databases"]] == ["good"] * 3


def test_nor_does_a_pipe_for_log_and_result(site: Site) -> None:
    with full_pipe() as writer:
        child = start(site, "backup", stdout=writer, stderr=writer)
        assert child.wait(timeout=30) == 0
    assert len(site.files()) == 3
    site.configure("no database")
    with full_pipe() as writer:
        assert start(site, "backup", stdout=writer, stderr=writer).wait(timeout=30) == 2


def test_lines_keep_their_order_and_those_dropped_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_LINES", 5)
    reading, hung = threading.Event(), threading.Event()
    written: list[str] = []

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            hung.set()
            reading.wait()
            written.append(text)
            return len(text)

    log = logs.Log("json", Level.INFO, (), Slow())
    log(event(number=0))
    hung.wait()
    for number in range(1, 9):
        log(event(number=number))
    reading.set()
    assert log.close()
    lines = [json.loads(line) for line in written]
    assert [line["number"] for line in lines[:-1]] == [0, 1, 2, 3, 4, 5]
    assert (lines[-1]["event"], lines[-1]["count"]) == ("log.dropped", 3)


def test_a_log_that_cannot_be_written_raises_nothing() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        log = logs.Log("console", Level.INFO, (), full)
        log(event())
        assert log.close()


def test_a_log_gives_up_at_the_end() -> None:
    with full_pipe() as writer, os.fdopen(os.dup(writer), "w", encoding="utf-8") as stream:
        lines = logs.Writer(stream)
        lines.put("x")
        started = time.monotonic()
        assert not lines.close(0.1)
        assert time.monotonic() - started < 1


# Masked


@pytest.mark.parametrize("secret", ["backup", "2026", "info"])
def test_a_password_masks_no_word_of_ours(secret: str) -> None:
    out = io.StringIO()
    log = logs.Log("json", Level.INFO, [secret], out)
    log(event(run_id=f"20260101-{secret}", error=f"wrong: {secret}"))
    assert log.close()
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["run_id"]) == ("backup.started", "info", f"20260101-{secret}")
    assert line["timestamp"].startswith("20")
    assert line["error"] == "wrong: ***"


def test_results_and_errors_repeat_no_password(site: Site) -> None:
    site.configure(site.fleet.spec("e2e_Hunter22"))
    for arguments in (["backup"], ["backup", "--json"]):
        ran = site(*arguments, FTP_PASSWORD="e2e_Hunter22", DUMP_GLOBALS="false", LOG_FORMAT="json")
        assert ran.returncode == 1
        assert 'database "***" does not exist' in ran.stdout.replace('\\"', '"')
    ran = site("backup", "Hunter22", FTP_PASSWORD="Hunter22")
    assert (ran.returncode, "Hunter22" in ran.stderr, "***" in ran.stderr) == (2, False, True)


def test_the_result_shows_a_wildcard_as_it_is_written(site: Site) -> None:
    site.configure("127.0.0.1:1/*")
    ran = site("backup")
    assert ran.returncode == 1
    assert "127.0.0.1:1/*  failed" in ran.stdout
    assert "%2A" not in ran.stdout


# Signals


def test_what_was_started_by_nohup_ignores_that_the_terminal_is_gone(site: Site) -> None:
    site.configure(site.fleet.specs[0])
    with held(site.fleet.databases[0]):
        child = subprocess.Popen(
            ["nohup", Cli.path("asyncbackup"), "backup"],
            env=site.run_cli.environment(site.env | {"DUMP_GLOBALS": "false"}), cwd=site.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        site.run_cli.children.append(child)
        wait_until(lambda: dumping(site.fleet.databases[0]), "a dump that waits for the lock")
        child.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert child.poll() is None
    assert child.wait(timeout=30) == 0
    assert len(site.files()) == 1


def assert_ends(child: "subprocess.Popen[str]") -> None:
    child.terminate()
    time.sleep(0.2)
    child.terminate()
    started = time.monotonic()
    assert child.wait(timeout=20) == 143
    assert time.monotonic() - started < 2


def test_a_second_signal_ends_it_though_nobody_reads_the_log(site: Site) -> None:
    with held(site.fleet.databases[0]), full_pipe() as writer:
        child = start(site, "backup", stdout=subprocess.DEVNULL, stderr=writer, LOG_LEVEL="debug")
        wait_until(lambda: dumping(site.fleet.databases[0]), "a dump that waits for the lock")
        assert_ends(child)


def test_a_second_signal_ends_it_though_the_loop_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", _HANGS], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "hangs\n"
        assert_ends(child)
