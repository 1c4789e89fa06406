"""Roles that a restore finds missing, made as the newest globals backup of their server describes them.

Only what concerns these roles is taken: whether they log in and inherit, their limits, their password if the
backup has it, and their settings. Rights over the whole server are never given; what was withheld is told, so
that somebody can decide on it. Whatever is run is made here, from parts that have an exact form: the file may
have been written by somebody else.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from asyncbackup import conf, dbspec, inventory, naming, statements
from asyncbackup.errors import DamagedError
from asyncbackup.model import GLOBALS, Backup, DatabaseSpec, Server
from asyncbackup.postgres.globals import Statements
from asyncbackup.postgres.properties import quoted
from asyncbackup.proof.check import judge
from asyncbackup.stream import Progress
from asyncbackup.unpack import open_backup, unpack

_IDENT = r'("(?:[^"]|"")+"|[A-Za-z_\x80-\uffff][A-Za-z0-9_$\x80-\uffff]*)'
_LITERAL = r"(?: ?E)?'(?:[^'\\]|''|\\\\)*'"
_ROLE = re.compile(rf"ALTER ROLE {_IDENT} WITH (.*);", re.DOTALL)
_SETTING = re.compile(rf"ALTER ROLE {_IDENT} SET ({_IDENT} TO {_LITERAL}(?:, {_LITERAL})*);", re.DOTALL)
_OPTION = re.compile(r"(CONNECTION LIMIT -?\d+|(?:PASSWORD|VALID UNTIL) '[^'\\]*')|([A-Z]+)")
_GIVEN = {"INHERIT", "NOINHERIT", "LOGIN", "NOLOGIN"}
_WITHHELD = {"SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role to make; `statements` may hold its password."""

    name: str
    statements: tuple[str, ...]
    withheld: tuple[str, ...]
    """Rights over the whole server that it had."""
    known: bool
    """Whether a globals backup describes it; else it can only be made so that nobody can log in as it."""


def newest_globals(root: Path, configured: conf.Conf, server: Server) -> Backup | None:
    """Return the newest good backup of a server's roles, if there is any."""
    spec = DatabaseSpec(server.host, server.port, GLOBALS)
    owners = naming.Owners.build([*configured.databases, spec], configured.patterns, dbspec.matches)
    return next((one for one in inventory.series(inventory.scan(root), spec, owners) if one.good), None)


def missing_roles(backup: Backup | None, names: Collection[str]) -> tuple[Role, ...]:
    """Return how to make the roles; blocking. Raises DamagedError when the backup is not what was written."""
    found = _read(backup) if backup is not None else {}
    return tuple(found.get(name) or _stand_in(name) for name in sorted(names))


def _stand_in(name: str) -> Role:
    return Role(name=name, statements=(f"CREATE ROLE {quoted(name)} NOLOGIN",), withheld=(), known=False)


def _read(backup: Backup) -> dict[str, Role]:
    manifest = inventory.read_manifest(backup.path) if backup.manifest else None
    kept = Statements(str(backup.path))
    try:
        with open_backup(backup.path) as source:
            unpacked = unpack(source, Progress(), tap=kept)
    except OSError as error:
        raise DamagedError(f"{backup.path}: it cannot be read: {error.strerror}") from error
    if problems := judge(unpacked, manifest):
        raise DamagedError(f"{backup.path}: {problems[0]}", hint="make the roles by hand")
    codec = statements.codec(unpacked.scan.encoding)
    return _understood(statement.decode(codec, "replace") for statement in kept.found)


def _understood(texts: Iterable[str]) -> dict[str, Role]:
    found: dict[str, Role] = {}
    for text in texts:
        if match := _ROLE.fullmatch(text):
            role = _role(_name(match[1]), match[2])
            found[role.name] = role
        elif (match := _SETTING.fullmatch(text)) and (role := found.get(_name(match[1]))):  # type: ignore[assignment]
            setting = f"ALTER ROLE {quoted(role.name)} SET {match[2]}"
            found[role.name] = Role(
                name=role.name,
                statements=(*role.statements, setting),
                withheld=role.withheld,
                known=True,
            )
    return found


def _role(name: str, options: str) -> Role:
    matches = list(_OPTION.finditer(options))
    words = [match[2] for match in matches if match[2]]
    given = [word for word in words if word in _GIVEN] + [match[1] for match in matches if match[1]]
    return Role(
        name=name,
        statements=(" ".join([f"CREATE ROLE {quoted(name)}", *given]),),
        withheld=tuple(word for word in words if word in _WITHHELD),
        known=True,
    )


def _name(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier
