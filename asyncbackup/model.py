"""The nouns of the program: frozen, without behaviour beyond their own arithmetic.

Times are aware datetimes in UTC, durations are seconds, sizes are bytes, digests are lower-case
hexadecimal, of 256 bits. Field names are PostgreSQL's and libpq's own words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

GLOBALS = ""
"""Stands where a database's name would, for a server's roles and tablespaces; no database has it."""

GLOBALS_LABEL = "@globals"
"""How that is shown and written in file names; there, an @ in a real name is always encoded."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value that shows itself only on demand."""

    value: str

    def reveal(self) -> str:
        """Return the value; every use of this method is a place to review."""
        return self.value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self.value)


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """One PostgreSQL server, as the configuration names it."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether the connection stays on this machine (a Unix socket folder or loopback)."""
        return self.host.startswith("/") or self.host in {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True, order=True)
class DatabaseSpec:
    """One database series: what is backed up, restored and kept together."""

    host: str
    port: int
    dbname: str

    @property
    def server(self) -> Server:
        """The server it lives on."""
        return Server(self.host, self.port)

    @property
    def is_globals(self) -> bool:
        """Whether this stands for a server's roles and tablespaces."""
        return self.dbname == GLOBALS

    def __str__(self) -> str:
        return f"{self.server}/{self.dbname or GLOBALS_LABEL}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabasePattern:
    """A line with a wildcard or an exclusion: `host/*`, `host/app_*`, `!host/name`."""

    host: str
    port: int
    pattern: str
    exclude: bool
    line: int


class Action(StrEnum):
    """What a cron line asks for."""

    BACKUP = "backup"
    VERIFY = "verify"
    PRUNE = "prune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A cron line: when (five fields or an @name), and what to do then."""

    line: int
    expression: str
    user: str
    action: Action
    spec: str
    filter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What to log in with; None leaves the choice to libpq's own ways."""

    user: str | None
    password: Secret | None


