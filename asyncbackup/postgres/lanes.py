"""One of several connections that a dump is loaded over: what it is told, and what its complaints mean."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import asyncpg

from asyncbackup import statements
from asyncbackup.errors import AsyncbackupError, LackingError, LoadError
from asyncbackup.postgres.connect import SESSION, Connection, mapped
from asyncbackup.postgres.load import missing
from asyncbackup.postgres.sections import CHUNK, Objects, Rows, Settings, Statement
from asyncbackup.threads import see_through

Connect = Callable[[], AbstractAsyncContextManager[Connection]]

_FOREVER = 10 * 365 * 86400.0  # asyncpg's own limit for a command is for short questions
_FAREWELL = 10.0  # seconds in which the sessions of a load that failed must be gone
_LOOK = 0.05
_DEADLOCKS = 2  # that one statement may meet
_DATA_EXCEPTION = "22"
_COLUMN = re.compile(r"COPY .*?, line \d+, column ([^:]+)")
_ENCODED = "DO $asyncbackup$ BEGIN EXECUTE pg_catalog.convert_from('\\x{}'::bytea, '{}'); END $asyncbackup$;"

# What holds for psql, too, by its environment; and more. Nobody sees the database before it is whole, so
# nothing in between has to wait until it is on disk (`flush` does, once). Sessions that wait for others must
# neither be thrown out nor be forgotten by a firewall, and autovacuum is to give way soon. English, because
# messages are looked at. A setting that the server does not have, or not let us have, stays as it is.
_PRELUDE = {
    **SESSION,
    "default_transaction_read_only": "off",
    "jit": "off",
    "synchronous_commit": "off",
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "60",
    "deadlock_timeout": "100ms",
    "lc_messages": "C",
}
_SET = """
SELECT pg_catalog.set_config(name, wanted, false) FROM (VALUES {}) AS ours (name, wanted)
JOIN pg_catalog.pg_settings USING (name)
WHERE context = 'user' OR context = 'superuser' AND current_setting('is_superuser') = 'on'
"""
_END = """
SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND pid = ANY($1::int[])
"""

# Something ended the session, or would not let it in; that is no fault of the dump.
_NOT_THE_DUMP = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


class Lane:
    """A connection, and the settings that hold there."""

    def __init__(self, connection: Connection, subject: str) -> None:
        self._connection = connection
        self._subject = subject
        self._settings: dict[str, bytes] = {}
        self._encoding = "SQL_ASCII"
        self.pid: int = connection.get_server_pid()

    async def prepare(self) -> None:
        """Make the session one that loads."""
        _widen(self._connection)
        with self._told("its settings"):
            values = ", ".join(f"('{name}', '{value}')" for name, value in _PRELUDE.items())
            await self._connection.execute(_SET.format(values))

    async def run(self, statement: Statement, **overrides: bytes) -> None:
        """Run a statement, under settings of our own besides."""
        with self._told(statement.entry):
            await self._apply({**statement.settings, **overrides})
            for _ in range(_DEADLOCKS):
                # With what we do not know of: a function in an index that reads other tables, say.
                with contextlib.suppress(asyncpg.DeadlockDetectedError):
                    await self._execute(statement.text)
                    return
            await self._execute(statement.text)

    async def copy(self, rows: Rows) -> None:
        """Load rows."""
        schema, table = rows.table
        with self._told(f"table {schema}.{table}"):
            await self._apply(rows.settings)
            await self._connection.copy_to_table(
                table,
                schema_name=schema,
                columns=list(rows.columns) or None,
                source=rows.data,  # type: ignore[arg-type] # a buffer, which asyncpg's stubs do not know
                encoding=self._encoding,
                timeout=_FOREVER,
            )

    async def write(self, objects: Objects) -> None:
        """Write into large objects."""
        with self._told("large objects"):
            await self._apply(objects.settings)
            await self._execute(objects.text)

    async def flush(self) -> None:
        """Wait until all that was loaded is on disk, where the server keeps anything there at all.

        What the log holds is flushed in order, so that one commit that waits will do for all before it.
        """
        with self._told("the end"):
            await self._connection.execute(
                "RESET synchronous_commit; SELECT pg_catalog.pg_logical_emit_message(true, 'asyncbackup', '')"
            )

    async def ask(self, question: str) -> list[asyncpg.Record]:
        """Return the rows that a question of ours gives."""
        with self._told("a question"):
            found: list[asyncpg.Record] = await self._connection.fetch(question, timeout=_FOREVER)
            return found

    async def _apply(self, settings: Settings) -> None:
        changed = {name: text for name, text in settings.items() if self._settings.get(name) != text}
        for name, text in changed.items():
            if name == "client_encoding":  # asyncpg speaks UTF-8, and knows nothing else
                self._encoding = statements.client_encoding(text) or self._encoding
            else:
                await self._execute(text)
            self._settings[name] = text

    async def _execute(self, text: bytes) -> None:
        await self._connection.execute(self._sql(text), timeout=_FOREVER)

    def _sql(self, text: bytes) -> str:
        """Return a statement in a form that means the same in UTF-8.

        The server's own conversion is the one that the dump counts on.
        """
        if self._encoding == "UTF8" or text.isascii():
            return text.decode()
        return _ENCODED.format(text.hex(), self._encoding)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn complaints into errors of ours, which say on what."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise LoadError(
                f"{self._subject}: it does not load: {what} is not valid in {self._encoding}"
            ) from error
        except _NOT_THE_DUMP:
            with mapped(self._subject):
                raise
        except asyncpg.PostgresError as error:
            raise _failure(self._subject, what, error) from None


def _widen(connection: Connection) -> None:
    """Let a Unix socket take a whole piece at once; TCP finds its own measure.

    Otherwise sending wakes us ten times as often, which costs a fifth of our CPU time.
    """
    transport = getattr(connection, "_transport", None)  # asyncpg has no other way to it
    connected = transport.get_extra_info("socket") if transport else None
    if connected is not None and connected.family == socket.AF_UNIX:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)


def _failure(subject: str, what: str, error: asyncpg.PostgresError) -> AsyncbackupError:
    """Return what the server's complaint means; without values of rows, which may be nobody's business."""
    said = str(error.args[0])
    detail = getattr(error, "detail", None) or ""
    lacking = missing(f"{said}\n{detail[:1].lower()}{detail[1:]}")
    if (error.sqlstate or "").startswith(_DATA_EXCEPTION):
        said = said.partition(': "')[0]
    if column := _COLUMN.match(getattr(error, "context", None) or ""):
        said = f"{said} (column {column[1]})"
    if lacking:
        return LackingError(
            f"{subject}: the server lacks {', '.join(lacking)}: {what}: {said}",
            lacking=lacking,
            hint="this says nothing about the backup; install what is missing, and try again",
        )
    return LoadError(
        f"{subject}: it does not load: {what}: {said}", hint="see docs/how-to/troubleshooting.md"
    )


@asynccontextmanager
async def lanes(connect: Connect, jobs: int, subject: str) -> AsyncIterator[Sequence[Lane]]:
    """Lend so many connections; when the block fails, their sessions are gone from the server, too."""
    async with AsyncExitStack() as stack:
        opened = [Lane(await stack.enter_async_context(connect()), subject) for _ in range(jobs)]
        try:
            for lane in opened:
                await lane.prepare()
            yield opened
        except BaseException:
            # A session that builds an index looks at its socket only when that is done.
            await see_through(asyncio.ensure_future(_end(connect, [lane.pid for lane in opened])))
            raise


async def _end(connect: Connect, pids: Sequence[int]) -> None:
    # Where that fails, nobody can do more: the server is gone, or ends them itself with their database.
    failures = (AsyncbackupError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
    with contextlib.suppress(*failures):
        async with asyncio.timeout(_FAREWELL), connect() as connection:
            while await connection.fetchval(_END, pids):  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(_LOOK)
