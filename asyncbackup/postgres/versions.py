"""PostgreSQL's releases: which client may dump which server, and which are too old to be safe."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from asyncbackup.errors import ClientError
from asyncbackup.model import PgVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Installed PostgreSQL client programs of one version."""

    bindir: Path
    version: PgVersion


# Minor releases of all living majors come out together, about every quarter. A wave is numbered here
# by the minor of 15 in it: 15.18 = 16.14 = 17.10 = 18.4 (2026-05), 15.20 = 16.16 = 17.12 = 18.7
# (2026-11). Source: the release notes.
_OFFSET = {10: -22, 11: -17, 12: -12, 13: -8, 14: -5, 15: 0, 16: 4, 17: 8, 18: 14, 19: 19}
_FIRST_18_AFTER_A_SKIP = 5  # there is one number of 18 without a sibling

FLOOR = {15: PgVersion(15, 20), 16: PgVersion(16, 16), 17: PgVersion(17, 12), 18: PgVersion(18, 7)}
"""Oldest clients without a known hole that a hostile server or dump can use (2026-11)."""


def wave(version: PgVersion) -> int:
    """Return the number of the release wave; comparable between majors."""
    if version.major < min(_OFFSET):
        return -100
    skipped = version.major == 18 and version.minor >= _FIRST_18_AFTER_A_SKIP  # noqa: PLR2004
    newest = max(_OFFSET)
    return version.minor + _OFFSET.get(version.major, _OFFSET[newest]) - skipped


def below_floor(version: PgVersion) -> PgVersion | None:
    """Return the release to update to when this client has known holes, else None."""
    floor = FLOOR.get(version.major)
    if floor is None:
        return FLOOR[max(FLOOR)] if version.major < min(FLOOR) else None
    return floor if version < floor else None


def choose(server: PgVersion, clients: Iterable[Client]) -> Client:
    """Choose the client for a server, or raise ClientError naming both and what to install.

    It is the server's own major. A newer major serves only when its minor was released no earlier
    than the server's: a pg_dump that is older than the server it reads can write, without an error,
    a dump that does not load.
    """
    found = tuple(clients)
    newer = (c for c in found if c.version.major > server.major and wave(c.version) >= wave(server))
    fitting = [client for client in found if client.version.major == server.major] or list(newer)
    if fitting:
        major = min(client.version.major for client in fitting)
        # Of equal ones the first: the order in which they were looked for.
        return max((c for c in fitting if c.version.major == major), key=lambda c: c.version)
    have = ", ".join(f"{c.version} ({c.bindir})" for c in found) or "none"
    raise ClientError(
        f"no installed pg_dump fits the server's PostgreSQL {server}; installed: {have}",
        hint=f"install the client of PostgreSQL {server.major} (Debian: postgresql-client-{server.major}) "
        "or name its folder in PG_BINDIRS",
    )


def server_for(major: int, servers: Iterable[Client]) -> Client:
    """Choose the server that a dump of this major version loads into, or raise ClientError.

    It is the same major, or else the next newer one that is installed: PostgreSQL promises that dumps
    load into newer servers, and nothing of older ones.
    """
    found = tuple(servers)
    majors = {server.version.major for server in found if server.version.major >= major}
    if majors:
        chosen = min(majors)
        return max((s for s in found if s.version.major == chosen), key=lambda s: s.version)
    have = ", ".join(f"{s.version} ({s.bindir})" for s in found) or "none"
    raise ClientError(
        f"no installed PostgreSQL server loads a dump of PostgreSQL {major}; installed: {have}",
        hint=f"install the server of PostgreSQL {major} or newer (Debian: postgresql-{major}) "
        "or name its folder in PG_BINDIRS",
    )


def loader(server: PgVersion, clients: Iterable[Client]) -> Client:
    """Choose the psql to load a dump with, or raise ClientError.

    It is the newest one that is not below the server's major, and preferably without known holes.
    """
    found = tuple(clients)
    fitting = [client for client in found if client.version.major >= server.major]
    if fitting:
        return max(fitting, key=lambda client: (below_floor(client.version) is None, client.version))
    have = ", ".join(f"{c.version} ({c.bindir})" for c in found) or "none"
    raise ClientError(
        f"no installed psql fits the server's PostgreSQL {server}; installed: {have}",
        hint=f"install the client of PostgreSQL {server.major} (Debian: postgresql-client-{server.major}) "
        "or name its folder in PG_BINDIRS",
    )
