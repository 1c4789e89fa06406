"""What of a dump's end can be done side by side, and in which order that is done soonest.

A dump ends with what is built on tables that have their rows: keys, indexes, constraints, triggers. A
statement of a form that is known here tells which tables it needs for itself and which it shares with
others of its kind; by these claims, each waits for those before it that it would get in the way of. So
no two that run at once ever wait for each other's locks. A statement of any other form is not known to be
safe beside others, and none of them is run beside it.

Locks are PostgreSQL's own (documentation, Explicit Locking): CREATE INDEX needs SHARE, which suits others
of its kind; ADD FOREIGN KEY needs SHARE ROW EXCLUSIVE on two tables and their partitions, which suits
nobody; other forms of ALTER TABLE need ACCESS EXCLUSIVE.
"""

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum, auto

from asyncbackup import statements
from asyncbackup.postgres.sections import Statement, Table
from asyncbackup.statements import IDENT

_TABLE = rb"(?P<schema>%b)\.(?P<table>%b)" % (IDENT, IDENT)
_OTHER = rb"(?P<schema2>%b)\.(?P<table2>%b)" % (IDENT, IDENT)
_COLUMNS = rb"(?:PERIOD )?%b(?:, (?:PERIOD )?%b)*" % (IDENT, IDENT)
_EVENT = rb"(?:INSERT|DELETE|TRUNCATE|UPDATE(?: OF %b(?:, %b)*)?)" % (IDENT, IDENT)
_NAME = rb"(?P<name>%b)" % IDENT


class Kind(Enum):
    """What a build is, as far as its place among the others goes."""

    INDEX = auto()
    """An index, of a constraint or not; any order will do."""
    FOREIGN_KEY = auto()
    """After the keys of the table that it refers to."""
    OTHER = auto()
    """After all before it on its tables, and before all behind it."""


@dataclass(frozen=True, slots=True)
class _Form:
    """A form of statement: how to read it, and what it means for its table."""

    pattern: re.Pattern[bytes]
    kind: Kind
    cost: float
    """What a row of its table costs, as measured, where an ordinary index takes 1."""
    exclusive: bool = True
    family: bool = True
    """Whether it also concerns the table's partitions and heirs, unless it says ONLY."""


def _form(pattern: bytes, kind: Kind = Kind.OTHER, cost: float = 0, **options: bool) -> _Form:
    return _Form(re.compile(pattern, re.DOTALL), kind, cost, **options)


