"""A restore, decided before anything is changed: which file, onto what, by what, and what to say of it."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from io import FileIO
from pathlib import Path

from asyncbackup import volume
from asyncbackup.conf import Conf
from asyncbackup.errors import LackingError, RefusedError, StorageError
from asyncbackup.events import Events
from asyncbackup.model import Credentials, DatabaseProperties, DatabaseSpec, Level, Server
from asyncbackup.postgres import properties as properties_of
from asyncbackup.postgres import target as target_of
from asyncbackup.postgres.connect import Connection, Endpoint
from asyncbackup.postgres.load import one_transaction, restricts
from asyncbackup.postgres.parallel import possible
from asyncbackup.postgres.properties import Change, quoted
from asyncbackup.postgres.swap import kept_name, working_name
from asyncbackup.postgres.target import Needs, Target
from asyncbackup.postgres.versions import Client, below_floor
from asyncbackup.restoring import roles as roles_of
from asyncbackup.restoring.selection import Selected
from asyncbackup.stream import Progress
from asyncbackup.threads import in_thread
from asyncbackup.unpack import Unpacked

_OTHERS_SHARE = 2  # a server in use needs room for the locks of everybody else
_FROM = re.compile(rb"^-- Dumped from database version (\d+)", re.MULTILINE)
_BY = re.compile(rb"^-- Dumped by pg_dump version (\d+)", re.MULTILINE)
_DEFAULTS = {"", "pg_default", "pg_global"}
_SECONDS = 5
_KEPT_AT = "%Y%m%d_%H%M%S"  # no capitals: SQL takes the name without quotes
_HOW = "see docs/how-to/restore.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants to have restored, where, and how."""

    spec: DatabaseSpec
    """Whose backup."""
    target: DatabaseSpec
    pattern: str = ""
    level: Level = Level.ROWS
    drop_old: bool = False
    create_roles: bool = False
    tablespaces: bool = True
    """False puts everything into the default one."""
    go_on: bool = False
    jobs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every restore needs, whatever is wanted."""

    root: Path
    configured: Conf
    environ: Mapping[str, str]
    login: Credentials
    """Of whoever may create databases at the target."""
    own_user: str | None
    """The target's own user, who is granted a database that was not there before."""
    connect_timeout: float
    clients: tuple[Client, ...]
    executor: Executor
    run_id: str
    """Its last 8 characters are hexadecimal digits."""
    events: Events
    started: datetime


@dataclass(slots=True)
class Work:
    """A restore under way, for whoever watches it."""

    stage: str = "connecting"
    progress: Progress = field(default_factory=Progress)
    bytes: int = 0
    """Of the file; known once it was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A backup that was read from end to end."""

    selected: Selected
    source: FileIO
    unpacked: Unpacked
    head: bytes
    """How its SQL begins."""

    @property
    def loads_into(self) -> int:
        """The lowest major version that it loads into; 0 when nobody knows."""
        manifest = self.selected.manifest
        return manifest.loads_into if manifest else _number(_FROM, self.head)

    @property
    def client_major(self) -> int:
        """The major version of the pg_dump that has written it; 0 when nobody knows."""
        manifest = self.selected.manifest
        return int(manifest.client_version.split(".")[0]) if manifest else _number(_BY, self.head)


def _number(pattern: re.Pattern[bytes], head: bytes) -> int:
    match = pattern.search(head)
    return int(match[1]) if match else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """A restore that can be carried out: nothing is known that speaks against it."""

    request: Request
    evidence: Evidence
    door: Endpoint
    """A database of the target server to work from."""
    target: Target
    psql: Client
    made_with: DatabaseProperties
    owner: str
    changes: tuple[Change, ...]
    """What makes the new database what it should be, under its final name."""
    rehearsed: tuple[Change, ...]
    """The same, under its working name."""
    restoring: str
    kept: str
    """The name that the old one gets; empty where there is none."""
    roles: tuple[roles_of.Role, ...]
    """Roles to make."""
    jobs: int
    """Connections to load over; with 1, psql does it."""
    one_transaction: bool
    older_server: bool
    warnings: tuple[str, ...]


