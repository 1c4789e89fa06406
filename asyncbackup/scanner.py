r"""Reads a plain dump as it streams by: rows and digests of every table, and whether it is whole.

This is a lexer for what pg_dump writes, not for all SQL. It knows quotes, dollar quotes, comments and
COPY data, so that text inside them that looks like a marker is only text. It is a judge of
completeness, not a wall against attackers: that is psql's restricted mode and a current client.

Tables are hashed by BLAKE3, which reads several times as much a second as SHA-256 does, and ten times on
processors without instructions for the latter: every byte of a dump passes here.

Two rules of the formats it leans on, beside those of trailer.py:

- In COPY's text format a newline ends a row and nothing else, and a line of just `\.` ends the data
  (PostgreSQL documentation, COPY, File Formats).
- pg_dump begins each of its statements in the first column.
"""

import hashlib
import re
import string
from binascii import unhexlify
from collections.abc import Callable, Iterable
from typing import Protocol

from blake3 import blake3

from asyncbackup import statements
from asyncbackup.model import CopyBlock, DumpScan, LargeObject, SequenceValue
from asyncbackup.trailer import Frame

_TOKEN = re.compile(rb"""['"\\;]|--|/\*|\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$""")
_SPACE = re.compile(rb"[ \t\r\n]*")
_ESCAPED = re.compile(rb"[\\']")
_WORD = frozenset(string.ascii_letters.encode() + b"0123456789_$") | frozenset(range(128, 256))

_END_OF_COPY = b"\n\\.\n"
_LO_WRITE = b"SELECT pg_catalog.lowrite(0, '\\x"
_CLOSERS = {b"--": b"\n", b"/*": b"*/"}  # every other opener closes with itself
_MAX_WORD = 200  # held back at a chunk's end, so that E'...' and $tag$ are seen whole
_MAX_LINE = 4096  # of a comment or a psql command; longer ones are none that matter
_UNKNOWN = "the dump has a psql command other than \\restrict"
_MAX_STATEMENT = 1 << 20  # kept to be understood; 1,600 columns of 63 quoted bytes fit well
_TAIL = 256  # bytes of the end that are kept to look at


