"""Dumps that somebody has written to do harm while they are restored for a test (F45).

Each has a manifest that fits it, as whoever can write to the volume can make one. Each ends within its
limits, nothing of it stays, it learns nothing, and what is said of the others is the truth.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from asyncbackup.proof import allowance
from tests.invariants import Site
from tests.processes import empty_place, gone, processes_naming
from tests.servers import Cli, Databases, Postgres
from tests.trials import Forger, Verified, verified

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as somebody else")

MARK = "98765.4321"
"""Seconds that programs of these dumps sleep; no other's do."""
TRAILER = b"--\n-- PostgreSQL database dump complete\n--\n"
PADDING = b"-- a comment, so that the dump is large, and may take as long\n" * 10_000
READ_ONLY = b"SET default_transaction_read_only = off;\n"
SECONDS = 1.0


def ends_with(sql: str, *, large: bool = True) -> Callable[[bytes], bytes]:
    """Return what puts statements at the end of a dump, and makes it a large one."""

    def change(dump: bytes) -> bytes:
        assert dump.count(TRAILER) == 1
        return dump.replace(TRAILER, (PADDING if large else b"") + sql.encode() + b"\n" + TRAILER)

    return change


def run(command: str) -> str:
    """Return SQL that has the server run a program; said plainly, it would be refused before."""
    return f"DO $do$ BEGIN CREATE TEMP TABLE x (a text); EXECUTE $x$COPY x FROM PROGRAM '{command}'$x$; END $do$;"


LOOP = "CREATE FUNCTION public.loop(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN LOOP END LOOP; END $$;"
EVENT = """
CREATE FUNCTION public.forever() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN LOOP END LOOP; END $$;
CREATE EVENT TRIGGER forever ON ddl_command_end EXECUTE FUNCTION public.forever();
"""
# What would never end. Small dumps, that have little time.
ENDLESS = {
    "check": f"{LOOP}\nCREATE TABLE public.x (a int CHECK (public.loop(a)));\nCOPY public.x (a) FROM stdin;\n1\n\\.\n",
    "locks": "LOCK TABLE pg_catalog.pg_database, pg_catalog.pg_authid, pg_catalog.pg_proc, pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE;\nSELECT pg_catalog.pg_sleep(100000);",
    "program": run(f"exec sleep {MARK}"),
    "event": f"{EVENT}\nCREATE TABLE public.x ();",
    "storm": "LISTEN c;\nDO $$ BEGIN FOR i IN 1..1000000000 LOOP PERFORM pg_catalog.pg_notify('c', i::text); END LOOP; END $$;",
}  # fmt: skip
FLOODS = {
    "flood": "CREATE TABLE public.x AS SELECT pg_catalog.repeat(i::text, 400) FROM pg_catalog.generate_series(1, 1000000000) i;",
    "temporary": "SELECT pg_catalog.count(*) FROM (SELECT i FROM pg_catalog.generate_series(1, 10000000000) i ORDER BY pg_catalog.random()) s;",
}  # fmt: skip
# They end the server, their backend, or everybody else's.
KILLERS = {
    "postmaster": run("kill -9 $(head -1 postmaster.pid)"),
    "backend": run("kill -SEGV $PPID"),
    "itself": "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity;",
}  # fmt: skip
# These load; what they leave is not to be in anybody's way.
LEAVERS = {
    "daemon": run(f"setsid sleep {MARK} > /dev/null 2>&1 &"),
    "others": "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid <> pg_catalog.pg_backend_pid();",
    "template": "DO $$ BEGIN EXECUTE pg_catalog.format('ALTER DATABASE %I IS_TEMPLATE true', pg_catalog.current_database()); END $$;",
    "subscriber": "CREATE SUBSCRIPTION s CONNECTION 'host=nowhere.invalid' PUBLICATION p WITH (connect = false, slot_name = 'none');",
}  # fmt: skip


@dataclass(frozen=True)
class Original:
    """A good backup to forge others from."""

    site: Site
    path: Path
    roles: Path


