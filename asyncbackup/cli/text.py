"""Values as people read them."""

import unicodedata
from datetime import datetime

_STEP = 1000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def size(count: float) -> str:
    """Return bytes in decimal units: 23.1 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _STEP
    return f"{count:.1f} TB"


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
    return "".join(
        character if not unicodedata.category(character).startswith("C") else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
