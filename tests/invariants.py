"""A place to back up to, the installed command run on it, and what must hold after every fault.

The numbers of the invariants: I1 no final name without a valid manifest; I2 good backups stay as they
are; I3 a status that tells, and one result for each database; I4 nothing of ours runs on; I6 the next
run succeeds by itself; I7 no secret is told.
"""

import gzip
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import inventory
from asyncbackup.dbspec import spec_text
from asyncbackup.manifest import from_json
from asyncbackup.model import DatabaseSpec, Manifest
from asyncbackup.scanner import Scanner
from tests.servers import Cli, Database, Postgres

TERMINAL = {"backup.finished", "backup.failed"}
GRACE = 10  # seconds within which everything of ours has ended


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run of the command came to."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log; every line of it must be a JSON object."""
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    @property
    def databases(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.report["databases"]
        return found

    @property
    def only(self) -> dict[str, Any]:
        """The result of the one database that was asked for."""
        (found,) = self.databases
        return found

    @property
    def path(self) -> Path:
        assert self.only["status"] == "good", self.stderr
        return Path(self.only["path"])

    @property
    def manifest(self) -> Manifest:
        return inventory.read_manifest(self.path)


@dataclass
class Site:
    """A backup directory and a configuration; `backup` runs the installed command on them."""

    cli: Cli
    home: Path
    env: dict[str, str] = field(default_factory=dict)
    servers: list[Postgres] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return Path(self.env["BACKUP_DIR"])

    def use(self, *servers: Postgres, **variables: str) -> "Site":
        """Know these servers' credentials; wait for nothing, keep no globals."""
        self.servers += servers
        for server in servers:
            self.env |= server.credentials
        self.env.setdefault("BACKUP_DIR", f"{self.home / 'backups'}")
        self.env |= {"DUMP_GLOBALS": "false", "RETRY_DELAY": "0.05", "DUMP_RETRIES": "0", **variables}
        return self

    def configure(self, *lines: DatabaseSpec | Database | str) -> "Site":
        """Write backup.conf."""
        texts = []
        for line in lines:
            spec = line.spec if isinstance(line, Database) else line
            texts.append(spec if isinstance(spec, str) else spec_text(spec))
        path = self.home / "backup.conf"
        path.write_text("\n".join(texts) + "\n")
        self.env["BACKUP_CONF"] = f"{path}"
        return self

    def backup(self, *arguments: str, **variables: str) -> Result:
        """Run `asyncbackup backup --json` to its end."""
        done = self.cli("backup", "--json", *arguments, env={**self.env, **variables})
        return Result(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def good(self, *arguments: str, **variables: str) -> Result:
        """Run it, and expect that all is well."""
        done = self.backup(*arguments, **variables)
        assert done.returncode == 0, done.stderr
        self.check(done)
        return done

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start it, to do something to it meanwhile."""
        return self.cli.start("backup", "--json", *arguments, env={**self.env, **variables})

    def end(self, child: "subprocess.Popen[str]", seconds: float = 30) -> Result:
        stdout, stderr = child.communicate(timeout=seconds)
        return Result(returncode=child.returncode, stdout=stdout, stderr=stderr)

    # What lies in the backup directory

    @property
    def files(self) -> dict[Path, tuple[int, str]]:
        """Every file with its inode and digest; links are not followed."""
        return {
            path: (path.lstat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.is_symlink() and ".asyncbackup" not in path.parts
        }

    @property
    def partials(self) -> list[Path]:
        return sorted(self.root.rglob("*.in_progress"))

    @property
    def backups(self) -> list[Path]:
        return sorted(self.root.rglob("*.sql.gz"))

    @property
    def orphans(self) -> list[Path]:
        return list(inventory.scan(self.root).orphans)

    def old_good(self, spec: DatabaseSpec, days: int = 1) -> Path:
        """Put a backup of the bash tool of some days ago there, as it would have written it."""
        when = datetime.now() - timedelta(days=days)  # noqa: DTZ005 - local time, as in names
        folder = self.root / f"{when:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{spec.host}-{spec.dbname}_{when:%Y-%m-%d_%H-%M-%S}.sql.gz"
        path.write_bytes(gzip.compress(b"-- PostgreSQL database dump complete\n"))
        return path

    # The invariants

    def check(
        self,
        result: Result | None = None,
        before: Mapping[Path, tuple[int, str]] | None = None,
        *,
        left_behind: bool = False,
    ) -> None:
        """Assert I1, I2, I3, I4 and I7; `left_behind` allows what only the next run can clean up."""
        self.check_files(left_behind=left_behind)
        now = self.files
        for path, seen in (before or {}).items():
            assert now.get(path) == seen, f"I2: {path} is not what it was"
        self.check_processes()
        if result is not None:
            self.check_result(result)

    def check_files(self, *, left_behind: bool) -> None:
        for path in self.backups:
            if path.is_symlink() or not path.is_file() or not inventory.is_ours(path):
                continue
            data = path.read_bytes()
            manifest = inventory.read_manifest(path)
            assert manifest.file.name == path.name, "I1"
            assert manifest.file.bytes == len(data), "I1"
            assert manifest.file.sha256 == hashlib.sha256(data).hexdigest(), "I1"
            scanner = Scanner()
            scanner.feed(gzip.decompress(data))
            scan = scanner.finish()
            assert scan.problem == "", "I1"
            assert (scan.blocks, scan.bytes) == (manifest.tables, manifest.sql_bytes), "I1"
            assert from_json((path.parent / f"{path.name}.json").read_bytes()) == manifest
        if not left_behind:
            assert [path for path in self.partials if inventory.is_ours(path)] == []
            assert self.orphans == [], "I1: a manifest without data"

    def check_processes(self) -> None:
        for server in self.servers:
            wait_for(partial(nothing_of, server), "I4: the end of our programs and sessions", GRACE)

    def check_result(self, result: Result) -> None:
        for server in self.servers:
            secret = server.cluster.password.reveal()
            assert secret not in result.stdout + result.stderr, "I7"
        assert "Traceback" not in result.stderr, result.stderr
        assert not [event for event in result.events if event.get("category") == "bug"], result.stderr
        if not result.stdout.strip().startswith("{"):  # interrupted, or nothing was begun
            return
        ended = [
            event for event in result.events if event["event"] in TERMINAL and event["dbname"] != "@globals"
        ]
        assert (
            len(ended) == len({(e["host"], e["port"], e["dbname"]) for e in ended}) == len(result.databases)
        ), "I3"
        statuses = {one["status"] for one in result.databases}
        expected = (
            0 if statuses == {"good"} else 3 if "good" in statuses else 4 if statuses == {"locked"} else 1
        )
        assert result.returncode == expected, "I3"
        for one in result.databases:
            assert (one["status"] == "good") == (one["error"] is None) == (one["path"] is not None), "I3"

    def check_recovery(
        self, before: Mapping[Path, tuple[int, str]] | None = None, **variables: str
    ) -> Result:
        """Assert I6: with the fault gone, the next run succeeds by itself and leaves all in order."""
        done = self.backup(**variables)
        assert done.returncode == 0, done.stderr
        self.check(done, before)
        return done


def nothing_of(server: Postgres) -> bool:
    """Whether neither a program nor a session of ours works on a server."""
    return not dumps_of(server) and sessions(server) == 0


def sessions(server: Postgres) -> int:
    """Count the sessions of ours on a server."""
    return int(
        server.query(
            "postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'asyncbackup%'"
        )
    )


def dumps_of(server: Postgres) -> list[int]:
    """Return the ids of every pg_dump (or a wrapper of it) that works on a server for us."""
    mark = f"port='{server.cluster.port}'".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if mark in words and b"application_name='asyncbackup'" in words:
            found.append(int(process.name))
    return found


def wrapper(folder: Path, real: Path, script: str) -> Path:
    """Make a folder of client programs whose pg_dump is a shell script that knows the real one as $REAL."""
    folder.mkdir()
    program = folder / "pg_dump"
    program.write_text(
        f'#!/bin/bash\nREAL={real}/pg_dump\n[ "$1" = --version ] && exec "$REAL" --version\n{script}\n'
    )
    program.chmod(0o755)
    return folder


def until(path: Path) -> str:
    """Return shell that waits for a file, but not for ever: what started it may be gone."""
    return f"for i in $(seq 1500); do [ -e {path} ] && break; sleep 0.02; done"


def small_disk(path: Path, options: str) -> Iterator[Path]:
    """Mount a file system of a certain size, for the length of a generator."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", f"{path}"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def at_bytes(count: int, action: str) -> str:
    """Return shell that runs the real pg_dump, and does something once it has written so many bytes.

    `action` is shell, too, and knows the process as $PID.
    """
    watch = (
        f'while [ -e /proc/$PID ]; do while read -r k v; do if [ "$k" = wchar: ] && [ "$v" -ge {count} ]; then '
        f"{action}; exit; fi; done < /proc/$PID/io; done"
    )
    return f'PID=$$; ( exec > /dev/null 2>&1; {watch} ) & exec "$REAL" "$@"'


def stopped(server: Postgres) -> int:
    """Return the id of a pg_dump of ours that a signal has stopped, or 0."""
    for process in dumps_of(server):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state == "T":
            return process
    return 0