@pytest.fixture(scope="module")
def original(pg15: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("f45")
    (folder / "home").mkdir()
    with Databases(pg15) as factory:
        made = factory("f45", sql="CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 100) i")
        site = Site(Cli(folder / "home"), folder).use(pg15).configure(made)
        done = site.good(DUMP_GLOBALS="true")
        return Original(site, done.path, Path(done.report["globals"][0]["path"]))


def forged(original: Original, folder: Path, dumps: dict[str, Callable[[bytes], bytes]]) -> dict[str, str]:
    """Put dumps into a backup directory, in this order of their turn; return the environment."""
    day = folder / "backups" / original.path.parent.name
    for name, change in dumps.items():
        Forger(day, original.path).write(name, change, honest=True, fields={"object_counts": {}})
    conf = folder / "backup.conf"
    conf.write_text("127.0.0.1:1/*\n")
    return {**original.site.env, "BACKUP_DIR": f"{folder / 'backups'}", "BACKUP_CONF": f"{conf}"}


@pytest.fixture(scope="module")
def tried(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verified]:
    """Verify all of them in one run, several at a time, with good ones among them."""
    dumps = {"good_1": ends_with("")}
    dumps |= {name: ends_with(sql, large=False) for name, sql in ENDLESS.items()}
    dumps |= {"good_2": ends_with("")} | {name: ends_with(sql) for name, sql in {**FLOODS, **KILLERS}.items()}
    dumps |= {"good_3": ends_with("")} | {name: ends_with(sql) for name, sql in LEAVERS.items()}
    dumps |= {"good_4": ends_with("")}
    folder = tmp_path_factory.mktemp("tried")
    env = forged(original, folder, dumps)
    sleeps = Forger(folder / "backups" / original.path.parent.name, original.roles)
    sleeps.write(
        "", lambda sql: sql.replace(READ_ONLY, b"SELECT pg_catalog.pg_sleep(100000);\n"), honest=True
    )
    with pytest.MonkeyPatch.context() as patched, empty_place() as place:
        patched.setattr(allowance, "BASE_SECONDS", SECONDS)
        patched.setattr(allowance, "_BYTES_PER_SECOND", 1e4)
        patched.setattr(allowance, "BASE_BYTES", 64 << 20)
        found = verified(env, VERIFY_DIR=f"{place}", VERIFY_SIZE_FACTOR="1", MAX_CONCURRENT_VERIFICATIONS="4")
        assert [path.name for path in place.iterdir()] in ([], ["records"])
        assert gone(lambda: processes_naming(MARK)), "nothing that a dump has started runs on"
        yield found


@pytest.mark.parametrize("name", ["good_1", "good_2", "good_3", "good_4"])
def test_the_others_are_judged_by_what_they_are(tried: Verified, name: str) -> None:
    result = tried.of(name)
    assert (result.state, result.error) == ("good", "")
    assert result.verification is not None
    assert result.verification.rows == 100


@pytest.mark.parametrize("name", [*ENDLESS, ""])
def test_what_never_ends_is_ended(tried: Verified, name: str) -> None:
    result = tried.of(name)
    assert result.state == "bad"
    assert re.search(r"its restore was ended after \d s, while restoring", result.error), result.error
    assert "VERIFY_TIMEOUT" in result.hint


@pytest.mark.parametrize("name", FLOODS)
def test_what_would_fill_the_disk_is_ended(tried: Verified, name: str) -> None:
    result = tried.of(name)
    assert result.state == "bad"
    assert "its restore grew to" in result.error
    assert "VERIFY_SIZE_FACTOR" in result.hint


@pytest.mark.parametrize("name", KILLERS)
def test_what_ends_the_server_proves_nothing(tried: Verified, name: str) -> None:
    result = tried.of(name)
    assert result.state == "unverified"
    assert result.error
    assert any(name in event["path"] for event in tried.told("verify.again")), "it was tried once more, alone"


@pytest.mark.parametrize("name", LEAVERS)
def test_what_is_left_behind_is_removed(tried: Verified, name: str) -> None:
    assert (tried.of(name).state, tried.of(name).error) == ("good", "")


def test_no_dump_spoils_the_verdict_of_another(original: Original, tmp_path: Path) -> None:
    # It is superuser there, and changes what holds for all who come after it.
    spoils = (
        "DO $$ BEGIN EXECUTE pg_catalog.format('ALTER ROLE %I SET role = pg_monitor', session_user); END $$;"
    )
    dumps = {"spoiler": ends_with(spoils)} | {f"good_{i}": ends_with("", large=False) for i in range(2)}
    found = verified(forged(original, tmp_path, dumps), MAX_CONCURRENT_VERIFICATIONS="1")
    again = {Path(event["path"]).name for event in found.told("verify.again")}
    assert any("good_0" in name for name in again), "the server was spoiled"
    states = {one.spec.dbname: one.state.value for one in found.report.results if one.spec}
    assert states == {"spoiler": "unverified", "good_0": "good", "good_1": "good"}


def test_all_in_all(tried: Verified) -> None:
    assert tried.code == 3
    assert len(tried.report.results) == 5 + len(ENDLESS) + len(FLOODS) + len(KILLERS) + len(LEAVERS)
    for result in tried.report.results:
        assert len(result.error) < 700, "it is no place for a server's whole log"
        assert "\n" not in result.error


# What a dump learns, and where it gets to.

SECRET = "Sw0rdfish-of-f45"
SPY = """
{{ env; cat /proc/[0-9]*/environ; cat {secret}; cat {backups}/*/*; ls -R {backups}; }} > {loot}/seen 2> /dev/null
cat /proc/net/dev > {loot}/net
exec 2> /dev/null
touch {backups}/pwned {backups}/*/pwned
echo pwned > {victim}
timeout 2 bash -c 'exec 3<> /dev/tcp/127.0.0.1/{port}' && touch {loot}/connected
true
"""
COMMANDS = {
    "shell": "\\! touch {loot}/by_psql",
    "late": "SELECT 1;\nSELECT 2; \\! touch {loot}/by_psql",
    "inside": "SELECT 1 \\! touch {loot}/by_psql\n;",
    "output": "\\o {loot}/by_psql\nSELECT 1;",
    "copy": "\\copy public.t to '{loot}/by_psql'",
    "pipe": "SELECT 1 \\g | touch {loot}/by_psql",
    "set": "\\set x `touch {loot}/by_psql`",
    "key": "\\unrestrict `touch {loot}/by_psql`",
    "include": "\\i {loot}/spy.sql",
    "long": "\\! touch {loot}/by_psql # " + "x" * 300_000,
    # psql takes this for a string and a command, what knows only the standard for one string.
    "disguised": "SET standard_conforming_strings = off;\nSELECT '\\'' \\! touch {loot}/by_psql\n';",
}  # fmt: skip


@as_root
def test_a_dump_learns_nothing_and_gets_nowhere(original: Original, tmp_path: Path) -> None:
    with empty_place() as place, socket.create_server(("127.0.0.1", 0)) as listener:
        loot = place / "loot"
        loot.mkdir()
        loot.chmod(0o777)
        secret = tmp_path / "secret"
        secret.write_text(SECRET)
        backups = tmp_path / "backups"
        known = {
            "loot": loot,
            "secret": secret,
            "backups": backups,
            "victim": "",
            "port": listener.getsockname()[1],
        }
        known["victim"] = backups / original.path.parent.name / original.path.name.replace("f45", "good")
        (loot / "spy.sh").write_text(SPY.format(**known))
        (loot / "spy.sql").write_text(f"\\! touch {loot}/by_psql")
        dumps = {"good": ends_with(""), "spy": ends_with(run(f"sh {loot}/spy.sh"), large=False)}
        dumps["export"] = ends_with(
            f"SELECT pg_catalog.lo_export(pg_catalog.lo_from_bytea(0, 'x'), '{backups}/pwned');"
        )
        dumps["copy_to"] = ends_with(f"COPY public.t TO '{backups}/pwned';")
        for name, command in COMMANDS.items():
            dumps[f"cmd_{name}"] = ends_with(command.format(**known))
            dumps[f"cmd_{name}_unrestricted"] = unrestricted(ends_with(command.format(**known)))
        env = forged(original, tmp_path, dumps)
        before = kept(backups)
        site = original.site
        done = site.cli(
            "verify",
            "all",
            "--json",
            env={
                **env,
                "POSTGRESQL_PASSWORD": SECRET,
                "VERIFY_DIR": f"{place / 'pg'}",
                "VERIFY_LEVEL": "rows",
            },
        )
        said = {one["dbname"]: (one["verdict"], one["error"]) for one in json.loads(done.stdout)["backups"]}

        seen = (loot / "seen").read_bytes()
        assert b"PWD=" in seen, "it has run"
        assert SECRET.encode() not in seen
        assert b"asyncbackup-manifest" not in seen
        assert original.path.parent.name.encode() not in seen.replace(place.name.encode(), b"")
        interfaces = [line.split(":")[0].strip() for line in (loot / "net").read_text().splitlines()[2:]]
        if not [line for line in done.stderr.splitlines() if "verify.not_isolated" in line]:
            assert interfaces == ["lo"]
            assert not (loot / "connected").exists()
        assert kept(backups) == before, "nobody but us has written there"
        assert sorted(path.name for path in loot.iterdir() if path.name != "connected") == [
            "net",
            "seen",
            "spy.sh",
            "spy.sql",
        ]
        assert said["good"] == ("good", "")
        assert said["spy"] == ("good", "")
        assert said["export"][0] == said["copy_to"][0] == "bad"
        for name in COMMANDS:
            for variant in (f"cmd_{name}", f"cmd_{name}_unrestricted"):
                assert said[variant][0] == "bad", variant
                assert "psql command" in said[variant][1] or name == "disguised", said[variant]
        assert done.returncode == 3
        assert SECRET not in done.stdout + done.stderr
        shutil.rmtree(loot)
        shutil.rmtree(place / "pg")


UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@as_root
def test_where_the_server_is_the_same_user_our_environment_is_closed_to_it(original: Original) -> None:
    """An ordinary user has nobody to become; what the dump runs is then the same user as we are.

    A namespace would keep it out by itself. So there is none here, as in many containers.
    """
    with empty_place() as place:
        loot = place / "loot"
        loot.mkdir()
        known = {"loot": loot, "secret": "/nowhere", "backups": "/nowhere", "victim": "/dev/null", "port": 9}
        (loot / "spy.sh").write_text(SPY.format(**known))
        programs = place / "bin"
        programs.mkdir()
        (programs / "setpriv").symlink_to("/usr/bin/setpriv")
        env = forged(original, place, {"spy": ends_with(run(f"sh {loot}/spy.sh"), large=False)})
        for path in (place, *place.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
        cli = original.site.cli
        environment = {
            **cli.environment(env),
            "PATH": f"{programs}",
            "HOME": "/",
            "POSTGRESQL_PASSWORD": SECRET,
            "VERIFY_DIR": f"{place / 'pg'}",
        }
        command = [*UNPRIVILEGED, cli.path("asyncbackup"), "verify", "all", "--json"]
        if subprocess.run(
            [*UNPRIVILEGED, sys.executable, "-c", "import asyncbackup"],
            capture_output=True,
            check=False,
            cwd="/",
        ).returncode:
            pytest.skip("another user cannot read this installation")
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        seen = (loot / "seen").read_bytes()
        assert b"PWD=" in seen, "it has run"
        assert SECRET.encode() not in seen
        assert "verify.same_user" in done.stderr
        assert "verify.not_isolated" in done.stderr
        shutil.rmtree(place)
        place.mkdir(0o755)


def unrestricted(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return the same of a dump as an older pg_dump writes it, so that psql would obey."""

    def changed(dump: bytes) -> bytes:
        return re.sub(rb"^\\(un)?restrict \w+\n\n?", b"", change(dump), count=2, flags=re.MULTILINE)

    return changed


def kept(backups: Path) -> dict[str, bytes]:
    """Return what lies in a backup directory, but for the records of verifications."""
    return {
        str(path): path.read_bytes()
        for path in sorted(backups.rglob("*"))
        if path.is_file() and not path.name.endswith(".verified.json")
    }
