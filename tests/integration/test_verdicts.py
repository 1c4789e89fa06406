"""What a test restore says of backups that are not good, or of which nobody can say anything.

All of them lie in one backup directory: none of them changes what is said of another.
"""

import gzip
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import inventory
from asyncbackup.model import Extension, Manifest
from tests.invariants import Site
from tests.processes import empty_place
from tests.servers import Cli, Databases, Postgres, bindir_of
from tests.trials import Forger, Verified, differences, only_servers, verified

SQL = """
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 20) i;
CREATE TABLE u (id int, v text);
INSERT INTO u SELECT i, 'other ' || i FROM generate_series(1, 20) i;
CREATE INDEX extra ON t (v); CREATE VIEW seen AS SELECT id FROM t;
CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 41);
SELECT lo_from_bytea(50001, '\\x00010203');
"""
# The function is checked against a table that is filled later, as every dump of it is.
DOES_NOT_LOAD = """
CREATE TABLE z (id int); INSERT INTO z VALUES (1);
CREATE FUNCTION is_there(int) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.z WHERE id = $1)';
CREATE TABLE a (id int CHECK (is_there(id))); INSERT INTO a VALUES (1);
"""
T = "COPY public.t (id, v) FROM stdin;\n"
U = "COPY public.u (id, v) FROM stdin;\n"


def swap(one: str, other: str) -> Callable[[bytes], bytes]:
    """Return what puts each of two texts in the other's place."""

    def change(sql: bytes) -> bytes:
        first, second = one.encode(), other.encode()
        assert sql.count(first) == sql.count(second) == 1
        return sql.replace(first, b"\0").replace(second, first).replace(b"\0", second)

    return change


def change(old: str, new: str) -> Callable[[bytes], bytes]:
    def changed(sql: bytes) -> bytes:
        assert sql.count(old.encode()) == 1, old
        return sql.replace(old.encode(), new.encode())

    return changed


def without(begin: str, end: str = ";\n") -> Callable[[bytes], bytes]:
    """Return what takes one statement out."""

    def taken_out(sql: bytes) -> bytes:
        assert sql.count(begin.encode()) == 1, begin
        at = sql.index(begin.encode())
        return sql[:at] + sql[sql.index(end.encode(), at) + len(end) :]

    return taken_out


