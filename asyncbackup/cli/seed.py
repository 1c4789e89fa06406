"""The command `backup.sh`: the flags and the output that its users know, the same program beneath."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from asyncbackup import naming, retention, volume
from asyncbackup.cli import pruning, render, restoring, session, text, verifying
from asyncbackup.cli.app import EXIT_CODES, invoke
from asyncbackup.errors import Exit, StorageError, UsageError
from asyncbackup.model import Tier

_RULE = "=" * 128
_LINE = "-" * 128
_SIDECARS = (naming.MANIFEST, naming.RECORD, naming.RECORD_PART)

_TIERS = {Tier.DATED: "", Tier.DAILY: "daily ", Tier.WEEKLY: "weekly ", Tier.MONTHLY: "monthly "}

_LATER = {
    "service": (
        "the service (no flag: a cycle on every schedule, or every BACKUP_PERIOD) comes with a later version",
        "backup.sh -1 backs up once and exits; cron or a CronJob can call it",
    ),
}


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
    options_metavar="[FLAGS]",
)
@click.option("-1", "once", is_flag=True, help="Back up all configured databases once, and exit.")
@click.option(
    "-s", "scheduled", is_flag=True, help="Ask nothing. Alone: back up once, as in lines of a schedule."
)
@click.option("-l", "listing", is_flag=True, help="List databases with their sizes, and all backups.")
@click.option("-c", "settings", is_flag=True, help="Show settings, databases and schedules.")
@click.option(
    "-p",
    "prune",
    is_flag=True,
    help="Remove what retention does not keep of configured databases; with -f, what matches, each asked.",
)
@click.option(
    "-f", "pattern", metavar="TEXT", default="", help="Choose backups: a path, a name, or part of one."
)
@click.option(
    "-v",
    "verify",
    metavar="SPEC|all",
    help="Restore the newest backup for a test (-f: another one); all: of every database.",
)
@click.option(
    "-r",
    "restore",
    metavar="SPEC",
    help="Restore the newest backup (-f: another one); the old database stays until the new one is proven.",
)
@click.option(
    "-a",
    "admin",
    metavar="PASSWORD",
    help="With -r: of ADMIN_USER, or of postgres. Better: ADMIN_PASSWORD_FILE, which no process list shows.",
)
@click.option("-I", "go_on", is_flag=True, help="With -r: go on after errors.")
@click.option("-n", "null", is_flag=True, help="Accepted, and ignored.")
def seed(**given: Any) -> Exit:  # noqa: ANN401 - flags and texts
    """Back up PostgreSQL databases, with the flags of old.

    Short flags may be written together: -1s. The newer way to say the same, and more, is `asyncbackup`.
    """
    # Showing something came before everything else, then this was always the order.
    if given["settings"] or given["listing"]:
        return _look(settings=given["settings"], listing=given["listing"])
    if given["prune"]:
        return _prune(given["pattern"], ask=not given["scheduled"])
    if given["restore"] is not None or given["admin"] is not None or given["go_on"]:
        return _restore(given)
    if given["verify"] is not None:
        return _verify(given["verify"], given["pattern"])
    if given["once"] or given["scheduled"]:
        return _cycle("once" if given["once"] else "scheduled")
    return _later("service")


def _later(what: str) -> Exit:
    message, hint = _LATER[what]
    raise UsageError(f"{message}; nothing was done", hint=hint)


def _look(*, settings: bool, listing: bool) -> Exit:
    begun = session.begin()
    if settings:
        session.show(_settings(begun, "cron" if begun.conf.schedules else "legacy"))
    if listing:
        session.show(_listing(begun))
    for warning in (*begun.conf.warnings, *begun.unchosen()):
        begun.warn(warning)
    return Exit.OK


def _prune(pattern: str, *, ask: bool) -> Exit:
    # Without a filter it does only what every backup does at its end, and never asked.
    yes = not ask or not pattern
    begun = session.begin()
    return pruning.run(begun, (), pattern=pattern, dry_run=False, yes=yes, as_json=False, consent="-s")


def _restore(given: Mapping[str, Any]) -> Exit:
    if given["restore"] is None:
        raise UsageError("-a and -I say how to restore, and nothing says what", hint="add -r host/dbname")
    environ = restoring.environment(os.environ, given)
    if given["admin"]:
        session.begin(environ).warn(
            "-a PASSWORD can be seen in the process list; use ADMIN_PASSWORD or ADMIN_PASSWORD_FILE"
        )
    wanted = restoring.Wanted(
        spec=given["restore"],
        pattern=given["pattern"],
        go_on=given["go_on"],
        yes=given["scheduled"],
        consent="-s",
    )
    return restoring.run(wanted, environ)


def _verify(spec: str, pattern: str) -> Exit:
    begun = session.begin()
    return verifying.run(begun, begun.specs((spec,)), pattern=pattern, as_json=False)


def _cycle(mode: str) -> Exit:
    begun = session.begin()
    session.show(_settings(begun, mode))
    report = session.back_up(begun, (), show=session.wants_display(begun))
    if isinstance(report, Exit):
        return report
    session.show(f"\n{render.report_text(report, session.width())}", patient=False)
    session.show(_listing(begun), patient=False)
    return session.exit_code(report)


def _settings(begun: session.Session, mode: str) -> str:
    """Return what the old tool said before each cycle: strategy, retention, databases, schedules."""
    values, found = begun.settings, begun.conf
    keep = pruning.policy(begun).keep
    now = datetime.now().astimezone()
    today = volume.parts(retention.tier(pruning.policy(begun), now.replace(tzinfo=None)), now)
    lines = [
        f"- Run mode: {mode}",
        f"- Backup strategy: {'daily' if Tier.DATED in keep else 'rolling'}",
        *(f"- Number of {_TIERS[tier]}backups to retain: {count}" for tier, count in keep.items()),
        f"- Current backup folder: {values.backup_dir.joinpath(*today)}",
        f"- Time zone: {now:%Z %z}",
        "- Databases:",
        *(f"  - {text.database(spec)}" for spec in found.databases),
        *(f"  - {text.pattern(pattern)}" for pattern in found.patterns),
        "- Schedules:" if found.schedules else f"- Period: {text.seconds(values.backup_period)}",
        *(f"  - {s.expression} {s.action.value} {s.spec} {s.filter}".rstrip() for s in found.schedules),
        f"- FTP server: {_configured(values.ftp_url)}",
        f"- Webhook endpoint: {_configured(values.webhook_url)}",
        f"- Environment friendly name: {values.environment_friendly_name or 'not configured'}",
        f"- Environment name (id): {values.environment_name or 'not configured'}",
    ]
    return "\n".join([_RULE, "Settings:", *(text.plain(line) for line in lines), _RULE])


def _configured(secret: object) -> str:
    # Both may carry a password or a token, so not even their hosts are shown.
    return "configured" if secret else "not configured"


def _listing(begun: session.Session) -> str:
    """Return what the old tool listed: sizes of databases, the volume, and every backup as du does."""
    root = begun.settings.backup_dir
    asked = session.run(session.sizes(begun))
    if isinstance(asked, Exit):
        sys.exit(asked)
    sizes = text.table(
        ("Database", "Current Size"),
        [
            (name, text.size(size) if isinstance(size, int) else f"not available: {size}")
            for name, size in asked
        ],
    )
    blocks = [_RULE, "Current Backups:", "", sizes, "", _volume(root), _LINE]
    now = datetime.now(UTC)
    try:
        tests = {str(b.path): render.tested(b.verification, now) for b in session.backups(begun, tested=True)}
    except StorageError as error:
        return "\n".join([*blocks, text.plain(error.message), _RULE])
    return "\n".join([*blocks, *_used(root, tests), _RULE])


def _volume(root: Path) -> str:
    try:
        disk = shutil.disk_usage(root)
    except OSError as error:
        return text.plain(f"{root}: {error.strerror}")
    sizes = [text.blocks(size) for size in (disk.total, disk.used, disk.free)]
    share = f"{-(-100 * disk.used // max(1, disk.used + disk.free))}%"
    return text.table(("Size", "Used", "Avail", "Use%", "Folder"), [(*sizes, share, str(root))])


def _used(root: Path, tests: Mapping[str, str]) -> Iterator[str]:
    """Yield size, date, path and test restore of each backup, and each folder's total, as du does."""
    totals: dict[str, int] = {}
    for folder, folders, files in os.walk(root, topdown=False):
        lines = []
        total = 0
        for name in sorted(files):
            path = os.path.join(folder, name)  # noqa: PTH118 - a Path for each of many files is slow
            try:
                found = os.lstat(path)
            except OSError:
                continue  # pruned meanwhile
            total += found.st_blocks * 512
            if not name.startswith(".") and not name.endswith(_SIDECARS):
                line = _line(found.st_blocks * 512, found.st_mtime, path)
                lines.append(f"{line}  {tests[path]}" if tests.get(path) else line)
        total += sum(totals.pop(os.path.join(folder, name), 0) for name in folders)  # noqa: PTH118
        totals[folder] = total
        if Path(folder).name.startswith(".") and Path(folder) != root:
            continue
        yield from lines
        try:
            yield _line(total, Path(folder).stat().st_mtime, folder)
        except OSError:
            continue


def _line(size: int, changed: float, path: str) -> str:
    when = datetime.fromtimestamp(changed, UTC).astimezone()
    return f"{text.blocks(size):<7} {when:%Y-%m-%d %H:%M}        {text.plain(path)}"


def main() -> NoReturn:
    """Run `backup.sh`."""
    sys.exit(invoke(seed, "backup.sh"))
