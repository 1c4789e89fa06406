"""Names of files: whose a backup is must be certain from them, for every legal database name."""

import itertools
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncbackup.dbspec import matches
from asyncbackup.model import GLOBALS, DatabasePattern, DatabaseSpec
from asyncbackup.naming import (
    MANIFEST,
    MAX_CORE,
    PARTIAL,
    RECORD,
    SUFFIX,
    Owners,
    ParsedName,
    backup_name,
    core,
    cores,
    legacy_core,
    long_core,
    parse_long_core,
    parse_name,
    parse_part,
    part_name,
    short_core,
)

NOON = datetime(2026, 1, 31, 12, 0, 0)  # noqa: DTZ001 - file names carry local time
NAME_MAX = 255
HOSTS = (
    "db", "DB", "db-1", "db.example.com", "10.0.0.1", "::1", "2001:db8::1", "[::1]", "/var/run/postgresql",
    "db_1", "-", ".", "..", "a@b", "a%2Db", "~", "bücher.example",
)  # fmt: skip


def decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


any_name = st.binary(min_size=1, max_size=63).filter(lambda name: 0 not in name).map(decoded)
any_host = st.sampled_from(HOSTS) | st.text("ab.-:/_@%~ A", min_size=1, max_size=80)
any_port = st.integers(1, 65535)
any_spec = st.builds(DatabaseSpec, any_host, any_port, any_name | st.just(GLOBALS))
LONG_NAME = DatabaseSpec("db", 5432, "\u00e4" * 40)
LONGEST = DatabaseSpec("h" * 253, 65535, "\udcff" * 63)
# So few characters that series which could be mixed up come along all the time.
close_text = st.text("aA-@%2D.", min_size=1, max_size=5)
close_spec = st.builds(DatabaseSpec, close_text, st.sampled_from([1, 12]), close_text | st.just(GLOBALS))
any_time = st.datetimes(datetime(1970, 1, 1), datetime(9000, 12, 31)).map(  # noqa: DTZ001
    lambda when: when.replace(microsecond=0)
)


def spec(line: str) -> DatabaseSpec:
    host, _, dbname = line.partition("/")
    host, _, port = host.partition(":")
    return DatabaseSpec(host, int(port or 5432), dbname)


def pattern(line: str) -> DatabasePattern:
    meant = spec(line.removeprefix("!"))
    return DatabasePattern(
        host=meant.host, port=meant.port, pattern=meant.dbname, exclude=line[0] == "!", line=1
    )


def owners(text: str, configured: Iterable[DatabaseSpec]) -> tuple[DatabaseSpec, ...]:
    return Owners.build(configured, (), matches).of(text)


def fits_a_file_system(name: str) -> bool:
    return (
        len(os.fsencode(name)) <= NAME_MAX
        and name.isascii()
        and name.isprintable()
        and not {*name} & {*" /\\\"'`$*?<>|&;:()[]{}!#~"}
        and name[0] not in ".-"
    )


