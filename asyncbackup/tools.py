"""What a journey carries with it: the tools that are the same for all, and where it stands."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from asyncbackup import naming
from asyncbackup.events import Events
from asyncbackup.model import Backup, Credentials, DatabaseSpec, Policy, Server
from asyncbackup.offsite.shipping import Offsite
from asyncbackup.postgres import dump as dumps
from asyncbackup.postgres.versions import Client
from asyncbackup.slots import Place
from asyncbackup.stream import Compressor, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """All that a journey needs: decided before the first one begins, the same for all."""

    root: Path
    file_mode: int
    lock_folder: Path
    policy: Policy
    offsite: Offsite | None
    """The secondary locations; None where none is configured."""
    owners: naming.Owners
    cores: Mapping[DatabaseSpec, str]
    credentials: Callable[[DatabaseSpec], Credentials]
    environ: Mapping[str, str]
    connect_timeout: float
    limits: dumps.Limits
    deadline: float | None
    """Seconds that one database may take, tries and pauses and all, but not the waiting for its turn."""
    compressor: Compressor
    clients: tuple[Client, ...]
    doors: Mapping[Server, str]
    """A database of each server that can be logged in to."""
    retries: int
    retry_delay: float
    globals_passwords: bool
    pumps: Executor
    """A thread for each dump."""
    executor: Executor
    """Threads for short work on files, so that no pump waits for an fsync of another's."""
    run_id: str
    events: Events
    """Of this database; `run_events` are those that concern the whole run."""
    run_events: Events
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    warned: dict[Client, str] = field(default_factory=dict)
    """Clients with known holes that were used, each told of once a run."""
    dumped_by_newer: set[Server] = field(default_factory=set)
    """Servers whose own client is not installed, each told of once a run."""
    unreachable: set[Server] = field(default_factory=set)
    """Servers that a database was given up on in this run: their others are tried once, not for long."""


@dataclass(slots=True)
class Journey:
    """A journey under way, for whoever watches it."""

    spec: DatabaseSpec
    size: int
    """Bytes that the server reports; a dump's SQL is of that order."""
    place: Place
    """Among the running dumps; given up in pauses, and when the server has done its part."""
    clock: asyncio.Timeout
    """Ends the journey when its deadline has come."""
    stage: str = "waiting"
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)
    warnings: list[str] = field(default_factory=list)
    older: tuple[Backup, ...] = ()
    """The series's backups of before, once they were looked at."""

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Keep the deadline from coming nearer."""
        loop, when = asyncio.get_running_loop(), self.clock.when()
        left = None if when is None else when - loop.time()
        self.clock.reschedule(None)
        yield
        self.clock.reschedule(None if left is None else loop.time() + left)
