"""`asyncbackup restore` and `backup.sh -r` as a user types them: questions, passwords, results."""

import json
import os
import re
import select
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.conftest import MARKER, Fleet, Site
from tests.restores import drop_kept, half_made, kept, names
from tests.servers import Cli

Y, N = "y\n", "n\n"


@pytest.fixture
def target(site: Site, fleet: Fleet) -> Iterator[str]:
    """The name of a database of which there is a backup, and which has lost a row since."""
    database = fleet.databases[0]
    site.configure(fleet.specs[0])
    assert site("backup", DUMP_GLOBALS="false").returncode == 0
    database.psql("DELETE FROM t WHERE id = 1")
    yield database.name
    drop_kept(fleet.server, database.name)
    database.psql("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'row 1')")
    assert not half_made(fleet.server)


def admin(fleet: Fleet) -> dict[str, str]:
    return {"ADMIN_USER": fleet.server.cluster.user, "ADMIN_PASSWORD": fleet.server.cluster.password.reveal()}


def rows(fleet: Fleet) -> str:
    return fleet.databases[0].query("SELECT count(*) FROM t")


class Terminal:
    """A command on a terminal, and what is typed there in answer to what it shows."""

    def __init__(self, site: Site, words: list[str], env: Mapping[str, str]) -> None:
        self.shown = ""
        self._ours, theirs = os.openpty()
        self.child = subprocess.Popen(
            [Cli.path(words[0]), *words[1:]],
            env=site.run_cli.environment({**site.env, **env, "TERM": "xterm", "COLUMNS": "200"}),
            cwd=site.folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def answer(self, question: str, typed: str) -> None:
        while question not in self.shown:
            assert self._read(), f"it ended without asking: {self.shown}"
        os.write(self._ours, typed.encode())

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._ours)
        return self.child.wait(timeout=30)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], 30)
        assert ready, f"nothing came for long: {self.shown}"
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other side is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def test_it_shows_what_it_will_do_and_asks(site: Site, fleet: Fleet, target: str) -> None:
    said_no = Terminal(site, ["asyncbackup", "restore", fleet.specs[0]], admin(fleet))
    said_no.answer("[y/N]", N)
    assert said_no.end() == 0
    for words in (
        site.files()[0].name,
        "checked: it is exactly what was written",
        f"{fleet.specs[0]}, PostgreSQL 15.",
        "as postgres (superuser), by psql",
        "owned by postgres, 0 sessions",
        f"it stays as {target}_before_",
        f"Replace {fleet.specs[0]}?",
        "Nothing was restored.",
    ):
        assert words in said_no.shown
    assert (rows(fleet), kept(fleet.server, target)) == ("999", [])
    said_yes = Terminal(site, ["asyncbackup", "restore", fleet.specs[0]], admin(fleet))
    said_yes.answer("[y/N]", Y)
    assert said_yes.end() == 0
    assert "1,000 rows in 1 table, compared: the number of rows of every table" in said_yes.shown
    (old,) = kept(fleet.server, target)
    assert f"the old database is {old}" in said_yes.shown
    assert rows(fleet) == "1000"


def test_a_password_is_asked_for_when_there_is_none(site: Site, fleet: Fleet, target: str) -> None:
    password = fleet.server.cluster.password.reveal()
    words = ["asyncbackup", "restore", fleet.specs[0], "--admin-user", "postgres"]
    ran = Terminal(site, words, {})
    ran.answer("Password of postgres at 127.0.0.1", f"{password}\n")
    ran.answer("[y/N]", Y)
    assert ran.end() == 0
    assert password not in ran.shown
    assert rows(fleet) == "1000"
    wrong = Terminal(site, words, {"ADMIN_PASSWORD": "not-the-one"})
    wrong.answer("Password of postgres at 127.0.0.1", "nor-this-one\n")
    assert wrong.end() == 1
    assert "not-the-one" not in wrong.shown
    assert "nor-this-one" not in wrong.shown
    assert len(kept(fleet.server, target)) == 1


@pytest.mark.parametrize("env", [{}, {"ADMIN_PASSWORD": "not-the-one"}])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["asyncbackup", "restore", "--yes"],
            ["--admin-user", "--admin-password-file", "ADMIN_PASSWORD_FILE"],
        ),
        (["backup.sh", "-s", "-r"], ["ADMIN_USER", "ADMIN_PASSWORD_FILE"]),
    ],
)
def test_who_says_yes_beforehand_is_asked_nothing(
    site: Site, fleet: Fleet, target: str, words: list[str], named: list[str], env: dict[str, str]
) -> None:
    ran = Terminal(site, [*words, fleet.specs[0]], {"ADMIN_USER": "postgres", **env})
    assert ran.end() == 1  # a question would wait here
    assert "Password of" not in ran.shown
    assert all(name in ran.shown for name in named)
    assert ("--admin" in ran.shown) == ("--yes" in words)
    assert "127_0_0_1_USER" not in ran.shown
    assert (rows(fleet), kept(fleet.server, target)) == ("999", [])


