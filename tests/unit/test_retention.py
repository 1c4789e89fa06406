"""Retention: a table of cases that users know, and laws that hold for any list of backups.

R1 to R13 number the laws; R12 (another tool's calendar buckets) has no counterpart here, and R14
(what is no backup's name is no candidate) is the names' own test.
"""

import calendar
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.errors import ConfigError
from asyncbackup.model import (
    Backup,
    DatabaseSpec,
    Decision,
    Level,
    Manifest,
    Plan,
    Policy,
    StoredFile,
    Tier,
    Verdict,
    Verification,
)
from asyncbackup.retention import CLOCK_SKEW, plan, policy, tier

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
APP = DatabaseSpec("db", 5432, "app")
DATED, DAILY, WEEKLY, MONTHLY = Tier.DATED, Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY
ROLLING = policy("rolling", 31, 6, 4, 1)
PROOF = Manifest(
    host="db", port=5432, dbname="app", kind="database", run_id="r", started_at=NOW, finished_at=NOW,
    local_time="", server_version="15.1", client_version="15.1", loads_into=15,
    file=StoredFile(name="", bytes=1, sha256="0" * 64, compressor="isal", level=1),
    sql_bytes=1, rows=0, table_count=0, encoding="UTF8", outside_blake3="0" * 64, restricted=True,
)  # fmt: skip

TESTED = Verification(
    name="", host="db", port=5432, dbname="app", verdict=Verdict.GOOD, level=Level.CONTENT, proven=True,
    run_id="r", started_at=NOW, seconds=1, load_seconds=1, bytes=1, sha256="0" * 64, server_version="15.1",
)  # fmt: skip
FOUND_BAD = replace(TESTED, verdict=Verdict.BAD)
SAYS_NOTHING = [
    replace(TESTED, verdict=Verdict.UNVERIFIED),
    replace(TESTED, level=Level.TABLES),
    replace(TESTED, proven=False),
]


def backup(
    number: int,
    hours_ago: float,
    tier: Tier = DAILY,
    *,
    good: bool = True,
    proven: bool = True,
    spec: DatabaseSpec | None = APP,
    tested: Verification | None = None,
) -> Backup:
    return Backup(
        path=Path(f"/backups/{tier}/{number:04}.sql.gz"),
        core="db-app",
        tier=tier,
        taken_at=NOW - timedelta(hours=hours_ago),
        bytes=1,
        good=good,
        spec=spec,
        manifest=PROOF if good and proven else None,
        verification=tested,
    )


def series(tier: Tier, count: int) -> list[Backup]:
    return [backup(day, 24 * day, tier) for day in range(count)]


def paths(backups: Iterable[Backup]) -> list[Path]:
    return [one.path for one in backups]


def said(decisions: Iterable[Decision]) -> list[str]:
    return [one.reason for one in decisions]


def future(one: Backup, now: datetime = NOW) -> bool:
    return one.taken_at > now + CLOCK_SKEW


def verdicts(result: Plan, of: Sequence[Backup]) -> dict[Path, Decision]:
    wanted = set(paths(of))
    return {one.backup.path: one for one in result.decisions if one.backup.path in wanted}


# Few hours for many backups, so that equal times are common; the negative ones lie in the future.
untested = st.lists(
    st.tuples(
        st.integers(-4, 12),
        st.sampled_from(Tier),
        st.sampled_from([True, True, True, False]),
        st.booleans(),
        st.sampled_from([APP, None]),
    ),
    max_size=25,
).map(
    lambda rows: [
        backup(n, hours, where, good=good, proven=proven, spec=whose)
        for n, (hours, where, good, proven, whose) in enumerate(rows)
    ]
)
histories = st.builds(
    lambda backups, results: [replace(one, verification=results[n]) for n, one in enumerate(backups)],
    untested,
    st.lists(st.sampled_from([None, TESTED, FOUND_BAD, *SAYS_NOTHING]), min_size=25, max_size=25),
)
counts = st.integers(-2, 6)
policies = st.builds(
    policy, st.sampled_from(["daily", "rolling"]), counts, counts, counts, counts
) | st.builds(lambda keep: Policy(keep=keep), st.dictionaries(st.sampled_from(Tier), counts))
clocks = st.integers(-100, 100).map(lambda hours: NOW + timedelta(hours=hours))