class TestOneSeries:
    @given(any_spec, any_time)
    def test_a_name_is_read_back(self, one: DatabaseSpec, when: datetime) -> None:
        for text in (short_core(one), long_core(one)):
            assert parse_name(backup_name(text, when)) == ParsedName(text, when)

    @given(any_spec)
    @example(LONGEST)
    def test_a_long_core_is_read_back_unless_it_was_cut(self, one: DatabaseSpec) -> None:
        read = parse_long_core(long_core(one))
        assert read == one or (read is None and len(long_core(one)) == MAX_CORE)

    @pytest.mark.parametrize("byte", range(1, 256))
    def test_every_byte_in_every_place(self, byte: int) -> None:
        for name in (bytes([byte]), b"a%cz" % byte, b"%ca" % byte, b"a%c" % byte, bytes([byte]) * 7):
            one = DatabaseSpec("db", 5432, decoded(name))
            assert parse_long_core(long_core(one)) == one
            assert fits_a_file_system(backup_name(short_core(one), NOON))
            assert fits_a_file_system(backup_name(long_core(one), NOON))

    @pytest.mark.parametrize("character", ["a", "Z", "é", "\udcff", "漢", "-", "."])
    def test_every_length_and_its_whole_family_of_files_fits(self, character: str) -> None:
        for length in range(1, 64):
            one = DatabaseSpec("db.example.com", 5432, character * length)
            for text in (short_core(one), long_core(one)):
                name = backup_name(text, NOON)
                assert all(fits_a_file_system(name + tail) for tail in ("", PARTIAL, MANIFEST, RECORD))

    @given(any_spec)
    @example(LONGEST)
    def test_names_are_safe(self, one: DatabaseSpec) -> None:
        for text in (short_core(one), long_core(one)):
            assert len(text) <= MAX_CORE
            assert all(
                fits_a_file_system(backup_name(text, NOON) + tail) for tail in (PARTIAL, MANIFEST, RECORD)
            )

    def test_the_longest_tail_is_what_the_limit_leaves_room_for(self) -> None:
        longest = backup_name("x" * MAX_CORE, NOON) + max((PARTIAL, MANIFEST, RECORD), key=len)
        assert len(longest) == NAME_MAX

    @given(any_spec, any_time, any_time)
    def test_names_sort_as_time_does(self, one: DatabaseSpec, a: datetime, b: datetime) -> None:
        text = short_core(one)
        assert (a < b) == (backup_name(text, a) < backup_name(text, b))

    @pytest.mark.parametrize(
        ("line", "short", "long"),
        [
            ("db/app", "db-app", "db@5432-app"),
            ("wallet-db/tob_holder", "wallet-db-tob_holder", "wallet%2Ddb@5432-tob_holder"),
            ("postgresql/TheOrgBook_Database", "postgresql-TheOrgBook_Database",
             "postgresql@5432-%54he%4Frg%42ook_%44atabase"),
            ("db.example.com:5433/a-b", "db.example.com-a-b", "db.example.com@5433-a-b"),
            ("db/a b/ü~", "db-a%20b%2F%C3%BC%7E", "db@5432-a%20b%2F%C3%BC%7E"),
            ("db/-rf", "db-%2Drf", "db@5432-%2Drf"),
            ("db/.hidden", "db-%2Ehidden", "db@5432-%2Ehidden"),
            ("db/@globals", "db-%40globals", "db@5432-%40globals"),
            ("db/", "db-@globals", "db@5432-@globals"),
        ],
    )  # fmt: skip
    def test_what_they_look_like(self, line: str, short: str, long: str) -> None:
        assert (short_core(spec(line)), long_core(spec(line))) == (short, long)

    def test_ipv6_and_socket_folders(self) -> None:
        assert long_core(DatabaseSpec("::1", 5432, "app")) == "%3A%3A1@5432-app"
        assert short_core(DatabaseSpec("/run/pg", 5432, "app")) == "%2Frun%2Fpg-app"

    @pytest.mark.parametrize("text", ["db@05432-app", "db@5432-%41", "db@5432-%61", "db@5432-%", "db@5432-",
                                      "@5432-app", "d-b@5432-app", "db@x-app", "db-app", "db@5432-App",
                                      "db@5432-a%2eb", "db@\u0665-app"])  # fmt: skip
    def test_only_the_one_true_spelling_is_a_long_core(self, text: str) -> None:
        expected = DatabaseSpec("db", 5432, "A") if text == "db@5432-%41" else None
        assert parse_long_core(text) == expected


