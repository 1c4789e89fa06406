"""`asyncbackup check` as its users meet it: files in a folder, and no server at all."""

import gzip
import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Site
from tests.servers import Ran

WHOLE = "--\n-- PostgreSQL database dump complete\n--\n\n"


@pytest.fixture
def three(site: Site, three_backups: Path) -> list[Path]:
    """Three backups, newest first, of the one database that is configured; nobody could log in."""
    shutil.copytree(three_backups, site.backups)
    site.configure(site.fleet.specs[0])
    site.env = {name: value for name, value in site.env.items() if not name.startswith("POSTGRESQL_")}
    return site.files()[::-1]


def results(ran: Ran) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


def events(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]


def of_old(site: Site, name: str, text: str = WHOLE) -> Path:
    """Put a file there as the bash tool would have written it."""
    day = site.backups / "2020-01-31"
    day.mkdir(parents=True, exist_ok=True)
    path = day / f"{name}_2020-01-31_01-00-00.sql.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def snapshot(folder: Path) -> dict[Path, tuple[int, int, int]]:
    seen = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (at.st_ino, at.st_size, at.st_mtime_ns) for path, at in seen.items()}


@pytest.mark.parametrize("arguments", [[], ["all"]])
def test_all_is_well(site: Site, three: list[Path], arguments: list[str]) -> None:
    before = snapshot(site.folder)
    ran = site("check", *arguments)
    assert ran.returncode == 0
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["FILE", "VERDICT", "ROWS", "SQL", "SIZE"]
    for line, path in zip(lines[1:], three, strict=False):
        assert line.split()[:3] == [str(path.relative_to(site.backups)), "good", "1,000"]
    assert "\n3 of 3 backups are good: 3,000 rows, " in ran.stdout
    assert "Problems" not in ran.stdout
    assert snapshot(site.folder) == before, "nothing is written anywhere"


def test_each_file_has_its_events(site: Site, three: list[Path]) -> None:
    three[1].write_bytes(three[1].read_bytes()[:-1])
    ran = site("check", "--json", LOG_FORMAT="json")
    assert ran.returncode == 3
    log = events(ran)
    assert len({event["run_id"] for event in log}) == 1
    assert (log[0]["event"], log[0]["action"], log[0]["files"]) == ("run.started", "check", 3)
    for path in three:
        begun, ended = [event for event in log if event.get("path") == str(path)]
        assert begun["event"] == "check.started"
        assert ended["event"] == ("check.failed" if path == three[1] else "check.finished")
        assert f"{ended['host']}:{ended['port']}/{ended['dbname']}" == site.fleet.specs[0]
        assert bool(ended["problems"]) == (path == three[1])
        assert (path.stat().st_size, ended["seconds"] >= 0) == (ended["bytes"], True)
    last = log[-1]
    assert (last["event"], last["good"], last["failed"], last["rows"]) == (
        "run.finished",
        2,
        [str(three[1])],
        2000,
    )


def test_the_result_as_json(site: Site, three: list[Path]) -> None:
    found = results(site("check", "--json"))
    assert [one["path"] for one in found] == [str(path) for path in three]
    for one in found:
        said = json.loads(Path(f"{one['path']}.json").read_text())
        assert (one["verdict"], one["problems"]) == ("good", [])
        assert (one["sha256"], one["sql_bytes"]) == (said["file"]["sha256"], said["sql_bytes"])
        assert (one["rows"], one["tables"], one["taken_at"][:19]) == (1000, 1, said["started_at"][:19])


def test_what_is_wrong_is_told_in_full_with_the_file(site: Site, three: list[Path]) -> None:
    bad = three[0]
    text = gzip.decompress(bad.read_bytes()).replace(b"row 500", b"row 501")
    bad.write_bytes(gzip.compress(text))
    ran = site("check")
    assert ran.returncode == 3
    assert re.search(
        rf"^{re.escape(str(bad.relative_to(site.backups)))} +BAD +1,000 ", ran.stdout, re.MULTILINE
    )
    assert f"\n  {bad}: the file: expected SHA-256 " in ran.stdout
    assert f"\n  {bad}: table public.t: expected rows of BLAKE3 " in ran.stdout
    assert "\n2 of 3 backups are good" in ran.stdout
    assert "\nTry: restore from another backup" in ran.stdout