class TestReasons:
    """What a user reads in `prune --dry-run`, newest first."""

    @pytest.mark.parametrize(
        ("backups", "rules", "expected"),
        [
            ([], ROLLING, []),
            (
                series(DATED, 4),
                policy("daily", 2, 6, 4, 1),
                ["kept: 1st of 2 dated", "kept: 2nd of 2 dated"]
                + ["removed: older than the newest 2 dated"] * 2,
            ),
            (
                [*series(DAILY, 2), backup(9, 30, WEEKLY)],
                policy("rolling", 31, 1, 4, 1),
                ["kept: 1st of 1 daily", "removed: older than the newest 1 daily", "kept: 1st of 4 weekly"],
            ),
            (
                [backup(0, 1, WEEKLY), backup(1, 2, WEEKLY), backup(2, 3)],
                policy("rolling", 31, 6, 0, 0),
                [
                    "kept: the newest good backup is never removed",
                    "removed: no weekly backups are to be kept, and a newer good one exists",
                    "kept: 1st of 6 daily",
                ],
            ),
            (
                [*series(DAILY, 2), backup(9, 9, WEEKLY), backup(9, 10, MONTHLY)],
                policy("rolling", 31, 0, 0, 0),
                [
                    "kept: 1st of 1 daily",
                    "removed: no weekly backups are to be kept, and a newer good one exists",
                    "removed: no monthly backups are to be kept, and a newer good one exists",
                    "removed: older than the newest 1 daily",
                ],
            ),
            (
                [backup(0, 1, DATED), backup(1, 2, DATED)],
                policy("daily", 0, 6, 4, 1),
                [
                    "kept: the newest good backup is never removed",
                    "removed: no dated backups are to be kept, and a newer good one exists",
                ],
            ),
            (
                [backup(0, 1, DATED), backup(1, 2)],
                ROLLING,
                ["kept: the backup strategy in use leaves dated backups alone", "kept: 1st of 6 daily"],
            ),
            (
                [
                    replace(backup(0, 1, good=False), problem="its manifest is damaged"),
                    backup(1, 2),
                    backup(2, 3, good=False),
                    backup(3, 4),
                ],
                policy("rolling", 31, 1, 4, 1),
                [
                    "kept: not counted, since it cannot be relied on: its manifest is damaged",
                    "kept: 1st of 1 daily",
                    "kept: not counted, since it cannot be relied on: it has no valid manifest",
                    "removed: older than the newest 1 daily",
                ],
            ),
            (
                [backup(0, -1), backup(1, -1 / 60), backup(2, 1)],
                policy("rolling", 31, 1, 4, 1),
                [
                    "kept: not counted, since its time lies in the future",
                    "kept: 1st of 1 daily",  # a clock may be a minute off
                    "removed: older than the newest 1 daily",
                ],
            ),
            (
                [*(backup(n, n, DATED, proven=n > 1) for n in range(5)), backup(9, 9, DATED, proven=False)],
                policy("daily", 2, 6, 4, 1),
                ["kept: among the newest 2 dated; without a manifest, it is not counted"] * 2
                + ["kept: 1st of 2 dated", "kept: 2nd of 2 dated"]
                + ["removed: older than the newest 2 dated"] * 2,
            ),
            (
                [backup(0, 1, WEEKLY, proven=False), backup(1, 2, WEEKLY), backup(2, 3, WEEKLY)],
                policy("rolling", 31, 6, 0, 0),
                [
                    "kept: the newest good backup is never removed",
                    "kept: the newest backup with a valid manifest is never removed",
                    "removed: no weekly backups are to be kept, and a newer good one exists",
                ],
            ),
            (
                [backup(n, n, DATED, tested=TESTED if n in {3, 4} else None) for n in range(5)],
                policy("daily", 2, 6, 4, 1),
                [
                    "kept: 1st of 2 dated",
                    "kept: 2nd of 2 dated",
                    "removed: older than the newest 2 dated",
                    "kept: the newest backup that a test restore has verified is never removed",
                    "removed: older than the newest 2 dated",
                ],
            ),
            (
                [backup(n, n, DATED, tested=FOUND_BAD if n in {0, 2, 4} else None) for n in range(5)],
                policy("daily", 2, 6, 4, 1),
                [
                    "kept: not counted, since a test restore found it bad",
                    "kept: 1st of 2 dated",
                    "kept: not counted, since a test restore found it bad",
                    "kept: 2nd of 2 dated",
                    "removed: a test restore found it bad, and newer good ones have taken its place",
                ],
            ),
            (
                [
                    backup(0, 1, WEEKLY, tested=FOUND_BAD),
                    backup(1, 2, proven=False),
                    backup(2, 3, WEEKLY, proven=False, tested=FOUND_BAD),
                    backup(3, 4),
                    backup(4, 5, WEEKLY, tested=FOUND_BAD),
                    backup(5, 6, DATED, tested=FOUND_BAD),
                ],
                policy("rolling", 31, 6, 0, 0),
                [
                    "kept: not counted, since a test restore found it bad",
                    "kept: among the newest 6 daily; without a manifest, it is not counted",
                    "kept: not counted, since a test restore found it bad",  # a stub supersedes nothing
                    "kept: 1st of 6 daily",
                    "removed: a test restore found it bad, and newer good ones have taken its place",
                    "kept: the backup strategy in use leaves dated backups alone",
                ],
            ),
            (
                [backup(1, 5), backup(2, 5), backup(0, 5)],
                policy("rolling", 31, 2, 4, 1),
                ["kept: 1st of 2 daily", "kept: 2nd of 2 daily", "removed: older than the newest 2 daily"],
            ),
        ],
    )
    def test_case(self, backups: list[Backup], rules: Policy, expected: list[str]) -> None:
        assert said(plan(backups, rules, NOW).decisions) == expected

    def test_ordinals_are_english(self) -> None:
        kept = said(plan(series(DAILY, 113), policy("rolling", 0, 200, 0, 0), NOW).decisions)
        for rank, word in {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 22: "22nd",
                           101: "101st", 111: "111th", 113: "113th"}.items():  # fmt: skip
            assert kept[rank - 1] == f"kept: {word} of 200 daily"

    def test_a_clock_may_be_off_by_as_much_as_the_skew_and_no_more(self) -> None:
        edge = replace(backup(0, 0), taken_at=NOW + CLOCK_SKEW)
        beyond = replace(edge, taken_at=edge.taken_at + timedelta(microseconds=1))
        assert said(plan([edge], ROLLING, NOW).decisions) == ["kept: 1st of 6 daily"]
        assert said(plan([beyond], ROLLING, NOW).decisions) == [
            "kept: not counted, since its time lies in the future"
        ]

    def test_stubs_of_another_tool_push_out_nothing_proven(self) -> None:
        ours = [backup(n, 24 * n + 2, DATED) for n in range(3)]
        stubs = [backup(n + 5, n / 10 + 1, DATED, proven=False) for n in range(9)]
        rules = policy("daily", 3, 6, 4, 1)
        assert paths(plan([*ours, *stubs], rules, NOW).remove) == paths(stubs[3:])

    def test_files_of_the_bash_tool_go_when_their_turn_comes(self) -> None:
        old = [backup(n + 5, 24 * n + 30, DATED, proven=False) for n in range(4)]
        rules = policy("daily", 3, 6, 4, 1)
        for ours in range(4):
            new = [backup(n, 24 * n / 4, DATED) for n in range(ours)]
            assert paths(plan([*new, *old], rules, NOW).keep) == paths([*new, *old[: 3 - ours]])

    def test_equal_times_are_told_apart_by_path(self) -> None:
        result = plan([backup(1, 5), backup(2, 5), backup(0, 5)], policy("rolling", 31, 2, 4, 1), NOW)
        assert [path.name for path in paths(result.remove)] == ["0000.sql.gz"]


