"""Identity to file name and back: the one place that knows what names look like.

`<core>_<YYYY-MM-DD>_<HH-MM-SS>.sql.gz`, local time, as it has always been. The core is
`<host>-<dbname>`; characters that a file name or a shell could stumble over are percent-encoded as
UTF-8. Since a hyphen may stand in either part, two series can share that short core. Then the long
one is used, which is injective: `<host>@<port>-<dbname>` with the host's own hyphens encoded, and
capitals too, so that it stays so on a volume that takes `A` and `a` for the same. An unencoded `@`
stands nowhere else but in `-@globals` and before the digest of a name that is too long for a file
system.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from asyncbackup.model import GLOBALS, GLOBALS_LABEL, DatabasePattern, DatabaseSpec

SUFFIX = ".sql.gz"
PARTIAL = ".in_progress"
MANIFEST = ".json"
RECORD = ".verified.json"
RECORD_PART = ".verified.part"
UPLOAD = ".part"
"""Ends the name under which a file is being written at a secondary location."""
STAMP = "%Y-%m-%d_%H-%M-%S"

# NAME_MAX is 255 bytes; "_2026-01-31_23-59-59" is 20, and ".sql.gz.verified.json" the longest tail.
_NAME_MAX = 255
MAX_CORE = _NAME_MAX - 20 - len(SUFFIX) - len(RECORD)
_DIGEST = 32

_NAME = re.compile(
    # Hidden files are other programs' notes: `._x` of macOS, `.x.swp`, what rsync has not finished.
    r"(?P<core>(?!\.)[^/\0]+)_(?P<stamp>\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2})" + re.escape(SUFFIX),
    re.ASCII,
)
_LONG = re.compile(r"(?P<host>[^@-]+)@(?P<port>\d{1,5})-(?P<dbname>.+)", re.DOTALL | re.ASCII)
_HASHED = re.compile(rf".*@[0-9a-f]{{{_DIGEST}}}", re.DOTALL | re.ASCII)

# What is encoded beyond quote(); an escape that it wrote is stepped over, its digits are no capitals.
_SHORT_EXTRA = re.compile(r"%..|(~|^[.-])")
_LONG_EXTRA = re.compile(r"%..|([~A-Z]|^[.-])")
_LONG_HOST_EXTRA = re.compile(r"%..|([~A-Z-]|^\.)")


_FIRST_YEAR, _LAST_YEAR = 1970, 9000


class ParsedName(NamedTuple):
    """A backup's file name, taken apart; `stamp` is local time without a zone."""

    core: str
    stamp: datetime


_PART = re.compile(r"(?P<name>.+)\.[0-9a-f]{8}" + re.escape(UPLOAD), re.DOTALL | re.ASCII)


def part_name(name: str) -> str:
    """Return a new name to write a file under at a secondary location, until it is whole.

    It has no leading dot, which some servers refuse, and is new each time: a server may still hold the last.
    """
    suffix = f".{secrets.token_hex(4)}{UPLOAD}"
    while len((name + suffix).encode(errors="surrogateescape")) > _NAME_MAX:
        name = name[:-1]
    return name + suffix


def parse_part(name: str) -> str | None:
    """Return what a name of `part_name` was made of, or None for anything else."""
    match = _PART.fullmatch(name)
    return match["name"] if match else None


def _encode(text: str, extra: re.Pattern[str]) -> str:
    encoded = quote(text, safe="", errors="surrogateescape")  # leaves letters, digits and _ . - ~
    return extra.sub(lambda match: f"%{ord(match[1]):02X}" if match[1] else match[0], encoded)


def _fit(core: str) -> str:
    if len(core) <= MAX_CORE:
        return core
    digest = hashlib.sha256(core.encode()).hexdigest()[:_DIGEST]
    return f"{core[: MAX_CORE - _DIGEST - 1]}@{digest}"


def _dbname(spec: DatabaseSpec, extra: re.Pattern[str]) -> str:
    return GLOBALS_LABEL if spec.is_globals else _encode(spec.dbname, extra)


def _short(spec: DatabaseSpec) -> str:
    return f"{_encode(spec.host, _SHORT_EXTRA)}-{_dbname(spec, _SHORT_EXTRA)}"


def short_core(spec: DatabaseSpec) -> str:
    """Return `<host>-<dbname>`, the name of old; not injective."""
    return _fit(_short(spec))


def long_core(spec: DatabaseSpec) -> str:
    """Return `<host>@<port>-<dbname>`; injective over all specs, even where case is ignored."""
    return _fit(f"{_encode(spec.host, _LONG_HOST_EXTRA)}@{spec.port}-{_dbname(spec, _LONG_EXTRA)}")


def legacy_core(spec: DatabaseSpec) -> str:
    """Return the core exactly as the bash tool wrote it, unencoded; it wrote none for globals."""
    return f"{spec.host}-{spec.dbname or GLOBALS_LABEL}"


