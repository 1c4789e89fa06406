"""Which backups of one series to keep: a pure function of their list, a policy and a clock.

What a folder keeps is counted, not dated: the newest N good backups of the series within one tier.
Whatever is in doubt stays and counts for nothing, for a backup too many costs disk space, and one
too few cannot be had again.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asyncbackup.errors import ConfigError
from asyncbackup.model import Backup, Decision, Plan, Policy, Tier

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of the clock a backup may be taken and still count as taken now."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUNDAY = 7


def policy(strategy: str, num_backups: int, daily: int, weekly: int, monthly: int) -> Policy:
    """Return the policy that the five settings of old mean; counts of 0 or less become 0.

    Raises ConfigError for a strategy that is neither `daily` nor `rolling`: taken for one of them, a
    typo would remove backups.
    """
    if strategy not in {"daily", "rolling"}:
        raise ConfigError([f"BACKUP_STRATEGY is {strategy!r}; it must be daily or rolling"])
    # A negative weekly or monthly count has always turned the rolling strategy off.
    if strategy == "daily" or weekly < 0 or monthly < 0:
        return Policy(keep={Tier.DATED: max(num_backups, 0)})
    if max(daily, weekly, monthly) <= 0:
        daily = 1
    return Policy(keep={Tier.DAILY: max(daily, 0), Tier.WEEKLY: weekly, Tier.MONTHLY: monthly})


def tier(policy: Policy, when_local: datetime) -> Tier:
    """Return the tier of a backup taken now; `when_local` is local time, as in its name."""
    if Tier.DATED in policy.keep:
        return Tier.DATED
    if policy.keep.get(Tier.MONTHLY, 0) > 0 and (when_local.date() + timedelta(days=1)).day == 1:
        return Tier.MONTHLY
    return Tier.WEEKLY if when_local.isoweekday() == _SUNDAY else Tier.DAILY


def plan(backups: Iterable[Backup], policy: Policy, now: datetime) -> Plan:
    """Decide about all backups of one series, newest first; `now` is aware, as their times are.

    - The newest N proven backups of a tier stay, N by the policy; older proven ones go. Equal times are
      told apart by path.
    - A good backup without a manifest stays while it is among the newest N good ones of its tier, but
      takes no proven one's place: nobody knows what is in it.
    - The newest good backup of the whole series stays, whatever the policy and the clock say; so does
      the newest proven one, and the newest one that a test restore has verified.
    - A backup that a test restore found bad takes no place, and is none of the newest good ones. It stays,
      to be looked into, until newer proven ones that were not found bad fill its tier's count; then it
      goes, so that bad ones do not pile up.
    - A backup that is not good stays: its manifest may be all that is damaged, or of a newer version
      than this program reads. It takes no good one's place.
    - A backup from the future stays until the clock has caught up, and takes no place either: of
      the clock and the backup, either can be wrong.
    - Tiers that the policy does not name keep everything.

    Raises ValueError when the backups are known to be of several series: counted together, those
    of one would push out those of another.
    """
    # One file listed twice must not count twice.
    listed = {backup.path: backup for backup in sorted(backups, key=_order)}
    series = {backup.spec for backup in listed.values() if backup.spec is not None}
    if len(series) > 1:
        raise ValueError(f"retention takes one series at a time, not {', '.join(sorted(map(str, series)))}")

    decisions: list[Decision] = []
    of_good, of_proven = dict.fromkeys(Tier, 0), dict.fromkeys(Tier, 0)
    verified = False
    for backup in sorted(listed.values(), key=_order, reverse=True):
        if not backup.good:
            problem = backup.problem or "it has no valid manifest"
            decisions.append(_keep(backup, f"not counted, since it cannot be relied on: {problem}"))
        elif _instant(backup.taken_at) > _instant(now) + CLOCK_SKEW:
            decisions.append(_keep(backup, "not counted, since its time lies in the future"))
        elif backup.bad:
            superseded = any(of_proven.values())
            count = policy.keep.get(backup.tier)
            decisions.append(_decide_bad(backup, count, of_proven[backup.tier], superseded=superseded))
        else:
            rank = of_proven if backup.proven else of_good
            newest = "good backup" if not any(of_good.values()) else ""
            if backup.proven and not any(of_proven.values()):
                newest = newest or "backup with a valid manifest"
            if backup.verified and not verified:
                newest = newest or "backup that a test restore has verified"
            verified = verified or backup.verified
            of_good[backup.tier] += 1
            of_proven[backup.tier] += backup.proven
            decisions.append(_decide(backup, policy.keep.get(backup.tier), rank[backup.tier], newest))
    return Plan(decisions=tuple(decisions))


def spare(plan: Plan, paths: Collection[Path], why: str) -> Plan:
    """Return the plan with these backups kept, whatever it said of them."""
    return Plan(
        decisions=tuple(
            _keep(one.backup, why) if not one.keep and one.backup.path in paths else one
            for one in plan.decisions
        )
    )


def _decide(backup: Backup, count: int | None, rank: int, newest: str) -> Decision:
    """Decide about a good backup, the `rank`-th newest of its tier; `newest` is what it is the newest of."""
    if count is None:
        return _keep(backup, f"the backup strategy in use leaves {backup.tier} backups alone")
    if rank <= count and backup.proven:
        return _keep(backup, f"{_ordinal(rank)} of {count} {backup.tier}")
    if rank <= count:
        return _keep(backup, f"among the newest {count} {backup.tier}; without a manifest, it is not counted")
    if newest:
        return _keep(backup, f"the newest {newest} is never removed")
    if count <= 0:
        return _remove(backup, f"no {backup.tier} backups are to be kept, and a newer good one exists")
    return _remove(backup, f"older than the newest {count} {backup.tier}")


def _decide_bad(backup: Backup, count: int | None, newer: int, *, superseded: bool) -> Decision:
    """Decide about a bad backup; `newer` good ones are in its tier, `superseded` says that any are at all."""
    if count is None:
        return _keep(backup, f"the backup strategy in use leaves {backup.tier} backups alone")
    if newer < count or not superseded:
        return _keep(backup, "not counted, since a test restore found it bad")
    return _remove(backup, "a test restore found it bad, and newer good ones have taken its place")


def _keep(backup: Backup, why: str) -> Decision:
    return Decision(backup=backup, keep=True, reason=f"kept: {why}")


def _remove(backup: Backup, why: str) -> Decision:
    return Decision(backup=backup, keep=False, reason=f"removed: {why}")


def _instant(when: datetime) -> timedelta:
    """Return a time that compares truly: two datetimes in one zone compare by the wall clock.

    In the hour that the end of summer time repeats, that would put a newer backup before an older.
    """
    return when - _EPOCH


def _order(backup: Backup) -> tuple[timedelta, str]:
    return _instant(backup.taken_at), str(backup.path)


def _ordinal(number: int) -> str:
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}th" if number % 100 in {11, 12, 13} else f"{number}{suffix}"