class TestPolicy:
    @pytest.mark.parametrize(
        ("strategy", "numbers", "expected"),
        [
            ("daily", (31, 6, 4, 1), {DATED: 31}),
            ("daily", (-1, 6, 4, 1), {DATED: 0}),
            ("rolling", (31, 6, 4, 1), {DAILY: 6, WEEKLY: 4, MONTHLY: 1}),
            ("rolling", (31, -6, 4, 1), {DAILY: 0, WEEKLY: 4, MONTHLY: 1}),
            ("rolling", (31, 0, 0, 1), {DAILY: 0, WEEKLY: 0, MONTHLY: 1}),
            ("rolling", (31, 0, 0, 0), {DAILY: 1, WEEKLY: 0, MONTHLY: 0}),
            ("rolling", (31, -6, 0, 0), {DAILY: 1, WEEKLY: 0, MONTHLY: 0}),
            ("rolling", (31, 6, -1, 1), {DATED: 31}),
            ("rolling", (31, 6, 4, -1), {DATED: 31}),
        ],
    )
    def test_the_five_settings(
        self, strategy: str, numbers: tuple[int, ...], expected: dict[Tier, int]
    ) -> None:
        assert policy(strategy, *numbers).keep == expected

    @pytest.mark.parametrize("strategy", ["", "roling", "Rolling", "weekly", "daily ", "dated"])
    def test_r11_a_typo_is_an_error_and_no_strategy(self, strategy: str) -> None:
        with pytest.raises(ConfigError, match="BACKUP_STRATEGY"):
            policy(strategy, 31, 6, 4, 1)


