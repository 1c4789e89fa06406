"""A pg_dump that reports success, and has not written everything (F2, F3), or far too much of words (F5)."""

from pathlib import Path

import pytest

from tests.invariants import Site, wrapper
from tests.servers import Database, Databases


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('"$REAL" "$@" | head -c 300; exit 0', "inside a statement"),
        ('"$REAL" "$@" | head -n -1; exit 0', "does not end with its trailer"),
        ('"$REAL" "$@" | head -n -4; exit 0', "does not end with its trailer"),
        ('"$REAL" "$@" > /dev/full; exit 0', "is empty"),
        ("exit 0", "is empty"),
        ('"$REAL" "$@"; echo more; exit 0', "does not end with its trailer|inside a statement"),
    ],
)
def test_f02_success_without_a_whole_dump(
    site: Site, small: Database, tmp_path: Path, script: str, said: str
) -> None:
    site.use(small.server).configure(small).good()
    before = site.files
    done = site.backup(PG_BINDIRS=f"{wrapper(tmp_path / 'bin', small.server.bindir, script)}")
    assert (done.returncode, done.only["category"]) == (1, "incomplete")
    assert any(part in done.only["error"] for part in said.split("|")), done.only["error"]
    assert set(site.files) == set(before)
    site.check(done, before)
    site.check_recovery(before)


def test_f03_a_trailer_among_the_rows(site: Site, databases: Databases, tmp_path: Path) -> None:
    trailer = "--\n-- PostgreSQL database dump complete\n--\n\n"
    source = databases(sql="CREATE TABLE lines (a text)")
    copy = "COPY lines FROM stdin;\n" + trailer + "\\\\unrestrict x\n\n" + "more\n\\.\n"
    source.psql(copy)
    site.use(source.server).configure(source).good()
    before = site.files
    # Cut right behind it.
    script = '"$REAL" "$@" | sed "/^-- PostgreSQL database dump complete/,\\$ { /^more/,\\$d }"; exit 0'
    done = site.backup(PG_BINDIRS=f"{wrapper(tmp_path / 'bin', source.server.bindir, script)}")
    assert (done.returncode, done.only["category"]) == (1, "incomplete")
    assert "inside the rows of public.lines" in done.only["error"]
    site.check(done, before)
    site.check_recovery(before)


def test_f05_a_flood_of_warnings(site: Site, small: Database, tmp_path: Path) -> None:
    script = 'for i in $(seq 20000); do echo "pg_dump: warning: $i $(printf %0100d 0)"; done >&2; head -c 3000000 /dev/zero | tr "\\0" x >&2; echo >&2; exec "$REAL" "$@"'
    script = script.replace("$(printf %0100d 0)", "0" * 100)
    site.use(small.server).configure(small)
    done = site.backup(PG_BINDIRS=f"{wrapper(tmp_path / 'bin', small.server.bindir, script)}")
    assert done.returncode == 0, done.stderr[-2000:]
    site.check(done)
    assert "pg_dump: warning: 1 0" in done.manifest.warnings[0]
    assert "more lines" in done.manifest.warnings[-1]
    assert len(done.stderr) < 1_000_000


def test_f05_a_real_warning_is_kept(site: Site, databases: Databases) -> None:
    source = databases(
        sql="CREATE TABLE hen (id int PRIMARY KEY, egg int); CREATE TABLE egg (id int PRIMARY KEY, hen int REFERENCES hen); ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg"
    )
    done = site.use(source.server).configure(source).good()
    # In a dump of rows and definitions together it does not matter, and pg_dump says nothing.
    assert not [warning for warning in done.manifest.warnings if "ERROR" in warning]


@pytest.mark.parametrize("broken", ["missing", "not executable", "not a program"])
def test_f06_a_client_that_does_not_run(site: Site, small: Database, tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "pg_dump"
    if broken != "missing":
        program.write_bytes(b"\x7fELF nonsense")
        program.chmod(0o755 if broken == "not a program" else 0o644)
    # Another one is found.
    site.use(small.server).configure(small).good(PG_BINDIRS=f"{folder}")


def test_f06_a_client_that_is_gone_when_it_is_needed(site: Site, small: Database, tmp_path: Path) -> None:
    folder = wrapper(tmp_path / "bin", small.server.bindir, "exit 1")
    program = folder / "pg_dump"
    program.write_text(
        program.read_text().replace('exec "$REAL" --version', '{ "$REAL" --version; chmod 644 "$0"; exit; }')
    )
    site.use(small.server).configure(small).good()
    before = site.files
    done = site.backup(PG_BINDIRS=f"{folder}")
    assert done.returncode == 1
    assert "pg_dump" in done.only["error"]
    assert done.only["category"] == "client"
    site.check(done, before)
    site.check_recovery(before)