class _Digest(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...


class Tap(Protocol):
    r"""Gets a dump's pieces, in order, as the scanner understands them.

    What it does not get are psql's own commands, and the line end and the `\.` around each table's rows.
    Views are only good for the length of the call.
    """

    def text(self, piece: memoryview, /) -> None:
        """Take a piece of SQL or of what stands between statements."""

    def end(self) -> None:
        """Take note that a statement has ended with the last piece."""

    def copy(self, schema: str, table: str, columns: tuple[str, ...], /) -> None:
        """Take note that the statement that has ended is a COPY, whose rows follow."""

    def rows(self, piece: memoryview, /) -> None:
        """Take a piece of rows, which may begin and end inside of one."""

    def rows_end(self) -> None:
        """Take note that the rows have ended."""


class Scanner:
    """Takes a dump in chunks of any size; the verdict does not depend on where they are cut.

    Memory is bounded by one statement (1 MiB of it) and the list of tables, not by the dump.
    """

    def __init__(self, tap: Tap | None = None, *, digests: bool = True) -> None:
        """Without `digests`, rows are neither counted nor hashed."""
        self._tap = tap
        self._digests = digests
        self.bytes = 0
        """Bytes of SQL seen so far."""
        self.rows = 0
        """Rows seen so far, for a progress display."""
        self._carry = b""
        self._tail = b""
        self._step: Callable[[bytes | bytearray, int, int], int] = self._sql
        self._view = memoryview(b"")
        self.problem = ""
        """Why the dump cannot be whole; from there on, the tap gets nothing more."""
        self.commands: list[tuple[int, int]] = []
        """Where psql's own commands begin and end in the dump, as far as they may be there."""
        self._encoding = "SQL_ASCII"
        self._outside = blake3()
        # the statement that is open
        self._open = False
        self._statement = bytearray()
        self._closer = b""
        self._block: tuple[str, str, tuple[str, ...]] = ("", "", ())
        self._begin(blake3())
        self._line_start = True
        self._lo_oid = -1
        self._odd_digit = b""
        self._blocks: list[CopyBlock] = []
        self._sequences: list[SequenceValue] = []
        self._large_objects: list[LargeObject] = []
        self._roles: dict[bytes, None] = {}
        self._superusers: dict[bytes, None] = {}
        self._tablespaces: dict[bytes, None] = {}
        self._extensions: dict[bytes, None] = {}
        self._frame = Frame()

    def feed(self, data: bytes | bytearray, end: int | None = None) -> None:
        """Read the next bytes of the dump, `data[:end]`."""
        end = len(data) if end is None else end
        if self._carry:
            data = self._carry + data[:end]
            end = len(data)
            self._carry = b""
        position = 0
        with memoryview(data) as view:
            self._view = view
            while position < end:
                reached = self._step(data, position, end)
                if reached == position:
                    break  # the rest can only be understood together with what comes next
                position = reached
            self._view = memoryview(b"")
        self.bytes += position
        self._tail = (self._tail + data[max(0, position - _TAIL) : position])[-_TAIL:]
        self._carry = bytes(data[position:end])

    def finish(self) -> DumpScan:
        """Return the verdict at the end of the stream."""
        return DumpScan(
            bytes=self.bytes + len(self._carry),
            encoding=self._encoding,
            blocks=tuple(self._blocks),
            sequences=tuple(self._sequences),
            large_objects=tuple(self._large_objects),
            roles=self._names(self._roles),
            superusers=self._names(self._superusers),
            tablespaces=self._names(self._tablespaces),
            extensions=self._names(self._extensions),
            outside_blake3=self._outside.hexdigest(),
            restricted=self._frame.key is not None,
            problem=self.problem or self._unfinished(),
        )

    def _fail(self, problem: str) -> None:
        """Keep the first problem; what follows is for nobody to act on."""
        self.problem = self.problem or problem
        self._tap = None

    def _names(self, identifiers: Iterable[bytes]) -> tuple[str, ...]:
        return tuple(sorted({statements.name(identifier, self._encoding) for identifier in identifiers}))

    def _unfinished(self) -> str:
        if not self.bytes and not self._carry:
            return "the dump is empty"
        if self._step == self._copy:
            return f"the dump ends inside the rows of {self._block[0]}.{self._block[1]}"
        if self._open or self._step != self._sql:
            return "the dump ends inside a statement"
        return self._frame.verdict(self.bytes + len(self._carry), self._tail + self._carry)

    # Each of the following takes data[position:end] and returns how far it got. Getting nowhere means
    # that it needs more to decide. What it passes, it has hashed once: into the digest of a table, of
    # a large object, or of everything outside them.

    def _pass(self, position: int, to: int) -> None:
        """Hash bytes outside COPY, and keep them if they belong to an open statement."""
        piece = self._view[position:to]
        self._outside.update(piece)
        if self._tap is not None:
            self._tap.text(piece)
        if self._open and len(self._statement) < _MAX_STATEMENT:
            self._statement += piece

    def _open_until(self, closer: bytes) -> None:
        self._closer = closer
        self._step = self._until_closed

    def _sql(self, data: bytes | bytearray, position: int, end: int) -> int:
        if not self._open:
            return self._between(data, position, end)
        match = _TOKEN.search(data, position, end)
        if match is None:
            return self._hold_word(data, position, end)
        start, after = match.span()
        token = match.group()
        # Nothing before `position` counts: a token ended there, or a word was held back to begin there.
        word = start > position and data[start - 1] in _WORD
        if token == b";":
            self._pass(position, start)
            if after == end and self._statement.startswith(b"COPY "):
                return start  # the rows begin behind the line end, which has not arrived yet
            self._pass(start, after)
            return self._end_statement(data, after)
        if token[0] == 0x24 and word:  # part of a name such as a$b$c
            while after < end and data[after] in _WORD:
                after += 1
            if after == end:
                return self._hold_word(data, position, end)
        elif token == b"\\":
            self._fail("the dump has a psql command inside a statement")
        elif token == b"'" and word and _is_escape(data, position, start - 1):
            self._step = self._escape_quote
        else:
            self._open_until(_CLOSERS.get(token, token))
        self._pass(position, after)
        return after

    def _hold_word(self, data: bytes | bytearray, position: int, end: int) -> int:
        held = 0
        while held < _MAX_WORD and end - held > position and data[end - held - 1] in _WORD:
            held += 1
        if not held and data[end - 1] in b"-/":
            held = 1
        self._pass(position, end - held)
        return end - held

    def _between(self, data: bytes | bytearray, position: int, end: int) -> int:
        space = _SPACE.match(data, position, end)
        start = space.end() if space else position
        if start > position:
            self._pass(position, start)
            return start
        before = data[start - 1] if start else (self._tail[-1] if self._tail else 0x0A)
        two = data[start : start + 2]
        if two in (b"-", b"/"):
            return position
        if two == b"--" or data[start] == 0x5C:
            return self._whole_line(data, start, end)
        if two == b"/*":
            self._open_until(b"*/")
            self._pass(start, start + 2)
            return start + 2
        here = data[start : min(end, start + len(_LO_WRITE))]
        if before == 0x0A and here == _LO_WRITE:
            self._open = True
            self._pass(start, start + len(here))
            self._odd_digit = b""
            self._step = self._large_object
            return start + len(here)
        if len(here) < len(_LO_WRITE) and _LO_WRITE.startswith(here):
            return position
        self._open = True
        if before != 0x0A:
            # Not a statement of pg_dump's own, but part of a body: understand nothing of it.
            self._statement += b" "
        return self._sql(data, start, end)

    def _whole_line(self, data: bytes | bytearray, start: int, end: int) -> int:
        newline = data.find(b"\n", start, end)
        if newline < 0:
            if end - start < _MAX_LINE:
                return start
            if data[start] == 0x5C:
                self._fail(_UNKNOWN)
            self._open_until(b"\n")
            return start
        line = bytes(data[start : newline + 1])
        if line.startswith(b"\\"):
            problem = self._frame.command(line, first=self._encoding == "SQL_ASCII")
            if len(line) > _MAX_LINE:
                problem = _UNKNOWN
            if not problem:
                self.commands.append((self.bytes + start, self.bytes + newline + 1))
                return newline + 1  # left out of the digest: its key is random
            self._fail(problem)
        else:
            self._frame.comment(line[:-1], self.bytes + newline)
        self._pass(start, newline + 1)
        return newline + 1

    def _until_closed(self, data: bytes | bytearray, position: int, end: int) -> int:
        # A doubled quote closes and opens again, which comes to the same.
        found = data.find(self._closer, position, end)
        if found >= 0:
            self._step = self._sql
            to = found + len(self._closer)
        else:
            to = max(position, end - len(self._closer) + 1)
        self._pass(position, to)
        return to

    def _escape_quote(self, data: bytes | bytearray, position: int, end: int) -> int:
        found = _ESCAPED.search(data, position, end)
        if found is None:
            self._pass(position, end)
            return end
        at = found.start()
        if at + 1 == end:
            self._pass(position, at)
            return at
        if data[at] == 0x5C or data[at + 1] == 0x27:
            at += 1
        else:
            self._step = self._sql
        self._pass(position, at + 1)
        return at + 1

    def _large_object(self, data: bytes | bytearray, position: int, end: int) -> int:
        found = data.find(b"'", position, end)
        to = end if found < 0 else found
        digits = self._odd_digit + data[position:to]
        if self._tap is not None:
            self._tap.text(self._view[position:to])
        even = len(digits) & ~1
        self._odd_digit = bytes(digits[even:])
        try:
            content = unhexlify(digits[:even])
        except ValueError:
            self._fail("the dump has a large object that is not hexadecimal")
            content = b""
        self._digest.update(content)
        self._block_bytes += len(content)
        if found < 0:
            return to
        self._step = self._sql
        self._pass(to, to + 1)
        return to + 1

    def _copy(self, data: bytes | bytearray, position: int, end: int) -> int:
        if self._line_start:
            here = data[position : min(end, position + 3)]
            if here == b"\\.\n":
                return self._end_copy(position)
            if len(here) < 3 and b"\\.\n".startswith(here):
                return position
        # Inside a large table the answer is no: at once where there is no backslash, and else backwards,
        # which is twice as fast.
        found = data.find(b"\\", position, end)
        found = data.rfind(_END_OF_COPY, position, end) if found >= 0 else -1
        if found >= 0:
            found = data.find(_END_OF_COPY, position, end)
            self._take_rows(data, position, found + 1)
            return self._end_copy(found + 1)
        to = end
        for held in (1, 2):
            if end - position > held and data[end - held - 1 : end] == _END_OF_COPY[: held + 1]:
                to = end - held
        self._take_rows(data, position, to)
        self._line_start = data[to - 1] == 0x0A
        return to

    def _take_rows(self, data: bytes | bytearray, position: int, to: int) -> None:
        piece = self._view[position:to]
        if self._tap is not None:
            self._tap.rows(piece)
        self._block_bytes += to - position
        if self._digests:
            rows = data.count(b"\n", position, to)
            self._digest.update(piece)
            self._block_rows += rows
            self.rows += rows

    def _end_copy(self, marker: int) -> int:
        schema, table, columns = self._block
        self._blocks.append(
            CopyBlock(
                schema=schema,
                table=table,
                columns=columns,
                rows=self._block_rows,
                bytes=self._block_bytes,
                blake3=self._digest.hexdigest(),
            )
        )
        self._outside.update(self._view[marker : marker + 3])
        if self._tap is not None:
            self._tap.rows_end()
        self._step = self._sql
        return marker + 3

    def _begin(self, digest: _Digest) -> None:
        self._digest = digest
        self._block_rows = self._block_bytes = 0

    def _end_statement(self, data: bytes | bytearray, after: int) -> int:
        statement = bytes(self._statement)
        self._open = False
        self._statement.clear()
        self._frame.statement()
        if statement.startswith(b"COPY "):
            return self._begin_copy(statement, data, after)
        if self._tap is not None:
            self._tap.end()
        if statement.startswith(b"SELECT pg_catalog."):
            self._call(statement)
        elif statement.startswith(b"SET client_encoding"):
            self._encoding = statements.client_encoding(statement) or self._encoding
        else:
            self._roles.update(dict.fromkeys(statements.roles(statement)))
            if owner := statements.superuser(statement):
                self._superusers[owner] = None
            elif space := statements.tablespace(statement):
                self._tablespaces[space] = None
            elif extension := statements.extension(statement):
                self._extensions[extension] = None
        return after

    def _begin_copy(self, statement: bytes, data: bytes | bytearray, after: int) -> int:
        block = statements.copy(statement, self._encoding)
        if block is None or data[after] != 0x0A:
            self._fail("the dump has a COPY statement of an unknown form")
            return after
        self._block = block
        self._begin(blake3())
        self._line_start = True
        self._step = self._copy
        self._outside.update(b"\n")
        if self._tap is not None:
            self._tap.copy(*block)
        return after + 1

    def _call(self, statement: bytes) -> None:
        if statement.startswith(b"SELECT pg_catalog.setval("):
            value = statements.setval(statement, self._encoding)
            if value is None:
                self._fail("the dump has a setval of an unknown form")
            else:
                self._sequences.append(value)
        elif (oid := statements.large_object(statement)) is not None:
            self._lo_oid = oid
            self._begin(hashlib.sha256())
        elif statement.startswith(b"SELECT pg_catalog.lo_close(") and self._lo_oid >= 0:
            self._large_objects.append(
                LargeObject(oid=self._lo_oid, bytes=self._block_bytes, sha256=self._digest.hexdigest())
            )
            self._lo_oid = -1


def _is_escape(data: bytes | bytearray, first: int, at: int) -> bool:
    """Whether the character before a quote is the E of an escape string, and no longer word's end."""
    return data[at] in b"eE" and (at == first or data[at - 1] not in _WORD)
