"""`asyncbackup` as its users meet it: the installed command, a real server, nothing replaced."""

import gzip
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import inventory, records
from asyncbackup.model import Difference, Level, Verdict, Verification
from tests.e2e.conftest import MARKER, PASSWORD, Site, descendants, dumping, held, wait_until
from tests.servers import Cli, Databases

COMMANDS = ("backup", "check", "verify", "list", "config", "prune", "demo", "completion")


def log_of(stderr: str) -> list[dict[str, Any]]:
    """Return the log; every line of it must be an event."""
    events = [json.loads(line) for line in stderr.splitlines()]
    for event in events:
        assert list(event)[:3] == ["timestamp", "level", "event"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
        assert event["level"] in {"debug", "info", "warning", "error"}
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", event["event"])
    return events


# Help


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_every_help_tells_the_exit_codes(run_cli: Cli, arguments: list[str]) -> None:
    ran = run_cli(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.findall(r"^ +(\d+(?:, \d+)?)  ", ran.stdout, re.MULTILINE) == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "130, 143",
    ]


def test_alone_it_shows_the_commands(run_cli: Cli) -> None:
    ran = run_cli()
    assert ran.returncode == 2
    assert all(f"\n  {name} " in ran.stderr for name in COMMANDS)
    assert "..." not in ran.stderr.partition("Commands:")[2], "a summary is cut short"


def test_a_mistyped_command_is_guessed(run_cli: Cli) -> None:
    ran = run_cli("bakcup")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert 'no command "bakcup". Did you mean backup?' in ran.stderr


# Backup


def test_results_on_stdout_logs_on_stderr(site: Site) -> None:
    ran = site("backup", "--json", LOG_FORMAT="json")
    assert ran.returncode == 0
    result, log = json.loads(ran.stdout), log_of(ran.stderr)
    assert {event["run_id"] for event in log} == {result["run_id"]}
    assert [(event["event"]) for event in log].count("backup.finished") == 4
    assert log[-1]["event"] == "run.finished"
    assert (log[-1]["good"], log[-1]["rows"]) == (3, 6000)
    assert [one["rows"] for one in result["databases"]] == [3000, 2000, 1000]
    for one in (*result["databases"], *result["globals"]):
        file = Path(one["path"])
        assert file.stat().st_size == one["bytes"]
        assert file.stat().st_mode & 0o777 == 0o600
        assert (
            f"-- PostgreSQL database{' cluster' if one['dbname'] == '@globals' else ''} dump complete"
            in gzip.decompress(file.read_bytes()).decode()
        )
    assert not site.leftovers()


def test_the_report_is_for_people(site: Site) -> None:
    ran = site("backup")
    assert ran.returncode == 0
    assert re.search(
        rf"^{re.escape(site.fleet.specs[2])} +good +3,000 +\S+ kB +\S+ kB +\S+ s +\S+\.sql\.gz$",
        ran.stdout,
        re.MULTILINE,
    )
    assert "\n3 of 3 databases backed up" in ran.stdout
    log_of(ran.stderr)  # LOG_FORMAT=auto without a terminal


def test_one_that_fails_stops_no_other_and_is_told_in_full(site: Site) -> None:
    missing = site.fleet.spec("e2e_missing")
    ran = site("backup", site.fleet.specs[0], missing, site.fleet.specs[0])
    assert ran.returncode == 3
    assert "\n1 of 2 databases backed up" in ran.stdout
    assert f'\nError: {missing}: database "e2e_missing" does not exist\nTry: ' in ran.stdout
    assert len(site.files()) == 2  # with the globals


def test_a_wrong_password_fails_all(site: Site) -> None:
    ran = site("backup", "--json", POSTGRESQL_PASSWORD_FILE="", POSTGRESQL_PASSWORD=f"not {MARKER}")
    assert ran.returncode == 1
    failed = json.loads(ran.stdout)["databases"]
    assert {one["category"] for one in failed} == {"access"}
    assert all("password authentication failed" in one["error"] and one["hint"] for one in failed)
    assert not site.files()


def test_a_server_that_is_down_fails_with_a_hint(site: Site) -> None:
    ran = site("backup", "127.0.0.1:1/app", "127.0.0.1:1/shop")
    assert ran.returncode == 1
    assert "0 of 2 databases backed up" in ran.stdout
    assert "Try: check the host name, the port and that the server is running" in ran.stdout


def test_all_is_every_configured_database(site: Site) -> None:
    named = site.fleet.specs[0]
    assert len(json.loads(site("backup", "all", named, "--json").stdout)["databases"]) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["backup", "nosuch"], ['"nosuch" is no database']),
        (["list", "a", "h/*"], ['"a" is no database', '"h/*" may stand for many']),
        (["backup", "h/@globals"], ["@globals cannot be backed up on their own"]),
        (["backup", "--fast"], ["--fast"]),
        (["prune", "-f"], ["requires an argument"]),
    ],
)
def test_wrong_usage_touches_nothing(site: Site, arguments: list[str], told: list[str]) -> None:
    ran = site(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert all(part in ran.stderr for part in told)
    assert not site.backups.exists()


@pytest.mark.parametrize("arguments", [["backup", "nosuch"], ["backup", "--nosuch"]])
def test_where_the_log_is_json_errors_are_events(site: Site, arguments: list[str]) -> None:
    ran = site(*arguments, LOG_FORMAT="json")
    (event,) = log_of(ran.stderr)
    assert (ran.returncode, event["event"], event["exit_code"]) == (2, "command.failed", 2)
    assert "nosuch" in event["error"]


@pytest.mark.parametrize("command", ["asyncbackup backup", "asyncbackup prune", "backup.sh -1"])
def test_all_that_is_wrong_with_the_settings_is_told_at_once(site: Site, command: str) -> None:
    program, *arguments = command.split()
    ran = site(
        *arguments,
        command=program,
        NUM_BACKUPS="many",
        BACKUP_STRATEGY="hourly",
        FTP_PASSWORD_FILE="/nowhere",
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    lines = ran.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("Error: ") for line in lines)
    assert all(
        name in ran.stderr for name in ('NUM_BACKUPS="many"', 'BACKUP_STRATEGY="hourly"', "FTP_PASSWORD_FILE")
    )
    assert not site.backups.exists()


def test_the_log_level_counts(site: Site) -> None:
    assert site("backup", LOG_FORMAT="json", LOG_LEVEL="error").stderr == ""


def test_the_console_log_is_for_people(site: Site) -> None:
    ran = site("backup", LOG_FORMAT="console")
    assert re.search(r"^\S+Z \[info +\] backup\.finished .*dbname=", ran.stderr, re.MULTILINE)
    assert "\x1b" not in ran.stderr


# Secrets


def test_no_password_is_anywhere_while_a_dump_runs(site: Site) -> None:
    with held(site.fleet.databases[0]):
        child = site.start("backup", site.fleet.specs[0])
        wait_until(lambda: dumping(site.fleet.databases[0]), "a dump that waits for the lock")
        processes = descendants(child.pid)
        dumps = [pid for pid in processes if b"--format=plain" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert dumps
        for pid in (child.pid, *processes):
            for name in ("cmdline", "environ"):
                assert MARKER.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        environ = Path(f"/proc/{dumps[0]}/environ").read_bytes().decode().split("\0")
        (passfile,) = [line.partition("=")[2] for line in environ if line.startswith("PGPASSFILE=")]
        in_memory = Path(passfile.replace("self", f"{dumps[0]}"))
        assert in_memory.stat().st_mode & 0o777 == 0o600
        assert "memfd" in f"{in_memory.readlink()}"
        # The test can fail: this is where the password is, and it is the one that the role has.
        assert MARKER in in_memory.read_text(encoding="utf-8")
    stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 0, stderr
    assert MARKER not in stdout + stderr


def test_config_masks_every_secret(site: Site) -> None:
    secrets = {
        "POSTGRESQL_PASSWORD", "DATABASE_PASSWORD", "ADMIN_PASSWORD", "FTP_URL", "FTP_PASSWORD", "S3_PASSWORD",
        "WEBHOOK_URL", "PGDUTY_SVC_KEY", "127_0_0_1_PASSWORD", "PGPASSWORD",
    }  # fmt: skip
    values = dict.fromkeys(secrets, f"https://{MARKER}.example/{MARKER}")
    values["FTP_URL"] = f"ftp://user:{MARKER}@backup.example/db/"
    for arguments in (["config"], ["config", "--json"]):
        ran = site(*arguments, **values, POSTGRESQL_PASSWORD_FILE="")
        assert ran.returncode == 0, ran.stderr
        assert "***" in ran.stdout
    shown = json.loads(ran.stdout)
    assert shown["settings"].pop("FTP_URL") == "ftp://backup.example/db/"
    assert MARKER not in ran.stdout
    assert all(shown["settings"][name] == "***" for name in secrets & shown["settings"].keys())
    assert {one["password"] for one in shown["databases"]} == {"***"}


def test_the_log_masks_secrets_that_errors_repeat(site: Site) -> None:
    # Here the database is named like the password.
    ran = site(
        "backup",
        site.fleet.spec("Hunter22"),
        POSTGRESQL_PASSWORD_FILE="",
        POSTGRESQL_PASSWORD=PASSWORD,
        FTP_PASSWORD="Hunter22",
        LOG_FORMAT="json",
    )
    assert "Hunter22" not in ran.stderr
    assert any(event["event"] == "backup.failed" and "***" in event["error"] for event in log_of(ran.stderr))


# Locked and interrupted


def test_a_second_run_is_told_who_works_on_it(site: Site) -> None:
    with held(site.fleet.databases[0]):
        first = site.start("backup", site.fleet.specs[0], LOG_FORMAT="json")
        wait_until(lambda: dumping(site.fleet.databases[0]), "a dump that waits for the lock")
        second = site("backup", site.fleet.specs[0], "--json", DUMP_GLOBALS="false")
        assert second.returncode == 4
        (outcome,) = json.loads(second.stdout)["databases"]
        assert outcome["status"] == "locked"
        assert f"process {first.pid} " in outcome["error"]
        both = site("backup", *site.fleet.specs[:2], DUMP_GLOBALS="false")
        assert both.returncode == 3
    assert first.wait(timeout=30) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(site: Site, number: signal.Signals, code: int) -> None:
    with held(site.fleet.databases[0]):
        child = site.start("backup", LOG_FORMAT="json")
        wait_until(lambda: dumping(site.fleet.databases[0]) and len(site.files()) == 3, "two good backups")
        processes = descendants(child.pid)
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=20)
    assert (child.returncode, stdout) == (code, "")
    log = log_of(stderr)
    assert (log[-1]["event"], log[-1]["good"]) == ("run.interrupted", 2)
    assert len({event["run_id"] for event in log}) == 1
    assert not site.leftovers()
    assert len(site.files()) == 3
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


# On a terminal


class Terminal:
    """A terminal of 80 columns that a command runs in, and what it has shown."""

    def __init__(self, site: Site, *arguments: str, command: str = "asyncbackup", **env: str) -> None:
        self.side, other = pty.openpty()
        # setsid makes it the controlling terminal, from which Ctrl-C comes; tests that run in the
        # background of a script have inherited that it is ignored.
        self.child = subprocess.Popen(
            ["env", "--default-signal=INT", "setsid", "--ctty", Cli.path(command), *arguments],
            env=site.run_cli.environment(site.env | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"} | env),
            cwd=site.folder,
            stdin=other,
            stdout=other,
            stderr=other,
        )
        os.close(other)
        os.set_blocking(self.side, False)
        self.shown = ""

    def shows(self, text: str) -> bool:
        while True:
            try:
                self.shown += os.read(self.side, 65536).decode(errors="replace")
            except OSError:  # nothing now, or nobody is there any more
                return text in self.shown

    def type(self, text: str) -> None:
        os.write(self.side, text.encode())

    def end(self) -> int:
        wait_until(lambda: self.shows("\0") or self.child.poll() is not None, "an end")
        self.shows("")
        assert "Traceback" not in self.shown
        assert MARKER not in self.shown
        return self.child.returncode


@contextmanager
def terminal(site: Site, *arguments: str, **env: str) -> Iterator[Terminal]:
    opened = Terminal(site, *arguments, **env)
    try:
        yield opened
    finally:
        opened.child.kill()
        opened.child.wait()
        os.close(opened.side)


def test_a_terminal_shows_progress_and_then_the_report(site: Site) -> None:
    with ExitStack() as stack:
        with held(site.fleet.databases[0]):
            opened = stack.enter_context(terminal(site, "backup"))
            wait_until(lambda: opened.shows("2 done, 1 running, 0 waiting"), "the progress")
        assert opened.end() == 0
    assert "✔" in opened.shown
    assert "3 of 3 databases backed up" in opened.shown
    assert '"event"' not in opened.shown


def test_ctrl_c_says_what_came_of_it(site: Site) -> None:
    with held(site.fleet.databases[0]), terminal(site, "backup") as opened:
        wait_until(lambda: opened.shows("2 done, 1 running, 0 waiting"), "the progress")
        opened.type("\x03")
        assert opened.end() == 130
        assert "interrupted: 2 backed up before that" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", opened.shown)
    assert not site.leftovers()


# List


def test_list_shows_what_is_there(site: Site) -> None:
    site("backup")
    site("backup", site.fleet.specs[0])
    listed = json.loads(site("list", "--json").stdout)
    assert len(listed) == len(site.files()) == 6
    assert {one["kind"] for one in listed} == {"database", "globals"}
    assert all(one["good"] for one in listed)
    first = [one["taken_at"] for one in listed if one["dbname"] == site.fleet.databases[0].name]
    assert first == sorted(first, reverse=True)
    assert len(json.loads(site("list", site.fleet.specs[0], "--json").stdout)) == 2
    assert len(json.loads(site("list", "-f", "@globals", "--json").stdout)) == 2
    assert "6 backups, " in site("list").stdout


def test_list_says_that_there_is_nothing(site: Site) -> None:
    ran = site("list")
    assert (ran.returncode, "does not exist yet" in ran.stdout) == (0, True)
    site.backups.mkdir()
    assert "No backups in" in site("list").stdout
    assert json.loads(site("list", "--json").stdout) == []


def test_list_knows_backups_of_the_bash_tool_and_what_is_damaged(site: Site) -> None:
    site("backup")
    old = site.backups / "2018-10-03" / "postgresql-TheOrgBook_Database_2018-10-03_22-16-11.sql.gz"
    old.parent.mkdir()
    old.write_bytes(gzip.compress(b"-- old"))
    torn, lost, cut = [path for path in site.files() if "globals" not in path.name and path != old]
    torn.with_name(torn.name + ".json").write_text("{", encoding="utf-8")
    lost.with_name(lost.name + ".json").unlink()
    os.truncate(cut, 100)
    listed = {one["path"]: one for one in json.loads(site("list", "--json").stdout)}
    assert (listed[f"{old}"]["kind"], listed[f"{old}"]["good"], listed[f"{old}"]["rows"]) == (
        "without manifest",
        True,
        None,
    )
    assert "not JSON" in listed[f"{torn}"]["problem"]
    assert "missing" in listed[f"{lost}"]["problem"]
    assert "100 bytes" in listed[f"{cut}"]["problem"]
    ran = site("list")
    assert ran.returncode == 0
    assert ran.stdout.count("  DAMAGED ") == 3
    assert "never counted as a backup" in ran.stdout


def restored(path: Path, verdict: Verdict, own: Path | None = None, **more: Any) -> Verification:
    """Write the result of a test restore of one of our backups, two days and an hour ago."""
    manifest = inventory.read_manifest(path)
    result = Verification(
        name=path.name, host=manifest.host, port=manifest.port, dbname=manifest.dbname, verdict=verdict,
        level=Level.CONTENT, proven=True, run_id="a-run", started_at=datetime.now(UTC) - timedelta(hours=49),
        seconds=9, load_seconds=7.5, bytes=manifest.file.bytes, sha256=manifest.file.sha256,
        server_version="15.1",
    )  # fmt: skip
    result = replace(result, **more)
    if own is None:
        assert records.write(result, path, None, 0o600).parent == path.parent
    else:
        own.mkdir(parents=True, exist_ok=True)
        (own / f"{path.name}.verified.json").write_bytes(records.to_json(result))
    return result


def test_list_shows_test_restores(site: Site) -> None:
    site("backup", VERIFY_DIR="")
    site.env["VERIFY_DIR"] = f"{site.folder / 'verify'}"
    globals_, good, bad, unknown = site.files()
    proof = restored(good, Verdict.GOOD)
    differences = (Difference(kind="rows", name="public.t", expected="2000", found="1999"),) * 3
    restored(
        bad, Verdict.BAD, site.folder / "verify" / "records", error="\x1b[31mlost", differences=differences
    )
    restored(unknown, Verdict.UNVERIFIED, lacking=("extension postgis 3.3",))
    globals_.with_name(f"{globals_.name}.verified.json").write_text("{")
    listed = {one["path"]: one for one in json.loads(site("list", "--json").stdout)}
    assert listed[f"{good}"]["verification"] == json.loads(
        json.dumps({**asdict(proof), "started_at": f"{proof.started_at.isoformat()[:-6]}Z"})
    )
    assert [listed[f"{path}"]["verified"] for path in site.files()] == [False, True, False, False]
    assert all(one["good"] for one in listed.values())
    assert listed[f"{bad}"]["verification"]["differences"][0]["found"] == "1999"
    assert (listed[f"{globals_}"]["verification"], listed[f"{good}"]["note"]) == (None, None)
    assert "not JSON" in listed[f"{globals_}"]["note"]

    words = {good: r"verified 2 d 1 h ago \(content\)", bad: r"BAD as of 2 d 1 h ago", unknown: r"could not be verified 2 d 1 h ago"}  # fmt: skip
    shown = site("list").stdout
    of_old = site.backup_sh("-l").stdout
    for path, said in words.items():
        assert re.search(rf"  {said}  .*/{re.escape(path.name)}$", shown, re.MULTILINE)
        assert re.search(rf" {re.escape(str(path))}  {said}$", of_old, re.MULTILINE)
    assert re.search(rf"ago \(content\) +7\.5 s +\S*{re.escape(good.name)}$", shown, re.MULTILINE)
    assert shown.count("(content)") == shown.count("7.5 s") == of_old.count("(content)") == 1
    why = r"\x1b[31mlost; rows public.t: expected 2000, found 1999, and 2 more differences"
    assert f"{bad.name}: {why}" in shown
    assert re.search(rf"Notes:\n.*{re.escape(globals_.name)}: a verification record cannot be read", shown)
    assert "json" not in of_old


EVIL = ("\x1b[31mred", "new\nline", "rtl\u202eeltit", "a b", "it's")


def test_no_name_commands_the_terminal(site: Site) -> None:
    with Databases(site.fleet.server) as factory:
        specs = []
        for name in EVIL:
            factory(name)
            specs.append(site.fleet.spec("".join(f"%{byte:02X}" for byte in name.encode())))
        site.configure(*specs)
        # The first shows settings, log, report and the listing of old.
        outputs = [site.backup_sh("-1", LOG_FORMAT="console")]
        outputs += [site(*line.split()) for line in ("list", "config", "prune --dry-run", "list --json")]
        assert [ran.returncode for ran in outputs] == [0] * len(outputs)
        for ran in outputs:
            for stream in (ran.stdout, ran.stderr):
                assert all(line.isprintable() for line in stream.split("\n"))
        # What is shown can be pasted onto a command line.
        shown = {
            line.split()[0]
            for line in outputs[1].stdout.splitlines()
            if line.startswith("127.0.0.1") and "@globals" not in line
        }
        assert len(shown) == len(EVIL)
        assert {one["dbname"] for one in json.loads(site("list", *shown, "--json").stdout)} == set(EVIL)


# Prune


def test_prune_says_why_and_asks_before_it_removes(crowded: Site) -> None:
    before = crowded.files()
    dry = crowded("prune", "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.count("\nremove ") == 2
    assert dry.stdout.count("\nkeep ") == 1
    assert "2 would be, without --dry-run" in dry.stdout
    alone = crowded("prune")
    assert alone.returncode == 2
    assert "no terminal to ask on" in alone.stderr
    assert "--yes" in alone.stderr
    assert crowded.files() == before
    done = crowded("prune", "--yes", "--json")
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert (result["removed"], [one["removed"] for one in result["backups"]]) == (2, [False, True, True])
    assert crowded.files() == before[2:]
    assert "remove" not in crowded("prune", "--yes").stdout


def test_prune_asks_on_a_terminal(crowded: Site) -> None:
    for answer, code, left in (("\n", 0, 3), ("\x03", 130, 3), ("y\n", 0, 1)):
        with terminal(crowded, "prune") as opened:
            wait_until(partial(opened.shows, "Remove 2 of 3 backups? [y/N]"), "the question")
            opened.type(answer)
            assert opened.end() == code
        assert len(crowded.files()) == left


def test_prune_by_filter_asks_for_each_and_spares_the_newest(crowded: Site) -> None:
    oldest, middle, newest = crowded.files()
    with terminal(crowded, "prune", "-f", ".sql.gz") as opened:
        wait_until(lambda: opened.shows(f"{oldest.name}? [y/N]"), "the first question")
        opened.type("n\n")
        wait_until(lambda: opened.shows(f"{middle.name}? [y/N]"), "the second question")
        opened.type("y\n")
        assert opened.end() == 0
    assert crowded.files() == [oldest, newest]
    assert crowded("prune", "-f", newest.name, "--yes").returncode == 0
    assert crowded.files() == [oldest, newest]
    assert "no backup's path holds" in crowded("prune", "-f", "nothing like it").stdout


def test_prune_keeps_the_newest_verified_and_says_so(crowded: Site) -> None:
    oldest, middle, newest = crowded.files()
    own = crowded.folder / "verify" / "records"
    crowded.env["VERIFY_DIR"] = f"{own.parent}"
    for path in (oldest, middle):
        restored(path, Verdict.GOOD, own, level=Level.TABLES)  # too little to be spared for
    restored(oldest, Verdict.GOOD)
    ran = crowded("prune", "--yes")
    assert re.search(rf"^keep .*{oldest.name}.* that a test restore has verified", ran.stdout, re.MULTILINE)
    assert crowded.files() == [oldest, newest]
    assert [path.name for path in own.iterdir()] == [f"{oldest.name}.verified.json"]
    # By hand it goes, record and all, but not without a word.
    with terminal(crowded, "prune", "-f", oldest.name) as opened:
        wait_until(
            lambda: opened.shows(f"{oldest.name}, though it is the newest that a test restore has verified? [y/N]"),
            "the question",
        )  # fmt: skip
        opened.type("y\n")
        assert opened.end() == 0
    assert crowded.files() == [newest]
    assert sorted(path.name for path in newest.parent.iterdir()) == [newest.name, f"{newest.name}.json"]
    assert list(own.iterdir()) == []


def test_prune_by_filter_spares_no_bad_one(crowded: Site) -> None:
    oldest, middle, newest = crowded.files()
    restored(newest, Verdict.BAD)
    ran = crowded("prune", "-f", ".sql.gz", "--yes", "--json")
    assert [one["removed"] for one in json.loads(ran.stdout)["backups"]] == [True, False, True]
    assert crowded.files() == [middle]
    assert not oldest.exists()
    restored(middle, Verdict.BAD)  # where nothing is better, it is the one that stays
    assert crowded("prune", "-f", ".sql.gz", "--yes").returncode == 0
    assert crowded.files() == [middle]


def test_a_backup_prunes_with_regard_to_test_restores(crowded: Site) -> None:
    oldest, middle, newest = crowded.files()
    own = crowded.folder / "verify" / "records"
    restored(oldest, Verdict.GOOD, own)
    restored(middle, Verdict.BAD)
    restored(newest, Verdict.BAD, own)
    lost = newest.with_name(re.sub(r"_\d{4}-", "_2001-", newest.name) + ".verified.json")
    lost.write_bytes(records.to_json(records.read(own / f"{newest.name}.verified.json")))
    ran = crowded("backup", "--json", VERIFY_DIR=f"{own.parent}")
    (one,) = json.loads(ran.stdout)["databases"]
    assert (one["status"], sorted(one["pruned"])) == ("good", [f"{middle}", f"{newest}"])
    assert crowded.files() == [oldest, Path(one["path"])]
    assert [path.name for path in own.iterdir()] == [f"{oldest.name}.verified.json"]
    assert not [*crowded.backups.rglob("*.verified.json")]


def bash_backup(site: Site, name: str, when: str) -> Path:
    """Write a backup as the bash tool did."""
    path = site.backups / when.partition("_")[0] / f"{name}_{when}.sql.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"SELECT 1;"))
    return path


def test_prune_by_filter_spares_the_newest_when_the_clock_is_behind(site: Site) -> None:
    site.configure("h/one")
    newest, older = (bash_backup(site, "h-one", f"{year}-01-01_00-00-00") for year in (2999, 2998))
    assert site("prune", "-f", ".sql.gz", "--yes").returncode == 0
    assert site.files() == [newest]
    # The newest of the past stays, too, when one file is from a clock that was ahead.
    past, long_past = (bash_backup(site, "h-one", f"{year}-01-01_00-00-00") for year in (2019, 2018))
    assert site("prune", "-f", ".sql.gz", "--yes").returncode == 0
    assert site.files() == [past, newest]
    assert not older.exists()
    assert not long_past.exists()


def test_prune_leaves_other_jobs_backups_alone(crowded: Site) -> None:
    own, other = crowded.fleet.specs[:2]
    before = crowded.files()
    for lines in ([other], [crowded.fleet.spec("f*")], [crowded.fleet.spec("*"), f"!{own}"]):
        crowded.configure(*lines)
        for ran in (crowded("prune", "--yes"), crowded.backup_sh("-p")):
            assert ran.returncode == 0
            assert "1 other series was left alone" in ran.stdout
        assert crowded("prune", "-f", ".sql.gz", "--yes").returncode == 0
        ran = crowded("prune", "--yes", "--json")
        assert (json.loads(ran.stdout)["left_alone"], json.loads(ran.stdout)["backups"]) == (1, [])
        assert crowded.files() == before
    crowded.configure(crowded.fleet.spec("e2e*"))
    assert "2 would be" in crowded("prune", "--dry-run").stdout
    crowded.configure(other)
    assert "2 removed" in crowded("prune", "all", "--yes").stdout
    assert crowded.files() == before[2:]


def test_prune_waits_for_no_running_backup(crowded: Site) -> None:
    with held(crowded.fleet.databases[0]):
        child = crowded.start("backup", crowded.fleet.specs[0], NUM_BACKUPS="9")
        wait_until(lambda: dumping(crowded.fleet.databases[0]), "a dump that waits for the lock")
        ran = crowded("prune", "--yes")
        assert ran.returncode == 4
        assert f"process {child.pid} " in ran.stderr
        assert len(crowded.files()) == 3
    assert child.wait(timeout=30) == 0


# Pipes and completion


@pytest.mark.parametrize("arguments", [["list"], ["backup"]])
def test_a_reader_that_has_seen_enough_is_no_failure(site: Site, arguments: list[str]) -> None:
    child = site.start(*arguments, LOG_LEVEL="error")
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert (child.stderr.read(), child.wait(timeout=30)) == ("", 0)


def test_a_result_that_cannot_be_written_is_a_failure(site: Site) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [Cli.path("asyncbackup"), "config"], env=site.run_cli.environment(site.env), cwd=site.folder,
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "Error: cannot write the result to stdout: No space left on device\n",
    )


@pytest.fixture(scope="session")
def completion() -> str:
    """Return the script for bash."""
    return subprocess.run(
        [Cli.path("asyncbackup"), "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout


def complete(script: str, site: Site, line: str, **env: str) -> list[str]:
    """Return what bash would offer at the end of a line."""
    # By default, bash takes words apart at colons.
    script += """
    COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
    _asyncbackup_completion asyncbackup; printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = site.run_cli.environment(site.env | env)
    environment["PATH"] = f"{Path(Cli.path('asyncbackup')).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", line],
        env=environment,
        cwd=site.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_knows_commands_and_databases(site: Site, completion: str) -> None:
    port = site.fleet.port
    assert complete(completion, site, "asyncbackup ba") == ["backup"]
    assert complete(completion, site, "asyncbackup backup ") == ["all", *site.fleet.specs]
    # bash replaces only what stands after the last colon.
    rest = [f"{port}/{database.name}" for database in site.fleet.databases]
    assert complete(completion, site, f"asyncbackup list 127.0.0.1:{port}/e2e_") == rest
    assert complete(completion, site, "asyncbackup prune 127", DEFAULT_PORT=f"{port}") == [
        f"127.0.0.1/{d.name}" for d in site.fleet.databases
    ]


def test_completion_never_fails(site: Site, completion: str) -> None:
    assert complete(completion, site, "asyncbackup backup 1", BACKUP_CONF="/nowhere") == []
    assert complete(completion, site, "asyncbackup backup 1", NUM_BACKUPS="many") == []
    assert complete(completion, site, "asyncbackup pr", NUM_BACKUPS="many") == ["prune"]
    request = {
        "_ASYNCBACKUP_COMPLETE": "bash_complete",
        "COMP_WORDS": "asyncbackup\nlist\n1",
        "COMP_CWORD": "2",
    }
    ran = site(NUM_BACKUPS="many", **request)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "", "")
