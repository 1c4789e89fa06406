"""PGREQUIREAUTH and PGCHANNELBINDING, which asyncpg does not know, and libpq's programs do.

What a server asks for at login is looked at before asyncpg can answer it: a password that must not be
told in clear text is then never told to whoever stands in for the server.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from asyncbackup.errors import AccessError

_SCRAM = "scram-sha-256"
# PostgreSQL documentation, Message Formats: what follows the R of an authentication message.
_ASKED = {3: "password", 5: "md5", 7: "gss", 9: "sspi", 10: _SCRAM}
_OK, _FURTHER, _PROVED = 0, (8, 11), 12
_KNOWN = {*_ASKED.values(), "oauth", "none"}
_HEAD, _CODE = 5, 9  # bytes up to the length, and up to the code
_LONGEST = 1 << 16  # bytes of a message before the login is done
_HINT = (
    "if pg_hba.conf asks for it, correct that or PGREQUIREAUTH; else find out who stands in for the server"
)


@dataclass(slots=True)
class Requirement:
    """The ways to log in that are allowed, and what a server did that is not."""

    allowed: frozenset[str]
    watched: bool = False
    refused: str = ""


@dataclass(slots=True)
class Watch:
    """Reads what a server says until the login is done."""

    requirement: Requirement
    over: bool = False
    asked: str = "none"
    proved: bool = False
    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> str:
        """Return what is wrong with what the server asks for, or nothing."""
        rest = self._rest
        rest += data
        while not self.over and len(rest) >= _HEAD:
            end = 1 + int.from_bytes(rest[1:_HEAD])
            if end > _LONGEST:
                return "a message that is far too long"
            if len(rest) < min(end, _CODE):
                break
            if rest[:1] == b"Z":
                return "no login at all"
            if rest[:1] == b"R" and (problem := self._judge(int.from_bytes(rest[_HEAD:_CODE]))):
                return problem
            if len(rest) < end:
                break
            del rest[:end]
        return ""

    def _judge(self, code: int) -> str:
        if code == _OK:
            self.over = True
            if self.asked == _SCRAM and not self.proved:
                return "a login without proof that the server knows the password"
        elif code == _PROVED:
            self.proved = True
        elif code not in _FURTHER:
            self.asked = _ASKED.get(code, f"method {code}")
        return "" if self.asked in self.requirement.allowed else self.asked


_requirement: ContextVar[Requirement | None] = ContextVar("requirement", default=None)


class _Watched(asyncpg.protocol.Protocol):
    """asyncpg's protocol, which is told of an error instead of a question that must not be answered."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - asyncpg's own
        super().__init__(*arguments)
        requirement = _requirement.get()
        self._watch = Watch(requirement) if requirement else None
        if requirement:
            requirement.watched = True

    def data_received(self, data: Any) -> None:  # noqa: ANN401 - asyncpg's own
        if self._watch and not self._watch.over and (problem := self._watch.feed(data)):
            self._watch.over = True
            self._watch.requirement.refused = problem
            fields = b"SFATAL\0C28000\0Mrefused by PGREQUIREAUTH\0\0"
            data = b"E" + (4 + len(fields)).to_bytes(4) + fields
        super().data_received(data)


def allowed(text: str) -> frozenset[str]:
    """Return the ways to log in that PGREQUIREAUTH allows; raise AccessError when it makes no sense."""
    words = text.split(",")
    negated = [word for word in words if word.startswith("!")]
    names = {word.removeprefix("!") for word in words}
    if not names <= _KNOWN or len(negated) not in {0, len(words)}:
        raise AccessError(
            f"PGREQUIREAUTH={text}: these are not ways to log in",
            hint=f"name some of {', '.join(sorted(_KNOWN))}, or each with a ! before it",
        )
    return frozenset(_KNOWN - names if negated else names)


@contextlib.contextmanager
def kept(environ: Mapping[str, str], what: str, *, verified: bool) -> Iterator[None]:
    """See to it that a connection that is made in the block keeps to both variables.

    `verified` says that the server has to prove who it is by its certificate. Raises AccessError.
    """
    if environ.get("PGCHANNELBINDING") == "require" and not verified:
        raise AccessError(
            f"{what}: PGCHANNELBINDING=require cannot be kept by all our connections",
            hint="a verified certificate serves the same end: set PGSSLMODE=verify-full and PGSSLROOTCERT",
        )
    text = environ.get("PGREQUIREAUTH", "")
    if not text:
        yield
        return
    requirement = Requirement(allowed(text))
    asyncpg.protocol.Protocol = _Watched  # type: ignore[misc,assignment] # it is looked up anew each time
    token = _requirement.set(requirement)
    try:
        yield
    except Exception as error:
        if requirement.refused:
            raise AccessError(
                f"{what}: the server asks for what PGREQUIREAUTH={text} forbids: {requirement.refused}",
                hint=_HINT,
            ) from error
        raise
    finally:
        _requirement.reset(token)
    if not requirement.watched:
        raise AccessError(f"{what}: PGREQUIREAUTH cannot be kept", hint="this asyncpg is not known to us")
