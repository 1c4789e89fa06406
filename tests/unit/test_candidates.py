"""Which backups a verification takes, and in what turn."""

from datetime import timedelta
from pathlib import Path

import pytest

from asyncbackup.conf import Conf
from asyncbackup.model import Backup, DatabasePattern, DatabaseSpec, Verdict
from asyncbackup.proof.candidates import choose
from tests.volumes import GLOBALS, NOW, ONE, TWO, Volume, days


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "backups", tmp_path / "own")


def test_the_newest_of_each_series(volume: Volume) -> None:
    of_two = {age: volume.put(TWO, days(age)) for age in (3, 1, 2)}
    of_one = {age: volume.put(ONE, days(age)) for age in (0.5, 5, 2)}
    chosen, missing = volume.chosen()
    assert set(chosen) == {of_one[0.5], of_two[1]}
    assert missing == ()


def test_one_from_the_future_never_takes_a_real_ones_place(volume: Volume) -> None:
    volume.put(ONE, -days(400))
    volume.put(ONE, -days(2))
    real = volume.put(ONE, days(3))
    volume.put(ONE, days(4))
    assert volume.chosen(ONE)[0] == [real]


def test_without_a_real_one_it_is_better_than_nothing(volume: Volume) -> None:
    volume.put(ONE, -days(400))
    chosen, missing = volume.chosen(ONE)
    assert len(chosen) == 1
    assert missing == ()


def test_clocks_that_are_set_back_do_not_make_an_older_one_newest(volume: Volume) -> None:
    """In the hour that comes twice, the later backup may have the earlier name."""
    volume.put(ONE, timedelta(hours=2), name_says=timedelta(hours=1))
    newest = volume.put(ONE, timedelta(hours=1, minutes=30), name_says=timedelta(hours=1, minutes=30))
    assert volume.chosen(ONE)[0] == [newest]


def test_what_was_verified_longest_ago_comes_first(volume: Volume) -> None:
    specs = [DatabaseSpec("h", 5432, f"db{i}") for i in range(5)]
    volume.conf = Conf(databases=(*specs,))
    paths = [volume.put(spec, days(1), bytes_=100 * (i + 1)) for i, spec in enumerate(specs)]
    volume.verified(paths[0], days(0.5))
    volume.verified(paths[1], days(9), apart=True)
    volume.verified(paths[2], days(3), Verdict.BAD)
    of_globals = volume.put(GLOBALS, days(1))
    volume.verified(of_globals, days(0.1))
    # Roles first, then those never verified, the largest of them first.
    assert volume.chosen()[0] == [of_globals, paths[4], paths[3], paths[1], paths[2], paths[0]]


def test_a_new_backup_was_never_verified_whatever_was_found_of_the_last_one(volume: Volume) -> None:
    volume.verified(volume.put(ONE, days(2)), days(1))
    newest = volume.put(ONE, days(0.5))
    seen = volume.put(TWO, days(1))
    volume.verified(seen, days(0.9))
    assert volume.chosen()[0] == [newest, seen]


def test_a_part_of_a_path_chooses_among_the_backups(volume: Volume) -> None:
    old, _ = volume.put(ONE, days(30)), volume.put(ONE, days(1))
    volume.put(TWO, days(1))
    assert volume.chosen(pattern=f"/{old.parent.name}/") == ([old], (TWO,))
    assert volume.chosen(pattern=old.name) == ([old], (TWO,))
    assert volume.chosen(ONE, pattern="nothing has this in it") == ([], (ONE,))


def test_a_configured_database_without_a_backup_is_missing(volume: Volume) -> None:
    other = volume.put(DatabaseSpec("h", 5432, "not_configured"), days(1))
    of_one = volume.put(ONE, days(1))
    chosen, missing = volume.chosen()
    assert sorted(chosen) == sorted([other, of_one])
    assert missing == (TWO,)
    assert volume.chosen(TWO) == ([], (TWO,))


def test_an_empty_volume(volume: Volume) -> None:
    assert volume.chosen() == ([], (ONE, TWO))


def test_a_backup_of_the_bash_tool_counts_as_its_databases(volume: Volume) -> None:
    volume.put(ONE, days(2))
    newest = volume.put(ONE, days(1), of_old=True)
    assert volume.chosen(ONE) == ([newest], ())


def test_a_damaged_newest_is_not_passed_over(volume: Volume) -> None:
    """That it is bad is what somebody has to know."""
    volume.put(ONE, days(2))
    newest = volume.put(ONE, days(1))
    newest.write_bytes(b"short")
    chosen, _ = choose(volume.settings, volume.conf, only=(ONE,), required=(ONE,), pattern="", now=NOW)
    assert [(one.path, one.good) for one in chosen] == [(newest, False)]


def test_series_of_one_name_are_told_apart_by_their_manifests(volume: Volume) -> None:
    other = DatabaseSpec("h", 5433, "one")
    volume.conf = Conf(databases=(ONE, other))
    of_other, of_one = volume.put(other, days(1)), volume.put(ONE, days(2))
    assert volume.chosen(ONE)[0] == [of_one]
    assert volume.chosen(other)[0] == [of_other]
    assert sorted(volume.chosen()[0]) == sorted([of_other, of_one])


def test_files_of_nobody_are_tried_by_the_name_that_they_bear(volume: Volume) -> None:
    volume.conf = Conf(
        databases=(ONE,),
        patterns=(DatabasePattern(host="h", port=5433, pattern="*", exclude=False, line=2),),
    )
    for age in (1, 2):
        volume.put(ONE, days(age), of_old=True)
    found, missing = choose(volume.settings, volume.conf, only=(), required=(), pattern="", now=NOW)
    assert [(one.spec, one.core) for one in found] == [(None, "h-one")]
    assert missing == ()
    newest: Backup = found[0]
    assert newest.taken_at == max(one.taken_at for one in found)
