r"""A dump told once more while it streams by, so that everything it makes is in the default tablespace.

pg_dump names a tablespace only by setting default_tablespace before what is made there. Statements are told
apart by the scanner, so that rows and function bodies that look like one stay as they are. psql's own
commands are not told again.
"""

import re
from collections.abc import Callable

_HELD = 1 << 16  # bytes; what sets a tablespace, and the comments before it, are far smaller
_TABLESPACE = re.compile(rb'((?:\A|\n)SET default_tablespace = )(?:"(?:[^"]|"")*"|[^"\s;]+);\Z')
_TOO_NEW = re.compile(rb"((?:\A|\n))SET transaction_timeout = 0;\Z")


class WithoutTablespaces:
    """A tap that writes what it gets, but for the tablespaces."""

    def __init__(self, write: Callable[[bytes | memoryview], object], *, older_server: bool) -> None:
        self._write = write
        self._older_server = older_server
        self._held = bytearray()
        self._passing = False

    def text(self, piece: memoryview, /) -> None:
        """Take a piece of SQL; a short statement is held back until it has ended."""
        if self._passing:
            self._write(piece)
            return
        self._held += piece
        if len(self._held) > _HELD:
            self._passing = True
            self._tell(bytes(self._held))

    def end(self) -> None:
        """Tell the statement that has ended, unless it names a tablespace."""
        statement = _TABLESPACE.sub(rb"\1'';", bytes(self._held))
        if self._older_server:
            statement = _TOO_NEW.sub(rb"\1", statement)
        self._tell(statement)
        self._passing = False

    def copy(self, schema: str, table: str, columns: tuple[str, ...], /) -> None:
        """Tell a COPY statement and its line end."""
        del schema, table, columns
        self._tell(bytes(self._held) + b"\n")
        self._passing = False

    def rows(self, piece: memoryview, /) -> None:
        """Tell rows as they are."""
        self._write(piece)

    def rows_end(self) -> None:
        """Tell their end."""
        self._write(b"\\.\n")

    def finish(self) -> None:
        """Tell what is left, once the dump has ended."""
        self._tell(bytes(self._held))

    def _tell(self, statement: bytes) -> None:
        self._held.clear()
        if statement:
            self._write(statement)