def test_without_a_terminal_nobody_can_say_yes(site: Site, fleet: Fleet, target: str) -> None:
    for command, words, flag in (
        ("asyncbackup", ("restore", fleet.specs[0]), "--yes"),
        ("backup.sh", ("-r", fleet.specs[0]), "-s"),
    ):
        ran = site(*words, command=command, **admin(fleet))
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "there is no terminal to ask on" in ran.stderr
        assert f"add {flag} to restore" in ran.stderr
    assert (rows(fleet), kept(fleet.server, target)) == ("999", [])


def test_the_result_is_for_people_or_a_program(site: Site, fleet: Fleet, target: str) -> None:
    ran = site("restore", fleet.specs[0], "--yes", "--json", "--drop-old", **admin(fleet))
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["status"], found["rows"], found["kept"]) == (0, "good", 1000, None)
    events = [json.loads(line) for line in ran.stderr.splitlines()]
    stages = [event["stage"] for event in events if event["event"] == "restore.stage"]
    assert stages == ["locking", "creating", "loading", "comparing", "analyzing", "swapping"]
    assert [
        event["event"] for event in events if event["event"] in {"restore.started", "restore.finished"}
    ] == [
        "restore.started",
        "restore.finished",
    ]
    assert {event["run_id"] for event in events} == {found["run_id"]}
    ran = site("restore", fleet.specs[0], "--yes", **admin(fleet))
    assert ran.returncode == 0
    assert re.search(r"^loaded in .* rows/s\), in place after ", ran.stdout, re.MULTILINE)
    assert kept(fleet.server, target)[0] in ran.stdout


# Secrets


def test_psql_sees_no_password_in_its_arguments_or_its_environment(
    site: Site, fleet: Fleet, target: str, tmp_path: Path
) -> None:
    bindir = tmp_path / "bin"
    bindir.mkdir()
    for name in ("pg_dump", "psql"):
        real = fleet.server.bindir / name
        look = f"tr '\\0' '\\n' < /proc/$$/cmdline >> {tmp_path}/seen; tr '\\0' '\\n' < /proc/$$/environ >> {tmp_path}/seen"
        version = '[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 18.9"; exit; }'
        (bindir / name).write_text(f'#!/bin/sh\n{version}\n{look}\nexec {real} "$@"\n')
        (bindir / name).chmod(0o755)
    file = tmp_path / "admin"
    file.write_text(fleet.server.cluster.password.reveal() + "\n")
    words = ("--admin-user", "postgres", "--admin-password-file", f"{file}")
    ran = site("restore", fleet.specs[0], "--yes", *words, PG_BINDIRS=f"{bindir}")
    assert ran.returncode == 0, ran.stderr
    seen = (tmp_path / "seen").read_text()
    assert "--set=ON_ERROR_STOP=1" in seen
    for secret in (fleet.server.cluster.password.reveal(), MARKER):
        assert secret not in seen
        assert secret not in ran.stdout + ran.stderr
    assert names(fleet.server) >= {target}


# The old flags


def test_the_flags_of_old(site: Site, fleet: Fleet, target: str) -> None:
    password = fleet.server.cluster.password.reveal()
    ran = site.backup_sh("-s", "-r", fleet.specs[0], "-a", password, "-f", site.files()[0].name)
    assert ran.returncode == 0, ran.stderr
    assert "-a PASSWORD can be seen in the process list" in ran.stderr
    assert password not in ran.stdout + ran.stderr
    assert rows(fleet) == "1000"
    assert len(kept(fleet.server, target)) == 1
    ran = site.backup_sh("-s", "-I", "-r", fleet.specs[0], **admin(fleet))
    assert ran.returncode == 1
    assert "not safe with psql" in ran.stderr


@pytest.mark.parametrize("flags", [["-a", "Sw0rdfish"], ["-s", "-I"]])
def test_what_says_how_needs_what(site: Site, flags: list[str]) -> None:
    ran = site.backup_sh(*flags)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "add -r host/dbname" in ran.stderr


def test_restoring_comes_before_verifying_and_backing_up(site: Site) -> None:
    ran = site.backup_sh("-1", "-s", "-v", "all", "-r", "h/d", CONNECT_TIMEOUT="1s")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "h:5432/d: there is no good backup" in ran.stderr
