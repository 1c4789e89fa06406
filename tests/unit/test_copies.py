"""What lies at a location, by names alone; what belongs there; and what may not go here before it is there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup import inventory, naming, retention
from asyncbackup.model import Backup, DatabaseSpec, Policy, Tier
from asyncbackup.offsite import copies as copies_of
from tests.offsite import APP, NOW, name_of, proof

KEEP_ALL = Policy(keep={})
POLICIES = st.one_of(
    st.just(KEEP_ALL),
    st.builds(lambda count: Policy(keep={Tier.DATED: count}), st.integers(0, 5)),
    st.builds(
        lambda daily, weekly, monthly: Policy(keep={Tier.DAILY: daily, Tier.WEEKLY: weekly, Tier.MONTHLY: monthly}),
        st.integers(0, 3), st.integers(0, 3), st.integers(0, 2),
    ),
)  # fmt: skip
# Some lie in the future, where a clock was wrong.
HOURS = st.sets(st.integers(-50, 24 * 90), max_size=12)


def backup(hours_ago: int, policy: Policy) -> Backup:
    at = NOW - timedelta(hours=hours_ago)
    name = name_of(APP, at)
    local = at.astimezone().replace(tzinfo=None)
    return Backup(
        path=Path("/backups", f"{local:%Y-%m-%d}", name),
        core=naming.short_core(APP),
        tier=retention.tier(policy, local),
        taken_at=at,
        bytes=1000,
        good=True,
        spec=APP,
        manifest=proof(APP, name, b"", at),
    )


def stored(backups: Sequence[Backup], policy: Policy) -> list[Backup]:
    return [copies_of.flat(one, policy) for one in backups]


def hours_of(backups: Sequence[Backup]) -> list[int]:
    return [round((NOW - one.taken_at) / timedelta(hours=1)) for one in backups]


# --- names

LONG_AGO = datetime(2026, 11, 1, 12)  # noqa: DTZ001 - names tell local time

NAME = naming.backup_name("db-app", datetime(2026, 11, 20, 12))  # noqa: DTZ001 - names tell local time


def test_only_what_is_named_exactly_like_a_backup_is_one() -> None:
    listing = {
        NAME: 7, f"{NAME}.json": 1, f"{NAME}.verified.json": 1, f"{NAME}.part": 1, f"{NAME}.01234567.part": 1,
        f".{NAME}": 1, f"x/{NAME}": 1, "db-app.sql.gz": 1, "notes": 1, f"{NAME}.gz": 1,
        "db-app_2026-13-20_12-00-00.sql.gz": 1,
    }  # fmt: skip
    (found,) = copies_of.copies(listing)
    assert (found.name, found.core, found.bytes, found.committed) == (NAME, "db-app", 7, True)
    (found,) = copies_of.copies({NAME: 7, f"{NAME}.json.01234567.part": 1})
    assert not found.committed


def test_the_newest_comes_first_and_others_only_if_they_are_asked_for() -> None:
    listing = {name_of(spec, NOW - timedelta(days=age)): 1 for age in range(3) for spec in (APP, replace(APP, dbname="apple"))}  # fmt: skip
    found = copies_of.copies(listing, inventory.cores_of(APP))
    assert [one.name for one in found] == [name_of(APP, NOW - timedelta(days=age)) for age in range(3)]
    assert len(copies_of.copies(listing)) == 6
    assert copies_of.copies(listing, ()) == ()


@given(st.dictionaries(st.text(max_size=40), st.integers(0, 9)))
def test_no_listing_is_too_strange(listing: Mapping[str, int]) -> None:
    names = {one.name for one in copies_of.copies(listing)}
    cores = {one.core for one in copies_of.copies(listing)}
    assert names <= set(listing)
    assert not names & {*copies_of.orphans(listing, cores), *copies_of.abandoned(listing, cores, NOW)}


def test_a_manifest_whose_data_is_gone_is_an_orphan() -> None:
    other = name_of(replace(APP, dbname="apple"), NOW)
    listing = {f"{NAME}.json": 1, f"{other}.json": 1, "x.json": 1, ".json": 1, f"{NAME}.verified.json": 1}
    assert copies_of.orphans(listing, {"db-app"}) == (f"{NAME}.json",)
    assert copies_of.orphans({**listing, NAME: 0}, {"db-app"}) == ()


SPECS = st.builds(DatabaseSpec, st.text(min_size=1, max_size=70), st.integers(1, 65535), st.text(max_size=63))


@given(SPECS, st.sampled_from([naming.short_core, naming.long_core]), st.sampled_from(["", naming.MANIFEST]))
def test_what_is_left_of_any_upload_is_told_by_its_name(
    spec: DatabaseSpec, core: Callable[[DatabaseSpec], str], end: str
) -> None:
    name = naming.backup_name(core(spec), LONG_AGO) + end
    part = naming.part_name(name)
    assert part != naming.part_name(name), "a server may still hold the last"
    assert len(part.encode()) <= 255
    assert not part.startswith(".")
    assert naming.parse_name(part) is None
    assert copies_of.copies({part: 1}) == ()
    assert copies_of.orphans({part: 1}, {core(spec)}) == ()
    if len(name) <= 255 - len(".01234567.part"):
        assert naming.parse_part(part) == name
        assert copies_of.abandoned({part: 1}, {core(spec)}, NOW) == (part,)
        assert copies_of.abandoned({part: 1}, {"another"}, NOW) == ()


@given(st.text(max_size=300))
def test_a_part_is_told_from_anything_else(name: str) -> None:
    whole = naming.parse_part(name)
    if whole is not None:
        assert name.startswith(whole)
        assert len(name) == len(whole) + len(".01234567.part")
    if name and len(name.encode()) < 240:
        assert naming.parse_part(naming.part_name(name)) == name


@pytest.mark.parametrize(
    ("age", "old"), [(timedelta(days=7, minutes=1), True), (timedelta(days=6, hours=23), False)]
)
def test_what_may_be_under_way_is_not_abandoned(age: timedelta, *, old: bool) -> None:
    part = f"{name_of(APP, NOW - age)}.01234567.part"
    assert copies_of.abandoned({part: 1}, {"db-app"}, NOW) == ((part,) if old else ())


# --- what belongs there


def test_what_is_missing_is_stored_newest_first_as_far_as_it_would_be_kept() -> None:
    policy = Policy(keep={Tier.DATED: 3})
    local = [backup(hours, policy) for hours in (72, 24, 96, 48)]
    assert hours_of(copies_of.lacking([], local, policy, NOW)) == [24, 48, 72]
    there = stored([backup(36, policy)], policy)
    assert hours_of(copies_of.lacking(there, local, policy, NOW)) == [24, 48]


def test_of_a_file_that_lies_here_twice_one_is_stored() -> None:
    one = backup(24, KEEP_ALL)
    twice = [one, replace(one, path=Path("/backups/weekly") / one.path.name)]
    assert len(copies_of.lacking([], twice, KEEP_ALL, NOW)) == 1


@given(POLICIES, HOURS, HOURS)
def test_what_was_stored_is_not_removed_at_once_and_nothing_more_is_lacking(
    policy: Policy, there: set[int], here: set[int]
) -> None:
    at_location = stored([backup(hours, policy) for hours in there], policy)
    local = [backup(hours, policy) for hours in here - there]
    lacking = copies_of.lacking(at_location, local, policy, NOW)
    assert set(hours_of(lacking)) <= here - there
    assert hours_of(lacking) == sorted(hours_of(lacking)), "the newest first"
    after = [*at_location, *stored(lacking, policy)]
    kept = retention.plan(after, policy, NOW).keep
    assert set(hours_of(lacking)) <= set(hours_of(kept))
    rest = [one for one in local if one not in lacking]
    assert copies_of.lacking(after, rest, policy, NOW) == ()
    # It is the same as if the location had never been away.
    at_once = retention.plan([*at_location, *stored(local, policy)], policy, NOW).keep
    assert set(hours_of(kept)) == set(hours_of(at_once))


# --- what may not go here


@given(POLICIES, HOURS, HOURS)
def test_nothing_goes_here_unless_newer_ones_are_there(
    policy: Policy, there: set[int], here: set[int]
) -> None:
    at_location = stored([backup(hours, policy) for hours in there], policy)
    local = [backup(hours, policy) for hours in here - there]
    staying = copies_of.irreplaceable(at_location, local, policy, NOW)
    for one in local:
        if one in staying:
            continue
        tier = retention.tier(policy, one.taken_at.astimezone().replace(tzinfo=None))
        count = policy.keep[tier]  # a tier that is not named keeps everything
        newer = [
            copy
            for copy in at_location
            if one.taken_at < copy.taken_at <= NOW + retention.CLOCK_SKEW and copy.tier is tier
        ]
        assert len(newer) >= count
        assert [copy for copy in at_location if one.taken_at < copy.taken_at <= NOW + retention.CLOCK_SKEW]


@given(POLICIES, HOURS)
def test_nothing_at_all_goes_here_while_nothing_is_there(policy: Policy, here: set[int]) -> None:
    local = [backup(hours, policy) for hours in here]
    assert list(copies_of.irreplaceable([], local, policy, NOW)) == local


@given(POLICIES, HOURS, HOURS, st.integers(0, 11))
def test_what_may_go_may_go_still_when_more_is_there(
    policy: Policy, there: set[int], here: set[int], more: int
) -> None:
    local = [backup(hours, policy) for hours in here - there]
    before = stored([backup(hours, policy) for hours in sorted(there)[: more or None]], policy)
    after = stored([backup(hours, policy) for hours in there], policy)
    staying = set(hours_of(copies_of.irreplaceable(after, local, policy, NOW)))
    assert staying <= set(hours_of(copies_of.irreplaceable(before, local, policy, NOW)))


@settings(max_examples=200)
@given(
    POLICIES,
    POLICIES,
    st.lists(st.sampled_from(["up", "down", "slow"]), min_size=1, max_size=40),
)
def test_through_any_outages_whatever_retention_wants_is_somewhere(
    here: Policy, there: Policy, days: list[str]
) -> None:
    """A run a day: prune here what is unwanted and not needed, then store there, and prune there."""
    local: list[Backup] = []
    remote: list[Backup] = []
    made: list[Backup] = []
    start = NOW - timedelta(days=len(days))
    for number, day in enumerate(days):
        now = start + timedelta(days=number)
        new = backup(round((NOW - now) / timedelta(hours=1)), here)
        made.append(new)
        local.append(new)
        unwanted = list(retention.plan(local, here, now).remove)
        names = {one.path.name for one in remote}
        absent = [one for one in unwanted if one.path.name not in names]
        staying = list(copies_of.irreplaceable(remote, absent, there, now)) if day != "down" else unwanted
        local = [one for one in local if one not in unwanted or one in staying]
        if day == "up":
            lacking = copies_of.lacking(
                remote, [one for one in local if one.path.name not in names], there, now
            )
            remote += stored(lacking, there)
            remote = list(retention.plan(remote, there, now).keep)
        somewhere = {one.path.name for one in (*local, *remote)}
        wanted = {one.path.name for one in retention.plan(made, here, now).keep}
        assert wanted <= somewhere, "what is wanted here is here"
        assert {new.path.name} <= {one.path.name for one in local}
        wanted_there = {one.path.name for one in retention.plan(stored(made, there), there, now).keep}
        assert wanted_there <= somewhere, "what is wanted there is there, or here until then"
        if day == "up":
            assert wanted_there == {one.path.name for one in remote}


def test_what_waits_holds_little_of_its_manifest_and_is_as_good() -> None:
    one = backup(1, KEEP_ALL)
    light = copies_of.light(one)
    assert light.proven
    assert replace(light, manifest=one.manifest) == one
    lost = replace(one, manifest=None)
    assert copies_of.light(lost) == lost