class TestManySeries:
    @given(close_spec, close_spec)
    @example(DatabaseSpec("a", 1, "App"), DatabaseSpec("a", 1, "app"))
    @example(DatabaseSpec("a-b", 1, "c"), DatabaseSpec("a", 1, "b-c"))
    @example(DatabaseSpec("a", 1, "@globals"), DatabaseSpec("a", 1, GLOBALS))
    @example(DatabaseSpec("a", 1, "é"), DatabaseSpec("a", 1, "e\u0301"))  # composed and decomposed
    @example(DatabaseSpec("a", 1, "x" * 300 + "y"), DatabaseSpec("a", 1, "x" * 300 + "z"))
    def test_long_cores_differ_even_where_case_is_ignored(self, a: DatabaseSpec, b: DatabaseSpec) -> None:
        assert (long_core(a).casefold() == long_core(b).casefold()) == (a == b)

    @given(any_spec, any_spec)
    def test_long_cores_differ_for_any_name(self, a: DatabaseSpec, b: DatabaseSpec) -> None:
        assert (long_core(a) == long_core(b)) == (a == b)

    @given(close_spec | any_spec, close_spec | any_spec)
    def test_a_short_core_is_never_a_long_one(self, a: DatabaseSpec, b: DatabaseSpec) -> None:
        assert short_core(a).casefold() != long_core(b).casefold()

    @given(st.lists(close_spec, max_size=12))
    def test_configured_series_never_share_a_core(self, configured: list[DatabaseSpec]) -> None:
        folded = [text.casefold() for text in cores(configured).values()]
        assert len(folded) == len(set(folded)) == len(set(configured))

    @given(st.lists(close_spec | any_spec, max_size=8))
    def test_both_ways_to_ask_agree(self, configured: list[DatabaseSpec]) -> None:
        assert cores(configured) == {one: core(one, configured) for one in configured}

    @given(st.lists(close_spec, min_size=1, max_size=8), st.data())
    def test_order_and_repetition_do_not_matter(
        self, configured: list[DatabaseSpec], data: st.DataObject
    ) -> None:
        shuffled = data.draw(st.permutations(configured + configured[:2]))
        assert cores(shuffled) == cores(configured)

    @given(st.lists(close_spec, min_size=1, max_size=8), any_time)
    def test_a_file_leads_to_its_own_series_only(
        self, configured: list[DatabaseSpec], when: datetime
    ) -> None:
        written = cores(configured)
        for one, text in written.items():
            parsed = parse_name(backup_name(text, when))
            assert parsed is not None
            assert [other for other, theirs in written.items() if theirs == parsed.core] == [one]

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            (["db/app", "db/app_old", "xdb/app"], ["db-app", "db-app_old", "xdb-app"]),
            (["a-b/c", "a/b-c", "a/x"], ["a%2Db@5432-c", "a@5432-b-c", "a-x"]),
            (["db:5432/app", "db:5433/app"], ["db@5432-app", "db@5433-app"]),
            (["db:5432/", "db:5433/"], ["db@5432-@globals", "db@5433-@globals"]),
            (["db/App", "db/app"], ["db@5432-%41pp", "db@5432-app"]),
            (["db/app", "db/app"], ["db-app", "db-app"]),
        ],
    )
    def test_old_names_stay_wherever_there_is_no_collision(
        self, lines: list[str], expected: list[str]
    ) -> None:
        configured = [spec(line) for line in lines]
        assert [core(one, configured) for one in configured] == expected

    def test_a_core_is_known_for_a_series_that_is_not_configured(self) -> None:
        assert core(spec("db/app"), []) == "db-app"
        assert core(spec("db:5433/app"), [spec("db/app")]) == "db@5433-app"

    def test_thousands_of_series_are_named_in_no_time(self) -> None:
        configured = [DatabaseSpec("db", 5432, f"app_{number}") for number in range(3000)]
        assert len(set(cores(configured).values())) == len(configured)


