"""Pruning by hand: by the policy, or chosen files one by one."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from asyncbackup import backup, conf, locks, naming, prune, records, retention
from asyncbackup.cli import logs, render, text
from asyncbackup.cli.choosing import require_known
from asyncbackup.cli.session import Session, ask, backups, can_ask, fail, show
from asyncbackup.cli.session import run as run_async
from asyncbackup.errors import AsyncbackupError, Exit, LockedError, UsageError
from asyncbackup.events import Event, Events, Sink
from asyncbackup.model import GLOBALS, Backup, DatabaseSpec, Decision, Plan, Policy, Server
from asyncbackup.offsite import shipping
from asyncbackup.targets.configured import targets

_BY_HAND = "removed: chosen by hand"


@dataclass(slots=True)
class _Done:
    """What has come of it so far."""

    removed: list[Backup] = field(default_factory=list)
    errors: list[AsyncbackupError] = field(default_factory=list)

    def exit_code(self) -> Exit:
        if not self.errors:
            return Exit.OK
        if self.removed:
            return Exit.PARTIAL
        return Exit.LOCKED if all(isinstance(error, LockedError) for error in self.errors) else Exit.FAILED


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
    everything: bool = False,
    pattern: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    consent: str = "--yes",
) -> Exit:
    """Prune, and print what was decided and done; `consent` is the flag that stands for every yes.

    Without `specs`, only what the configuration names is looked at, unless `everything` is meant.
    """
    now = datetime.now(UTC)
    require_known(session, specs)
    found = backups(session, specs)
    others: set[DatabaseSpec] = set()
    if not specs and not everything:
        named = _configured(session.conf, {b.spec for b in found if b.spec is not None})
        others = {b.spec for b in found if b.spec and b.spec not in named and pattern in str(b.path)}
        found = [b for b in found if b.spec is None or b.spec in named]
    series = {b.spec for b in found if b.spec is not None}
    plans = {
        spec: retention.plan([b for b in found if b.spec == spec], policy(session), now)
        for spec in sorted(series)
    }
    if pattern:
        unsaved = _unsaved(
            session, plans, {spec: _chosen(plan, pattern, now) for spec, plan in plans.items()}
        )
    else:
        unsaved = _unsaved(session, plans, plans)
    if isinstance(unsaved, Exit):
        return unsaved
    if pattern:
        plans = {spec: _chosen(plan, pattern, now, unsaved) for spec, plan in plans.items()}
    else:
        why = "it is at no secondary location yet"
        plans = {spec: retention.spare(plan, unsaved, why) for spec, plan in plans.items()}
    decisions = [decision for plan in plans.values() for decision in plan.decisions]
    decisions += [
        Decision(backup=b, keep=True, reason="kept: whose it is cannot be told for certain")
        for b in found
        if b.spec is None and pattern in str(b.path)
    ]
    if not as_json:
        nothing = f"no backup's path holds {text.plain(pattern)}" if pattern else "no backups to prune"
        show(_table(decisions, now) if decisions else nothing)
        if others:
            many = "1 other series was" if len(others) == 1 else f"{len(others)} other series were"
            show(
                f"\n{many} left alone, since the configuration does not name them;"
                " `asyncbackup prune all` means them, too"
            )
    removing = sum(len(plan.remove) for plan in plans.values())
    done = _Done()
    if removing and not dry_run:
        if not yes and not can_ask():
            raise UsageError(
                "nothing was removed: there is no terminal to ask on",
                hint=f"add {consent} to remove them without being asked",
            )
        if yes or pattern or ask(f"Remove {removing} of {text.counted(len(decisions), 'backup')}?"):
            _carry_out(session, plans, now, done, one_by_one=bool(pattern) and not yes)
    freed = sum(b.bytes for b in done.removed)
    if as_json:
        mask = logs.masker(session.secrets())
        errors = [mask(error.message) for error in done.errors]
        result = render.pruned(decisions, done.removed, errors, dry_run=dry_run, left_alone=len(others))
        show(render.as_json(result))
    elif removing:
        would = f"; {removing} would be, without --dry-run" if dry_run else f", {text.size(freed)} freed"
        show(f"\n{len(done.removed)} removed{would}")
    return done.exit_code()


def _unsaved(
    session: Session, plans: Mapping[DatabaseSpec, Plan], chosen: Mapping[DatabaseSpec, Plan]
) -> frozenset[Path] | Exit:
    """Return what would be removed of these, and is at no secondary location yet where it belongs."""
    if not targets(session.settings) or not any(plan.remove for plan in chosen.values()):
        return frozenset()

    async def ask_there() -> frozenset[Path]:
        with ExitStack() as stack:
            executor = stack.enter_context(ThreadPoolExecutor(1, "file"))
            offsite = shipping.of_settings(
                session.settings, policy(session), executor, lambda: datetime.now(UTC)
            )
            assert offsite is not None  # noqa: S101 - there are targets
            found: set[Path] = set()
            for spec, plan in plans.items():
                local = [decision.backup for decision in plan.decisions]
                found |= await offsite.unsaved(spec, local, chosen[spec].remove, Events(_warn(session)))
            return frozenset(found)

    return run_async(ask_there())


def _warn(session: Session) -> Sink:
    def sink(event: Event) -> None:
        session.warn(f"{event.fields['location']}: what may not be there stays here: {event.fields['error']}")

    return sink


def _configured(found: conf.Conf, series: Collection[DatabaseSpec]) -> frozenset[DatabaseSpec]:
    """Return the series that a configuration names: lines, what its wildcards match, and their globals."""
    names: dict[Server, list[str]] = {}
    for spec in series:
        if not spec.is_globals:
            names.setdefault(spec.server, []).append(spec.dbname)
    named = conf.resolve(found.databases, found.patterns, names, lines=found.lines)
    servers = {*(spec.server for spec in named), *conf.wanted_servers(found.patterns)}
    return frozenset({*named, *(DatabaseSpec(s.host, s.port, GLOBALS) for s in servers)})


def _chosen(plan: Plan, pattern: str, now: datetime, unsaved: Collection[Path] = ()) -> Plan:
    """Turn a plan into one that removes what matches, but never the newest good backup.

    Nor, where clocks disagree, the one that is the newest of those that are not from the future. What a
    test restore found bad is good only where there is nothing better.
    """
    good = sorted((d.backup for d in plan.decisions if d.backup.good), key=lambda b: b.taken_at)
    good = [b for b in good if not b.bad] or good
    past = [b for b in good if b.taken_at <= now + retention.CLOCK_SKEW]
    newest = {b.path for b in (*good[-1:], *past[-1:])}
    verified = _newest_verified(plan)
    decisions = []
    for decision in plan.decisions:
        if pattern not in str(decision.backup.path):
            continue
        keep = decision.backup.path in newest
        reason = "kept: the newest good backup is never removed" if keep else _BY_HAND
        if not keep and decision.backup == verified:
            reason += ", though it is the newest that a test restore has verified"
        if not keep and decision.backup.path in unsaved:
            reason += ", though it is at no secondary location yet"
        decisions.append(Decision(backup=decision.backup, keep=keep, reason=reason))
    return Plan(decisions=tuple(decisions))


def _newest_verified(plan: Plan) -> Backup | None:
    return max(
        (d.backup for d in plan.decisions if d.backup.verified), key=lambda b: b.taken_at, default=None
    )


def _table(decisions: Collection[Decision], now: datetime) -> str:
    rows = [
        (
            "keep" if decision.keep else "remove",
            text.age(decision.backup.taken_at, now),
            text.size(decision.backup.bytes),
            str(decision.backup.path),
            render.problem(decision.backup, decision.reason.partition(": ")[2]),
        )
        for decision in decisions
    ]
    return text.table(("", "AGE", "SIZE", "FILE", "WHY"), rows, right=frozenset({1, 2}))


def _carry_out(
    session: Session, plans: Mapping[DatabaseSpec, Plan], now: datetime, done: _Done, *, one_by_one: bool
) -> None:
    root = session.settings.backup_dir
    apart = records.folder(session.settings.verify_dir)
    lock_folder = locks.folder(root, session.settings.lock_dir)
    run_id = backup.new_run_id(now)
    for spec, plan in plans.items():
        though = {d.backup.path: d.reason.partition(_BY_HAND)[2] for d in plan.decisions}
        for batch in [[b] for b in reversed(plan.remove)] if one_by_one else [plan.remove[::-1]]:
            if not batch or (one_by_one and not ask(f"Remove {batch[0].path}{though[batch[0].path]}?")):
                continue
            try:
                # Held only while files go, not while a person makes up their mind.
                with locks.hold(lock_folder, naming.long_core(spec), str(spec), run_id):
                    still_there = [b for b in batch if b.path.exists()]
                    removal = prune.remove(still_there, root, lock_folder, run_id, apart)
                done.removed += [b for b in batch if b.path in removal.removed]
                prune.raise_problems(removal)
            except AsyncbackupError as error:
                done.errors.append(error)
                fail(error)
