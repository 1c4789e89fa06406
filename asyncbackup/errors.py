"""Every failure that a user can meet, with its exit code and whether trying again can help."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of both commands; they are repeated in every --help."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    LOCKED = 4
    INTERRUPTED = 130
    TERMINATED = 143


class AsyncbackupError(Exception):
    """Base of all our errors: what failed, on what, why; `hint` says what to do next.

    `retryable` means that the same step, done anew, may succeed without anyone doing anything.
    `category` is a stable word for logs and metrics.
    """

    exit_code: Exit = Exit.FAILED
    retryable: bool = False
    category: str = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def rename(self, subject: object, to: object) -> None:
        """Name another subject where the message begins with this one."""
        if self.message.startswith(f"{subject}: "):
            self.message = f"{to}{self.message.removeprefix(str(subject))}"
            self.args = (self.message,)


class ConfigError(AsyncbackupError):
    """The configuration is wrong; `problems` holds every one of them, not just the first."""

    exit_code = Exit.USAGE
    category = "configuration"

    def __init__(self, problems: tuple[str, ...] | list[str], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems), hint=hint)


class UsageError(AsyncbackupError):
    """The command line asks for something that cannot be done."""

    exit_code = Exit.USAGE
    category = "usage"


class LockedError(AsyncbackupError):
    """Another run holds this database series."""

    exit_code = Exit.LOCKED
    category = "locked"


class ConnectError(AsyncbackupError):
    """The server cannot be reached at all, or refuses for now; trying again may help."""

    retryable = True
    category = "unreachable"


class BusyError(AsyncbackupError):
    """The server answers, but takes nobody in for now: full, starting up or going down."""

    retryable = True
    category = "busy"


class AccessError(AsyncbackupError):
    """The server answered and said no: password, permission, row security."""

    category = "access"


class DatabaseMissingError(AsyncbackupError):
    """The server answers, but has no such database; distinct from a server that is unreachable."""

    category = "absent"


class ClientError(AsyncbackupError):
    """No installed PostgreSQL client fits the server, or it cannot be run."""

    category = "client"


class DumpError(AsyncbackupError):
    """pg_dump failed, for good."""

    category = "dump"


class TransientDumpError(DumpError):
    """pg_dump failed for a reason that may pass: lock timeout, recovery conflict, lost connection."""

    retryable = True
    category = "dump_transient"


class KilledDumpError(DumpError):
    """pg_dump or its backend was killed: worth exactly one more try."""

    retryable = True
    category = "dump_killed"


class SnapshotLostError(TransientDumpError):
    """The exported snapshot did not reach pg_dump, as happens behind a load balancer."""

    category = "snapshot"


class StalledDumpError(DumpError):
    """The dump made no progress, or took longer than it may."""

    category = "stalled"


class IncompleteDumpError(DumpError):
    """pg_dump ended well, but what it wrote does not end as a whole dump does."""

    category = "incomplete"


class StorageError(AsyncbackupError):
    """The backup directory refused a write, an fsync or a rename; the file was thrown away."""

    category = "storage"


class SpaceError(StorageError):
    """There is certainly not enough free space for this backup."""

    category = "space"


class ManifestError(AsyncbackupError):
    """A manifest is missing, damaged, or of a newer version than this program reads."""

    category = "manifest"


class DamagedError(AsyncbackupError):
    """A backup's file is not what was written, or does not hold a whole dump."""

    category = "damaged"


class NoBackupError(AsyncbackupError):
    """There is no backup of what was asked for."""

    category = "no_backup"


class LoadError(AsyncbackupError):
    """A dump does not load, though the server has all that it needs."""

    category = "load"


class LackingError(AsyncbackupError):
    """A server lacks what a dump needs; `lacking` says what to install there. The backup may be good."""

    exit_code = Exit.PARTIAL
    category = "lacking"

    def __init__(self, message: str, *, lacking: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.lacking = lacking


class LimitError(AsyncbackupError):
    """A dump took more time or space than it may, and its load was ended."""

    category = "limit"


class RefusedError(AsyncbackupError):
    """A restore would lose or break something on the server; nothing was touched."""

    category = "refused"


class TargetError(AsyncbackupError):
    """A secondary location failed; the local backup is as good as before.

    `missing` says that there is no file of that name; `part` is what a failed upload has left to go on from.
    """

    category = "target"

    def __init__(
        self, message: str, *, hint: str = "", retryable: bool = False, missing: bool = False, part: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable
        self.missing = missing
        self.part = part