def refuse(request: Request, target: Target, loads_into: int) -> None:
    """Raise RefusedError with every reason for which nothing may be restored there."""
    if reasons := tuple(target_of.refusals(target, loads_into)):
        told = "\n".join(f"{request.target}: {reason}" for reason in reasons)
        raise RefusedError(told, hint=f"nothing was touched; {_HOW}")


async def decide(
    request: Request,
    tools: Tools,
    evidence: Evidence,
    connected: Connection,
    door: Endpoint,
    target: Target,
    psql: Client,
) -> Restoration:
    """Decide how to restore; raises RefusedError or LackingError with all that speaks against it."""
    refuse(request, target, evidence.loads_into)
    manifest, scan, present = evidence.selected.manifest, evidence.unpacked.scan, target.present
    kept = await _kept(request, tools, connected) if present else ""
    of_source = manifest.properties if manifest else DatabaseProperties(encoding=scan.encoding)
    wanted = present.properties if present else of_source
    made_with = _made_with(request, of_source, target)
    # The properties are those of the database that is replaced, if there is one: the source's do not matter.
    roles = {*(manifest.roles if manifest else ())} - properties_of.roles(of_source)
    roles |= {*scan.roles, *properties_of.roles(replace(wanted, settings=()))}
    missing = await target_of.missing_roles(connected, roles)
    new_roles = await _new_roles(request, tools, missing) if request.create_roles else ()
    spaces = {*scan.tablespaces, made_with.tablespace} - _DEFAULTS if request.tablespaces else ()
    needs = Needs(
        roles=() if request.create_roles else roles,
        tablespaces=spaces,
        extensions={*scan.extensions, *(one.name for one in (manifest.extensions if manifest else ()))},
        properties=made_with,
    )
    if lacking := await target_of.lacking(connected, target, needs):
        _lack(request, target, lacking)
    owner = wanted.owner or target.user
    warnings = [*evidence.selected.notes, *_warnings(request, evidence, target, psql)]
    warnings += await _superusers(connected, evidence, target)
    if not (owner in missing and target.superuser) and not await target_of.may_own(connected, target, owner):
        if present:
            raise RefusedError(
                f"{request.target}: the user {target.user} may not give a database to its owner {owner}",
                hint="name another user with --admin-user; nothing was touched",
            )
        warnings.append(f"it will belong to {target.user}, who may not give it to {owner}")
        owner = target.user
    grantee = await _grantee(connected, tools, target, owner)

    def changes(dbname: str) -> tuple[Change, ...]:
        found = properties_of.changes(
            dbname,
            wanted,
            owner=owner,
            admin=target.user,
            closed=target.superuser,
            allow_connections=present is None or present.allow_connections,
            vital=present is not None,
        )
        grant = f"GRANT ALL ON DATABASE {quoted(dbname)} TO {quoted(grantee)}"
        last = Change(what=f"the rights of {grantee}", statements=(grant,), vital=False)
        return (*found, last) if grantee else found

    jobs, reason = _jobs(request, evidence)
    warnings += [f"loaded over one connection, not {request.jobs}: {reason}"] if reason else []
    restoring = working_name(request.target.dbname, tools.run_id[-8:])
    return Restoration(
        request=request,
        evidence=evidence,
        door=door,
        target=target,
        psql=psql,
        made_with=made_with,
        owner=owner,
        changes=changes(request.target.dbname),
        rehearsed=changes(restoring),
        restoring=restoring,
        kept=kept,
        roles=new_roles,
        jobs=jobs,
        one_transaction=manifest is not None
        and one_transaction(manifest, target.lock_slots // _OTHERS_SHARE),
        older_server=target.server_version.major
        < target_of.TRANSACTION_TIMEOUT_SINCE
        <= evidence.client_major,
        warnings=tuple(warnings),
    )


async def _kept(request: Request, tools: Tools, connected: Connection) -> str:
    """Return the name to keep the old database by: the first free one, of this second or one of the next."""
    kept = ""
    for later in range(_SECONDS):
        at = tools.started + timedelta(seconds=later)
        kept = kept_name(request.target.dbname, at.strftime(_KEPT_AT))
        if not await target_of.has_database(connected, kept):
            return kept
    raise RefusedError(
        f"{request.target}: there is a database {kept} already, the name to keep the old one by",
        hint=f"nothing was touched; {_HOW}",
    )


def _jobs(request: Request, evidence: Evidence) -> tuple[int, str]:
    """Return how many connections can be used, and why not as many as somebody has asked for."""
    if request.jobs == 1:
        return 1, ""
    scan = evidence.unpacked.scan
    reason = "only psql goes on after errors" if request.go_on else possible(scan.encoding, scan.blocks)
    return (1, reason) if reason else (request.jobs, "")


def _made_with(request: Request, of_source: DatabaseProperties, target: Target) -> DatabaseProperties:
    """Return what the new database is made with: the source's encoding and locale, the old one's place."""
    found = of_source
    if target.present is not None:
        present = target.present.properties
        # A backup without a manifest knows of no locale.
        if not found.collate and found.encoding in {"", present.encoding}:
            found = present
        found = replace(found, tablespace=present.tablespace)
    return found if request.tablespaces else replace(found, tablespace="")


async def _new_roles(request: Request, tools: Tools, missing: Sequence[str]) -> tuple[roles_of.Role, ...]:
    if not missing:
        return ()
    server: Server = request.spec.server
    backup = await in_thread(tools.executor, roles_of.newest_globals, tools.root, tools.configured, server)
    return await in_thread(tools.executor, roles_of.missing_roles, backup, missing)


def _lack(request: Request, target: Target, lacking: Sequence[str]) -> None:
    hints = ["install or create them there"]
    if any(one.startswith("role ") for one in lacking):
        hints.append("--create-roles makes the roles")
    if any(one.startswith("tablespace ") for one in lacking):
        hints.append("--no-tablespaces puts everything into the default one")
    raise LackingError(
        f"{request.target}: PostgreSQL {target.server_version} there lacks {', '.join(lacking)}",
        lacking=tuple(lacking),
        hint=f"{'; '.join(hints)}; nothing was touched",
    )


def _warnings(request: Request, evidence: Evidence, target: Target, psql: Client) -> list[str]:
    """Return what somebody should know before they say yes."""
    selected, scan = evidence.selected, evidence.unpacked.scan
    found = []
    if selected.backup.bad:
        found.append("a test restore of this backup has failed: see asyncbackup list")
    if not scan.restricted:
        found.append(
            "the dump has no \\restrict line, as those of clients before August 2025: restore it only if you"
            " trust where it comes from"
        )
    if not restricts(psql.version):
        found.append(
            f"psql {psql.version} knows no \\restrict: it would obey commands that stand in the dump"
        )
    if floor := below_floor(psql.version):
        found.append(f"psql {psql.version} has known security holes; update to {floor}")
    manifest = selected.manifest
    if manifest and manifest.unlogged:
        found.append(f"dumped from a standby: without the rows of {', '.join(manifest.unlogged)}")
    size = manifest.database_bytes if manifest else 0
    size = max(size, evidence.unpacked.scan.bytes // 2)
    free = _free(request, target)
    if free is not None and free < size:
        found.append(f"only {free} bytes are free on the server, the database may need {size}")
    if not target.superuser:
        found.append(f"{target.user} is no superuser: what only one may make stops the restore")
    return found


def _free(request: Request, target: Target) -> int | None:
    """Return the bytes that are free for the server's data; None where that cannot be seen from here."""
    folder = Path(target.data_directory or "/nowhere")
    try:
        here = request.target.server.local and (folder / "PG_VERSION").is_file()
        return volume.free_space(folder) if here else None
    except (OSError, StorageError):  # a server's folder is closed to all but its own user
        return None


async def _superusers(connected: Connection, evidence: Evidence, target: Target) -> list[str]:
    """Return the roles to which only what a superuser may own can be given, and who are none here."""
    named = set(evidence.unpacked.scan.superusers)
    ordinary = await target_of.not_superusers(connected, named)
    if not ordinary or not target.superuser:
        return []
    who = ", ".join(ordinary)
    return [f"{who}: no superuser here, but owner of what may have to be one's, such as an event trigger"]


async def _grantee(connected: Connection, tools: Tools, target: Target, owner: str) -> str:
    """Return the target's own user, if a new database has to be granted to them."""
    user = tools.own_user or ""
    if target.present is not None or user in {"", owner}:
        return ""
    return user if await target_of.not_superusers(connected, [user]) else ""
