"""What every command begins with: the environment read once, logs opened, signals understood."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import stamina.instrumentation

from asyncbackup import backup, conf, dbspec, inventory
from asyncbackup import settings as settings_of
from asyncbackup.cli import logs
from asyncbackup.errors import AsyncbackupError, Exit, UsageError
from asyncbackup.events import Events, Level, Sink
from asyncbackup.model import Backup, DatabaseSpec, Report, Secret
from asyncbackup.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The configuration, read and checked."""

    environ: Mapping[str, str]
    settings: Settings
    conf: conf.Conf

    def specs(self, texts: tuple[str, ...]) -> tuple[DatabaseSpec, ...]:
        """Return the databases named on the command line; none for `all`."""
        if not texts or "all" in texts:
            return ()
        problems, specs = [], []
        for name in texts:
            try:
                specs.append(dbspec.parse_spec(name, default_port=self.settings.default_port))
            except (ValueError, AsyncbackupError) as error:
                problems.append(str(error))
        if problems:
            raise UsageError("\n".join(problems), hint="a database is named host/dbname or host:port/dbname")
        return tuple(dict.fromkeys(specs))

    def secrets(self) -> list[str]:
        """Return every secret that no output may show."""
        values = [getattr(self.settings, name) for name in type(self.settings).model_fields]
        found = [value.reveal() for value in values if isinstance(value, Secret) and value]
        found += [
            value
            for name, value in self.environ.items()
            if value and (name.endswith("_PASSWORD") or name == "PGPASSWORD")
        ]
        return found

    def events(self, *sinks: Sink, quiet: bool = False) -> Events:
        """Return where events are told: the log on stderr, unless a live display stands in for it."""
        log = () if quiet else (self.log_sink(),)
        return Events(*log, *sinks)

    def log_sink(self) -> Sink:
        """Return the log as configured; `auto` is JSON wherever no terminal reads."""
        log_format = self.settings.log_format
        if log_format == "auto":
            log_format = "console" if sys.stderr.isatty() else "json"
        return logs.sink(log_format, Level[self.settings.log_level.upper()], self.secrets())


def begin(environ: Mapping[str, str] | None = None) -> Session:
    """Read the configuration once; raises ConfigError with everything that is wrong with it."""
    environ = dict(os.environ if environ is None else environ)
    # Our own events tell of every retry; stamina's would go to stdout.
    stamina.instrumentation.set_on_retry_hooks([])
    os.umask(0o077)
    loaded = settings_of.load(environ)
    return Session(environ=environ, settings=loaded, conf=settings_of.databases(loaded))


def fail(error: AsyncbackupError) -> Exit:
    """Say what failed and what to do next, on stderr, for people; return the exit code."""
    for line in str(error).splitlines() or [type(error).__name__]:
        print(f"Error: {line}", file=sys.stderr)
    if error.hint:
        print(f"Try: {error.hint}", file=sys.stderr)
    return error.exit_code


def run(work: Coroutine[Any, Any, T], interrupted: Callable[[], None] = lambda: None) -> T | Exit:
    """Run to the end; on SIGINT or SIGTERM unwind, call `interrupted`, and return 130 or 143.

    A second signal ends the process at once.
    """
    received: list[int] = []

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            received.append(number)
            if len(received) > 1:
                os._exit(128 + number)
            if task is not None:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if not received:
            raise
        interrupted()
        return Exit.INTERRUPTED if received[0] == signal.SIGINT else Exit.TERMINATED


def back_up(session: Session, only: tuple[DatabaseSpec, ...], *, show: bool) -> Report | Exit:
    """Run a backup with the live display (`show`) or with logs."""
    board = backup.Board()
    with ExitStack() as stack:
        if show:
            from asyncbackup.cli import display  # noqa: PLC0415 - costs memory that only terminals need

            events = session.events(stack.enter_context(display.live(board)), quiet=True)
        else:
            events = session.events()
        for warning in session.conf.warnings:
            events.warning("configuration.warning", message=warning)
        started = datetime.now(UTC)

        def interrupted() -> None:
            report = Report(
                run_id="",
                started_at=started,
                seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
                outcomes=tuple(board.outcomes),
            )
            backup.finish(events, report, "run.interrupted")

        work = backup.run(session.settings, session.conf, session.environ, events, only=only, board=board)
        return run(work, interrupted)


def exit_code(report: Report | Exit) -> Exit:
    """Return the exit code of a run, however it ended."""
    return report if isinstance(report, Exit) else backup.exit_code(report)


def wants_display(session: Session) -> bool:
    """Whether a person watches: both a terminal and no wish for logs."""
    return session.settings.log_format == "auto" and sys.stderr.isatty()


def backups(session: Session, specs: tuple[DatabaseSpec, ...] = (), pattern: str = "") -> list[Backup]:
    """Return all backups, or those of these databases, sorted by database and newest first."""
    found = inventory.scan(session.settings.backup_dir)
    configured = {*session.conf.databases, *specs}
    loaded = [inventory.load(entry, configured) for entry in found.entries if pattern in str(entry.path)]
    chosen = [b for b in loaded if not specs or b.spec in specs]
    chosen.sort(key=lambda b: b.taken_at, reverse=True)
    chosen.sort(key=lambda b: str(b.spec) if b.spec else b.core)
    return chosen
