"""The live display of a run on a terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncbackup.backup import Board
from asyncbackup.cli import text
from asyncbackup.events import Event, Level, Sink
from asyncbackup.model import Status

_REFRESH = 8  # a second
_OTHERS = 5  # lines that are not the table of running dumps


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
            done, elapsed = journey.progress.sql_bytes, time.monotonic() - journey.started
            bar = ProgressBar(total=max(journey.size, 1), completed=min(done, journey.size), width=20)
            table.add_row(
                Text(text.plain(str(journey.spec)), overflow="ellipsis", no_wrap=True),
                bar,
                Text(text.size(done), justify="right"),
                Text(f"{text.size(done / elapsed if elapsed else 0)}/s", justify="right"),
                Text(f"{journey.progress.rows:,} rows", justify="right"),
                Text(journey.stage, style="dim"),
            )
        good = sum(outcome.status is Status.GOOD for outcome in board.outcomes)
        bad = len(board.outcomes) - good
        more = f", {len(running) - room} more running" if len(running) > room else ""
        summary = Text(f"{good} done, {len(running)} running, {board.waiting} waiting{more}", style="bold")
        if bad:
            summary.append(f", {bad} failed", style="bold red")
        summary.append(f"  {text.seconds(time.monotonic() - self._started)}", style="dim")
        return Group(table, summary)


@contextmanager
def live(board: Board) -> Iterator[Sink]:
    """Show the board on stderr for the block; the sink prints what ended above it."""
    console = Console(stderr=True)
    with Live(_Picture(board, console), console=console, refresh_per_second=_REFRESH, transient=True):
        yield lambda event: _print(console, event)


def _print(console: Console, event: Event) -> None:
    fields = event.fields
    where = f"{fields.get('host', '')}:{fields.get('port', '')}/{fields.get('dbname', '')}"
    if event.name == "backup.finished":
        line = Text("✔ ", style="green")
        line.append(text.plain(where), style="bold")
        line.append(
            f"  {text.size(fields['sql_bytes'])} of SQL in {text.size(fields['bytes'])}, "
            f"{fields['rows']:,} rows in {fields['tables']} tables, {text.seconds(fields['seconds'])}"
        )
    elif event.name == "backup.failed":
        line = Text("✘ ", style="red")
        line.append(text.plain(str(fields["error"])), style="bold")
        if fields["hint"]:
            line.append(f"\n  {text.plain(str(fields['hint']))}", style="dim")
    elif event.level >= Level.WARNING:
        details = ", ".join(f"{key}={value}" for key, value in fields.items() if key != "run_id")
        line = Text("! ", style="yellow")
        line.append(text.plain(f"{event.name}: {details}"))
    else:
        return
    console.print(line, highlight=False)