class TestTier:
    @pytest.mark.parametrize(
        ("day", "rules", "expected"),
        [
            ("2026-01-05", ROLLING, DAILY),  # a Monday
            ("2026-01-04", ROLLING, WEEKLY),  # a Sunday
            ("2026-01-31", ROLLING, MONTHLY),
            ("2026-05-31", ROLLING, MONTHLY),  # the last day of its month and a Sunday
            ("2026-02-28", ROLLING, MONTHLY),
            ("2028-02-28", ROLLING, DAILY),  # not the last day of a leap year's February
            ("2028-02-29", ROLLING, MONTHLY),
            ("2026-12-31", ROLLING, MONTHLY),
            ("2026-01-31", policy("rolling", 31, 6, 4, 0), DAILY),
            ("2026-05-31", policy("rolling", 31, 6, 4, 0), WEEKLY),
            ("2026-01-04", policy("rolling", 31, 6, 0, 0), WEEKLY),
            ("2026-01-04", policy("rolling", 31, 6, -1, 1), DATED),
            ("2026-01-31", policy("daily", 31, 6, 4, 1), DATED),
        ],
    )
    def test_day(self, day: str, rules: Policy, expected: Tier) -> None:
        for time in ("T00:00:00", "T23:59:59"):
            assert tier(rules, datetime.fromisoformat(day + time)) is expected

    @given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - local time
    def test_it_agrees_with_the_calendar(self, when: datetime) -> None:
        last = calendar.monthrange(when.year, when.month)[1]
        otherwise = WEEKLY if when.strftime("%a") == "Sun" else DAILY
        assert tier(ROLLING, when) is (MONTHLY if when.day == last else otherwise)


