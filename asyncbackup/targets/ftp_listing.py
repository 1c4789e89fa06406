"""A folder's listing at an FTP server: the three formats in use, and lines that are in none."""

import re
from collections.abc import AsyncIterator, Mapping

from asyncbackup.targets.ftp_control import ReplyError

_LONGEST = 64 * 1024 * 1024  # bytes of a listing: half a million files
_LINE = 8 * 1024  # bytes of a line in it

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DOS_DATE = re.compile(r"\d\d-\d\d-\d\d(\d\d)?")
_UNIX_MODE = re.compile(r"[-bcdlpsD][-rwxsStTlL]{9}[.+@]?")
# Owner and group come before it; either may be left out, and either may hold blanks.
_UNIX_SIZE_AND_DATE = re.compile(r"\s(\d+)\s+[A-Z][a-z]{2}\s+\d{1,2}\s+(?:\d{4}|\d{1,2}:\d\d) ", re.ASCII)


async def read(blocks: AsyncIterator[bytes], *, plain: bool) -> Mapping[str, int]:
    """Return the names and lengths of files from a listing of LIST (`plain`) or of MLSD.

    Raises ReplyError where it does not end, or where no line of it can be read.
    """
    parse = parse_list if plain else parse_mlsd
    found: dict[str, int] = {}
    received = known = odd = 0
    rest = b""
    async for block in blocks:
        received += len(block)
        *lines, rest = (rest + block).split(b"\n")
        if received > _LONGEST or len(rest) > _LINE:
            raise ReplyError("the listing does not end")
        for line in filter(None, map(bytes.strip, lines)):
            try:
                file = parse(line.decode())
            except ValueError:  # also for what is no UTF-8: no file of ours has such a name
                odd += 1
                continue
            known += 1
            if file is not None:
                found[file[0]] = file[1]
    if odd and not known:
        raise ReplyError("the listing is in no format that is known")
    return found


def parse_mlsd(line: str) -> tuple[str, int] | None:
    """Return the name and length of a file from a line of MLSD, None for what is no file; else ValueError."""
    facts, space, name = line.partition(" ")
    if not space or "=" not in facts:
        raise ValueError("no line of MLSD")
    values = dict(fact.lower().split("=", 1) for fact in facts.rstrip(";").split(";") if "=" in fact)
    if values.get("type") != "file":
        return None
    return _file(name, values.get("size", ""))


def parse_list(line: str) -> tuple[str, int] | None:
    """Return the name and length of a file from a line of LIST, None for what is no file; else ValueError."""
    first, *others = line.split(maxsplit=3)
    if first == "total":
        return None
    if _UNIX_MODE.fullmatch(first):
        found = _UNIX_SIZE_AND_DATE.search(line)
        if found is None:
            raise ValueError("no line of ls -l")
        return _file(line[found.end() :], found[1]) if first[0] == "-" else None
    if _DOS_DATE.fullmatch(first) and len(others) == 3:  # noqa: PLR2004 - time, size, name
        return None if others[1] == "<DIR>" else _file(others[2], others[1].replace(",", ""))
    raise ValueError("no line of LIST that is known")


def _file(name: str, size: str) -> tuple[str, int] | None:
    if not (size.isascii() and size.isdigit()) or len(size) > 18 or _CONTROL.search(name):  # noqa: PLR2004
        raise ValueError("no name and length")
    return (name, int(size)) if name and "/" not in name else None
