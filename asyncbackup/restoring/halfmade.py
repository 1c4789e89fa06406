"""The database that a restore works in: made so that nobody else gets in, removed when something fails."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import asyncpg

from asyncbackup.errors import AsyncbackupError, LackingError
from asyncbackup.events import Events
from asyncbackup.model import DatabaseSpec, Difference
from asyncbackup.postgres import swap as swap_of
from asyncbackup.postgres import target as target_of
from asyncbackup.postgres.connect import Connection, Endpoint, connection, mapped
from asyncbackup.postgres.load import missing
from asyncbackup.postgres.properties import create_database, quoted
from asyncbackup.restoring.restoration import Restoration, Tools, Work
from asyncbackup.threads import see_through

AGAIN = 1.0
"""Seconds between two tries to reach a server that does not answer."""
PATIENCE = 5.0
"""Seconds in which it should, when something is left to be removed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A database that was restored."""

    target: DatabaseSpec
    kept: str
    """The name that the old one has now; empty where there was none, or it was dropped."""
    tables: int
    rows: int
    seconds: float
    load_seconds: float
    differences: tuple[Difference, ...]
    """What was put up with, as somebody has told to go on."""
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing had to be put up with."""
        return not self.errors and not self.differences


@dataclass(slots=True)
class Run:
    """A restore that is changing the server."""

    plan: Restoration
    tools: Tools
    work: Work
    events: Events
    started: float = field(default_factory=time.monotonic)
    warnings: list[str] = field(default_factory=list)
    made_roles: list[str] = field(default_factory=list)
    admin: swap_of.Identity | None = None
    """The session that holds the lock, makes the database and swaps it."""
    committing: bool = False
    restored: Restored | None = None
    """Set as soon as the new database is in place, whatever comes afterwards."""
    left: tuple[str, ...] = ()
    """What could not be removed."""

    @property
    def target(self) -> DatabaseSpec:
        """What is restored."""
        return self.plan.request.target

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return round(time.monotonic() - self.started, 3)

    def enter(self, stage: str) -> None:
        """Take note, and tell, what is being done now."""
        self.work.stage = stage
        self.events.emit("restore.stage", stage=stage)

    def warn(self, said: str) -> None:
        """Tell what somebody should look at; the result repeats it."""
        self.warnings.append(said)
        self.events.warning("restore.warning", message=said)

    @contextlib.asynccontextmanager
    async def session(self, dbname: str = "") -> AsyncIterator[Connection]:
        """Connect to a database of the target server; none means the one to work from."""
        at = self.endpoint(dbname) if dbname else self.plan.door
        async with connection(at, answer=None) as connected:
            with mapped(self.target):
                await target_of.begin(connected)
            yield connected

    def endpoint(self, dbname: str) -> Endpoint:
        """Return how to get into a database of the target server."""
        return replace(self.plan.door, spec=replace(self.plan.door.spec, dbname=dbname))


@contextlib.asynccontextmanager
async def half_made(run: Run, admin: Connection) -> AsyncIterator[None]:
    """Remove the new database, and what was made for it, when the block fails before the swap."""
    try:
        yield
    except BaseException:
        if run.restored is None:
            admin.terminate()  # with what it may hold locked
            await see_through(asyncio.ensure_future(_remove(run)))
        raise


async def _remove(run: Run) -> None:
    """Remove what a restore that failed has made; note what a server that does not answer keeps."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            async with run.session() as connected:
                if run.admin is not None:  # it may still be making what is to be dropped
                    await swap_of.end_session(connected, run.admin)
                await swap_of.drop(connected, run.plan.restoring)
                await _drop_roles(run, connected)
                return
        except (AsyncbackupError, *swap_of.TROUBLE):
            if time.monotonic() > end:
                run.left = (run.plan.restoring, *run.made_roles)
                return
        await asyncio.sleep(AGAIN)


async def _drop_roles(run: Run, connected: Connection) -> None:
    while run.made_roles:
        try:
            await connected.execute(f"DROP ROLE IF EXISTS {quoted(run.made_roles[-1])}")
        except asyncpg.DependentObjectsStillExistError:  # somebody has used it meanwhile
            run.warn(f"the role {run.made_roles[-1]} was made, and stays: it has been used since")
        run.made_roles.pop()


async def make(run: Run, admin: Connection) -> None:
    """Make the roles and the empty database, which lets in nobody else, and rehearse its properties."""
    run.enter("creating")
    plan = run.plan
    for role in plan.roles:
        await admin.execute("BEGIN")
        for statement in role.statements:
            await admin.execute(statement)
        await admin.execute("COMMIT")
        run.made_roles.append(role.name)
        if not role.known:
            run.warn(f"the role {role.name} stands in no globals backup: nobody can log in as it")
        elif role.withheld:
            run.warn(f"the role {role.name} was made without {', '.join(role.withheld)}")
    server, closed = plan.target.server_version, plan.target.superuser
    statement = create_database(
        plan.restoring,
        plan.made_with,
        server,
        plan.owner,
        tablespace=plan.made_with.tablespace,
        closed=closed,
    )
    try:
        await admin.execute(statement)
    except asyncpg.PostgresError as error:
        if not (lacking := missing(str(error))):
            raise
        raise LackingError(
            f"{run.target}: its database cannot be made: {error}",
            lacking=lacking,
            hint="install it on the server; nothing is known against the backup",
        ) from error
    if not closed:
        database, user = quoted(plan.restoring), quoted(plan.target.user)
        await admin.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        await admin.execute(f"GRANT ALL ON DATABASE {database} TO {user}")
    for said in await swap_of.rehearse(admin, plan.rehearsed):
        run.warn(said)
