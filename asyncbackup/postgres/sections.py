r"""Takes a dump apart, as it streams by, into pieces of work that can be done over several connections.

- Rows: some megabytes of a table's rows, cut at line ends, which in COPY's text format end a row and
  nothing else. Any connection may load them, at any time after the table was made.
- Objects: some writes into large objects. pg_dump writes all of a group in one transaction, one object
  after the other. Here each piece opens the object itself and goes to the place in it, so that pieces
  can be written in any order, too. They end at page ends, so that no two of them touch the same page.
- Statement: anything else, with the settings that hold for it.

Settings (`SET …`) are no work of their own: each piece carries those that hold at its place.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from asyncbackup import statements

CHUNK = 1 << 22
"""Bytes of rows or of large objects in a piece, about: enough that starting a COPY costs nothing."""

_SAMPLE = 1 << 14  # bytes of a piece in which rows are counted, to guess how many there are in all
_TAIL = 1 << 13  # bytes in which the last line end is looked for first
_PAGE = 2048  # bytes of a large object in a row of pg_largeobject (PostgreSQL's LOBLKSIZE)

_BETWEEN = re.compile(rb"(?:\s+|--[^\n]*(?:\n|\Z))*")
_ENTRY = re.compile(
    rb"^-- (?:Data for )?Name: ([^\n]*); Type: ([^\n;]*); Schema: ([^\n]*); Owner:", re.MULTILINE
)
_WITH_BODY = (b"CREATE FUNCTION ", b"CREATE OR REPLACE FUNCTION ", b"CREATE PROCEDURE ", b"CREATE RULE ")
_QUOTED = re.compile(
    rb"""\b[eE]'(?:[^'\\]|\\.|'')*'|'[^']*'|"[^"]*"|--[^\n]*|/\*.*?\*/|(\$\w*\$).*?\1""", re.DOTALL
)
_SET = re.compile(rb"SET ([a-z_]+) = .*;", re.DOTALL)
_CONFIG = re.compile(rb"SELECT pg_catalog\.set_config\('([a-z_]+)', .*, false\);", re.DOTALL)
_AUTHORIZATION = re.compile(rb"(?:SET SESSION AUTHORIZATION .*|RESET SESSION AUTHORIZATION);", re.DOTALL)
_LO = b"SELECT pg_catalog.lo"
_LO_OPEN = re.compile(rb"SELECT pg_catalog\.lo_open\('(\d+)', 131072\);")
_LO_WRITE = re.compile(rb"SELECT pg_catalog\.lowrite\(0, '\\x([0-9a-f]*)'\);")
_LO_CLOSE = b"SELECT pg_catalog.lo_close(0);"

Table = tuple[str, str]
"""Schema and name."""

Settings = Mapping[str, bytes]
"""Statements by the name of what they set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement; `entry` says what it is about, in the dump's own words."""

    text: bytes
    entry: str
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Whole rows of a table, perhaps none; `count` is a guess."""

    table: Table
    columns: tuple[str, ...]
    data: bytes | bytearray
    count: int
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Statements that fill large objects, to be sent as one; independent of all others of their kind."""

    text: bytes
    settings: Settings


Piece = Statement | Rows | Objects


