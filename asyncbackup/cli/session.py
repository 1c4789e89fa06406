"""What every command begins with: the environment read once, logs opened, signals understood."""

import asyncio
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import stamina.instrumentation

from asyncbackup import backup, conf, configuration, dbspec, inventory, naming, records
from asyncbackup.cli import logs, text
from asyncbackup.errors import AsyncbackupError, DatabaseMissingError, Exit, StorageError, UsageError
from asyncbackup.events import Event, Events, Level
from asyncbackup.model import Backup, DatabaseSpec, Report, Secret, Server
from asyncbackup.postgres.connect import endpoint
from asyncbackup.postgres.facts import overview
from asyncbackup.settings import Settings
from asyncbackup.targets import url

T = TypeVar("T")

_MAINTENANCE = ("postgres", "template1")
_NAMES_ONE = {"database_service_name", "postgresql_database"}
_SERVERS_AT_ONCE = 16
_NO_RIGHT = -1  # instead of a size
_PATIENCE = 3.0  # seconds a server may take: nobody wants to wait for a list of files


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
            except UsageError as error:
                problems.append(error.message)
        if problems:
            raise UsageError("\n".join(problems), hint="`asyncbackup config` lists the configured databases")
        return tuple(dict.fromkeys(specs))

    def required(self) -> tuple[DatabaseSpec, ...]:
        """Return the databases that somebody has named; what wildcards stand for, only servers know."""
        if self.unchosen():
            return ()  # a default that nobody has chosen: perhaps there is just a folder to look at
        return conf.resolve(self.conf.databases, self.conf.patterns, {}, lines=self.conf.lines)

    def unchosen(self) -> tuple[str, ...]:
        """Return a warning where the default database is meant only because nobody has named any."""
        if self.conf.lines != (0,) or self.settings.model_fields_set & _NAMES_ONE:
            return ()
        file = self.settings.backup_conf
        why = f"{file} lists no database" if file.exists() else f"there is no {file} here"
        return (f"{why}, and no variable names one; the default database {self.conf.databases[0]} is tried",)

    def secrets(self) -> list[str]:
        """Return every secret that no output may show."""
        fields = set(type(self.settings).model_fields) - {"ftp_url"}  # only its password is a secret
        values = [getattr(self.settings, name) for name in fields]
        servers = {spec.server for spec in self.conf.databases}
        servers.update(conf.wanted_servers(self.conf.patterns))
        values += [configuration.credentials(self.settings, server).password for server in servers]
        if self.settings.ftp_url:
            values.append(url.parse_ftp(self.settings.ftp_url.reveal()).password)
        found = [value.reveal() for value in values if isinstance(value, Secret) and value]
        return found + _passwords(self.environ)

    def warn(self, message: str) -> None:
        """Tell of something odd in the configuration."""
        _tell(Level.WARNING, "configuration.warning", f"Warning: {message}", message=message)

    def log(self) -> logs.Log:
        """Return the log on stderr as configured; `auto` is JSON wherever no terminal reads."""
        log_format = self.settings.log_format
        if log_format == "auto":
            log_format = "console" if logs.is_terminal(sys.stderr) else "json"
        return logs.Log(log_format, Level[self.settings.log_level.upper()], self.secrets())


_begun: deque[Session] = deque(maxlen=1)
"""The session of this process, once there is one: errors may repeat its secrets."""


def begin(environ: Mapping[str, str] | None = None) -> Session:
    """Read the configuration once; raises ConfigError with everything that is wrong with it."""
    environ = dict(os.environ if environ is None else environ)
    # Our own events tell of every retry; stamina's would go to stdout.
    stamina.instrumentation.set_on_retry_hooks([])
    os.umask(0o077)
    loaded, found = configuration.read(environ)
    begun = Session(environ=environ, settings=loaded, conf=found)
    _begun.append(begun)
    return begun


def secrets() -> list[str]:
    """Return every secret that is known by now."""
    return _begun[0].secrets() if _begun else _passwords(os.environ)


def fail(error: AsyncbackupError) -> Exit:
    """Say what failed and what to do next, on stderr; return the exit code."""
    told = [f"Error: {line}" for line in str(error).splitlines() or [type(error).__name__]]
    told += [f"Try: {line}" for line in error.hint.splitlines()]
    _tell(
        Level.ERROR,
        "command.failed",
        "\n".join(told),
        error=str(error),
        category=error.category,
        hint=error.hint,
        exit_code=int(error.exit_code),
    )
    return error.exit_code


def speaks_json(environ: Mapping[str, str]) -> bool:
    """Whether every line on stderr has to be a JSON object; asked before the settings are known."""
    return environ.get("LOG_FORMAT", "").strip().lower() == "json"


def _passwords(environ: Mapping[str, str]) -> list[str]:
    return [value for name, value in environ.items() if value and name.endswith("PASSWORD")]


def _tell(level: Level, event: str, sentence: str, **fields: Any) -> None:  # noqa: ANN401
    """Say something outside of a run: a sentence, or an object where LOG_FORMAT=json promises only those."""
    if sys.stderr is None or logs.identity(sys.stderr) in logs.unread:
        return
    if speaks_json(_begun[0].environ if _begun else os.environ):
        log = logs.Log("json", Level.DEBUG, secrets())
        log(Event(name=event, level=level, at=datetime.now(UTC), fields=fields))
        logs.close(log, sys.stderr)
        return
    writer = logs.Writer(sys.stderr)
    for line in logs.masker(secrets())(sentence).splitlines():
        writer.put(text.plain(line))
    logs.close(writer, sys.stderr)


def show(result: str, *, patient: bool = True) -> None:
    """Print a result on stdout; raises StorageError when it cannot be written.

    A reader that has seen enough (`| head`) is no failure: the work was done, and its exit code stays.
    Unless `patient`, one that reads nothing does not keep us for long where the log goes there, too.
    """
    if sys.stdout is None:
        return
    if not patient and logs.one_pipe():
        if logs.identity(sys.stdout) not in logs.unread:
            writer = logs.Writer(sys.stdout)
            writer.put(result)
            logs.close(writer, sys.stdout)
        return
    try:
        print(result, flush=True)
    except BrokenPipeError:
        # Else the interpreter would try to flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(f"cannot write the result to stdout: {error.strerror}") from error


def width() -> int | None:
    """Return how wide the terminal is that shows results; None where none does."""
    return shutil.get_terminal_size().columns if logs.is_terminal(sys.stdout) else None


def ask(question: str) -> bool:
    """Ask on stderr, whose answer stdin gives; no is the default. Only for terminals: see `can_ask`."""
    print(f"{text.plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return input().strip().lower() in {"y", "yes"}


def can_ask() -> bool:
    """Whether a person can see a question and answer it."""
    return logs.is_terminal(sys.stdin) and logs.is_terminal(sys.stderr)


def run(work: Coroutine[Any, Any, T], interrupted: Callable[[], None] = lambda: None) -> T | Exit:
    """Run to the end; on SIGINT or SIGTERM unwind, call `interrupted`, and return 130 or 143.

    A second signal ends the process at once, even where the event loop hangs. Signals that were ignored
    when we were started (nohup) stay so.
    """
    received: list[int] = []
    heeded = [
        n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN
    ]

    def note(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(128 + number)

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop() -> None:
            if task is not None:
                task.cancel()

        for number in heeded:
            # The first signal wakes the loop. Our handler, unlike the loop's, interrupts system calls
            # and is called also while the loop waits in one.
            loop.add_signal_handler(number, stop)
            signal.signal(number, note)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if not received:
            raise
        for number in heeded:  # the loop's end has reset them
            signal.signal(number, note)
        interrupted()
        return Exit.INTERRUPTED if received[0] == signal.SIGINT else Exit.TERMINATED


def back_up(session: Session, only: tuple[DatabaseSpec, ...], *, show: bool) -> Report | Exit:
    """Run a backup with the live display (`show`) or with logs; what errors repeat of secrets is masked."""
    board = backup.Board()
    run_ids: deque[str] = deque(maxlen=1)
    mask = logs.masker(session.secrets())
    with ExitStack() as stack:

        def listen(event: Event) -> None:
            if "run_id" in event.fields:
                run_ids.append(event.fields["run_id"])

        if show:
            from asyncbackup.cli import display  # noqa: PLC0415 - costs memory that only terminals need

            shown = stack.enter_context(display.live(board))
            events = Events(listen, lambda event: shown(logs.masked_event(event, mask)))
        else:
            log = session.log()
            stack.callback(logs.close, log, sys.stderr)
            events = Events(listen, log)
        unchosen = () if only else session.unchosen()
        for warning in (*session.conf.warnings, *unchosen):
            events.warning("configuration.warning", message=warning)
        started = datetime.now(UTC)

        def interrupted() -> None:
            report = Report(
                run_id=run_ids[0] if run_ids else "",
                started_at=started,
                seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
                outcomes=tuple(board.outcomes),
            )
            backup.finish(events, report, "run.interrupted")

        work = backup.run(session.settings, session.conf, session.environ, events, only=only, board=board)
        report = run(work, interrupted)
    if isinstance(report, Exit):
        return report
    if backup.exit_code(report) is not Exit.OK:
        report = replace(report, warnings=(*unchosen, *report.warnings))
    return logs.masked_report(report, mask)


async def sizes(session: Session) -> list[tuple[str, int | str]]:
    """Return each configured database's size in bytes, or why it is not known; nobody waits for long."""
    found = session.conf
    listed = dict.fromkeys([*(spec.server for spec in found.databases), *conf.wanted_servers(found.patterns)])
    at_once = asyncio.Semaphore(_SERVERS_AT_ONCE)

    async def one(server: Server) -> dict[str, int] | str:
        async with at_once:
            return await _sizes_of(session, server)

    answers = dict(zip(listed, await asyncio.gather(*map(one, listed)), strict=True))
    names = {server: list(answer) for server, answer in answers.items() if not isinstance(answer, str)}
    rows: list[tuple[str, int | str]] = []
    for spec in conf.resolve(found.databases, found.patterns, names, lines=found.lines):
        answer = answers[spec.server]
        size = (
            answer if isinstance(answer, str) else answer.get(spec.dbname, "the server has none of that name")
        )
        rows.append((text.database(spec), "no right to connect" if size == _NO_RIGHT else size))
    unknown = [(server, answers[server]) for server in conf.wanted_servers(found.patterns)]
    return rows + [(f"{server}/*", answer) for server, answer in unknown if isinstance(answer, str)]


async def _sizes_of(session: Session, server: Server) -> dict[str, int] | str:
    patience = min(_PATIENCE, session.settings.connect_timeout)
    names = [spec.dbname for spec in session.conf.databases if spec.server == server and spec.dbname]
    try:
        async with asyncio.timeout(patience):
            for dbname in dict.fromkeys([*names, *_MAINTENANCE]):
                spec = DatabaseSpec(server.host, server.port, dbname)
                try:
                    login = configuration.credentials(session.settings, server)
                    told = await overview(endpoint(spec, login, session.environ, patience))
                    return {**told.sizes, **dict.fromkeys(told.closed, _NO_RIGHT)}
                except DatabaseMissingError:
                    continue
    except AsyncbackupError as error:
        masked: str = logs.masker(session.secrets())(error.message)
        return masked.partition(": ")[2] or masked
    except TimeoutError:
        return f"no answer within {patience:g} s"
    return "no database of that name, and none to log in to"


def exit_code(report: Report | Exit) -> Exit:
    """Return the exit code of a run, however it ended."""
    return report if isinstance(report, Exit) else backup.exit_code(report)


def wants_display(session: Session) -> bool:
    """Whether a person watches: both a terminal and no wish for logs."""
    return session.settings.log_format == "auto" and logs.is_terminal(sys.stderr)


def backups(
    session: Session, specs: tuple[DatabaseSpec, ...] = (), pattern: str = "", *, tested: bool = False
) -> list[Backup]:
    """Return all backups, or those of these databases, sorted by database and newest first.

    With `tested`, others may be missing than those that a verification record lies for.
    """
    found = inventory.scan(session.settings.backup_dir, records.folder(session.settings.verify_dir))
    owners = naming.Owners.build([*session.conf.databases, *specs], session.conf.patterns, dbspec.matches)
    wanted = [entry for entry in found.entries if entry.records] if tested else found.entries
    cores = dict.fromkeys(entry.core for entry in wanted if pattern in str(entry.path))
    loaded = inventory.load_all(found, cores, owners)
    chosen = [b for b in loaded if pattern in str(b.path) and (not specs or b.spec in specs)]
    chosen.sort(key=lambda b: b.taken_at, reverse=True)
    chosen.sort(key=lambda b: str(b.spec) if b.spec else b.core)
    return chosen
