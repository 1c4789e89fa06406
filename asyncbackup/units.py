"""Values as people write them in a variable: whole numbers, durations, octal modes, time zones.

Every function takes text, returns the value, and raises ValueError with a sentence that says what
would be right. The types at the end are for the fields of a pydantic model.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, Field, PlainSerializer

from asyncbackup.model import Secret
from asyncbackup.targets import url

SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
LONGEST = 10_000 * SECONDS["d"]
MAX_PORT = 65535
_STEP = 1000
LONGEST_LOCK_WAIT = 2_147_483  # PostgreSQL counts milliseconds in 31 bits
MODES = {"600": 0o600, "640": 0o640}

_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([kmg]?)", re.IGNORECASE)
_RATE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([dhms]?)[ ]*")
_POSIX_ZONE = re.compile(r"<?[A-Za-z0-9+-]{3,10}>?[+-]?[0-9:]{1,9}[A-Za-z0-9<>+,./:-]{0,60}")


def parse_whole(text: str, low: int | None = None, high: int | None = None) -> int:
    """Return a whole number within bounds."""
    number = int(text) if _WHOLE.fullmatch(text) else None
    if number is None or (low is not None and number < low) or (high is not None and number > high):
        bounds = f" from {low} to {high}" if high is not None else "" if low is None else f" of {low} or more"
        raise ValueError(f"must be a whole number{bounds}")
    return number


def parse_duration(text: str) -> float:
    """Return seconds: `30m`, `0.5h`, plain seconds, or parts that add up, as with `sleep 1d 12h`."""
    rest = text.lower()
    total = 0.0
    while match := _PART.match(rest):
        total += float(match[1]) * SECONDS[match[2] or "s"]
        rest = rest[match.end() :]
        if not match[2]:  # "1 5s" is more likely a slip than six seconds
            break
    if rest or not text or total > LONGEST:
        raise ValueError("must be a duration such as 90, 90s, 30m, 12h or 1d")
    return total


def format_duration(seconds: float) -> str:
    """Return a duration in the largest unit that divides it: 1800 is `30m`."""
    for unit, size in SECONDS.items():
        if seconds and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:g}s"


def format_bytes(count: float) -> str:
    """Return bytes in decimal units: 23.1 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _STEP
    return f"{count:.1f} TB"


def parse_mode(text: str) -> int:
    """Return a file mode; no other than these two keeps a backup from strangers and lets us read it."""
    mode = MODES.get(text.removeprefix("0o").removeprefix("0"))
    if mode is None:
        raise ValueError("must be 0600, or 0640 for readers of the same group")
    return mode


def parse_zone(text: str) -> str:
    """Return a time zone's name, as libc takes it.

    Given a wrong one, libc takes UTC without a word, and backups land in another day's folder.
    """
    if text and not text.startswith((":", "/")):
        try:
            ZoneInfo(text)
        except (KeyError, OSError, ValueError) as error:  # a KeyError is a name that is not known
            # A machine without zone data knows no zone at all; that is not the variable's fault.
            if not _POSIX_ZONE.fullmatch(text) and available_timezones():
                raise ValueError("must be a time zone such as America/Vancouver or UTC") from error
    return text


def parse_web(text: str) -> str:
    """Return the URL of something that speaks HTTP."""
    if text and not text.lower().startswith(("https://", "http://")):
        raise ValueError("must begin with https:// or http://")
    return text


def parse_ftp(text: str) -> str:
    """Return the URL of a folder at an FTP server."""
    if text:
        url.parse_ftp(text)
    return text


def parse_rate(text: str) -> float:
    """Return bytes a second: `500k`, `10M`, `1.5G`, or plain bytes; in decimal units, as of networks."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("must be bytes a second such as 500k, 10M or 1G; 0 is no limit")
    return float(match[1]) * _RATE_UNITS[match[2].lower()]


def parse_kept(text: str) -> str | int:
    """Return how many backups stay at secondary locations: the `same`, `none` is ever removed, or a count."""
    if text.lower() in {"same", "none"}:
        return text.lower()
    try:
        return parse_whole(text, low=1)
    except ValueError as error:
        raise ValueError("must be same, none, or how many backups of each database to keep there") from error


def parse_folders(text: str) -> tuple[Path, ...]:
    """Return the folders of a list with colons; each must be there."""
    folders = [part for part in text.split(":") if part]
    for number, folder in enumerate(folders, 1):
        if not os.path.isdir(folder):  # noqa: PTH112 - never raises
            raise ValueError(f"must be folders that exist; number {number} does not")
    return tuple(map(Path, folders))


def from_text(parse: Callable[[str], object]) -> BeforeValidator:
    """Parse text, and pass on what a caller in code gives as the type itself."""
    return BeforeValidator(lambda value: parse(value.strip()) if isinstance(value, str) else value)


Count = Annotated[int, from_text(parse_whole)]
Some = Annotated[int, from_text(partial(parse_whole, low=1)), Field(ge=1)]
AnyOrNone = Annotated[int, from_text(partial(parse_whole, low=0)), Field(ge=0)]
Level = Annotated[int, from_text(partial(parse_whole, low=0, high=9)), Field(ge=0, le=9)]
Port = Annotated[int, from_text(partial(parse_whole, low=1, high=MAX_PORT)), Field(ge=1, le=MAX_PORT)]
Seconds = Annotated[float, from_text(parse_duration), Field(ge=0)]
LockWait = Annotated[Seconds, Field(le=LONGEST_LOCK_WAIT)]
SomeSeconds = Annotated[float, from_text(parse_duration), Field(gt=0)]
Hidden = Annotated[
    Secret,
    BeforeValidator(lambda value: Secret(value) if isinstance(value, str) else value),
    PlainSerializer(lambda secret: str(secret) if secret else ""),  # or a model_dump would tell it
]
HiddenUrl = Annotated[Hidden, from_text(parse_web)]
Rate = Annotated[float, from_text(parse_rate), Field(ge=0)]
Kept = Annotated[str | int, from_text(parse_kept)]
HiddenFtp = Annotated[Hidden, from_text(parse_ftp)]
Folder = Annotated[Path | None, from_text(lambda text: Path(text) if text else None)]
Lower = from_text(str.lower)
