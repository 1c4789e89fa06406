"""Pruning by hand: by the policy, or chosen files one by one."""

from collections.abc import Collection
from datetime import UTC, datetime

import click

from asyncbackup import backup, locks, naming, prune, retention
from asyncbackup.cli import render, text
from asyncbackup.cli.session import Session, backups
from asyncbackup.errors import AsyncbackupError, Exit, LockedError
from asyncbackup.model import Backup, DatabaseSpec, Decision, Plan, Policy


def policy(session: Session) -> Policy:
    """Return the retention policy of the settings."""
    values = session.settings
    return retention.policy(
        values.backup_strategy,
        values.num_backups,
        values.daily_backups,
        values.weekly_backups,
        values.monthly_backups,
    )


def run(
    session: Session,
    specs: tuple[DatabaseSpec, ...],
    *,
    pattern: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> Exit:
    """Prune, and print what was decided and done."""
    now = datetime.now(UTC)
    found = backups(session, specs)
    series = {b.spec for b in found if b.spec is not None}
    plans = {
        spec: retention.plan([b for b in found if b.spec == spec], policy(session), now)
        for spec in sorted(series)
    }
    if pattern:
        plans = {spec: _chosen(plan, pattern, now) for spec, plan in plans.items()}
    unknown = [b for b in found if b.spec is None and pattern in str(b.path)]
    decisions = [decision for plan in plans.values() for decision in plan.decisions]
    if as_json:
        click.echo(render.as_json(render.decisions(decisions)))
    else:
        _print(decisions, unknown, now)
    removing = sum(len(plan.remove) for plan in plans.values())
    if dry_run or not removing:
        return Exit.OK
    if not yes and not pattern and not click.confirm(f"Remove {removing} files?", err=True):
        return Exit.OK
    return _carry_out(session, plans, now, one_by_one=bool(pattern) and not yes)


def _chosen(plan: Plan, pattern: str, now: datetime) -> Plan:
    """Turn a plan into one that removes what matches, but never the newest good backup."""
    good = [b for b in (d.backup for d in plan.decisions) if b.good and b.taken_at <= now]
    newest = max(good, key=lambda b: b.taken_at, default=None)
    decisions = []
    for decision in plan.decisions:
        if pattern not in str(decision.backup.path):
            continue
        keep = decision.backup is newest
        reason = "kept: the newest good backup is never removed" if keep else "removed: chosen by hand"
        decisions.append(Decision(backup=decision.backup, keep=keep, reason=reason))
    return Plan(decisions=tuple(decisions))


def _print(decisions: Collection[Decision], unknown: Collection[Backup], now: datetime) -> None:
    rows = [
        (
            "keep" if decision.keep else "remove",
            text.age(decision.backup.taken_at, now),
            str(decision.backup.path),
            decision.reason,
        )
        for decision in decisions
    ]
    rows += [
        ("keep", text.age(b.taken_at, now), str(b.path), "kept: whose it is cannot be told for certain")
        for b in unknown
    ]
    click.echo(render.table(("", "AGE", "FILE", "WHY"), rows, right=frozenset({1})) if rows else "no backups")


def _carry_out(session: Session, plans: dict[DatabaseSpec, Plan], now: datetime, *, one_by_one: bool) -> Exit:
    root = session.settings.backup_dir
    lock_folder = locks.folder(root, session.settings.lock_dir)
    run_id = backup.new_run_id(now)
    results: list[AsyncbackupError] = []
    removed = 0
    for spec, plan in plans.items():
        chosen = [
            b
            for b in reversed(plan.remove)
            if not one_by_one or click.confirm(f"Remove {text.plain(str(b.path))}?", err=True)
        ]
        if not chosen:
            continue
        try:
            with locks.hold(lock_folder, naming.long_core(spec), str(spec), run_id):
                still_there = [b for b in chosen if b.path.exists()]
                removal = prune.remove(still_there, root, lock_folder, run_id)
            removed += len(removal.removed)
            prune.raise_problems(removal)
        except AsyncbackupError as error:
            results.append(error)
            click.echo(f"Error: {error}", err=True)
    click.echo(f"{removed} removed", err=True)
    if not results:
        return Exit.OK
    if removed:
        return Exit.PARTIAL
    return Exit.LOCKED if all(isinstance(error, LockedError) for error in results) else Exit.FAILED
