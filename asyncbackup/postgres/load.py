r"""Loading a dump by psql: the same way for a test and for a real restore.

psql gets the file's SQL through a pipe, from a thread that reads, checks and unpacks it on the way: only
what the scanner has understood, nothing from the first thing on that no dump of pg_dump's has, and none of
psql's own commands. It runs under a \restrict of our own, whose key nobody knows, so that it would refuse
those, too. The pipe is closed, which tells psql that all is well and to commit, only when the file was read
to its end and accepted; before that, psql is killed first.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from pwd import struct_passwd

from asyncbackup.errors import (
    AsyncbackupError,
    BusyError,
    ConnectError,
    KilledDumpError,
    LackingError,
    LoadError,
)
from asyncbackup.model import Manifest, PgVersion, Secret
from asyncbackup.postgres.connect import passfile
from asyncbackup.postgres.failures import classify
from asyncbackup.postgres.retelling import WithoutTablespaces
from asyncbackup.process import Child, Network, spawn
from asyncbackup.stream import PIPE_SIZE, Progress
from asyncbackup.threads import in_thread, see_through
from asyncbackup.unpack import Unpacked, unpack

_TOO_NEW = b"SET transaction_timeout = 0;\n"
_HEADER = 4096  # bytes in which that line stands, if it does
_ERROR = re.compile(r"^psql:<stdin>:(?P<line>\d+): (?:error: )?(?P<said>(?:ERROR|FATAL|PANIC):  .*)$")
_REFUSED = re.compile(r"^(?:psql:<stdin>:\d+: )?(?:error: )?ERROR:  ", re.MULTILINE)
_LOST = (KilledDumpError, BusyError, ConnectError)
_WHERE = re.compile(r"^CONTEXT:  (?P<where>COPY .*?, line \d+(?:, column [^:]*)?)")
_SCRIPT_FAILED = 3
_RESTRICT_SINCE = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}  # minor by major; all newer ones do
_SLOTS_USED = 0.7
_LOCKS_OF_A_TABLE = 3  # itself, its TOAST table, and that one's index
_TABLE_GUESS = 8  # locks of a table of which only its rows are known: indexes, a sequence

# What only says that the server is another one. (PostgreSQL's own messages; English, since it is asked to
# speak so.)
_LACKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r'extension "(?P<what>.*)" is not available'), "extension {what}"),
    (re.compile(r'could not open extension control file ".*/(?P<what>.*)\.control"'), "extension {what}"),
    (re.compile(r'extension "(?P<what>.*)" has no installation script'), "extension {what}"),
    (re.compile(r'could not access file "(?P<what>.*)"'), "library {what}"),
    (
        re.compile(r'could not (?:load|find function .* in file) (?:library )?"(?P<what>.*?)"'),
        "library {what}",
    ),
    (re.compile(r'collation "(?P<what>.*)" for encoding ".*" does not exist'), "collation {what}"),
    (re.compile(r'could not create locale "(?P<what>.*?)"'), "locale {what}"),
    (re.compile(r"invalid (?:locale|LC_\w+ locale) name:? \"(?P<what>.*)\""), "locale {what}"),
    (re.compile(r'could not open collator for locale "(?P<what>.*?)"'), "ICU locale {what}"),
    (re.compile(r"ICU is not supported in this build"), "a server built with ICU"),
    (re.compile(r"unsupported XML feature"), "a server built with libxml"),
    (re.compile(r'tablespace "(?P<what>.*)" does not exist'), "tablespace {what}"),
    (re.compile(r'access method "(?P<what>.*)" does not exist'), "access method {what}"),
    (re.compile(r'language "(?P<what>.*)" does not exist'), "language {what}"),
    (re.compile(r'role "(?P<what>.*)" does not exist'), "role {what}"),
    (re.compile(r"\bNo space left on device|could not extend file .*: wrote only"), "free space"),
    (re.compile(r"out of shared memory"), "a higher max_locks_per_transaction"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How psql gets into a database."""

    conninfo: str
    """libpq's connection string, without the password."""
    env: Mapping[str, str]
    password: Secret | None = None
    account: struct_passwd | None = None
    """Whom psql runs as; None for ourselves."""
    network: Network = Network.OURS
    """What psql has of the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A dump that was loaded, and what its file held."""

    unpacked: Unpacked
    seconds: float
    errors: tuple[str, ...] = ()
    """What psql went on after, when it was told to."""


Rewrite = Callable[[Callable[[bytes | memoryview], object]], WithoutTablespaces]
"""Makes a tap of what writes to psql."""


def restricts(psql: PgVersion) -> bool:
    r"""Whether a psql knows `\restrict`."""
    since = _RESTRICT_SINCE.get(psql.major)
    return psql.major > max(_RESTRICT_SINCE) or (since is not None and psql.minor >= since)


def _nothing(_unpacked: Unpacked) -> None:
    """Accept whatever was read."""