_ALTER = rb"ALTER TABLE (?P<only>ONLY )?" + _TABLE + rb"\s+"
_FORMS = (
    _form(
        rb"CREATE (?P<unique>UNIQUE )?INDEX %b ON (?P<only>ONLY )?%b USING (?P<method>\w+) .*;"
        % (_NAME, _TABLE),
        Kind.INDEX,
        1,
        exclusive=False,
    ),
    _form(
        rb"%bADD CONSTRAINT %b (?P<unique>PRIMARY KEY|UNIQUE|EXCLUDE) .*;" % (_ALTER, _NAME),
        Kind.INDEX,
        0.5,  # keys come in their order, mostly
    ),
    _form(
        rb"%bADD CONSTRAINT %b FOREIGN KEY \(%b\) REFERENCES %b[ (;].*"
        % (_ALTER.replace(b"P<only>", b":"), IDENT, _COLUMNS, _OTHER),
        Kind.FOREIGN_KEY,
        0.6,
    ),
    _form(rb"%bADD CONSTRAINT %b NOT NULL .*;" % (_ALTER, IDENT)),
    _form(rb"%b(?:CLUSTER ON|REPLICA IDENTITY|ENABLE|DISABLE|FORCE) .*;" % _ALTER),
    _form(
        rb"CREATE (?:CONSTRAINT )?TRIGGER %b (?:BEFORE|AFTER|INSTEAD OF) %b(?: OR %b)* ON %b(?! FROM ).*;"
        % (IDENT, _EVENT, _EVENT, _TABLE)
    ),
    _form(rb"CREATE STATISTICS .* FROM %b;" % _TABLE, family=False),
    _form(rb"COMMENT ON (?:CONSTRAINT|TRIGGER) %b ON %b IS .*;" % (IDENT, _TABLE), family=False),
)
_FIRST_WORDS = (b"CREATE ", b"ALTER TABLE ", b"ALTER INDEX ", b"COMMENT ON ")
_ATTACH = re.compile(rb"ALTER INDEX %b ATTACH PARTITION %b;" % (_TABLE, _OTHER), re.DOTALL)
_OF_INDEX = re.compile(rb"(?:ALTER|COMMENT ON) INDEX %b (?:ALTER COLUMN|SET|IS) .*;" % _TABLE, re.DOTALL)
_SLOW = 4.0  # times the cost of a btree, for all other kinds of index


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A statement that may run beside others, and the tables that it claims."""

    statement: Statement
    kind: Kind
    table: Table
    also: frozenset[Table] = frozenset()
    """Other tables that it claims as it does its own; those that a foreign key refers to."""
    unique: bool = False
    """Whether foreign keys may need it."""
    exclusive: bool = True
    """Whether it needs its tables for itself, or shares them with others that do."""
    family: bool = False
    """Whether it concerns the partitions and heirs of its tables, too."""
    sorts: bool = False
    """Whether it sorts or hashes what it reads, and nothing else needs memory."""
    cost: float = 0
    """What a row of its table costs."""


class Reader:
    """Understands statements; remembers which index is whose, since statements on indexes name no table."""

    def __init__(self) -> None:
        self._tables: dict[Table, Table] = {}

    def read(self, statement: Statement, encoding: str) -> Build | None:
        """Return what a statement may run beside, or None if that is not known."""
        text = statement.text
        if not text.startswith(_FIRST_WORDS):
            return None
        for form in _FORMS:
            if match := form.pattern.fullmatch(text):
                return self._of_table(statement, form, match, encoding)
        if match := _ATTACH.fullmatch(text) or _OF_INDEX.fullmatch(text):
            return self._of_index(statement, match, encoding)
        return None

    def _of_table(self, statement: Statement, form: _Form, match: re.Match[bytes], encoding: str) -> Build:
        found = {key: statements.name(value, encoding) for key, value in match.groupdict().items() if value}
        table = (found["schema"], found["table"])
        if "name" in found:
            self._tables[found["schema"], found["name"]] = table
        ranges = found.get("unique") == "EXCLUDE" or b" WITHOUT OVERLAPS)" in statement.text
        sorts = found.get("method", "btree") == "btree" and not ranges
        return Build(
            statement=statement,
            kind=form.kind,
            table=table,
            also=frozenset({(found["schema2"], found["table2"])} if "table2" in found else ()),
            unique="unique" in found,
            exclusive=form.exclusive,
            family=form.family and "only" not in found,
            sorts=sorts,
            cost=form.cost * (1 if sorts else _SLOW),
        )

    def _of_index(self, statement: Statement, match: re.Match[bytes], encoding: str) -> Build | None:
        found = {key: statements.name(value, encoding) for key, value in match.groupdict().items()}
        names = [(found["schema"], found["table"])]
        if "table2" in found:
            names.append((found["schema2"], found["table2"]))
        tables = [self._tables.get(name) for name in names]
        if None in tables:
            return None
        table, *also = (each for each in tables if each)
        return Build(statement=statement, kind=Kind.OTHER, table=table, also=frozenset(also))


@dataclass(slots=True)
class _Node:
    build: Build
    claims: frozenset[Table]
    waits_for: set[int]
    followers: list[int] = field(default_factory=list)
    urgency: float = 0


@dataclass(slots=True)
class _Past:
    """What stands before a build on one of its tables."""

    last: int | None = None
    """The last one that had to keep its place."""
    since: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    """Those of them that a foreign key may need."""


class Plan:
    """Builds on their way: gives out those that nothing hinders, the one with most behind it first."""

    def __init__(
        self, builds: Sequence[Build], families: Mapping[Table, AbstractSet[Table]], rows: Mapping[Table, int]
    ) -> None:
        """`families` are the descendants of tables that have any, `rows` how large tables are."""
        self._nodes: list[_Node] = []
        self._ready: list[tuple[float, int]] = []
        self._open = len(builds)
        self._held: Counter[Table] = Counter()
        self._running = 0
        past: defaultdict[Table, _Past] = defaultdict(_Past)
        for number, build in enumerate(builds):
            own = _family({build.table}, build, families)
            referenced = _family(build.also, build, families)
            waits_for: set[int] = set()
            for table in own | referenced:
                before = past[table]
                waits_for.update(() if before.last is None else (before.last,))
                if build.kind is Kind.OTHER:
                    waits_for.update(before.since)
                    past[table] = _Past(last=number)
                    continue
                if build.kind is Kind.FOREIGN_KEY and table in referenced:
                    waits_for.update(before.keys)
                before.since.append(number)
                if build.unique:
                    before.keys.append(number)
            node = _Node(build=build, claims=own | referenced, waits_for=waits_for)
            node.urgency = 1 + build.cost * sum(rows.get(table, 0) for table in own)
            for other in waits_for:
                self._nodes[other].followers.append(number)
            self._nodes.append(node)
        for number, node in reversed(list(enumerate(self._nodes))):
            node.urgency += max((self._nodes[other].urgency for other in node.followers), default=0)
            if not node.waits_for:
                bisect.insort(self._ready, (-node.urgency, number))

    @property
    def over(self) -> bool:
        """Whether all of them are done."""
        return not self._open

    @property
    def alone(self) -> bool:
        """Whether the one that was given out last has nothing beside it."""
        return self._running == 1 and not self._ready

    def take(self) -> tuple[int, Build] | None:
        """Return the next one and its number; None while all that are left wait for others."""
        for place, (_, number) in enumerate(self._ready):
            node = self._nodes[number]
            if node.build.exclusive:
                free = not any(self._held[table] for table in node.claims)
            else:
                free = all(self._held[table] >= 0 for table in node.claims)
            if free:
                del self._ready[place]
                self._hold(node, 1)
                return number, node.build
        return None

    def done(self, number: int) -> None:
        """Take note that the one of this number has been built."""
        node = self._nodes[number]
        self._hold(node, -1)
        self._open -= 1
        for follower in node.followers:
            other = self._nodes[follower]
            other.waits_for.discard(number)
            if not other.waits_for:
                bisect.insort(self._ready, (-other.urgency, follower))

    def _hold(self, node: _Node, change: int) -> None:
        """Count who has a table: those who share it, or -1 for the one who has it alone."""
        self._running += change
        for table in node.claims:
            self._held[table] += -change if node.build.exclusive else change


def _family(
    tables: AbstractSet[Table], build: Build, families: Mapping[Table, AbstractSet[Table]]
) -> frozenset[Table]:
    if not build.family:
        return frozenset(tables)
    return frozenset(tables).union(*(families.get(table, ()) for table in tables))
