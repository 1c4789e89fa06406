"""A server's roles and tablespaces, loaded into a throw-away server to see that they load.

It has to be one where nobody made any of them before. Two things differ from a real restore: tablespaces
become folders of the server's own, and who granted a membership is left out, for the first superuser has
another name there, and only he may be named without having the right himself.
"""

import re

import asyncpg

from asyncbackup import statements
from asyncbackup.errors import LackingError, LimitError, LoadError
from asyncbackup.model import Difference, DumpScan
from asyncbackup.postgres.connect import Connection
from asyncbackup.postgres.load import missing
from asyncbackup.postgres.properties import quoted
from asyncbackup.postgres.scratch import IN_PLACE_SINCE, Scratch

_MOST = 64 << 20  # bytes; a hundred thousand roles take a tenth of it
_ENCODING = b"SET client_encoding = "
_LOCATION = re.compile(rb"(CREATE TABLESPACE .* LOCATION )'.*';\Z", re.DOTALL)
_GRANTOR = re.compile(rb"(GRANT .* TO .*?) GRANTED BY .*;\Z", re.DOTALL)
_MADE = "SELECT rolname FROM pg_catalog.pg_roles WHERE oid >= 16384"


class Statements:
    """A tap that keeps the statements of a small dump."""

    def __init__(self, subject: str) -> None:
        self.found: list[bytes] = []
        self._subject = subject
        self._open = bytearray()
        self._taken = 0

    def text(self, piece: memoryview) -> None:
        """Take a piece."""
        self._open += piece
        self._taken += len(piece)
        if self._taken > _MOST:
            raise LimitError(f"{self._subject}: more than {_MOST} bytes of roles and tablespaces")

    def end(self) -> None:
        """Keep the statement without the comments before it."""
        lines = bytes(self._open).split(b"\n")
        while lines and (not lines[0].strip() or lines[0].startswith(b"--")):
            del lines[0]
        self.found.append(b"\n".join(lines))
        self._open.clear()

    def copy(self, schema: str, table: str, columns: tuple[str, ...]) -> None:
        """Refuse what is no statement of pg_dumpall --globals-only."""
        raise LoadError(f"{self._subject}: it has rows of {schema}.{table} {columns}, which are no globals")

    def rows(self, piece: memoryview) -> None:
        """Never called."""

    def rows_end(self) -> None:
        """Never called."""


async def load(server: Scratch, found: list[bytes], scan: DumpScan, subject: str) -> tuple[Difference, ...]:
    """Run the statements, and return which of the dump's roles are not there afterwards.

    Everything is removed again; where something stopped it, the server is given up. Raises LoadError or
    LackingError naming the statement that failed.
    """
    if scan.tablespaces and server.cluster.version.major < IN_PLACE_SINCE:
        lacking = tuple(f"tablespace {name}" for name in scan.tablespaces)
        raise LackingError(f"{subject}: the server lacks {', '.join(lacking)}", lacking=lacking)
    try:
        async with server.connect() as connected:
            if scan.tablespaces:
                await connected.execute("SET allow_in_place_tablespaces = on")
            await _run(connected, found, statements.codec(scan.encoding), subject)
            made = {row[0] for row in await connected.fetch(_MADE)}
        await _remove(server)
    except BaseException:
        server.give_up()
        raise
    return tuple(
        Difference(kind="role", name=role, expected="a role", found="none")
        for role in scan.roles
        if role not in made and not role.startswith("pg_")
    )


async def _run(connected: Connection, found: list[bytes], codec: str, subject: str) -> None:
    for number, statement in enumerate(found, 1):
        if statement.startswith(_ENCODING):
            continue  # it goes as text, which has none
        changed = _GRANTOR.sub(rb"\1;", _LOCATION.sub(rb"\1'';", statement))
        try:
            await connected.execute(changed.decode(codec))
        except asyncpg.PostgresConnectionError:
            raise
        except UnicodeDecodeError as error:
            raise LoadError(
                f"{subject}: statement {number} of the globals is not valid in {codec}"
            ) from error
        except asyncpg.PostgresError as error:
            # The statement itself may hold a password.
            said = f"{subject}: statement {number} of the globals failed: {error}"
            if lacking := missing(str(error)):
                raise LackingError(said, lacking=lacking) from error
            raise LoadError(said) from error


async def _remove(server: Scratch) -> None:
    """Remove all roles and tablespaces that anyone has made there."""
    async with server.connect() as connected:
        for row in await connected.fetch("SELECT spcname FROM pg_catalog.pg_tablespace WHERE oid >= 16384"):
            await connected.execute(f"DROP TABLESPACE {quoted(row[0])}")
        roles = [quoted(row[0]) for row in await connected.fetch(_MADE)]
        for role in roles:
            await connected.execute(f"DROP OWNED BY {role}")
        if roles:
            await connected.execute(f"DROP ROLE {', '.join(roles)}")