def core(spec: DatabaseSpec, configured: Iterable[DatabaseSpec]) -> str:
    """Return the core to write: short, unless another configured series would share it.

    Cores that differ only in case count as shared, for volumes that do not tell them apart.
    """
    short = short_core(spec).casefold()
    shared = any(other != spec and short_core(other).casefold() == short for other in configured)
    return long_core(spec) if shared else short_core(spec)


def cores(configured: Iterable[DatabaseSpec]) -> dict[DatabaseSpec, str]:
    """Return what `core` says of each configured series, in one pass over them all."""
    specs = set(configured)
    count: dict[str, int] = {}
    for spec in specs:
        folded = short_core(spec).casefold()
        count[folded] = count.get(folded, 0) + 1
    return {
        spec: long_core(spec) if count[short_core(spec).casefold()] > 1 else short_core(spec)
        for spec in specs
    }


def backup_name(core: str, when: datetime) -> str:
    """Return the file name of a backup; `when` is local time."""
    return f"{core}_{when.strftime(STAMP)}{SUFFIX}"


def parse_name(name: str) -> ParsedName | None:
    """Take a backup's file name apart, or return None for anything that is not exactly one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        stamp = datetime.strptime(match["stamp"], STAMP)  # noqa: DTZ007 - file names carry local time
    except ValueError:
        return None
    if not _FIRST_YEAR <= stamp.year <= _LAST_YEAR:  # at the calendar's ends, times cannot be converted
        return None
    return ParsedName(match["core"], stamp)


def parse_long_core(core: str) -> DatabaseSpec | None:
    """Return the series that a long core names, or None when it is not a long one."""
    match = _LONG.fullmatch(core)
    if match is None or _HASHED.fullmatch(core):
        return None
    dbname = match["dbname"]
    name = GLOBALS if dbname == GLOBALS_LABEL else unquote(dbname, errors="surrogateescape")
    spec = DatabaseSpec(unquote(match["host"], errors="surrogateescape"), int(match["port"]), name)
    return spec if long_core(spec) == core else None


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose a file without a manifest can be: built once for a run, asked once for a file."""

    by_core: Mapping[str, tuple[DatabaseSpec, ...]]
    """The known series by every core that a file of theirs may carry."""
    patterns: Mapping[str, tuple[DatabasePattern, ...]]
    """By host. What a wildcard stands for is not known without its server, or was another thing before;
    so it can cast doubt on a file, and never claim one. An exclusion, too, may be newer than the file.
    """
    matches: Callable[[str, str], bool]
    """Whether a name fits a pattern, as the configuration reads it."""

    @classmethod
    def build(
        cls,
        specs: Iterable[DatabaseSpec],
        patterns: Iterable[DatabasePattern],
        matches: Callable[[str, str], bool],
    ) -> Self:
        """Return the owners among all series and patterns that a run knows of."""
        by_core: dict[str, list[DatabaseSpec]] = {}
        for spec in dict.fromkeys(specs):
            legacy = set() if spec.is_globals else {legacy_core(spec)}  # the bash tool wrote none
            for text in {short_core(spec), long_core(spec), *legacy}:
                by_core.setdefault(text, []).append(spec)
        by_host: dict[str, list[DatabasePattern]] = {}
        for pattern in patterns:
            by_host.setdefault(pattern.host, []).append(pattern)
        return cls(
            by_core={text: tuple(found) for text, found in by_core.items()},
            patterns={host: tuple(found) for host, found in by_host.items()},
            matches=matches,
        )

    def of(self, core: str, *, ours: bool = False) -> tuple[DatabaseSpec, ...]:
        """Return every series that a file of this core, having no manifest, could belong to.

        None means that no known series claims it; more than one, that nobody can tell, and nothing may
        be removed on the strength of it. What is `ours` does not bear a name as the bash tool wrote it.
        """
        exact = parse_long_core(core)
        if exact is not None:
            return (exact,)
        # A core that had to be shortened cannot be read back, only compared.
        found = self.by_core.get(core, ())
        if ours:
            found = tuple(spec for spec in found if core in {short_core(spec), long_core(spec)})
        texts = {_short(spec) if core == short_core(spec) else core for spec in found}
        rivals = [spec for text in sorted(texts) for spec in self._rivals(text, ours=ours)]
        return tuple(dict.fromkeys([*found, *rivals]))

    def _rivals(self, text: str, *, ours: bool) -> Iterator[DatabaseSpec]:
        """Yield the series that a pattern could stand for, wherever host and name may part."""
        for hyphen in re.finditer("-", text) if self.patterns else ():
            host, name = text[: hyphen.start()], text[hyphen.end() :]
            encoded = GLOBALS if name == GLOBALS_LABEL else unquote(name, errors="surrogateescape")
            readings = {(unquote(host, errors="surrogateescape"), encoded, _short)}
            if not ours:
                readings.add((host, name, legacy_core))
            for of_host, dbname, written in readings:
                for pattern in self.patterns.get(of_host, ()):
                    spec = DatabaseSpec(of_host, pattern.port, dbname)
                    if (spec.is_globals or self.matches(pattern.pattern, dbname)) and written(spec) == text:
                        yield spec