class TestOldNames:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("postgresql-TheOrgBook_Database_2018-10-03_22-16-11.sql.gz", "postgresql-TheOrgBook_Database"),
            ("wallet-db-tob_holder_2018-10-03_22-16-13.sql.gz", "wallet-db-tob_holder"),
            ("db-my db$_2018-10-03_22-16-13.sql.gz", "db-my db$"),
            ("db-a\nb_2018-10-03_22-16-13.sql.gz", "db-a\nb"),
            ("db-x_2017-01-01_00-00-00.sql.gz_2018-10-03_22-16-13.sql.gz", "db-x_2017-01-01_00-00-00.sql.gz"),
            ("db-__2018-10-03_22-16-13.sql.gz", "db-_"),
        ],
    )
    def test_they_are_read(self, name: str, text: str) -> None:
        parsed = parse_name(name)
        assert parsed is not None
        assert parsed.core == text
        assert parsed.stamp.isoformat().startswith("2018-10-03T22:16:1")

    @pytest.mark.parametrize(
        "name",
        [
            "", "db-app", "db-app.sql.gz", "db-app_2018-10-03.sql.gz", "_2018-10-03_22-16-11.sql.gz",
            "db-app_2018-10-03_22-16-11.sql", "db-app_2018-10-03_22-16-11.sql.gz.in_progress",
            "db-app_2018-10-03_22-16-11.sql.gz.json", "db-app_2018-10-03_22-16-11.sql.gz.verified.json",
            "db-app_2018-10-03_22-16-11.sql.gz\n", "db-app_2018-10-03_22-16-11.sql.gz ", "db-app_2018-10-03_22-16-11.SQL.GZ",
            "db-app_2018-13-03_22-16-11.sql.gz", "db-app_2018-02-29_22-16-11.sql.gz", "db-app_2018-10-03_24-00-00.sql.gz",
            "db-app_2018-10-03_22-16-60.sql.gz", "db-app_2018-10-03_22-16-61.sql.gz", "db-app_0000-10-03_22-16-11.sql.gz",
            "db-app_2018-10-03_22-16-1.sql.gz", "db-app_18-10-03_22-16-11.sql.gz", "db-app-2018-10-03_22-16-11.sql.gz",
            "db-app_2018-10-03T22-16-11.sql.gz", "db-app_2018-10-03_22-16-11xsql.gz", "db-app_\u0662018-10-03_22-16-11.sql.gz",
            "2026-01-01/db-app_2018-10-03_22-16-11.sql.gz", "/db-app_2018-10-03_22-16-11.sql.gz",
            "db-app\0_2018-10-03_22-16-11.sql.gz", "._db-app_2018-10-03_22-16-11.sql.gz",
            ".db-app_2018-10-03_22-16-11.sql.gz", "lost+found",
        ],
    )  # fmt: skip
    def test_anything_else_is_no_backup(self, name: str) -> None:
        assert parse_name(name) is None

    @given(st.text(max_size=60))
    def test_reading_never_fails(self, text: str) -> None:
        for name in (text, text + SUFFIX, f"{text}_2018-10-03_22-16-11{SUFFIX}"):
            parsed = parse_name(name)
            assert parsed is None or backup_name(parsed.core, parsed.stamp) == name
            one = parse_long_core(text)
            assert one is None or long_core(one) == text

    def test_a_long_hostile_name_is_read_quickly(self) -> None:
        for text in ("_2018-10-03" * 20_000, "@" * 200_000, "db@1-" + "%" * 200_000, "_" * 200_000 + SUFFIX):
            assert parse_name(text) is None
            assert parse_long_core(text) is None

    @given(any_time)
    def test_one_series_never_matches_another(self, when: datetime) -> None:
        asked = [spec("db/app"), spec("db/app_old"), spec("xdb/app"), spec("db/app-2"), spec("db/APP")]
        for one in asked:
            parsed = parse_name(backup_name(legacy_core(one), when))
            assert parsed is not None
            assert owners(parsed.core, asked) == (one,)