def test_none_is_good(site: Site, three: list[Path]) -> None:
    for path in three:
        path.write_bytes(b"")
    ran = site("check", "--json")
    assert (ran.returncode, {one["verdict"] for one in results(ran)}) == (1, {"bad"})


def test_many_problems_of_one_file(site: Site, three: list[Path]) -> None:
    """A person gets the first of them, a program gets all."""
    tables = "".join(f"COPY public.t{i} (a) FROM stdin;\n\\.\n\n" for i in range(100))
    three[0].write_bytes(gzip.compress((tables + WHOLE).encode()))
    found = next(one for one in results(site("check", "--json")) if one["path"] == str(three[0]))
    assert sum("expected no such COPY" in problem for problem in found["problems"]) == 100
    ran = site("check")
    assert ran.stdout.count("expected no such COPY") < 20
    assert re.search(r"^  and \d+ more; --json has them all$", ran.stdout, re.MULTILINE)


# Which


def test_a_database_and_a_part_of_a_path(site: Site, three: list[Path]) -> None:
    other = of_old(site, "elsewhere-app")
    site.configure(site.fleet.specs[0], "elsewhere/app")
    assert len(results(site("check", "--json"))) == 4
    found = results(site("check", site.fleet.specs[0], "--json"))
    assert [one["path"] for one in found] == [str(path) for path in three]
    (one,) = results(site("check", "elsewhere/app", "--json"))
    assert (one["path"], one["host"], one["dbname"]) == (str(other), "elsewhere", "app")
    (one,) = results(site("check", "-f", three[1].name, "--json"))
    assert one["path"] == str(three[1])
    (one,) = results(site("check", "all", "-f", "2020-01-31/", "--json"))
    assert one["path"] == str(other)


def test_nothing_that_matches_is_a_failure(site: Site, three: list[Path]) -> None:
    ran = site("check", "-f", "no such text")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert 'Error: nothing was checked: no backup\'s path holds "no such text"\nTry: ' in ran.stderr
    ran = site("check", site.fleet.specs[0], "-f", "no such text")
    assert ran.returncode == 1
    assert f'{site.fleet.specs[0]}: no path of its backups holds "no such text"' in ran.stdout


def test_a_database_that_was_never_backed_up(site: Site, three: list[Path]) -> None:
    site.configure(*site.fleet.specs[:2])
    for arguments in ([], ["all"], site.fleet.specs[:2]):
        ran = site("check", *arguments)
        assert ran.returncode == 3
        assert f"\n{site.fleet.specs[1]}" in ran.stdout
        assert f"\n  {site.fleet.specs[1]}: there is no backup of it in {site.backups}" in ran.stdout
    found = results(site("check", "--json"))
    assert [one["verdict"] for one in found] == ["good", "good", "good", "missing"]
    assert (found[-1]["path"], found[-1]["dbname"]) == (None, site.fleet.databases[1].name)
    ran = site("check", site.fleet.specs[1], "--json", LOG_FORMAT="json")
    assert ran.returncode == 1
    (failed,) = [event for event in events(ran) if event["event"] == "check.failed"]
    assert (failed["category"], failed["path"]) == ("no_backup", None)
    # With a filter, files are meant.
    assert site("check", "-f", "sql.gz").returncode == 0


def test_wildcards_and_exclusions_need_no_server(site: Site, three: list[Path]) -> None:
    first, second, _ = site.fleet.specs
    site.configure("nowhere.invalid/*", first, second, f"!{second}")
    assert site("check").returncode == 0


def test_a_folder_without_any_backup(site: Site) -> None:
    site.configure("nowhere.invalid/*")
    for _ in range(2):
        ran = site("check")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert f"there are no backups in {site.backups}" in ran.stderr
        site.backups.mkdir(exist_ok=True)
    site.configure(site.fleet.specs[0])
    assert site("check").returncode == 1


def test_only_a_folder_to_look_at(site: Site, three: list[Path]) -> None:
    """Nothing is configured: no database is missed that nobody has named."""
    ran = site.run_cli("check", "--json", env={"BACKUP_DIR": f"{site.backups}"})
    assert (ran.returncode, len(results(ran))) == (0, 3)


def test_wrong_usage(site: Site) -> None:
    assert site("check", "nosuch").returncode == 2
    assert site("check", "--fast").returncode == 2


