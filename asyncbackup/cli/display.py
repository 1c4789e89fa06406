"""The live display of a run on a terminal."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asyncbackup.backup import Board
from asyncbackup.cli import text
from asyncbackup.events import Event, Level, Sink
from asyncbackup.model import DatabaseSpec, Status
from asyncbackup.proof import verify
from asyncbackup.tools import Journey

_PAUSE = 1 / 8  # seconds between two pictures
_OTHERS = 5  # lines that are not the table of running dumps
_BAR = 20
_WIDE = 80  # columns; in a narrower terminal a bar would leave the names no room


class _Picture:
    """Draws the board anew each time it is asked."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._started = time.monotonic()

    def __rich__(self) -> Group:
        board = self._board
        table = Table.grid(padding=(0, 2))
        running = list(board.running.values())
        room = max(1, self._console.height - _OTHERS)
        for journey in running[:room]:
            table.add_row(*self._row(journey))
        good = sum(outcome.status is Status.GOOD for outcome in board.outcomes)
        bad = len(board.outcomes) - good
        more = f", {len(running) - room} more running" if len(running) > room else ""
        summary = Text(f"{good} done, {len(running)} running, {board.waiting} waiting{more}", style="bold")
        if bad:
            summary.append(f", {bad} failed", style="bold red")
        summary.append(f"  {text.seconds(time.monotonic() - self._started)}", style="dim")
        return Group(table, summary)

    def _row(self, journey: Journey) -> tuple[Text, ...]:
        done, elapsed = (
            journey.progress.sql_bytes or journey.progress.file_bytes,
            time.monotonic() - journey.started,
        )
        # What the server says is an estimate, with indexes and without: 100 % is for what has ended.
        share = min(done / journey.size, 0.99) if journey.size else 0.0
        filled = round(share * _BAR)
        bar = Text("█" * filled, style="green")
        bar.append("░" * (_BAR - filled), style="dim")
        wide = self._console.width >= _WIDE
        return (
            Text(text.database(journey.spec), overflow="ellipsis", no_wrap=True),
            *([bar] if wide else []),
            Text(f"{share:4.0%}", justify="right", no_wrap=True),
            Text(text.size(done), justify="right", no_wrap=True),
            Text(f"{text.size(done / elapsed if elapsed else 0)}/s", justify="right", no_wrap=True),
            Text(journey.stage, style="dim", no_wrap=True),
        )


class _Meter:
    """One line on bytes that are read: how many, how fast, and the caller's own words."""

    def __init__(self, total: Callable[[], int], done: Callable[[], int], words: Callable[[], str]) -> None:
        self._total = total
        self._done = done
        self._words = words
        self._started = time.monotonic()

    def __rich__(self) -> Text:
        done, elapsed, total = self._done(), time.monotonic() - self._started, self._total()
        share = min(done / total, 1.0) if total else 0.0
        line = Text(overflow="ellipsis", no_wrap=True)
        line.append("█" * round(share * _BAR), style="green")
        line.append("░" * (_BAR - round(share * _BAR)), style="dim")
        line.append(f" {share:4.0%}  {text.size(done)} of {text.size(total)}")
        line.append(f"  {text.size(done / elapsed if elapsed else 0)}/s")
        line.append(f"  {text.plain(self._words())}", style="dim")
        return line


def live(board: Board) -> AbstractContextManager[Sink]:
    """Show the board on stderr for the block; the sink prints what ended above it."""
    return _shown(lambda console: _Picture(board, console), _line)


def meter(
    total: Callable[[], int],
    done: Callable[[], int],
    words: Callable[[], str],
    line: Callable[[Event], Text | None],
) -> AbstractContextManager[Sink]:
    """Show on stderr how many bytes of `total` are done; the sink prints `line` of each event above it."""
    return _shown(lambda _: _Meter(total, done, words), line)


@contextmanager
def plain() -> Iterator[Sink]:
    """Print what a person wants to know of each event, and no picture."""
    console = Console(stderr=True)

    def sink(event: Event) -> None:
        line = _line(event)
        if line is not None:
            console.print(line, highlight=False)

    yield sink


@contextmanager
def _shown(
    draws: Callable[[Console], RenderableType], words: Callable[[Event], Text | None]
) -> Iterator[Sink]:
    console = Console(stderr=True)
    lines: deque[Text] = deque()
    told: set[str] = set()
    over = threading.Event()
    picture = Live(draws(console), console=console, auto_refresh=False, transient=True)

    def draw() -> None:
        # One thread writes all, so that no line falls between a picture and its removal.
        while not over.wait(_PAUSE):
            while lines:
                console.print(lines.popleft(), highlight=False)
            picture.refresh()

    def sink(event: Event) -> None:
        line = words(event)
        # A server that is down is told of once, not for each of its databases' retries and its globals.
        if line is not None and line.plain not in told:
            told.add(line.plain)
            lines.append(line)

    painter = threading.Thread(target=draw, name="display", daemon=True)
    with picture:
        painter.start()
        try:
            yield sink
        finally:
            over.set()
            painter.join()
    for line in lines:
        console.print(line, highlight=False)
    console.print()


def _line(event: Event) -> Text | None:
    """Return what a person wants to know of an event, or None."""
    fields = event.fields
    if event.name == "backup.finished":
        tables = "1 table" if fields["tables"] == 1 else f"{fields['tables']:,} tables"
        line = Text("✔ ", style="green")
        line.append(_where(event), style="bold")
        line.append(
            f"  {text.size(fields['sql_bytes'])} of SQL in {text.size(fields['bytes'])}, "
            f"{fields['rows']:,} rows in {tables}, {text.seconds(fields['seconds'])}"
        )
        return line
    if event.name in {"backup.failed", "upload.failed"}:
        line = Text("✘ ", style="red")
        line.append(text.plain(str(fields["error"])), style="bold")
        if fields["hint"]:
            line.append(f"\n  {text.plain(str(fields['hint']))}", style="dim")
        return line
    if event.name == "run.interrupted":
        line = Text("✘ ", style="red")
        line.append("interrupted", style="bold")
        line.append(
            f": {fields['good']} backed up before that; what was under way is ended, its partial files gone"
        )
        return line
    if event.level < Level.WARNING:
        return None
    line = Text("! ", style="yellow")
    line.append(text.plain(_sentence(event)))
    return line


def trials(board: verify.Board) -> AbstractContextManager[Sink]:
    """Show the verifications under way for the block; the sink prints what ended above them."""
    return _shown(lambda console: _Trials(board, console), _trial_line)


class _Trials:
    """Draws the verifications under way."""

    def __init__(self, board: verify.Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._started = time.monotonic()

    def __rich__(self) -> Group:
        board = self._board
        table = Table.grid(padding=(0, 2))
        for one in list(board.running.values())[: max(1, self._console.height - _OTHERS)]:
            share = min(one.progress.file_bytes / one.backup.bytes, 1.0) if one.backup.bytes else 0.0
            filled = round(share * _BAR)
            bar = Text("█" * filled, style="green")
            bar.append("░" * (_BAR - filled), style="dim")
            name = text.database(one.backup.spec) if one.backup.spec else text.plain(one.label)
            table.add_row(
                Text(name, overflow="ellipsis", no_wrap=True),
                *([bar] if self._console.width >= _WIDE else []),
                Text(text.size(one.progress.sql_bytes), justify="right", no_wrap=True),
                Text(one.stage, style="dim", no_wrap=True),
            )
        good = sum(one.state is verify.State.GOOD for one in board.results)
        words = f"{good} verified, {len(board.running)} running, {board.waiting} waiting"
        summary = Text(words, style="bold")
        if other := len(board.results) - good:
            summary.append(f", {other} not", style="bold red")
        summary.append(f"  {text.seconds(time.monotonic() - self._started)}", style="dim")
        return Group(table, summary)


def _trial_line(event: Event) -> Text | None:
    """Return what a person wants to know of an event while backups are verified, or None."""
    fields = event.fields
    if event.name == "verify.finished":
        line = Text("✔ ", style="green")
        line.append(_where(event) if "host" in fields else text.plain(str(fields["path"])), style="bold")
        line.append(
            f"  {fields['rows']:,} rows in {fields['tables']:,} tables, restored in "
            f"{text.seconds(fields['load_seconds'])}, proven after {text.seconds(fields['seconds'])}"
            if fields["tables"]
            else f"  restored, proven after {text.seconds(fields['seconds'])}"
        )
        return line
    if event.name in {"verify.failed", "verify.impossible"}:
        bad = event.name == "verify.failed"
        line = Text("✘ " if bad else "? ", style="red" if bad else "yellow")
        line.append(text.plain(str(fields["error"])), style="bold")
        return line
    if event.name == "run.interrupted":
        line = Text("✘ ", style="red")
        line.append("interrupted", style="bold")
        line.append(f": {fields['good']} were verified before that; the throw-away server is gone")
        return line
    return _line(event)


def check_line(event: Event) -> Text | None:
    """Return what a person wants to know of an event while backups are read, or None."""
    fields = event.fields
    if event.name == "check.failed":
        if not fields["problems"]:
            return None
        line = Text("✘ ", style="red")
        line.append(text.plain(str(fields["problems"][0])), style="bold")
        if more := len(fields["problems"]) - 1:
            line.append(f" (and {more} more)", style="dim")
        return line
    if event.name == "run.interrupted":
        line = Text("✘ ", style="red")
        line.append("interrupted", style="bold")
        line.append(f": {fields['good']} were found good before that, {len(fields['failed'])} bad")
        return line
    return _line(event)


def restore_line(event: Event) -> Text | None:
    """Return what a person wants to know of an event while a database is restored, or None."""
    # Warnings stand in what is asked and in the result, failures in the error.
    if event.name != "restore.leftover":
        return None
    line = Text("! ", style="yellow")
    line.append(f"dropped what a killed restore had left: {text.plain(str(event.fields['database']))}")
    return line


def _where(event: Event) -> str:
    fields = event.fields
    dbname = "" if fields["dbname"] == "@globals" else fields["dbname"]
    return text.database(DatabaseSpec(fields["host"], fields["port"], dbname))


def _sentence(event: Event) -> str:
    """Return a warning in words; one that is not known here, with all that it has to say."""
    fields = event.fields
    match event.name:
        case _ if "message" in fields:
            return "; ".join(str(fields[key]) for key in ("message", "hint") if fields.get(key))
        case "client.outdated":
            return (
                f"pg_dump {fields['version']} has known security holes; update to {fields['update_to']}"
                f" ({fields['bindir']})"
            )
        case "server.tls_unverified":
            return (
                f"{fields['host']}:{fields['port']}: nobody checks that it is who it says; {fields['hint']}"
            )
        case "backup.retried" | "upload.retried" | "fetch.retried":
            return f"{_where(event)}: attempt {fields['attempt']}, since {fields['error']}"
        case "remote.unread":
            return f"{fields['location']}: what lies there is not known: {fields['error']}"
        case "remote.not_pruned":
            return f"{fields['location']}: older copies were not looked after: {fields['error']}"
        case "backup.quiet":
            waited = text.seconds(fields["seconds"])
            return f"{_where(event)}: nothing has come for {waited}; the server: {fields['server']}"
    details = ", ".join(f"{key}={value}" for key, value in fields.items() if key != "run_id")
    return f"{event.name}: {details}"
