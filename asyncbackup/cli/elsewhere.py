"""What the commands about secondary locations have in common."""

import sys
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from asyncbackup import backup, dbspec, locks, naming
from asyncbackup.cli import logs, pruning
from asyncbackup.cli import session as session_of
from asyncbackup.cli.session import Session
from asyncbackup.errors import Exit, UsageError
from asyncbackup.events import Event, Events
from asyncbackup.model import DatabaseSpec
from asyncbackup.offsite import fetching
from asyncbackup.offsite.location import Location
from asyncbackup.targets.configured import targets, warnings

T = TypeVar("T")
THREADS = 8


def locations(session: Session) -> tuple[Location, ...]:
    """Return the configured locations; raises UsageError where there are none."""
    found = tuple(map(Location, targets(session.settings)))
    if not found:
        raise UsageError(
            "no secondary location is configured", hint="set FTP_URL, SECONDARY_DIR or S3_BUCKET"
        )
    return found


def owners(session: Session, specs: Collection[DatabaseSpec]) -> naming.Owners:
    """Return whose a backup without a manifest can be."""
    return naming.Owners.build([*session.conf.databases, *specs], session.conf.patterns, dbspec.matches)


def place(session: Session, executor: ThreadPoolExecutor, root: Path | None = None) -> fetching.Place:
    """Return the backup directory, or another folder, as a place to put backups into."""
    values = session.settings
    return fetching.Place(
        root=root or values.backup_dir,
        lock_folder=locks.folder(root or values.backup_dir, None if root else values.lock_dir),
        policy=pruning.policy(session),
        file_mode=values.backup_file_mode,
        executor=executor,
        run_id=backup.new_run_id(datetime.now(UTC)),
    )


def events(session: Session, stack: ExitStack) -> Events:
    """Return where events of these commands go: to the log, or for a person only what is amiss."""
    if not session_of.wants_display(session):
        log = session.log()
        stack.callback(logs.close, log, sys.stderr)
        return Events(log)
    from asyncbackup.cli import display  # noqa: PLC0415 - costs memory that only terminals need

    mask = logs.masker(session.secrets())
    shown = stack.enter_context(display.plain())

    def sink(event: Event) -> None:
        shown(logs.masked_event(event, mask))

    return Events(sink)


def run(session: Session, work: Callable[[Events, ThreadPoolExecutor], Coroutine[Any, Any, T]]) -> T | Exit:
    """Run the work with its events shown or logged, and a few threads for files."""
    with ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(THREADS, "file"))
        told = events(session, stack).bind(run_id=backup.new_run_id(datetime.now(UTC)))
        for warning in session.conf.warnings:
            told.warning("configuration.warning", message=warning)
        for warning in warnings(session.settings):
            told.warning("remote.insecure", message=warning)
        return session_of.run(work(told, executor))