class Sections:
    """A tap that hands on a dump as pieces of work, in the dump's order."""

    def __init__(
        self, emit: Callable[[Piece], None], *, leave_out: Collection[str] = (), chunk: int = CHUNK
    ) -> None:
        """`leave_out` names settings that are not to be set."""
        self._emit = emit
        self._leave_out = leave_out
        self._chunk = chunk
        self._text = bytearray()
        self._entry = ""
        self._settings: Settings = {}
        self.encoding = "SQL_ASCII"
        # the rows of an open COPY: whole ones, and the beginning of one
        self._table: Table = ("", "")
        self._columns: tuple[str, ...] = ()
        self._rows = bytearray()
        self._begun = bytearray()
        self._handed = False
        # large objects
        self._begin: Statement | None = None
        self._objects: bytearray | None = None
        self._oid = b""
        self._offset = 0

    # What the scanner calls.

    def text(self, piece: memoryview) -> None:
        """Take a piece of SQL or of what stands between statements."""
        self._text += piece

    def end(self) -> None:
        """Take note that a statement has ended."""
        between = _BETWEEN.match(self._text)
        at = between.end() if between else 0
        if self._text.startswith(_WITH_BODY, at) and _goes_on(self._text[at:]):
            return
        entries = _ENTRY.findall(self._text, 0, at)
        if entries:
            codec = statements.codec(self.encoding)
            name, kind, schema = (part.decode(codec, "replace") for part in entries[-1])
            self._entry = f"{kind} {name}" if schema == "-" else f"{kind} {schema}.{name}"
        text = bytes(self._text[at:])
        self._text.clear()
        self._statement(text)

    def copy(self, schema: str, table: str, columns: tuple[str, ...]) -> None:
        """Take note that rows follow."""
        self._text.clear()
        self._flush_begin()
        self._table, self._columns = (schema, table), columns
        self._handed = False

    def rows(self, piece: memoryview) -> None:
        """Take a piece of rows, which may begin and end inside of one."""
        cut = _last_line_end(piece)
        if cut:
            self._rows += self._begun
            self._rows += piece[:cut]
            self._begun.clear()
            if len(self._rows) >= self._chunk:
                self._hand_rows()
        if cut < len(piece):
            if self._rows and len(self._begun) >= self._chunk:
                self._hand_rows()  # a very long row comes alone
            self._begun += piece[cut:]

    def rows_end(self) -> None:
        """Take note that the rows have ended."""
        # A table without rows gets its COPY, too: it is an error if there is no such table.
        if self._rows or not self._handed:
            self._hand_rows()

    def _hand_rows(self) -> None:
        data, self._rows = self._rows, bytearray()
        self._handed = True
        sample = data[:_SAMPLE].count(b"\n")
        count = sample * len(data) // min(len(data), _SAMPLE) if data else 0
        self._emit(
            Rows(table=self._table, columns=self._columns, data=data, count=count, settings=self._settings)
        )

    def _statement(self, text: bytes) -> None:
        if self._objects is not None:
            self._in_objects(text)
            return
        if text.startswith(_LO) and self._begin is not None and _LO_OPEN.fullmatch(text):
            self._begin = None
            self._objects = bytearray()
            self._in_objects(text)
            return
        self._flush_begin()
        statement = Statement(text=text, entry=self._entry, settings=self._settings)
        if text == b"BEGIN;":
            self._begin = statement  # it may begin the writing of large objects
        elif name := _setting(text):
            if name not in self._leave_out:
                self._settings = {**self._settings, name: text}
            self.encoding = statements.client_encoding(text) or self.encoding
        else:
            self._emit(statement)

    def _flush_begin(self) -> None:
        if self._begin is not None:
            self._emit(self._begin)
            self._begin = None

    def _in_objects(self, text: bytes) -> None:
        objects = self._objects
        if objects is None:
            raise AssertionError
        if opened := _LO_OPEN.fullmatch(text):
            self._oid, self._offset = opened[1], 0
            objects += text
        elif written := _LO_WRITE.fullmatch(text):
            objects += text
            self._offset += len(written[1]) // 2
            if len(objects) >= self._chunk and not self._offset % _PAGE:
                objects += _LO_CLOSE
                self._hand_objects()
                objects += b"SELECT pg_catalog.lo_open('%b', 131072);" % self._oid
                objects += b"SELECT pg_catalog.lo_lseek64(0, %d, 0);" % self._offset
        elif text == _LO_CLOSE:
            objects += text
            if len(objects) >= self._chunk:
                self._hand_objects()
        else:
            self._hand_objects()
            self._objects = None
            if text != b"COMMIT;":  # the end of something else than pg_dump writes
                self._statement(text)

    def _hand_objects(self) -> None:
        if self._objects:
            self._emit(Objects(text=bytes(self._objects), settings=self._settings))
            self._objects.clear()


def _goes_on(text: bytes | bytearray) -> bool:
    """Whether the semicolon that it ends with is one inside of a function's body or a rule's parentheses.

    pg_dump indents a body in SQL, but for its END.
    """
    bare = _QUOTED.sub(b"", text)
    if b"\n    BEGIN ATOMIC\n" in bare:
        return not bare.endswith(b"\nEND;")
    return bare.count(b"(") > bare.count(b")")


def _setting(text: bytes) -> str:
    """Return the name of what a statement sets for the session, or nothing if it does something else."""
    if not text.startswith((b"SET ", b"RESET ", b"SELECT pg_catalog.set_config(")):
        return ""
    if _AUTHORIZATION.fullmatch(text):
        return "session_authorization"
    match = _SET.fullmatch(text) or _CONFIG.fullmatch(text)
    return match[1].decode() if match else ""


def _last_line_end(piece: memoryview) -> int:
    """Return where the last line of a piece ends; 0 if none does."""
    start = max(0, len(piece) - _TAIL)
    found = bytes(piece[start:]).rfind(b"\n")
    if found >= 0:
        return start + found + 1
    return bytes(piece[:start]).rfind(b"\n") + 1 if start else 0
