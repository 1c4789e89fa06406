"""Restoring: who may, what will happen, the question, and what came of it."""

import asyncio
import getpass
import os
import secrets
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg

from asyncbackup import configuration, dbspec, pgpass
from asyncbackup.cli import bringing, logs, render, restored, text
from asyncbackup.cli import session as session_of
from asyncbackup.cli.session import Session
from asyncbackup.errors import AccessError, AsyncbackupError, Exit, LackingError, UsageError
from asyncbackup.events import Event, Events
from asyncbackup.model import Credentials, Level, Secret
from asyncbackup.postgres import client as clients_of
from asyncbackup.restoring import preflight
from asyncbackup.restoring import restore as restore_of
from asyncbackup.restoring.restoration import Request, Restoration, Tools, Work

_OF_OLD = "postgres"  # whose password -a was: the user that ran the bash tool
_THREADS = 4
_LOGIN = {
    "--yes": "check --admin-user, and give the password by --admin-password-file or ADMIN_PASSWORD_FILE",
    "-s": "check ADMIN_USER, and give the password by ADMIN_PASSWORD_FILE",
}
"""What helps where an administrator is not let in, for each flag of consent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A restore as the command line says it."""

    spec: str
    to: str = ""
    pattern: str = ""
    level: Level = Level.ROWS
    drop_old: bool = False
    create_roles: bool = False
    tablespaces: bool = True
    go_on: bool = False
    jobs: int | None = None
    remote: bool = False
    """Take the newest copy at a secondary location, whatever lies here."""
    yes: bool = False
    as_json: bool = False
    consent: str = "--yes"
    """The flag that stands for a yes."""


def wanted(given: Mapping[str, Any]) -> Wanted:
    """Return what the options of `asyncbackup restore` say."""
    same = ("spec", "to", "pattern", "drop_old", "create_roles", "go_on", "jobs", "remote", "yes", "as_json")
    return Wanted(
        level=Level(given["level"]),
        tablespaces=not given["no_tablespaces"],
        **{name: given[name] for name in same},
    )