class TestOwners:
    def test_a_name_that_could_be_of_two_names_both(self) -> None:
        configured = [spec("a-b/c"), spec("a/b-c"), spec("a/b")]
        assert owners("a-b-c", configured) == (spec("a-b/c"), spec("a/b-c"))
        assert owners("db-app", [spec("db:5432/app"), spec("db:5433/app")]) == (
            spec("db:5432/app"),
            spec("db:5433/app"),
        )

    def test_an_encoded_name_and_the_same_text_as_a_name_of_old(self) -> None:
        both = [spec("db/a b"), spec("db/a%20b")]
        assert owners("db-a%20b", both) == tuple(both)
        assert Owners.build(both, (), matches).of("db-a%20b", ours=True) == (spec("db/a b"),)

    def test_a_long_core_needs_no_candidates(self) -> None:
        assert owners("db@5433-app", []) == (spec("db:5433/app"),)

    def test_a_stranger_is_nobodys(self) -> None:
        assert owners("other-app", [spec("db/app")]) == ()

    def test_a_repeated_candidate_is_one_owner(self) -> None:
        assert owners("db-app", [spec("db/app"), spec("db/app")]) == (spec("db/app"),)

    @given(st.lists(close_spec | any_spec, min_size=1, max_size=8))
    @example([LONGEST, DatabaseSpec(LONGEST.host, 1, LONGEST.dbname)])
    def test_who_wrote_a_file_is_always_among_its_owners(self, configured: list[DatabaseSpec]) -> None:
        for one, text in cores(configured).items():
            assert one in owners(text, configured)
            legacy = legacy_core(one)  # the bash tool wrote no globals
            assert one.is_globals or one in owners(legacy, configured) or parse_long_core(legacy)
        for one in configured:
            assert owners(long_core(one), configured) == (one,)

    @pytest.mark.parametrize(
        ("text", "line", "patterns", "rival"),
        [
            ("db-app", "db/app", ["db:5433/*"], "db:5433/app"),
            ("db-app", "db/app", ["db:5433/a*p"], "db:5433/app"),
            ("db-app", "db/app", ["!db:5433/app"], "db:5433/app"),
            ("a-b-c", "a-b/c", ["a/*"], "a/b-c"),
            ("a-b-c", "a/b-c", ["a-b/*"], "a-b/c"),
            ("db-a b", "db/a b", ["db:5433/*"], "db:5433/a b"),
            ("db-a%20b", "db/a b", ["db:5433/*%20*"], "db:5433/a b"),
            ("db-@globals", "db/", ["db:5433/app_*"], "db:5433/"),
            (short_core(LONG_NAME), f"db/{LONG_NAME.dbname}", ["db:5433/*"], f"db:5433/{LONG_NAME.dbname}"),
            ("db-app", "db/app", ["db/*"], None),
            ("db-app", "db/app", ["db/a*", "db/*p", "!db/app"], None),
            ("db-app", "db/app", ["db:5433/app_*"], None),
            ("db-app", "db/app", ["d/*", "db2/*", "xdb/*", "db-app/*"], None),
            ("db@5432-app", "db/app", ["db:5433/*", "db@5432/*"], None),
        ],
    )
    def test_a_wildcard_casts_doubt_on_what_it_could_stand_for(
        self, text: str, line: str, patterns: list[str], rival: str | None
    ) -> None:
        found = Owners.build([spec(line)], map(pattern, patterns), matches).of(text, ours="%" in text)
        assert found == ((spec(line), spec(rival)) if rival is not None else (spec(line),))

    def test_a_wildcard_alone_claims_nothing(self) -> None:
        assert Owners.build([], [pattern("db/*")], matches).of("db-app") == ()

    def test_what_a_wildcard_stands_for_is_its_own(self) -> None:
        found = [spec("db/a b"), spec("db/app"), spec("db/")]
        owners = Owners.build(found, [pattern("db/*")], matches)
        for one in found:
            assert owners.of(short_core(one), ours=True) == (one,)
            assert one.is_globals or owners.of(legacy_core(one)) == (one,)

    @given(st.lists(close_spec, min_size=2, max_size=8, unique=True))
    def test_a_wildcard_casts_the_doubt_that_its_databases_would(self, found: list[DatabaseSpec]) -> None:
        one, *unseen = found
        wild = [replace(pattern("db/*"), host=other.host, port=other.port) for other in unseen]
        known, guessed = Owners.build(found, (), matches), Owners.build([one], wild, matches)
        for text in (short_core(one), legacy_core(one)):
            assert {*known.of(text)} <= {*guessed.of(text)}

    def test_thousands_of_files_find_their_owners_in_no_time(self) -> None:
        configured = [DatabaseSpec("db", 5432, f"app_{number}") for number in range(5000)]
        owners = Owners.build(configured, [pattern("db:5433/x*")], matches)
        started = time.monotonic()
        assert all(owners.of(f"db-{one.dbname}") == (one,) for one in configured)
        assert time.monotonic() - started < 2  # a tenth of it is usual; each looking at all took minutes


def test_real_file_systems_take_the_longest_names(tmp_path: Path) -> None:
    for host, name in itertools.product(("h" * 253, "::1"), ("\udcff" * 63, "A" * 63)):
        one = DatabaseSpec(host, 65535, name)
        for text in (short_core(one), long_core(one)):
            file = tmp_path / (backup_name(text, NOON + timedelta(seconds=1)) + RECORD)
            file.touch()
            assert file.name in os.listdir(tmp_path)  # noqa: PTH208 - the names as the system has them


@pytest.mark.parametrize(
    "name", ["n", "n" * 242, "n" * 255, "日" * 85, "a" + "日" * 84, "\udcff" * 255, "x\udcff"]
)
def test_real_file_systems_take_the_names_of_what_is_being_written(tmp_path: Path, name: str) -> None:
    part = part_name(name)
    (tmp_path / part).touch()
    of = parse_part(part)
    assert of is not None
    assert name.startswith(of)
    assert part != part_name(name)
    assert of == name or len(os.fsencode(name)) > 241