async def load(
    psql: Path,
    door: Door,
    source: FileIO,
    *,
    subject: str,
    one_transaction: bool,
    older_server: bool = False,
    go_on: bool = False,
    restrict: bool = True,
    rewrite: Rewrite | None = None,
    progress: Progress,
    executor: Executor,
    accept: Callable[[Unpacked], None] = _nothing,
) -> Loaded:
    r"""Load a backup into a fresh database.

    `older_server` leaves out the one header line that servers before 17 do not know. `go_on` goes on after
    errors, and returns them. `restrict` is False for a psql that is too old to know `\restrict`. `rewrite`
    tells psql something else than the dump. `accept` is called with what was read, before psql learns of the
    end, and may raise.

    Raises LoadError, LackingError, or another kind that psql's complaint tells of.
    """
    started = time.monotonic()
    command = [str(psql), "-X", "-q", "--no-password", "--file=-", f"--dbname={door.conninfo}"]
    if not go_on:
        command.append("--set=ON_ERROR_STOP=1")
        if one_transaction:
            command.append("--single-transaction")
    reader, sink = _pipe()

    def feed() -> Unpacked | None:
        return _feed(source, sink, progress, accept, rewrite, older_server=older_server, restrict=restrict)

    feeding: asyncio.Future[Unpacked | None] | None = None
    with sink:
        try:
            with passfile(door.password) as (variables, descriptors):
                async with spawn(
                    command,
                    env={**door.env, **variables},
                    stdin=reader,
                    pass_fds=descriptors,
                    account=door.account,
                    network=door.network,
                ) as child:
                    reader.close()
                    feeding = asyncio.ensure_future(in_thread(executor, feed))
                    await asyncio.wait([feeding])  # a cancellation must get through to end psql first
                    unpacked = feeding.result()
                    if unpacked is not None:
                        sink.close()
                    status = await child.wait()
        finally:
            reader.close()
            # psql has ended, so the pipe has, and the thread will; nobody may touch its files before, and
            # least of all close the pipe: it may be between two writes, or about to read.
            if feeding is not None:
                with contextlib.suppress(OSError, AsyncbackupError):
                    await see_through(feeding)
    errors = complaints(child)
    if unpacked is None or status not in ({0, _SCRIPT_FAILED} if go_on else {0}):
        raise failure(subject, child, status)
    return Loaded(unpacked=unpacked, seconds=time.monotonic() - started, errors=errors)


def _pipe() -> tuple[FileIO, FileIO]:
    reader, writer = os.pipe()
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return FileIO(reader, "r"), FileIO(writer, "w")


def _feed(
    source: FileIO,
    sink: FileIO,
    progress: Progress,
    accept: Callable[[Unpacked], None],
    rewrite: Rewrite | None,
    *,
    older_server: bool,
    restrict: bool,
) -> Unpacked | None:
    """Write the SQL to psql; None means that it ended before the dump did."""
    told_of = 0

    def write(piece: bytes | memoryview) -> None:
        rest = memoryview(piece)
        while rest:
            rest = rest[sink.write(rest) :]

    def write_all(piece: memoryview) -> None:
        nonlocal told_of
        if older_server and told_of < _HEADER:
            text = bytes(piece)
            write(text.replace(_TOO_NEW, b"", 1) if 0 <= text.find(_TOO_NEW) < _HEADER else text)
        else:
            write(piece)
        told_of += len(piece)

    try:
        if restrict:
            write(f"\\restrict {secrets.token_hex(16)}\n".encode())
        if rewrite is None:
            unpacked = unpack(source, progress, sink=write_all)
        else:
            told = rewrite(write)
            unpacked = unpack(source, progress, tap=told)
            told.finish()
    except BrokenPipeError:
        return None
    accept(unpacked)
    return unpacked


def complaints(child: Child) -> tuple[str, ...]:
    """Return psql's errors, each in a line, without the values of rows that it repeats."""
    found: list[str] = []
    for line in child.stderr:
        if error := _ERROR.match(line):
            found.append(f"line {error['line']}: {error['said'].replace(':  ', ': ', 1)}")
        elif found and (where := _WHERE.match(line)):
            found[-1] += f" ({where['where']})"
    if child.dropped_lines:
        found.append(f"({child.dropped_lines} more lines)")
    return tuple(found)


def failure(subject: str, child: Child, status: int) -> AsyncbackupError:
    """Return what psql's end means: that the server lacks something, or that the dump does not load."""
    said = "\n".join(child.stderr)
    first = next(iter(complaints(child)), "") or next(iter(child.stderr), "")
    if not first:
        first = f"it was killed by signal {-status}" if status < 0 else f"it ended with status {status}"
    lacking = missing(said)
    if lacking:
        return LackingError(
            f"{subject}: the server lacks {', '.join(lacking)}: {first}",
            lacking=lacking,
            hint="this says nothing about the backup; install what is missing, and try again",
        )
    kind, hint = classify(said)
    # When the server ends while psql commits, that is a failure of the script, too, as psql sees it.
    lost = issubclass(kind, _LOST) and not _REFUSED.search(said)
    if status == _SCRIPT_FAILED and not lost:
        return LoadError(f"{subject}: it does not load: {first}", hint="see docs/how-to/troubleshooting.md")
    if status < 0:
        kind = KilledDumpError  # psql itself was, by whoever has run out of memory
    kind = LoadError if kind.category == "dump" else kind
    return kind(f"{subject}: psql failed: {first}", hint=hint)


def missing(said: str) -> tuple[str, ...]:
    """Return what a server lacks by what it says, such as `extension postgis`."""
    for pattern, what in _LACKS:
        if match := pattern.search(said):
            return (what.format(**match.groupdict()),)
    return ()


def one_transaction(manifest: Manifest, lock_slots: int) -> bool:
    """Whether the dump may be loaded in one: large objects commit in between, and locks must find room.

    `lock_slots` is the size of the server's lock table, which others need, too.
    """
    if manifest.large_objects:
        return False
    counts = manifest.object_counts
    relations = sum(number for kind, number in counts.items() if kind.startswith("pg_class."))
    tables = sum(counts.get(f"pg_class.{kind}", 0) for kind in "rm")
    locks = relations + tables * _LOCKS_OF_A_TABLE if counts else manifest.table_count * _TABLE_GUESS
    return locks < lock_slots * _SLOTS_USED
