"""What is remembered of a location from run to run: never more than a help, and never trusted further."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.model import DatabaseSpec
from asyncbackup.offsite import known
from asyncbackup.offsite.known import Known

A, B = DatabaseSpec("h", 5432, "a"), DatabaseSpec("[::1]", 1, "")
TEXT = st.text(max_size=20)
SPECS = st.builds(DatabaseSpec, TEXT, st.integers(1, 65535), TEXT)
KEYS = st.tuples(st.text(min_size=1, max_size=20), st.integers(0, 1 << 50))


def loaded(folder: Path) -> Known:
    return known.load(folder, "ftp://host/")


def test_it_is_remembered(tmp_path: Path) -> None:
    loaded(tmp_path).learn({("a.sql.gz", 1): A, ("b.sql.gz", 2): B})
    assert loaded(tmp_path).series == {("a.sql.gz", 1): A, ("b.sql.gz", 2): B}
    assert loaded(tmp_path).path.stat().st_mode & 0o777 == 0o600


@given(st.lists(st.dictionaries(KEYS, SPECS, max_size=5), max_size=4))
def test_whatever_is_learnt_comes_back_and_the_last_word_counts(
    tmp_path_factory: pytest.TempPathFactory, learnt: list[dict[tuple[str, int], DatabaseSpec]]
) -> None:
    folder = tmp_path_factory.mktemp("locks")
    expected: dict[tuple[str, int], DatabaseSpec] = {}
    for found in learnt:
        loaded(folder).learn(found)
        expected |= found
    assert loaded(folder).series == expected


def test_names_that_are_no_text_come_back(tmp_path: Path) -> None:
    odd = DatabaseSpec("h", 1, os.fsdecode(b'\xff\n"[],'))
    loaded(tmp_path).learn({("a", 1): odd})
    assert loaded(tmp_path).series == {("a", 1): odd}


def test_each_location_has_its_own(tmp_path: Path) -> None:
    known.load(tmp_path, "ftp://one/").learn({("a", 1): A})
    assert known.load(tmp_path, "ftp://two/").series == {}


def test_what_is_known_already_is_not_written_again(tmp_path: Path) -> None:
    it = loaded(tmp_path)
    it.learn({("a", 1): A})
    size = it.path.stat().st_size
    it.learn({("a", 1): A})
    loaded(tmp_path).learn({("a", 1): A})
    assert it.path.stat().st_size == size


def test_a_folder_that_is_not_there_or_closed_is_no_failure(tmp_path: Path) -> None:
    it = known.load(tmp_path / "no such folder", "x")
    it.learn({("a", 1): A})
    assert it.series == {("a", 1): A}
    it.keep_only([])
    assert it.series == {}


@given(st.binary(max_size=300))
def test_garbage_is_ignored_and_what_stands_beside_it_is_not(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("locks")
    loaded(folder).learn({("a.sql.gz", 1): A})
    with loaded(folder).path.open("ab") as file:
        file.write(garbage)
    loaded(folder).learn({("b.sql.gz", 1): B})
    found = loaded(folder).series
    assert {("a.sql.gz", 1): A, ("b.sql.gz", 1): B}.items() <= found.items()


@given(st.integers(0, 200))
def test_a_line_that_was_cut_is_lost_and_no_other(tmp_path_factory: pytest.TempPathFactory, at: int) -> None:
    folder = tmp_path_factory.mktemp("locks")
    it = loaded(folder)
    it.learn({("a", 1): A})
    whole = it.path.stat().st_size
    it.learn({("b", 1): A})
    os.truncate(it.path, min(whole + at, it.path.stat().st_size))
    loaded(folder).learn({("c", 1): B})
    found = loaded(folder).series
    assert set(found) - {("b", 1)} == {("a", 1), ("c", 1)}
    assert found[("c", 1)] == B


@pytest.mark.parametrize(
    "line",
    [
        '["a", 1, "h", 5432]',
        '["a", "1", "h", 5432, "d"]',
        '["a", 1, "h", "5432", "d"]',
        '["a", true, "h", 5432, "d"]',
        '["a", 1, "h", 5432, null]',
        '[["a"], 1, "h", 5432, "d"]',
        '{"a": 1}',
        "[" * 100_000,
        "1",
        "null",
        '"abcde"',
    ],
)
def test_what_is_no_line_of_ours_is_ignored(tmp_path: Path, line: str) -> None:
    loaded(tmp_path).path.write_text(f"{line}\n")
    assert loaded(tmp_path).series == {}


def test_what_is_no_file_is_not_waited_for_and_no_link_is_followed(tmp_path: Path) -> None:
    path = loaded(tmp_path).path
    os.mkfifo(path)
    done = threading.Event()

    def use() -> None:
        it = loaded(tmp_path)
        it.learn({("a", 1): A})
        it.keep_only([])
        done.set()

    threading.Thread(target=use, daemon=True).start()
    assert done.wait(20)
    path.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    path.symlink_to(elsewhere)
    use()
    assert elsewhere.read_text() == "precious"


def test_copies_that_are_gone_are_forgotten_once_they_are_the_most(tmp_path: Path) -> None:
    it = loaded(tmp_path)
    it.learn({(f"{number}", 1): A for number in range(10)})
    it.keep_only([f"{number}" for number in range(5)])
    assert len(loaded(tmp_path).series) == 10
    it.keep_only([f"{number}" for number in range(4)])
    assert len(it.series) == 4
    assert loaded(tmp_path).series == it.series
    it.learn({("new", 1): B})
    assert len(loaded(tmp_path).series) == 5


def test_several_write_at_once(tmp_path: Path) -> None:
    def learn(which: int) -> None:
        it = loaded(tmp_path)
        for number in range(50):
            it.learn({(f"{which}-{number}", 1): A})

    threads = [threading.Thread(target=learn, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded(tmp_path).series) == 200
