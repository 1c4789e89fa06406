"""`backup.sh`: every flag of old does what it did, or says that it comes later."""

import gzip
import json
import os
import re
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Site, dumping, held, wait_until
from tests.servers import Cli

FLAGS = "1sclpfvraInh"
LINE = re.compile(r"(\d[\d.]*[KMG]?) +\d{4}-\d\d-\d\d \d\d:\d\d +(\S+)")


def test_help_tells_every_flag_and_the_exit_codes(run_cli: Cli) -> None:
    ran = run_cli("-h", command="backup.sh")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(re.findall(r"^  -(\w)\b", ran.stdout, re.MULTILINE)) == set(FLAGS)
    assert re.findall(r"^ +(\d+(?:, \d+)?)  ", ran.stdout, re.MULTILINE) == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "130, 143",
    ]


def test_one_cycle_is_settings_backups_listing(site: Site) -> None:
    site.configure(*site.fleet.specs, "0 1 * * * default ./backup.sh -s")
    ran = site.backup_sh("-1", LOG_FORMAT="json")
    assert ran.returncode == 0
    order = ["Settings:", "- Run mode: once", "3 of 3 databases backed up", "Current Backups:"]
    places = [ran.stdout.index(part) for part in order]
    assert places == sorted(places)
    log = [json.loads(line) for line in ran.stderr.splitlines()]
    assert log[-1]["event"] == "run.finished"
    assert len(site.files()) == 4


@pytest.mark.parametrize("flags", [["-s"], ["-1ns"]])
def test_scheduled_backs_up_without_questions(site: Site, flags: list[str]) -> None:
    site.configure(site.fleet.specs[0])
    ran = site.backup_sh(*flags, DUMP_GLOBALS="false")
    assert ran.returncode == 0
    assert f"- Run mode: {'once' if '1' in ''.join(flags) else 'scheduled'}" in ran.stdout
    assert len(site.files()) == 1


def test_a_cycle_fails_as_asyncbackup_does(site: Site) -> None:
    missing = site.fleet.spec("e2e_missing")
    site.configure(site.fleet.specs[0], missing)
    ran = site.backup_sh("-1")
    assert ran.returncode == 3
    assert f'Error: {missing}: database "e2e_missing" does not exist' in ran.stdout
    site.configure(missing)
    assert site.backup_sh("-s").returncode == 1
    site.configure("no database")
    ran = site.backup_sh("-1")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "backup.conf:1: " in ran.stderr
    with held(site.fleet.databases[0]):
        site.configure(site.fleet.specs[0])
        first = site.start("-1", command="backup.sh")
        wait_until(lambda: dumping(site.fleet.databases[0]), "a dump that waits for the lock")
        assert site.backup_sh("-1").returncode == 4
        first.terminate()
        assert first.wait(timeout=20) == 143
    assert not site.leftovers()


def test_list_has_sizes_of_databases_and_totals_of_folders(site: Site) -> None:
    assert site("backup", BACKUP_STRATEGY="rolling").returncode == 0
    old = site.backups / "2018-10-03" / "postgresql-TheOrgBook_Database_2018-10-03_22-16-11.sql.gz"
    old.parent.mkdir()
    old.write_bytes(gzip.compress(os.urandom(20_000)))
    os.utime(old, (1_538_604_971, 1_538_604_971))
    ran = site.backup_sh("-l", TZ="America/Vancouver")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Current Backups:" in ran.stdout
    for spec in site.fleet.specs:
        assert re.search(rf"^{re.escape(spec)} +\d+\.\d MB$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^\S+ +\S+ +\S+ +\d+% +{re.escape(str(site.backups))}$", ran.stdout, re.MULTILINE)
    shown = {path: size for size, path in LINE.findall(ran.stdout)}
    for file in site.files():
        assert f"{file}" in shown
        assert f"{file.parent}" in shown
    assert list(shown)[-1] == f"{site.backups}"
    everything = sum(path.lstat().st_blocks * 512 for path in site.backups.rglob("*") if path.is_file())
    assert shown[f"{site.backups}"] == f"{-(-everything // 1024)}K"
    assert shown[f"{old}"] == shown[f"{old.parent}"] == "20K"
    assert re.search(r"^20K +2018-10-03 15:16 +\S+TheOrgBook\S+$", ran.stdout, re.MULTILINE)
    assert ".json" not in ran.stdout
    assert ".asyncbackup" not in ran.stdout