class TestLaws:
    @given(histories, policies, clocks)
    def test_r1_each_backup_is_decided_once_newest_first(
        self, backups: list[Backup], rules: Policy, now: datetime
    ) -> None:
        result = plan(backups, rules, now)
        assert sorted(paths(result.keep + result.remove)) == sorted(paths(backups))
        times = [one.backup.taken_at for one in result.decisions]
        assert times == sorted(times, reverse=True)
        assert all(one.reason.startswith("kept: " if one.keep else "removed: ") for one in result.decisions)

    @given(histories, policies, clocks)
    def test_r2_the_newest_good_the_newest_proven_and_the_newest_verified_backup_stay(
        self, backups: list[Backup], rules: Policy, now: datetime
    ) -> None:
        current = [one for one in backups if one.good and not one.bad and not future(one, now)]
        proven, verified = ([one for one in current if getattr(one, how)] for how in ("proven", "verified"))
        kept = plan(backups, rules, now).keep
        for candidates in (current, proven, verified):
            newest = max(candidates, key=lambda one: (one.taken_at, one.path), default=None)
            assert newest is None or newest in kept

    @given(histories, policies)
    def test_what_has_no_manifest_displaces_nothing_proven(
        self, backups: list[Backup], rules: Policy
    ) -> None:
        proven = [one for one in backups if one.proven]
        kept = {*paths(plan(proven, rules, NOW).keep)}
        assert kept <= {*paths(plan(backups, rules, NOW).keep)}

    @given(untested, policies)
    def test_what_has_no_manifest_fares_no_better_than_with_one(
        self, backups: list[Backup], rules: Policy
    ) -> None:
        unproven = {one.path for one in backups if one.good and not one.proven}
        as_if = plan([replace(one, manifest=PROOF) if one.good else one for one in backups], rules, NOW)
        assert {*paths(plan(backups, rules, NOW).keep)} & unproven == {*paths(as_if.keep)} & unproven

    @given(histories, policies)
    def test_r3_a_damaged_backup_changes_nothing_and_stays(
        self, backups: list[Backup], rules: Policy
    ) -> None:
        good = [one for one in backups if one.good]
        whole = plan(backups, rules, NOW)
        assert verdicts(whole, good) == verdicts(plan(good, rules, NOW), good)
        assert all(one.good for one in whole.remove)

    @given(histories, policies)
    def test_r3_what_a_test_restore_found_bad_takes_no_good_ones_place(
        self, backups: list[Backup], rules: Policy
    ) -> None:
        others = [one for one in backups if not one.bad]
        assert verdicts(plan(backups, rules, NOW), others) == verdicts(plan(others, rules, NOW), others)

    @given(histories, policies)
    def test_what_was_found_bad_goes_once_newer_good_ones_fill_its_tier(
        self, backups: list[Backup], rules: Policy
    ) -> None:
        counted = [one for one in backups if one.proven and not one.bad and not future(one)]
        for one in plan(backups, rules, NOW).keep:
            if one.bad and one.good and not future(one) and one.tier in rules.keep:
                newer = [
                    other for other in counted if (other.taken_at, other.path) > (one.taken_at, one.path)
                ]
                full = sum(other.tier == one.tier for other in newer) >= rules.keep[one.tier]
                assert not (newer and full)

    @given(histories, policies)
    def test_test_restores_never_remove_what_would_have_stayed(
        self, backups: list[Backup], rules: Policy
    ) -> None:
        before = plan([replace(one, verification=None) for one in backups], rules, NOW)
        assert {*paths(plan(backups, rules, NOW).remove)} <= {*paths(before.remove)}

    @given(histories, policies, st.data())
    def test_one_more_verified_takes_no_more_than_the_last_ones_privilege(
        self, backups: list[Backup], rules: Policy, data: st.DataObject
    ) -> None:
        if not (may_be := [one for one in backups if one.proven and one.verification is None]):
            return
        chosen = data.draw(st.sampled_from(may_be))
        after = [replace(one, verification=TESTED) if one is chosen else one for one in backups]
        privileged = [one for one in backups if one.verified and one.path != chosen.path]
        more = {*paths(plan(after, rules, NOW).remove)} - {*paths(plan(backups, rules, NOW).remove)}
        assert more <= {*paths(privileged)}
        assert len(more) <= 1

    @given(untested, policies, st.lists(st.sampled_from(SAYS_NOTHING), min_size=25, max_size=25))
    def test_a_test_restore_that_proves_nothing_changes_nothing(
        self, backups: list[Backup], rules: Policy, results: list[Verification]
    ) -> None:
        tested = [replace(one, verification=results[n]) for n, one in enumerate(backups)]
        assert said(plan(tested, rules, NOW).decisions) == said(plan(backups, rules, NOW).decisions)

    @given(histories, policies)
    def test_r4_what_was_kept_is_kept_again(self, backups: list[Backup], rules: Policy) -> None:
        kept = plan(backups, rules, NOW).keep
        assert plan(kept, rules, NOW).keep == kept

    @given(histories, policies, st.dictionaries(st.sampled_from(Tier), st.integers(0, 5)))
    def test_r5_a_higher_count_never_removes_more(
        self, backups: list[Backup], rules: Policy, more: dict[Tier, int]
    ) -> None:
        relaxed = Policy(keep={where: count + more.get(where, 0) for where, count in rules.keep.items()})
        assert {*paths(plan(backups, relaxed, NOW).remove)} <= {*paths(plan(backups, rules, NOW).remove)}

    @given(histories, policies, st.data())
    def test_r6_order_and_repetition_do_not_matter(
        self, backups: list[Backup], rules: Policy, data: st.DataObject
    ) -> None:
        shuffled = data.draw(st.permutations(backups + backups[:3]))
        assert plan(iter(shuffled), rules, NOW) == plan(backups, rules, NOW)

    @given(histories, policies)
    def test_r7_two_series_are_refused_together(self, backups: list[Backup], rules: Policy) -> None:
        stranger = backup(9999, 1, spec=DatabaseSpec("db", 5433, "app"))
        with pytest.raises(ValueError, match=r"one series at a time, not db:5432/app, db:5433/app"):
            plan([backup(9998, 1), *backups, stranger], rules, NOW)

    @given(histories, policies)
    def test_r10_a_backup_from_the_future_changes_nothing_and_stays(
        self, backups: list[Backup], rules: Policy
    ) -> None:
        present = [one for one in backups if not future(one)]
        whole = plan(backups, rules, NOW)
        assert verdicts(whole, present) == verdicts(plan(present, rules, NOW), present)
        assert not any(future(one) for one in whole.remove)

    @given(
        histories, st.sampled_from(["daily", "rolling"]), st.tuples(counts, counts, counts, counts), clocks
    )
    def test_r11_no_counts_remove_the_last_good_one(
        self, backups: list[Backup], strategy: str, numbers: tuple[int, int, int, int], now: datetime
    ) -> None:
        kept = plan(backups, policy(strategy, *numbers), now).keep
        assert any(one.good for one in kept) == any(one.good for one in backups)

    @given(histories, policies, st.data())
    def test_r13_a_prune_cut_short_is_taken_up_where_it_ended(
        self, backups: list[Backup], rules: Policy, data: st.DataObject
    ) -> None:
        before = plan(backups, rules, NOW)
        gone = [one for one in before.remove if data.draw(st.booleans())]
        left = [one for one in backups if one not in gone]
        assert verdicts(plan(left, rules, NOW), left) == verdicts(before, left)

    @given(histories, policies, st.integers(0, 10**6))
    def test_time_alone_removes_nothing(self, backups: list[Backup], rules: Policy, hours: int) -> None:
        present = [one for one in backups if not future(one)]
        assert plan(present, rules, NOW + timedelta(hours=hours)) == plan(present, rules, NOW)

    @given(untested, policies)
    def test_a_count_is_kept_to_exactly(self, backups: list[Backup], rules: Policy) -> None:
        kept = [one for one in plan(backups, rules, NOW).keep if one.proven and not future(one)]
        for where in Tier:
            there = sum(one.proven and not future(one) and one.tier == where for one in backups)
            wanted = min(there, max(rules.keep.get(where, there), 0))
            assert sum(one.tier == where for one in kept) in {wanted, max(wanted, int(there > 0))}