# Old ones, and what is none


def test_backups_of_the_bash_tool(site: Site) -> None:
    site.configure("elsewhere/app")
    whole = of_old(site, "elsewhere-app", f"COPY public.t (a) FROM stdin;\n1\n2\n\\.\n\n{WHOLE}")
    ran = site("check")
    assert ran.returncode == 0
    assert re.search(rf"^2020-01-31/{re.escape(whole.name)} +whole +2 ", ran.stdout, re.MULTILINE)
    assert "\n1 of them has no manifest: whole, but nothing to compare with." in ran.stdout
    cut = of_old(site, "elsewhere-app", "COPY public.t (a) FROM stdin;\n1\n2\n")
    ran = site("check")
    assert ran.returncode == 1
    assert f"\n  {cut}: the dump ends inside the rows of public.t" in ran.stdout


def test_whose_it_is_may_be_doubtful(site: Site, three: list[Path]) -> None:
    """A damaged manifest says nothing any more; the file still counts as one of the database's."""
    site.configure(site.fleet.specs[0], f"127.0.0.1:{site.fleet.port + 1}/*")
    said = three[0].with_name(f"{three[0].name}.json")
    said.write_text("{}")
    found = results(site("check", site.fleet.specs[0], "--json"))
    assert len(found) == 3
    (bad,) = [one for one in found if one["verdict"] == "bad"]
    assert bad["problems"] == [f"{said}: it is not a manifest of asyncbackup"]
    assert (bad["path"], bad["rows"]) == (str(three[0]), 1000)


def test_partial_files_and_foreign_files_are_no_backups(site: Site, three: list[Path]) -> None:
    day = three[0].parent
    (day / f"{three[0].name}.in_progress").write_bytes(b"x")
    (day / "notes.txt").write_text("x")
    (day / "link_2026-01-01_00-00-00.sql.gz").symlink_to(three[0])
    assert len(results(site("check", "--json"))) == 3


def test_records_of_test_restores_are_no_manifests(site: Site, three: list[Path]) -> None:
    (three[0].parent / "gone-app_2026-01-01_00-00-00.sql.gz.verified.json").write_text("{}")
    assert site("check").returncode == 0


# Interrupted, and on a terminal


@pytest.fixture
def endless(site: Site) -> Site:
    """A small file that takes long to read."""
    path = of_old(site, "elsewhere-app")
    path.write_bytes(gzip.compress(bytes(50_000_000), 1) * 1000)
    site.configure("elsewhere/app")
    return site


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once(endless: Site, number: signal.Signals, code: int) -> None:
    child = endless.start("check", "--json", LOG_FORMAT="json")
    assert child.stderr
    assert child.stdout
    seen = []
    for line in child.stderr:
        seen.append(json.loads(line)["event"])
        if seen[-1] == "check.started":
            break
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=30)
    rest = [json.loads(line) for line in stderr.splitlines()]
    assert (child.returncode, stdout) == (code, "")
    assert [event["event"] for event in rest] == ["check.failed", "run.interrupted"]
    assert (rest[0]["category"], rest[1]["good"]) == ("interrupted", 0)


def test_progress_on_a_terminal(site: Site, three: list[Path]) -> None:
    three[1].write_bytes(b"")
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [site.run_cli.path("asyncbackup"), "check"],
        env=site.run_cli.environment(site.env | {"COLUMNS": "250", "TERM": "xterm"}),
        cwd=site.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    stdout, _ = child.communicate(timeout=30)
    os.close(master)
    assert child.returncode == 3
    assert "2 of 3 backups are good" in stdout
    assert b"of 3 checked" in shown
    assert f"{three[1]}: the file: expected".encode() in re.sub(rb"\x1b\[[0-9;]*m", b"", shown)
    assert b"check.started" not in shown


def test_completion_knows_it(site: Site) -> None:
    ran = site("completion", "bash")
    assert ran.returncode == 0
    done = subprocess.run(
        [site.run_cli.path("asyncbackup")],
        env=site.run_cli.environment(site.env)
        | {"_ASYNCBACKUP_COMPLETE": "bash_complete", "COMP_WORDS": "asyncbackup check ", "COMP_CWORD": "2"},
        cwd=site.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plain,all" in done.stdout