def test_list_works_without_any_server(site: Site) -> None:
    site.configure("127.0.0.1:1/app", "127.0.0.1:1/*", "192.0.2.1/far", *site.fleet.specs)
    started = time.monotonic()
    ran = site.backup_sh("-l")
    assert time.monotonic() - started < 15
    assert ran.returncode == 0
    assert re.search(
        r"^127\.0\.0\.1:1/app +not available: .*refused|Connect call failed", ran.stdout, re.MULTILINE
    )
    assert re.search(r"^127\.0\.0\.1:1/\* +not available: ", ran.stdout, re.MULTILINE)
    assert re.search(r"^192\.0\.2\.1:5432/far +not available: ", ran.stdout, re.MULTILINE)
    assert re.search(rf"^{re.escape(site.fleet.specs[0])} +\d", ran.stdout, re.MULTILINE)


def test_list_says_what_it_may_not_know(site: Site) -> None:
    site.configure(site.fleet.spec("e2e_missing"), site.fleet.specs[0])
    assert re.search(
        r"e2e_missing +not available: the server has none of that name$",
        site.backup_sh("-l").stdout,
        re.MULTILINE,
    )
    ran = site.backup_sh("-l", POSTGRESQL_PASSWORD_FILE="", POSTGRESQL_PASSWORD="wrong")
    assert ran.returncode == 0
    assert "not available: password authentication failed" in ran.stdout


def test_settings(site: Site) -> None:
    site.configure(
        *site.fleet.specs,
        "127.0.0.1:1/app_*",
        "0 1 * * * default ./backup.sh -s",
        "0 4 * * * default ./backup.sh -s -v all",
    )
    secrets = {"FTP_URL": "ftp://u:Sw0rdfish@example/", "WEBHOOK_URL": "https://example/Sw0rdfish"}
    ran = site.backup_sh(
        "-c", BACKUP_STRATEGY="rolling", WEEKLY_BACKUPS="3", ENVIRONMENT_NAME="prod", **secrets
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    for line in (
        "- Run mode: cron", "- Backup strategy: rolling", "- Number of daily backups to retain: 6",
        "- Number of weekly backups to retain: 3", "- Number of monthly backups to retain: 1",
        f"  - {site.fleet.specs[0]}", "  - 127.0.0.1:1/app_*", "  - 0 1 * * * backup all", "  - 0 4 * * * verify all",
        "- FTP server: configured", "- Webhook endpoint: configured", "- Environment name (id): prod",
    ):  # fmt: skip
        assert f"\n{line}\n" in ran.stdout
    site.configure(*site.fleet.specs)
    ran = site.backup_sh("-c", BACKUP_PERIOD="12h", NUM_BACKUPS="7")
    for line in (
        "- Run mode: legacy",
        "- Backup strategy: daily",
        "- Number of backups to retain: 7",
        "- Period: 12 h 0 min",
    ):
        assert f"\n{line}\n" in ran.stdout


def test_prune_by_policy_never_asked(crowded: Site) -> None:
    newest = crowded.files()[-1]
    ran = crowded.backup_sh("-p")
    assert ran.returncode == 0
    assert "2 removed" in ran.stdout
    assert crowded.files() == [newest]


def test_prune_by_filter_asks_unless_scheduled(crowded: Site) -> None:
    oldest, middle, newest = crowded.files()
    ran = crowded.backup_sh("-p", "-f", oldest.name)
    assert ran.returncode == 2
    assert "add -s to remove" in ran.stderr
    assert len(crowded.files()) == 3
    ran = crowded.backup_sh("-sp", "-f", f"{oldest}")
    assert ran.returncode == 0
    assert crowded.files() == [middle, newest]


def test_prune_comes_before_all_else(crowded: Site) -> None:
    before = crowded.files()
    ran = crowded.backup_sh("-1", "-s", "-v", "all", "-r", "h/d", "-p", "-f", before[0].name)
    assert ran.returncode == 0
    assert crowded.files() == before[1:]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "the service"),
        (["-n", "-f", "x"], "the service"),
    ],
)
def test_what_comes_later_says_so_before_anything_is_read(site: Site, flags: list[str], told: str) -> None:
    ran = site.backup_sh(*flags, BACKUP_CONF="/nowhere", NUM_BACKUPS="many")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.match(
        rf"Error: {re.escape(told)}.* comes with a later version; nothing was done\nTry: ", ran.stderr
    )
    if told == "the service":
        assert "backup.sh -1" in ran.stderr
    assert not site.backups.exists()


@pytest.mark.parametrize("flags", [["-x"], ["-r"], ["-1", "stray"]])
def test_unknown_flags_are_refused(site: Site, flags: list[str]) -> None:
    ran = site.backup_sh(*flags)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Error: " in ran.stderr
    assert not site.backups.exists()


def test_both_commands_are_one_program(site: Site) -> None:
    """What one writes, the other lists, and both refuse in the same words."""
    site.backup_sh("-1")
    assert len(json.loads(site("list", "--json").stdout)) == len(site.files()) == 4
    wrong = {"NUM_BACKUPS": "many"}
    assert site("list", **wrong).stderr == site.backup_sh("-l", **wrong).stderr
    assert Path(Cli.path("backup.sh")).is_file()
