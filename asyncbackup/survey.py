"""What is to be backed up: each server is asked once which databases it has, and how large they are."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asyncbackup import conf, pgpass
from asyncbackup.configuration import credentials
from asyncbackup.errors import AccessError, AsyncbackupError, ConnectError, DatabaseMissingError
from asyncbackup.events import Events
from asyncbackup.model import DatabaseSpec, Outcome, Server, Status
from asyncbackup.postgres import facts as facts_of
from asyncbackup.postgres.connect import endpoint, tls_verified
from asyncbackup.settings import Settings

_MAINTENANCE = ("postgres", "template1")
_SERVERS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is to be backed up, and what the servers said of it."""

    databases: tuple[DatabaseSpec, ...]
    sizes: Mapping[DatabaseSpec, int]
    failed: tuple[Outcome, ...]
    silent: frozenset[Server]
    doors: Mapping[Server, str]


async def survey(
    settings: Settings,
    configured: conf.Conf,
    environ: Mapping[str, str],
    events: Events,
    only: Sequence[DatabaseSpec],
) -> Fleet:
    """Ask each server once for its databases: for wildcards, and to begin with the largest."""
    literal = tuple(only) or configured.databases
    wild = () if only else conf.wanted_servers(configured.patterns)
    servers = tuple(dict.fromkeys([*(spec.server for spec in literal), *wild]))
    at_once = asyncio.Semaphore(_SERVERS_AT_ONCE)

    async def ask(server: Server) -> facts_of.Overview | AsyncbackupError:
        async with at_once:
            names = [spec.dbname for spec in literal if spec.server == server]
            try:
                return await _overview(settings, environ, server, (*names, *_MAINTENANCE))
            except Exception as error:  # noqa: BLE001 - one server never stops the others
                return AsyncbackupError(f"{server}/*: {type(error).__name__}: {error}")

    if (said := pgpass.problem(environ)) and any(_left_to_libpq(settings, environ, s) for s in servers):
        events.warning("passfile.ignored", message=said, hint=f"chmod 0600 {pgpass.path(environ)}")
    answers = dict(zip(servers, await asyncio.gather(*map(ask, servers)), strict=True))
    sizes: dict[DatabaseSpec, int] = {}
    names: dict[Server, list[str]] = {}
    failed: list[Outcome] = []
    for server, answer in answers.items():
        if not server.local and not tls_verified(environ):
            events.warning(
                "server.tls_unverified",
                host=server.host,
                port=server.port,
                hint="set PGSSLMODE=verify-full and PGSSLROOTCERT, so that nobody can stand in for it",
            )
        if isinstance(answer, facts_of.Overview):
            # What the role may not connect to is meant all the same, and fails: else nobody would notice.
            names[server] = [*answer.sizes, *answer.closed]
            sizes |= {DatabaseSpec(server.host, server.port, name): n for name, n in answer.sizes.items()}
            if server in wild:
                _tell_of_odd_names(configured, server, names[server], events)
        elif server in wild:
            failed.append(_unanswered(server, answer, events))
    databases = (
        literal
        if only
        else conf.resolve(configured.databases, configured.patterns, names, lines=configured.lines)
    )
    silent = frozenset(server for server, answer in answers.items() if isinstance(answer, ConnectError))
    doors = {server: a.dbname for server, a in answers.items() if isinstance(a, facts_of.Overview)}
    return Fleet(databases=databases, sizes=sizes, failed=tuple(failed), silent=silent, doors=doors)


def _left_to_libpq(settings: Settings, environ: Mapping[str, str], server: Server) -> bool:
    """Whether the password for a server is for libpq's own ways to find."""
    return not environ.get("PGPASSWORD") and credentials(settings, server).password is None


def _tell_of_odd_names(configured: conf.Conf, server: Server, names: Sequence[str], events: Events) -> None:
    passed_over = conf.passed_over(configured.databases, configured.patterns, server, names)
    if passed_over:
        events.warning(
            "databases.skipped",
            host=server.host,
            port=server.port,
            databases=list(passed_over),
            hint="such names are taken for working copies of a restore: give each a line of its own,"
            " or exclude it by name",
        )


async def _overview(
    settings: Settings, environ: Mapping[str, str], server: Server, dbnames: Sequence[str]
) -> facts_of.Overview | AsyncbackupError:
    problem: AsyncbackupError | None = None
    for dbname in dict.fromkeys(dbnames):
        spec = DatabaseSpec(server.host, server.port, dbname)
        try:
            at = endpoint(spec, credentials(settings, spec), environ, settings.connect_timeout)
            return await facts_of.overview(at)
        except AsyncbackupError as error:
            # Which of its databases was tried says nothing to whoever has written a wildcard.
            error.rename(spec, f"{server}/*")
            problem = problem or error
            if not isinstance(error, DatabaseMissingError | AccessError):
                return error  # no other of its databases would let us in
    assert problem is not None  # noqa: S101 - there is at least one name to try
    return problem


def _unanswered(server: Server, error: AsyncbackupError, events: Events) -> Outcome:
    """Return the outcome of a server's wildcard lines when nobody could say what they stand for."""
    spec = DatabaseSpec(server.host, server.port, "*")
    events.error(
        "backup.failed",
        host=server.host,
        port=server.port,
        dbname="*",
        error=error.message,
        category=error.category,
        hint=error.hint,
        stage="connecting",
        seconds=0.0,
    )
    return Outcome(
        spec=spec,
        status=Status.FAILED,
        seconds=0.0,
        error=error.message,
        category=error.category,
        hint=error.hint,
    )
