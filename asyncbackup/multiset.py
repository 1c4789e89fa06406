"""Rows regardless of their order: how many they are, and the sum of their digests modulo 2**256.

Which rows those are decides the sum, their order does not, and no accident makes two sums equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO

from blake3 import blake3

from asyncbackup.stream import Progress
from asyncbackup.unpack import unpack

Table = tuple[str, str]
"""Schema and name."""

_MOD = 1 << 256


@dataclass(slots=True)
class Multiset:
    """Rows regardless of their order; takes pieces that may begin and end inside of one."""

    rows: int = 0
    total: int = 0
    _begun: list[bytes] = field(default_factory=list)
    """The pieces of a row that has not ended yet; a row may be as large as a gigabyte."""

    def add(self, piece: bytes) -> None:
        """Take the next bytes of the rows."""
        first, *more = piece.split(b"\n")
        self._begun.append(first)
        if not more:
            return
        *lines, rest = (b"".join(self._begun), *more)
        self._begun = [rest]
        self.rows += len(lines)
        # Summed up in a generator: a loop of Python's own for each row is what this costs.
        self.total = (self.total + sum(int.from_bytes(blake3(line).digest()) for line in lines)) % _MOD

    @property
    def value(self) -> tuple[int, int]:
        """What two multisets must have in common."""
        return self.rows, self.total


def rows_of(source: FileIO, tables: frozenset[Table]) -> Mapping[Table, Multiset]:
    """Read a backup's own rows of some tables, as multisets; blocking."""
    tap = _Rows(tables)
    unpack(source, Progress(), tap=tap)
    return tap.found


class _Rows:
    """A tap that adds up the rows of some tables."""

    def __init__(self, tables: frozenset[Table]) -> None:
        self.found = {table: Multiset() for table in tables}
        self._into: Multiset | None = None
        self._columns: dict[Table, tuple[str, ...]] = {}
        self._order: tuple[int, ...] = ()
        self._row = bytearray()

    def text(self, piece: memoryview) -> None:
        del piece

    def end(self) -> None:
        """Statements do not matter."""

    def copy(self, schema: str, table: str, columns: tuple[str, ...]) -> None:
        self._into = self.found.get((schema, table))
        first = self._columns.setdefault((schema, table), columns)
        # A partition that is dumped through its root brings the columns in its own order; read back are
        # those of the first block.
        self._order = tuple(map(columns.index, first)) if columns != first else ()
        self._row = bytearray()

    def rows(self, piece: memoryview) -> None:
        if self._into is None:
            return
        if not self._order:
            self._into.add(bytes(piece))
            return
        *lines, rest = (bytes(self._row) + bytes(piece)).split(b"\n")
        self._row = bytearray(rest)
        self._into.add(b"".join(self._reordered(line) + b"\n" for line in lines))

    def _reordered(self, line: bytes) -> bytes:
        fields = line.split(b"\t")  # a tab in a value is written as an escape
        return b"\t".join(fields[i] for i in self._order)

    def rows_end(self) -> None:
        self._into = None