def both(*changes: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def changed(sql: bytes) -> bytes:
        for one in changes:
            sql = one(sql)
        return sql

    return changed


def cut_column(sql: bytes) -> bytes:
    head, marker, rest = sql.partition(b"COPY public.u (id) FROM stdin;\n")
    rows, end, tail = rest.partition(b"\\.\n")
    return head + marker + b"".join(row.split(b"\t")[0] + b"\n" for row in rows.splitlines()) + end + tail


# Packed anew, with a manifest whose file is that one, and which says of the rest what the source had.
CHANGED = {
    "row_lost": (change("7\tvalue 7\n", ""), "table public.t: expected 20 rows, found 19"),
    "value_changed": (change("7\tvalue 7\n", "7\tvaluE 7\n"), "table public.t: expected rows of BLAKE3"),
    "rows_swapped": (swap("7\tvalue 7\n", "7\tother 7\n"), "table public.t: expected rows of BLAKE3"),
    "sequence_reset": (change("setval('public.s', 41, true)", "setval('public.s', 1, false)"), "sequence public.s: expected 41, found 1 (not called yet)"),
    "index_missing": (without("CREATE INDEX extra"), "the statements outside of the rows: expected BLAKE3"),
    "view_missing": (both(without("CREATE VIEW public.seen"), without("ALTER TABLE public.seen")), "the statements outside of the rows"),
    "table_missing": (both(without("CREATE TABLE public.u"), without("ALTER TABLE public.u"), without(U, "\n\\.\n")), "table public.u: expected 20 rows, found no such COPY"),
    "object_changed": (change("\\x00010203", "\\x00010204"), "large object 50001: expected 4 bytes of SHA-256"),
    "column_dropped": (both(change("CREATE TABLE public.u (\n    id integer,\n    v text\n)", "CREATE TABLE public.u (\n    id integer\n)"), change(U, "COPY public.u (id) FROM stdin;\n"), cut_column), "table public.u: expected columns id, v; found id"),
}  # fmt: skip


# The same, but with a manifest that says what the dump does: only the counts of the source are left to tell.
FORGED = {
    "honest_index": ("index_missing", ("objects", "pg_class.i", "2", "1")),
    "honest_view": ("view_missing", ("objects", "pg_class.v", "1", "0")),
    "honest_table": ("table_missing", ("objects", "pg_class.r", "2", "1")),
    "honest_column": ("column_dropped", ("objects", "pg_attribute", "5", "4")),
}
LACKING: dict[str, tuple[Callable[[Manifest], dict[str, Any]], str]] = {
    "lacks_cron": (lambda _: {"extensions": (Extension(name="pg_cron", version="1.6", schema="public"),)}, "extension pg_cron"),
    "lacks_locale": (lambda was: {"properties": replace(was.properties, collate="xx_YY.utf8", ctype="xx_YY.utf8")}, "locale xx_YY.utf8"),
    "lacks_server": (lambda _: {"loads_into": 99}, "a server of PostgreSQL 99 or newer"),
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """One directory of all kinds of backups, and what was said of them."""

    folder: Path
    manifest: Manifest
    original: Path
    found: Verified


@pytest.fixture(scope="module")
def made(pg15: Postgres, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path, Path]:
    """Back up what is good, and what does not load."""
    folder = tmp_path_factory.mktemp("verdicts")
    (folder / "home").mkdir()
    with Databases(pg15) as factory:
        good, bad = factory("verdicts", sql=SQL), factory("does_not_load", sql=DOES_NOT_LOAD)
        site = Site(Cli(folder / "home"), folder).use(pg15).configure(good, bad)
        done = site.good(DUMP_GLOBALS="true")
        paths = {one["dbname"]: Path(one["path"]) for one in (*done.databases, *done.report["globals"])}
    return site, paths["verdicts"], paths["@globals"]


@pytest.fixture(scope="module")
def judged(made: tuple[Site, Path, Path]) -> Judged:
    site, original, roles = made
    manifest = inventory.read_manifest(original)
    day = original.parent
    twice = change("SET default_transaction_read_only = off;\n", "CREATE ROLE twice;\nCREATE ROLE twice;\n")
    Forger(day, roles).write("", twice, honest=True)
    forger = Forger(day, original)
    forger.write("unchanged")
    for name, (changed, _) in CHANGED.items():
        forger.write(name, changed)
    for name, (of, _) in FORGED.items():
        forger.write(name, CHANGED[of][0], honest=True)
    for name, (fields, _) in LACKING.items():
        forger.write(name, fields=fields(manifest))
    damaged: dict[str, Callable[[bytes], bytes]] = {
        "bit": lambda data: (
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        ),
        "cut": lambda data: data[:-100],
        "swapped": lambda data: (day / original.name.replace("verdicts", "does_not_load")).read_bytes(),
    }
    for name, damage in damaged.items():
        path = path_of(day, forger.write(name).dbname)
        path.write_bytes(damage(path.read_bytes()))
    path_of(day, forger.write("no_manifest").dbname, ".json").unlink()
    manifest_of = path_of(day, forger.write("wrong_manifest").dbname, ".json")
    donor = path_of(day, forger.write("donor").dbname)
    manifest_of.write_bytes(donor.with_name(f"{donor.name}.json").read_bytes())
    donor.unlink()
    donor.with_name(f"{donor.name}.json").unlink()
    torn = path_of(day, forger.write("torn_manifest").dbname, ".json")
    torn.write_bytes(torn.read_bytes()[:-20])
    # The bash tool's: without our mark, and without a manifest.
    sql = gzip.decompress(original.read_bytes())
    empty = without_tables(sql)
    for name, text in {"of_old": sql, "of_old_empty": empty, "of_old_cut": sql[:-200]}.items():
        when = datetime.now().astimezone()
        (day / f"{manifest.host}-{name}_{when:%Y-%m-%d_%H-%M-%S}.sql.gz").write_bytes(gzip.compress(text))
    site.configure(
        *(
            f"{manifest.host}:{manifest.port}/{name}"
            for name in ("verdicts", "of_old", "of_old_empty", "of_old_cut", "no_manifest", "never_backed_up")
        )
    )
    return Judged(
        day, manifest, original, verified(site.env, VERIFY_LEVEL="tables", MAX_CONCURRENT_VERIFICATIONS="3")
    )


def path_of(day: Path, dbname: str, suffix: str = "") -> Path:
    (found,) = day.glob(f"*-{dbname}_*.sql.gz{suffix}")
    return found


def without_tables(sql: bytes) -> bytes:
    """Return the frame of a dump, of a database in which there was nothing."""
    head, tail = sql.index(b"SET default_tablespace"), sql.index(b"--\n-- PostgreSQL database dump complete")
    begin = sql.index(b"SELECT pg_catalog.set_config('search_path'")
    return sql[: min(begin, head)] + b"\n" + sql[tail:]


def test_an_unchanged_one_is_good_though_it_was_packed_anew(judged: Judged) -> None:
    for name in ("verdicts", "unchanged"):
        assert (judged.found.of(name).state, judged.found.of(name).error) == ("good", "")


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_one_is_refused_though_its_checksum_is_right(judged: Judged, name: str) -> None:
    """Whatever the level: it is compared with its manifest while it is read."""
    result = judged.found.of(name)
    assert result.state == "bad"
    assert "the file is what was written, but not what its manifest says" in result.error
    assert CHANGED[name][1] in result.error


@pytest.mark.parametrize("name", FORGED)
def test_what_the_manifest_conceals_the_sources_counts_tell(judged: Judged, name: str) -> None:
    result = judged.found.of(name)
    assert result.state == "bad"
    assert "what was restored is not what was backed up" in result.error
    assert FORGED[name][1] in differences(result)


@pytest.mark.parametrize("name", LACKING)
def test_what_is_lacking_here_says_nothing_of_the_backup(judged: Judged, name: str) -> None:
    result = judged.found.of(name)
    assert result.verification is not None
    assert (result.state, result.verification.lacking) == ("unverified", (LACKING[name][1],))
    assert result.hint
    assert result.verification.differences == ()


def test_a_dump_that_does_not_load_is_bad(judged: Judged) -> None:
    result = judged.found.of("does_not_load")
    assert result.state == "bad"
    assert 'violates check constraint "a_id_check"' in result.error
    assert "line " in result.error
    assert "(1)" not in result.error, "no values of rows"


def test_roles_that_cannot_be_made_are_bad(judged: Judged) -> None:
    result = judged.found.of("")
    assert result.state == "bad"
    assert 'statement 2 of the globals failed: role "twice" already exists' in result.error


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bit", "expected SHA-256"),
        ("cut", "bytes, its manifest says"),
        ("swapped", "bytes, its manifest says"),
        ("no_manifest", "its manifest is missing"),
        ("wrong_manifest", "its manifest is that of"),
        ("torn_manifest", "it is not JSON"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_bad(judged: Judged, name: str, said: str) -> None:
    (result,) = [
        one for one in judged.found.report.results if one.backup and f"-{name}_" in one.backup.path.name
    ]
    assert result.state == "bad"
    assert said in result.error
    assert str(path_of(judged.folder, name)) in result.error
    assert result.verification is not None
    assert result.verification.differences == ()


def test_of_the_bash_tools_backups_only_that_they_load_is_known(judged: Judged) -> None:
    result = judged.found.of("of_old")
    assert (result.state, result.error) == ("good", "")
    assert result.verification is not None
    assert not result.verification.proven
    assert result.verification.tables == 2
    assert any("that it loads is all that is known" in note for note in result.verification.notes)
    empty = judged.found.of("of_old_empty")
    assert empty.state == "bad"
    assert differences(empty) == [("table", "public.* (TABLE_SCHEMA)", "a table", "none")]
    cut = judged.found.of("of_old_cut")
    assert cut.state == "bad"
    assert "the dump lacks its trailer" in cut.error or "the dump ends inside" in cut.error


def test_its_schema_is_a_setting(judged: Judged, made: tuple[Site, Path, Path]) -> None:
    spec = judged.found.of("of_old").spec
    assert spec is not None
    found = verified(made[0].env, spec, TABLE_SCHEMA="elsewhere", VERIFY_LEVEL="rows")
    assert differences(found.only) == [("table", "elsewhere.* (TABLE_SCHEMA)", "a table", "none")]


def test_a_database_that_was_never_backed_up_is_missing(judged: Judged) -> None:
    result = judged.found.of("never_backed_up")
    assert (result.state, result.backup) == ("missing", None)
    assert "there is no backup" in result.error


def test_all_in_all_some_are_good(judged: Judged) -> None:
    assert judged.found.code == 3
    assert judged.found.told("run.finished")[0]["good"] == 3
    for name in ("verify.finished", "verify.failed", "verify.impossible"):
        assert judged.found.told(name)
    again = {event["dbname"] for event in judged.found.told("verify.again")}
    bad = {one.spec.dbname for one in judged.found.report.results if one.spec and one.state == "bad"}
    assert again <= bad, "what is lacking here, another server lacks, too"


# What the verifying machine cannot do.


def alone(made: tuple[Site, Path, Path], folder: Path) -> tuple[Site, Path]:
    """Put the good backup into a directory of its own."""
    site, original, _ = made
    day = folder / "backups" / original.parent.name
    day.mkdir(parents=True)
    for path in original.parent.glob("*-verdicts_*.sql.gz*"):
        shutil.copy(path, day)
    own = Site(site.cli, folder, {**site.env, "BACKUP_DIR": f"{folder / 'backups'}"})
    manifest = inventory.read_manifest(original)
    return own.configure(f"{manifest.host}:{manifest.port}/verdicts"), day / original.name


def test_without_any_server_nobody_can_tell(
    made: tuple[Site, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = alone(made, tmp_path)
    only_servers(monkeypatch)
    found = verified(site.env)
    assert (found.only.state, found.code) == ("unverified", 3)
    assert found.only.verification is not None
    assert found.only.verification.lacking == ("a server of PostgreSQL 15 or newer",)
    assert "installed: none" in found.only.error


@pytest.mark.parametrize(
    ("program", "script", "said"),
    [
        ("initdb", "echo no initdb today >&2; exit 1", "no initdb today"),
        (
            "postgres",
            '[ "$1" = --version ] && exec "$REAL" --version; echo it gave up >&2; exit 1',
            "it gave up",
        ),
        (
            "postgres",
            '[ "$1" = --version ] && exec "$REAL" --version; exec sleep 60',
            "did not come up within 1 s",
        ),
    ],
    ids=["initdb", "postgres", "silent"],
)
def test_a_server_that_does_not_come_up_says_nothing_of_the_backups(
    made: tuple[Site, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    script: str,
    said: str,
) -> None:
    site, path = alone(made, tmp_path)
    Forger(path.parent, path).write("another")
    bindir = bindir_of(15)
    assert bindir is not None
    with broken(bindir, program, script) as broken_bindir, monkeypatch.context() as patched:
        only_servers(patched, broken_bindir)
        found = verified(site.env, DATABASE_SERVER_TIMEOUT="1" if "within" in said else "60")
    assert found.states == {"verdicts": "unverified", "another": "unverified"}
    assert found.code == 3
    for result in found.report.results:
        assert said in result.error
        assert result.verification is not None
        assert result.verification.lacking == ()
    again = verified(site.env)
    assert (again.code, set(again.states.values())) == (0, {"good"}), "with the fault gone"


@contextmanager
def broken(bindir: Path, program: str, script: str) -> Iterator[Path]:
    """Make a folder of server programs of which one is a script that knows the real one as $REAL."""
    with empty_place() as place:
        folder = place / "bin"
        folder.mkdir()
        for real in bindir.iterdir():
            if real.name != program:
                (folder / real.name).write_text(f'#!/bin/sh\nexec {real} "$@"\n')
            else:
                (folder / real.name).write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
            (folder / real.name).chmod(0o755)
        yield folder
        shutil.rmtree(folder)
