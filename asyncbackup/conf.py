"""The backup.conf grammar: bytes to databases, wildcards and schedules, or all that is wrong with them.

One line is one thing: `[postgres=]host[:port]/dbname`, the same with a wildcard (`host/app_*`), an
exclusion (`!host/name`), or a schedule (`0 1 * * * default ./backup.sh -s`). A command is understood
here, word by word, and never handed to a shell. What has no place in a name is percent-encoded.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from asyncbackup.crontab import ALL, NICKNAMES, read_schedule
from asyncbackup.dbspec import (
    Foreign,
    check_dbname,
    decode,
    matches,
    parse_spec,
    shown,
    spec_text,
    split_address,
    split_kind,
)
from asyncbackup.errors import ConfigError
from asyncbackup.model import GLOBALS_LABEL, DatabasePattern, DatabaseSpec, Schedule, Server

__all__ = [
    "ALL",
    "NICKNAMES",
    "Conf",
    "is_working_copy",
    "load",
    "parse",
    "parse_spec",
    "passed_over",
    "resolve",
    "spec_text",
    "wanted_servers",
]

MAX_FILE = 64 * 1024 * 1024
MAX_LINE = 4096
MAX_MESSAGES = 50
MAX_SCHEDULES = 200

_FORMS = "neither a database (host[:port]/dbname) nor a schedule (0 1 * * * default ./backup.sh -s)"
_HASH = "ignored, because the line holds a #; to use the line, move its comment to a line of its own"
_PLAIN = re.compile(r"([A-Za-z0-9._-]{1,253})(?::([1-9][0-9]{0,3}))?/([A-Za-z0-9._-]{1,63})")
_GIVEN = re.compile(r".*(?:_restoring_[0-9a-f]{8}|_before_\d{8}_\d{6})", re.DOTALL | re.ASCII)
_MINUTE = re.compile(r"[0-9*,/-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """A configuration file, understood; all in the order of its lines.

    `lines` holds the line number of each database. Exclusions are applied by `resolve`, not here.
    """

    databases: tuple[DatabaseSpec, ...] = ()
    patterns: tuple[DatabasePattern, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    warnings: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()

    @property
    def lists_databases(self) -> bool:
        """Whether any line names databases to back up; when none does, the environment decides."""
        return bool(self.databases) or any(not pattern.exclude for pattern in self.patterns)


class WrongLinesError(ConfigError):
    """Lines of the file are wrong; `rest` is what the others say."""

    def __init__(self, problems: list[str], rest: Conf) -> None:
        super().__init__(problems)
        self.rest = rest


_Entry = DatabaseSpec | DatabasePattern | Schedule


def load(path: Path, *, default_port: int) -> Conf:
    """Read and parse a configuration file; a missing one raises FileNotFoundError."""
    source = os.fsencode(path).decode(errors="replace")
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError([f"{source}: cannot be read: {error.strerror}"]) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise ConfigError([f"{source}: is {kind}; a text file with one host/dbname per line is needed"])
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError([f"{source}: cannot be read: {error.strerror}"]) from error
    finally:
        os.close(descriptor)
    return parse(data, default_port=default_port, source=source)


def parse(data: bytes, *, default_port: int, source: str) -> Conf:
    """Understand a configuration file, or raise ConfigError with every `source:line: problem`."""
    problems: list[str] = []
    warnings: list[str] = []
    seen: dict[object, int] = {}
    entries: list[tuple[int, _Entry]] = []
    foreign: dict[str, list[int]] = {}
    schedules = 0
    for number, line in _lines(data, source):
        same = seen.get(line)  # spares the parser lines that repeat letter by letter
        if same is None:
            if "#" in line:
                warnings.append(f"{source}:{number}: {_HASH}")
                continue
            try:
                entry = _entry(line, number, default_port)
            except ValueError as error:
                problems.append(f"{source}:{number}: {error}")
                if len(problems) == MAX_MESSAGES:
                    problems.append(f"{source}: there may be more; these are the first {MAX_MESSAGES}")
                    break
                continue
            if isinstance(entry, Foreign):
                foreign.setdefault(entry.kind, []).append(number)
                continue
            same = seen.setdefault(_identity(entry), number)
            seen[line] = same
            if same == number:
                entries.append((number, entry))
                schedules += isinstance(entry, Schedule)
                if schedules > MAX_SCHEDULES:
                    problems.append(f"{source}:{number}: one schedule too many; the most is {MAX_SCHEDULES}")
                    break
                continue
        warnings.append(f"{source}:{number}: repeats line {same}, and is ignored")
    if foreign:
        kinds = "; ".join(f"{kind}: line {_numbers(lines)}" for kind, lines in islice(foreign.items(), 10))
        warnings.append(f"{source}: lines for other kinds of database are skipped ({kinds})")
    conf = Conf(
        databases=tuple(entry for _, entry in entries if isinstance(entry, DatabaseSpec)),
        patterns=tuple(entry for _, entry in entries if isinstance(entry, DatabasePattern)),
        schedules=tuple(entry for _, entry in entries if isinstance(entry, Schedule)),
        lines=tuple(number for number, entry in entries if isinstance(entry, DatabaseSpec)),
    )
    if problems:
        raise WrongLinesError(problems, conf)
    warnings += _exclusion_warnings(conf, source)
    if len(warnings) > MAX_MESSAGES:
        warnings[MAX_MESSAGES:] = [f"{source}: {len(warnings) - MAX_MESSAGES} more such warnings"]
    return replace(conf, warnings=tuple(warnings))


def _lines(data: bytes, source: str) -> Iterator[tuple[int, str]]:
    """Yield every line that says something, with its number."""
    if len(data) > MAX_FILE:
        raise ConfigError([f"{source}: is larger than {MAX_FILE >> 20} MiB; that is no configuration file"])
    nul = data.find(b"\0")
    if nul >= 0:
        number = data.count(b"\n", 0, nul) + 1
        raise ConfigError([f"{source}:{number}: holds a NUL byte; the file must be text in UTF-8"])
    # Comments may be in any encoding, as of old; a broken byte elsewhere is found as not printable.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    for number, raw in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        line = raw.strip(" \t")
        if line and line[0] != "#":
            yield number, line


def _identity(entry: _Entry) -> object:
    """Return what makes two lines say the same."""
    match entry:
        case DatabaseSpec():
            return entry
        case DatabasePattern():
            return entry.host, entry.port, entry.pattern, entry.exclude
        case Schedule():
            return entry.expression, entry.user, entry.action, entry.spec, entry.filter


def _numbers(lines: Sequence[int]) -> str:
    most = 10
    return ", ".join(map(str, lines[:most])) + (" …" if len(lines) > most else "")


def _exclusion_warnings(conf: Conf, source: str) -> list[str]:
    exclusions = [(pattern, _server(pattern)) for pattern in conf.patterns if pattern.exclude]
    listed = {spec.server for spec in conf.databases}
    listed |= {_server(pattern) for pattern in conf.patterns if not pattern.exclude}
    warnings = [
        f"{source}:{pattern.line}: excludes nothing; no line lists a database of {server}"
        for pattern, server in exclusions
        if server not in listed
    ]
    # Only a courtesy, so it may not cost more than the file itself.
    if len(exclusions) * len(conf.databases) <= 20_000:  # noqa: PLR2004
        warnings += [
            f"{source}:{number}: is listed, but line {pattern.line} excludes it"
            for number, spec in zip(conf.lines, conf.databases, strict=True)
            for pattern, server in exclusions
            if server == spec.server and matches(pattern.pattern, spec.dbname)
        ]
    return warnings


def _entry(line: str, number: int, default_port: int) -> _Entry | Foreign:
    """Understand one line, or raise ValueError with a sentence about it."""
    plain = _PLAIN.fullmatch(line)
    if plain:  # what nearly every line of a long file is, without the questions below
        return DatabaseSpec(plain[1], int(plain[2] or default_port), plain[3])
    if len(line) > MAX_LINE:
        raise ValueError(f"the line has {len(line):,} characters; the most is {MAX_LINE:,}")
    line = line.replace("\t", " ")
    if not line.isprintable():
        odd = next(char for char in line if not char.isprintable())
        what = "a byte that is not UTF-8" if "\udc80" <= odd <= "\udcff" else "a control character"
        raise ValueError(f"{shown(line)} holds {what}; in a name, write it percent-encoded")
    if "://" in line:  # never echoed, for it may hold a password
        raise ValueError("looks like a URL; write host[:port]/dbname, and set the credentials as variables")
    if " " not in line:
        return _database(line, number, default_port)
    words = line.split()
    least = 6  # five fields and anything else can only be meant as a schedule
    if line[0] == "@" or len(words) >= least or _MINUTE.fullmatch(words[0]):
        return read_schedule(words, number, default_port)
    if "/" in words[0]:
        raise ValueError(f"{shown(line)} holds a blank; in a name, write it as %20")
    raise ValueError(f"{shown(line)} is {_FORMS}")


def _database(text: str, number: int, default_port: int) -> _Entry | Foreign:
    exclude = text[0] == "!"
    kind, address = split_kind(text.removeprefix("!"))
    if kind:
        return Foreign(kind)
    if "/" not in address:
        raise ValueError(f"{shown(text)} is {_FORMS}")
    host, port, name = split_address(address, default_port)
    if exclude or "*" in name:
        for piece in name.split("*"):
            check_dbname(decode(piece, "database name"), least=0)
        return DatabasePattern(host=host, port=port, pattern=name, exclude=exclude, line=number)
    if name == GLOBALS_LABEL:
        raise ValueError(
            f"{GLOBALS_LABEL} is backed up with every server (DUMP_GLOBALS); "
            f"a database of that name is written %40{GLOBALS_LABEL[1:]}"
        )
    return DatabaseSpec(host, port, check_dbname(decode(name, "database name")))


def _server(pattern: DatabasePattern) -> Server:
    return Server(pattern.host, pattern.port)


def wanted_servers(patterns: Sequence[DatabasePattern]) -> tuple[Server, ...]:
    """Return the servers whose databases must be found out, in the order of the file."""
    return tuple(dict.fromkeys(_server(pattern) for pattern in patterns if not pattern.exclude))


def is_working_copy(name: str) -> bool:
    """Tell whether a name is taken for one that a restore gives, which no wildcard stands for."""
    return "_restoring_" in name or "_before_" in name


def passed_over(
    databases: Sequence[DatabaseSpec],
    patterns: Sequence[DatabasePattern],
    server: Server,
    found: Sequence[str],
) -> tuple[str, ...]:
    """Return the names that only look as if a restore had given them, and that nothing else leaves out.

    A wildcard would mean them if they were called otherwise; whoever has chosen such a name should know.
    """
    of_server = [pattern for pattern in patterns if _server(pattern) == server]
    listed = {spec.dbname for spec in databases if spec.server == server}
    return tuple(
        name
        for name in found
        if is_working_copy(name)
        and not _GIVEN.fullmatch(name)
        and name not in listed
        and any(not pattern.exclude and matches(pattern.pattern, name) for pattern in of_server)
        and not any(pattern.exclude and matches(pattern.pattern, name) for pattern in of_server)
    )


def resolve(
    databases: Sequence[DatabaseSpec],
    patterns: Sequence[DatabasePattern],
    found: Mapping[Server, Sequence[str]],
    *,
    lines: Sequence[int] = (),
) -> tuple[DatabaseSpec, ...]:
    """Return the databases meant, each once: literal lines and what wildcards match, less exclusions.

    `found` has the names on each server that answered; with none, only literal lines count. The
    order is that of the file, given its line numbers; without them, literal lines come first.
    """
    listed = list(zip(lines or [0] * len(databases), databases, strict=True))
    excluded: dict[Server, list[str]] = {}
    for pattern in patterns:
        server = _server(pattern)
        if pattern.exclude:
            excluded.setdefault(server, []).append(pattern.pattern)
            continue
        listed += [
            (pattern.line, DatabaseSpec(server.host, server.port, name))
            for name in sorted(found.get(server, ()))
            if matches(pattern.pattern, name) and not is_working_copy(name)
        ]
    listed.sort(key=lambda item: item[0])
    return tuple(
        spec
        for spec in dict.fromkeys(spec for _, spec in listed)
        if not any(matches(pattern, spec.dbname) for pattern in excluded.get(spec.server, ()))
    )