def environment(environ: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables as if the options about the administrator had been among them."""
    changed = dict(environ)
    user, file, password = (given.get(name) for name in ("admin_user", "admin_password_file", "admin"))
    if user:
        changed.pop("ADMIN_USER_FILE", None)
        changed["ADMIN_USER"] = user
    if file or password:
        changed.pop("ADMIN_PASSWORD_FILE", None)
        changed.pop("ADMIN_PASSWORD", None)
        changed |= {"ADMIN_PASSWORD_FILE": file} if file else {"ADMIN_PASSWORD": f"{password}"}
    if password and not changed.get("ADMIN_USER") and not changed.get("ADMIN_USER_FILE"):
        changed["ADMIN_USER"] = _OF_OLD
    return changed


def run(wanted: Wanted, environ: Mapping[str, str]) -> Exit:
    """Restore a database; print what will happen, ask, and print what came of it."""
    try:
        return _run(wanted, environ)
    except LackingError as error:
        error.exit_code = Exit.FAILED  # other than where many are verified, nothing has succeeded
        raise


def _run(wanted: Wanted, environ: Mapping[str, str]) -> Exit:
    begun = session_of.begin(environ)
    port = begun.settings.default_port
    spec = dbspec.parse_spec(wanted.spec, default_port=port)
    target = dbspec.parse_spec(wanted.to, default_port=port) if wanted.to else spec
    if not wanted.yes and not session_of.can_ask():
        raise UsageError(
            "nothing was restored: there is no terminal to ask on",
            hint=f"add {wanted.consent} to restore without being asked",
        )
    pattern = bringing.at_hand(begun, spec, wanted.pattern, fresh=wanted.remote)
    if isinstance(pattern, Exit):
        return pattern
    request = Request(
        spec=spec,
        target=target,
        pattern=pattern,
        level=wanted.level,
        drop_old=wanted.drop_old,
        create_roles=wanted.create_roles,
        tablespaces=wanted.tablespaces,
        go_on=wanted.go_on,
        jobs=wanted.jobs or begun.settings.restore_jobs,
    )
    with ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(_THREADS, "restore"))
        tools = _tools(begun, request, executor)
        begun, plan = _planned(begun, wanted, request, tools, stack)
        if isinstance(plan, Exit):
            return plan
        if logs.is_terminal(sys.stderr):
            print(f"\n{restored.plan_text(plan, tools.started)}\n", file=sys.stderr, flush=True)
        if not wanted.yes and not session_of.ask(_question(plan)):
            session_of.show("Nothing was restored.")
            return Exit.OK
        return _carried_out(begun, wanted, plan, tools)


def _tools(begun: Session, request: Request, executor: ThreadPoolExecutor) -> Tools:
    started = datetime.now(UTC)
    own = configuration.credentials(begun.settings, request.target)
    login = _login(begun, own)
    if login.password is None and (said := pgpass.problem(begun.environ)):
        begun.warn(said)
    found = asyncio.run(
        clients_of.clients(
            clients_of.bindirs(begun.settings.pg_bindirs, begun.environ.get("PATH", os.defpath)),
            begun.environ.get("LD_LIBRARY_PATH", ""),
        )
    )
    return Tools(
        root=begun.settings.backup_dir,
        configured=begun.conf,
        environ=begun.environ,
        login=login,
        own_user=own.user,
        connect_timeout=begun.settings.connect_timeout,
        clients=tuple(one for one in found if os.access(one.bindir / "psql", os.X_OK)),
        executor=executor,
        run_id=f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        events=Events(),
        started=started,
    )


def _login(begun: Session, own: Credentials) -> Credentials:
    """Return the administrator's credentials; by default, those of the database's own user."""
    values = begun.settings
    password = values.admin_password or None
    if not values.admin_user:
        return Credentials(user=own.user, password=password or own.password)
    if values.admin_user == own.user:
        password = password or own.password
    return Credentials(user=values.admin_user, password=password)


def _planned(
    begun: Session, wanted: Wanted, request: Request, tools: Tools, stack: ExitStack
) -> tuple[Session, Restoration | Exit]:
    """Find out what would happen; a password that is missing or wrong is asked for on a terminal, once.

    With `--yes` nothing is asked at all: there may be a terminal and nobody at it.
    """
    try:
        return begun, _prepared(begun, request, tools, stack)
    except AccessError as error:
        refused = isinstance(error.__cause__, asyncpg.InvalidAuthorizationSpecificationError)
        if refused and begun.settings.admin_user:
            error.hint = _LOGIN[wanted.consent]
        if not refused or wanted.yes or not session_of.can_ask():
            raise
        session_of.fail(error)
    user = tools.login.user or ""
    whose = f"Password of {text.plain(user) or 'the administrator'} at {request.target.server}: "
    password = getpass.getpass(whose, sys.stderr)
    begun = session_of.begin(
        environment(begun.environ, {"admin_user": user, "admin": password})
    )  # masks it, too
    tools = replace(tools, login=Credentials(user=tools.login.user, password=Secret(password)))
    return begun, _prepared(begun, request, tools, stack)


def _prepared(begun: Session, request: Request, tools: Tools, stack: ExitStack) -> Restoration | Exit:
    work = Work()
    with ExitStack() as shown:
        _events(begun, work, shown)
        return session_of.run(preflight.prepare(request, tools, work, stack))


def _events(begun: Session, work: Work, stack: ExitStack) -> Events:
    if not session_of.wants_display(begun):
        log = begun.log()
        stack.callback(logs.close, log, sys.stderr)
        return Events(log)
    from asyncbackup.cli import display  # noqa: PLC0415 - costs memory that only terminals need

    mask = logs.masker(begun.secrets())
    shown = stack.enter_context(
        display.meter(
            lambda: work.bytes, lambda: work.progress.file_bytes, lambda: _doing(work), display.restore_line
        )
    )

    def sink(event: Event) -> None:
        shown(logs.masked_event(event, mask))

    return Events(sink)


def _doing(work: Work) -> str:
    read = work.bytes and work.progress.file_bytes >= work.bytes
    return "building indexes" if read and work.stage == "loading" else work.stage


def _carried_out(begun: Session, wanted: Wanted, plan: Restoration, tools: Tools) -> Exit:
    work = Work(bytes=plan.evidence.selected.backup.bytes)
    with ExitStack() as stack:
        events = _events(begun, work, stack).bind(run_id=tools.run_id)
        try:
            done = session_of.run(restore_of.restore(plan, replace(tools, events=events), work))
        except AsyncbackupError as error:
            if wanted.as_json:
                mask = logs.masker(begun.secrets())
                session_of.show(render.as_json(restored.failed_object(plan, tools, error, mask)))
            raise
    if isinstance(done, Exit):
        return done
    if wanted.as_json:
        shown = render.as_json(restored.as_object(plan, tools, done))
    else:
        shown = restored.report_text(plan, done)
    session_of.show(shown, patient=False)
    return Exit.OK if done.whole else Exit.PARTIAL


def _question(plan: Restoration) -> str:
    name = text.database(plan.request.target)
    if plan.target.present is None:
        return f"Restore into a new database {name}?"
    old = "is dropped afterwards" if plan.request.drop_old else f"stays as {text.plain(plan.kept)}"
    return f"Replace {name}? Its sessions are ended for a moment, and the old database {old}."