def simulate(
    rules: Policy, days: int, zone: ZoneInfo | None = None, missed: frozenset[int] = frozenset()
) -> tuple[list[Backup], list[Backup], datetime]:
    """Back up and prune once a day at half past one, local time; return what is left, all, and the end."""
    left: list[Backup] = []
    everything: list[Backup] = []
    start = datetime(2024, 1, 1, 1, 30, tzinfo=zone or UTC)
    for day in range(days):
        if day in missed:
            continue
        local = start + timedelta(days=day)
        new = replace(backup(day, 0, tier(rules, local)), taken_at=local.astimezone(UTC))
        everything.append(new)
        left = list(plan([*left, new], rules, new.taken_at).keep)
    return left, everything, (start + timedelta(days=days)).astimezone(UTC)


class TestThreeYears:
    DAYS = 3 * 365 + 1

    @settings(max_examples=10, deadline=None)
    @given(
        st.integers(0, 8),
        st.integers(0, 6),
        st.integers(0, 14),
        st.frozensets(st.integers(0, DAYS - 1), max_size=200),
    )
    def test_r8_day_by_day_ends_where_one_plan_over_all_does(
        self, daily: int, weekly: int, monthly: int, missed: frozenset[int]
    ) -> None:
        rules = policy("rolling", 0, daily, weekly, monthly)
        left, everything, now = simulate(rules, self.DAYS, missed=missed)
        assert paths(left) == paths(plan(everything, rules, now).keep)

    @pytest.mark.parametrize("numbers", [(6, 4, 1), (7, 4, 12), (1, 1, 1), (3, 0, 2), (0, 0, 0), (0, 5, 0)])
    def test_r8_every_slot_is_filled(self, numbers: tuple[int, int, int]) -> None:
        rules = policy("rolling", 31, *numbers)
        left, _, _ = simulate(rules, self.DAYS - 1)
        held = {where: sum(one.tier == where for one in left) for where in rules.keep}
        # It ends on a plain Wednesday. That daily backup is the newest, so it stays in any case.
        assert held == {**rules.keep, DAILY: max(rules.keep[DAILY], 1)}

    def test_r8_daily_strategy(self) -> None:
        left, everything, _ = simulate(policy("daily", 31, 6, 4, 1), self.DAYS)
        assert left == everything[:-32:-1]

    def test_bad_ones_do_not_pile_up_and_the_last_verified_one_stays(self) -> None:
        rules = policy("daily", 5, 6, 4, 1)
        left: list[Backup] = []
        for day in range(400):
            result = TESTED if day == 50 else FOUND_BAD if day % 3 else None
            taken = NOW + timedelta(days=day)
            left = list(plan([*left, backup(day, -24 * day, DATED, tested=result)], rules, taken).keep)
        good = [399, 396, 393, 390, 387]
        found_bad = [398, 397, 395, 394, 392, 391, 389, 388]
        assert paths(left) == [backup(day, 0, DATED).path for day in sorted([*good, *found_bad, 50])][::-1]

    @pytest.mark.parametrize("zone", ["America/Vancouver", "Australia/Lord_Howe", "Africa/Casablanca"])
    def test_r9_days_of_23_and_25_hours_fill_one_slot_each(self, zone: str) -> None:
        local = ZoneInfo(zone)
        left, _, _ = simulate(policy("daily", 370, 6, 4, 1), 400, local)
        dates = [one.taken_at.astimezone(local).date() for one in left]
        assert dates == [dates[0] - timedelta(days=day) for day in range(370)]

    def test_r9_the_hour_that_comes_twice_is_in_order(self) -> None:
        zone = ZoneInfo("America/Vancouver")
        first = datetime(2026, 11, 1, 1, 45, tzinfo=zone)
        second = datetime(2026, 11, 1, 1, 15, tzinfo=zone, fold=1)
        backups = [replace(backup(0, 0), taken_at=first), replace(backup(1, 0), taken_at=second)]
        rules = policy("rolling", 0, 1, 0, 0)
        for now in (second, second.astimezone(UTC)):
            assert paths(plan(backups, rules, now).remove) == paths(backups[:1])

    def test_r10_a_clock_that_was_wrong_for_a_day_costs_nothing(self) -> None:
        rules = policy("rolling", 0, 3, 0, 0)
        usual = series(DAILY, 3)
        early = replace(backup(8, 0), taken_at=datetime(1970, 1, 1, tzinfo=UTC))
        at_that_time = plan([*usual, early], rules, early.taken_at)
        assert at_that_time.remove == ()
        late = replace(backup(9, 0), taken_at=NOW + timedelta(days=4000))
        assert plan([*usual, late], rules, NOW).remove == ()


def test_times_without_a_zone_are_refused() -> None:
    with pytest.raises(TypeError):
        plan([backup(0, 1)], ROLLING, NOW.replace(tzinfo=None))
    with pytest.raises(TypeError):
        plan([replace(backup(0, 1), taken_at=NOW.replace(tzinfo=None))], ROLLING, NOW)
