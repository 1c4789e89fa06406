"""What stopped one database, as its outcome and as the event that tells of it."""

import time

from asyncbackup.errors import AsyncbackupError, LockedError, StalledDumpError
from asyncbackup.events import Events
from asyncbackup.model import DatabaseSpec, Outcome, Status
from asyncbackup.tools import Journey, Tools


def late(spec: DatabaseSpec, tools: Tools, error: Exception) -> StalledDumpError:
    """Return the error of a database whose deadline has come."""
    late = StalledDumpError(
        f"{spec}: not done after {tools.deadline:g} s, and ended",
        hint="raise BACKUP_DEADLINE, or find out what makes it slow",
    )
    late.__cause__ = error
    return late


def since(under_way: Journey) -> float:
    """Return the seconds since a journey began."""
    return round(time.monotonic() - under_way.started, 3)


def failed(spec: DatabaseSpec, error: Exception, warnings: tuple[str, ...], seconds: float) -> Outcome:
    """Return the outcome of a database that something has stopped; what is not ours is a bug."""
    ours = error if isinstance(error, AsyncbackupError) else None
    return Outcome(
        spec=spec,
        status=Status.LOCKED if isinstance(error, LockedError) else Status.FAILED,
        seconds=seconds,
        warnings=warnings,
        error=str(error) if ours else f"{spec}: {type(error).__name__}: {error}",
        category=ours.category if ours else "bug",
        hint=ours.hint if ours else "this is a defect: please report it",
    )


def tell_failure(outcome: Outcome, error: Exception, stage: str, events: Events) -> None:
    """Tell of it, with a traceback where it is a bug."""
    events.error(
        "backup.failed",
        error=outcome.error,
        category=outcome.category,
        hint=outcome.hint,
        stage=stage,
        warnings=list(outcome.warnings),
        seconds=outcome.seconds,
        **({} if isinstance(error, AsyncbackupError) else {"exc_info": error}),
    )


def bound(events: Events, spec: DatabaseSpec) -> Events:
    """Return events that say which database they are about."""
    return events.bind(host=spec.host, port=spec.port, dbname=spec.dbname or "@globals")