@dataclass(frozen=True, slots=True, order=True)
class PgVersion:
    """A PostgreSQL version since 10: major and minor."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """An installed extension."""

    name: str
    version: str
    schema: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseProperties:
    """What pg_dump without --create leaves out, and a restore must bring back."""

    owner: str = ""
    acl: tuple[str, ...] | None = None
    connection_limit: int = -1
    comment: str | None = None
    encoding: str = ""
    locale_provider: str = ""
    collate: str = ""
    ctype: str = ""
    locale: str | None = None
    collation_version: str | None = None
    icu_rules: str | None = None
    tablespace: str = ""
    is_template: bool = False
    settings: tuple[tuple[str, str], ...] = ()
    """(role or "" for all, `name=value`): ALTER DATABASE SET and ALTER ROLE IN DATABASE SET."""
    security_labels: tuple[tuple[str, str], ...] = ()
    """(provider, label)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a database is at the moment of its snapshot."""

    server_version: PgVersion
    in_recovery: bool
    snapshot: str | None
    properties: DatabaseProperties
    roles: tuple[str, ...]
    extensions: tuple[Extension, ...]
    object_counts: Mapping[str, int]
    unlogged: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBlock:
    """One COPY block of a dump: a table's rows, as pg_dump wrote them.

    A table usually has one block; a partitioned root dumped through itself has one a partition.
    `blake3` is over the lines between the COPY statement and the end marker.
    """

    schema: str
    table: str
    columns: tuple[str, ...]
    rows: int
    bytes: int
    blake3: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceValue:
    """A sequence's state, as in setval()."""

    schema: str
    name: str
    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeObject:
    """A large object's content; `sha256` is over its bytes, as the server's own sha256(lo_get(oid))."""

    oid: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpScan:
    """What the scanner saw of a dump, once it has ended."""

    bytes: int
    encoding: str
    blocks: tuple[CopyBlock, ...]
    sequences: tuple[SequenceValue, ...]
    large_objects: tuple[LargeObject, ...]
    roles: tuple[str, ...]
    superusers: tuple[str, ...]
    """Roles that must be superusers to own what the dump gives them."""
    tablespaces: tuple[str, ...]
    extensions: tuple[str, ...]
    outside_blake3: str
    restricted: bool
    problem: str
    """Why the dump is not whole; empty when it is."""

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(block.rows for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A compressed dump on disk."""

    name: str
    bytes: int
    sha256: str
    compressor: str
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is known of one backup; its JSON form lies beside the backup and is its proof.

    `loads_into` is the lowest major version of PostgreSQL that the dump loads into.
    `consistent` says that `object_counts`, `roles` and `extensions` were read in the very snapshot
    that was dumped; otherwise they were read a moment before.
    """

    host: str
    port: int
    dbname: str
    kind: str
    run_id: str
    started_at: datetime
    finished_at: datetime
    local_time: str
    server_version: str
    client_version: str
    loads_into: int
    file: StoredFile
    sql_bytes: int
    rows: int
    table_count: int
    encoding: str
    outside_blake3: str
    restricted: bool
    in_recovery: bool = False
    consistent: bool = True
    database_bytes: int = 0
    asyncbackup_version: str = ""
    properties: DatabaseProperties = field(default_factory=DatabaseProperties)
    roles: tuple[str, ...] = ()
    superusers: tuple[str, ...] = ()
    """Those of the roles that must be superusers to own what the dump gives them."""
    tablespaces: tuple[str, ...] = ()
    extensions: tuple[Extension, ...] = ()
    object_counts: Mapping[str, int] = field(default_factory=dict)
    unlogged: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sequences: tuple[SequenceValue, ...] = ()
    large_objects: tuple[LargeObject, ...] = ()
    tables: tuple[CopyBlock, ...] = ()

    @property
    def spec(self) -> DatabaseSpec:
        """The series that it belongs to."""
        return DatabaseSpec(self.host, self.port, self.dbname)


class Level(StrEnum):
    """How much of a restored database is compared with its backup."""

    TABLES = "tables"
    ROWS = "rows"
    CONTENT = "content"


class Verdict(StrEnum):
    """What a verification came to; `unverified` says nothing about the backup."""

    GOOD = "good"
    BAD = "bad"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that is not in a restored database as its backup says."""

    kind: str
    """table, rows, content, sequence, large object, objects, extension, role, index."""
    name: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of restoring a backup for a test; its JSON form is the record beside the backup.

    `sha256` is that of the file as it was read, so that a record fits one backup only. `proven` says
    that there was a manifest to compare with, at `level`; without one, only that it loads is known.
    """

    name: str
    host: str
    port: int
    dbname: str
    verdict: Verdict
    level: Level
    proven: bool
    run_id: str
    started_at: datetime
    seconds: float
    """From the start of the restore to the last comparison."""
    load_seconds: float
    """What the restore alone took."""
    bytes: int
    sha256: str
    server_version: str
    asyncbackup_version: str = ""
    tables: int = 0
    rows: int = 0
    indexes_checked: int | None = None
    """By amcheck; None where the server does not have it."""
    differences: tuple[Difference, ...] = ()
    lacking: tuple[str, ...] = ()
    """What to install on the verifying server."""
    notes: tuple[str, ...] = ()
    error: str = ""
    hint: str = ""

    @property
    def good(self) -> bool:
        """Whether the backup is proven to restore."""
        return self.verdict is Verdict.GOOD


class Tier(StrEnum):
    """The folder that a backup lies in, which is what retention counts by."""

    DATED = "dated"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup file in the backup directory.

    `good` means: ours with a valid manifest (`proven`), or written by the tool of old, which has none.
    `spec` is None where neither a manifest nor the name says for certain whose it is.
    """

    path: Path
    core: str
    tier: Tier
    taken_at: datetime
    bytes: int
    good: bool
    spec: DatabaseSpec | None = None
    manifest: Manifest | None = None
    problem: str = ""
    verification: Verification | None = None
    """The last one of this very file; None if there was none."""
    note: str = ""
    """What is odd about it, but no reason to doubt it."""

    @property
    def verified(self) -> bool:
        """Whether a test restore found at least all the rows that its manifest says."""
        of = self.verification
        return self.proven and of is not None and of.good and of.proven and of.level is not Level.TABLES

    @property
    def bad(self) -> bool:
        """Whether a test restore found that it does not restore as it should."""
        return self.verification is not None and self.verification.verdict is Verdict.BAD

    @property
    def proven(self) -> bool:
        """Whether a valid manifest vouches for it."""
        return self.good and self.manifest is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many backups to keep of each series, by tier; tiers it does not name are left alone."""

    keep: Mapping[Tier, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What retention decided about one backup, and why."""

    backup: Backup
    keep: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What retention decided about all backups of one series, newest first."""

    decisions: tuple[Decision, ...]

    @property
    def keep(self) -> tuple[Backup, ...]:
        """What stays."""
        return tuple(d.backup for d in self.decisions if d.keep)

    @property
    def remove(self) -> tuple[Backup, ...]:
        """What goes, newest first."""
        return tuple(d.backup for d in self.decisions if not d.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What came of one series at one secondary location."""

    location: str
    stored: tuple[str, ...] = ()
    """Names of the backups that are there now and were not before."""
    removed: tuple[str, ...] = ()
    """Names of those that its retention did not keep."""
    bytes: int = 0
    seconds: float = 0.0
    error: str = ""
    """Why a backup that belongs there is not there."""
    hint: str = ""
    category: str = ""


class Status(StrEnum):
    """How one database's journey ended."""

    GOOD = "good"
    LOCAL_ONLY = "local only"
    """The backup is good, and is not at every secondary location where it belongs."""
    FAILED = "failed"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One database's result in a run."""

    spec: DatabaseSpec
    status: Status
    seconds: float
    backup: Backup | None = None
    removed: tuple[Path, ...] = ()
    copies: tuple[Copied, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str = ""
    category: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run's result."""

    run_id: str
    started_at: datetime
    seconds: float
    outcomes: tuple[Outcome, ...]
    globals: tuple[Outcome, ...] = ()
    warnings: tuple[str, ...] = ()
