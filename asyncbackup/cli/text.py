"""Values as people read them."""

import math
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from asyncbackup.dbspec import parse_spec, spec_text
from asyncbackup.errors import UsageError
from asyncbackup.model import DatabasePattern, DatabaseSpec
from asyncbackup.units import format_bytes

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_BLOCK_STEP = 1024
_UNITS = ("", "K", "M", "G", "T", "P")
_ONE_DIGIT = 10
_SHELL = frozenset(" \t\"'\\$`*?!;&|<>(){}#~")  # what would have to be quoted there
_UNSAFE = ("C", "Zl", "Zp")  # controls, bidi overrides, lone surrogates, and what breaks a line


size = format_bytes


def counted(count: int, noun: str) -> str:
    """Return a number of things: 1 backup, 2 backups."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def blocks(count: float) -> str:
    """Return bytes as du and df do, in powers of 1024 and rounded up: 0, 512, 4.0K, 13K."""
    power = 0
    while count >= _BLOCK_STEP and power < len(_UNITS) - 1:
        count /= _BLOCK_STEP
        power += 1
    if not power or count >= _ONE_DIGIT:
        return f"{math.ceil(count)}{_UNITS[power]}"
    return f"{math.ceil(count * 10) / 10:.1f}{_UNITS[power]}"


def seconds(count: float) -> str:
    """Return a duration: 0.8 s, 2 min 5 s, 3 h 10 min."""
    if count < _MINUTE:
        return f"{count:.1f} s"
    if count < _HOUR:
        return f"{int(count // _MINUTE)} min {int(count % _MINUTE)} s"
    return f"{int(count // _HOUR)} h {int(count % _HOUR // _MINUTE)} min"


def age(since: datetime, now: datetime) -> str:
    """Return how long ago something was, in its two largest units at most."""
    elapsed = (now - since).total_seconds()
    if elapsed < 0:
        return "in the future"
    if elapsed < _MINUTE:
        return f"{int(elapsed)} s"
    if elapsed < _HOUR:
        return f"{int(elapsed // _MINUTE)} min"
    if elapsed < _DAY:
        return f"{int(elapsed // _HOUR)} h {int(elapsed % _HOUR // _MINUTE)} min"
    return f"{int(elapsed // _DAY)} d {int(elapsed % _DAY // _HOUR)} h"


def plain(text: str) -> str:
    """Return text without anything that could command a terminal: controls, bidi, lone surrogates."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character) if unicodedata.category(character).startswith(_UNSAFE) else character
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"F", "W"} else 1


def database(spec: DatabaseSpec) -> str:
    """Return a database as it can be read and, pasted onto a command line, is understood."""
    readable = str(spec)
    if plain(readable) == readable and _SHELL.isdisjoint(readable):
        try:
            if parse_spec(readable, default_port=spec.port) == spec:
                return readable
        except UsageError:
            pass
    return spec_text(spec)


def pattern(line: DatabasePattern) -> str:
    """Return a wildcard or an exclusion as a configuration file has it, with its port."""
    host = f"[{line.host}]" if ":" in line.host else line.host
    return f"{'!' if line.exclude else ''}{host}:{line.port}/{line.pattern}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return aligned columns; those in `right` are set flush right."""
    shown = [list(head), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(width(line[column]) for line in shown) for column in range(len(head))]

    def cells(line: Sequence[str]) -> str:
        padded = []
        for column, cell in enumerate(line):
            space = " " * (widths[column] - width(cell))
            padded.append(space + cell if column in right else cell + space)
        return "  ".join(padded).rstrip()

    return "\n".join(cells(line) for line in shown)


def lines(title: str, items: Collection[str]) -> str:
    """Return a title and what stands below it; nothing at all without items."""
    return "\n".join([title, *(f"  {plain(item)}" for item in items)]) if items else ""
