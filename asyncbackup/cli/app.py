"""The command `asyncbackup`."""

import os
import sys
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from asyncbackup import __version__
from asyncbackup.cli import (
    bringing,
    checking,
    choosing,
    completing,
    configured,
    logs,
    pruning,
    remote,
    render,
    restoring,
    session,
    uploading,
    verifying,
)
from asyncbackup.errors import AsyncbackupError, Exit, UsageError
from asyncbackup.model import Level

EXIT_CODES = """\b
Exit codes:
  0         all good
  1         nothing succeeded
  2         wrong usage or configuration; nothing was touched
  3         some succeeded, some did not
  4         locked: another run is working on the same database
  130, 143  interrupted; children ended, partial files removed
"""

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_FILTER = click.option(
    "-f", "--filter", "pattern", default="", metavar="TEXT", help="Only files whose path holds this text."
)
_SPEC = click.argument("spec", nargs=-1, shell_complete=completing.complete_spec)
_REMOTE = click.option("--remote", "elsewhere", is_flag=True, help="Those at the secondary locations.")


@click.group(cls=completing.Commands, context_settings=_CONTEXT, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="asyncbackup", message="%(prog)s %(version)s")
def app() -> None:
    """Back up a fleet of PostgreSQL databases, many at once, and prove what was written.

    What to back up stands in backup.conf (BACKUP_CONF) or in the environment; `asyncbackup config`
    shows what was understood. No server at hand? `asyncbackup demo` brings one.
    """


@app.command(epilog=EXIT_CODES, short_help="Back up every configured database, or those named.")
@_SPEC
@_JSON
def backup(spec: tuple[str, ...], as_json: bool) -> Exit:
    """Back up every configured database, or those named as host[:port]/dbname.

    Several are dumped at once; one that fails never stops another. Each server's roles and tablespaces
    are backed up beside them. Old backups are pruned as configured, after a new one is good.

    On a terminal, progress is shown; otherwise stderr has the log, one JSON object a line (LOG_FORMAT).
    """
    begun = session.begin()
    chosen = begun.specs(spec)
    if any(one.is_globals for one in chosen):
        raise UsageError(
            "a server's @globals cannot be backed up on their own",
            hint="name any database of the server; its globals are backed up beside it (DUMP_GLOBALS)",
        )
    report = session.back_up(begun, chosen, show=session.wants_display(begun))
    if isinstance(report, Exit):
        return report
    shown = render.as_json(render.report(report)) if as_json else render.report_text(report, session.width())
    session.show(shown, patient=False)
    return session.exit_code(report)


@app.command("list", epilog=EXIT_CODES, short_help="List the backups there are.")
@_SPEC
@_FILTER
@_REMOTE
@_JSON
def list_(spec: tuple[str, ...], pattern: str, elsewhere: bool, as_json: bool) -> Exit:
    """List the backups there are, or those of the databases named as host[:port]/dbname.

    Newest first. Backups that the bash tool made are listed, too; they have no manifest, and so nobody
    knows their rows.
    """
    begun = session.begin()
    specs = begun.specs(spec)
    if elsewhere:
        return remote.list_remote(begun, specs, pattern=pattern, as_json=as_json)
    choosing.require_known(begun, specs)
    found = session.backups(begun, specs, pattern)
    now = datetime.now(UTC)
    if as_json:
        session.show(render.as_json([render.backup(one, now) for one in found]))
        return Exit.OK
    root = begun.settings.backup_dir
    if not root.exists():
        nothing = f"No backups: {root} does not exist yet."
    else:
        nothing = f"No backups in {root}" + (" match." if spec or pattern else " yet.")
    session.show(render.listing(found, root, now, nothing))
    return Exit.OK


@app.command(epilog=EXIT_CODES, short_help="Read backups again: are they what was written?")
@_SPEC
@_FILTER
@_REMOTE
@_JSON
def check(spec: tuple[str, ...], pattern: str, elsewhere: bool, as_json: bool) -> Exit:
    """Read every backup again, or those of the databases named as host[:port]/dbname, without any server.

    Each file is read once, from its first byte to its last, and compared with its manifest: size, SHA-256,
    every table's rows and their digest. Backups that the bash tool made have no manifest; of them it can
    only be said whether they are whole.

    With --remote, copies at the secondary locations: by the hash that a location computes itself, where it
    offers that, else by reading them.

    A database that the configuration names and that has no backup is a failure, too.
    """
    begun = session.begin()
    if elsewhere:
        return remote.check_remote(begun, begun.specs(spec), pattern=pattern, as_json=as_json)
    return checking.run(begun, begun.specs(spec), pattern=pattern, as_json=as_json)


@app.command(epilog=EXIT_CODES, short_help="Restore backups for a test: does every row come back?")
@_SPEC
@_FILTER
@_REMOTE
@_JSON
def verify(spec: tuple[str, ...], pattern: str, elsewhere: bool, as_json: bool) -> Exit:
    """Restore the newest backup of every database, or of those named, and compare every row.

    Each is restored into a throw-away PostgreSQL server on this machine, which nobody else can reach and
    which is gone afterwards. Then every table, sequence and large object is read back and compared with
    the manifest (VERIFY_LEVEL). No database server is asked for anything, no credentials are needed.

    `all`, or nothing, means every database that has a backup here or is named in the configuration; what
    was verified longest ago goes first. With -f, the newest backup whose path holds the text.

    A database that has no backup here is verified by its newest copy at a secondary location, if there is
    one; with --remote, every one is. Copies are fetched for that, one by one, and not kept.

    Exit code 3 also says that something could not be verified: a throw-away server here lacks, for
    instance, an extension. That says nothing about the backup.
    """
    begun = session.begin()
    return verifying.run(begun, begun.specs(spec), pattern=pattern, as_json=as_json, remote=elsewhere)


@app.command(
    epilog=EXIT_CODES, short_help="Restore a database; the old one stays until the new one is proven."
)
@click.argument("spec", shell_complete=completing.complete_spec)
@click.option(
    "-f",
    "--filter",
    "pattern",
    default="",
    metavar="TEXT",
    help="Which backup: a path, a name, or part of one; default: the newest good one.",
)
@click.option("--to", metavar="SPEC", default="", help="Restore it there, as another database or elsewhere.")
@click.option("--remote", is_flag=True, help="Take the newest copy at a secondary location.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.option(
    "--level",
    type=click.Choice([Level.ROWS.value, Level.CONTENT.value]),
    default=Level.ROWS.value,
    show_default=True,
    help="What must be equal to the backup before it is put in place: the number of rows, or every value.",
)
@click.option("--drop-old", is_flag=True, help="Drop the old database in the end, instead of keeping it.")
@click.option(
    "--create-roles",
    is_flag=True,
    help="Make missing roles, from the server's @globals backup, without rights over the whole server.",
)
@click.option("--no-tablespaces", is_flag=True, help="Put everything into the default tablespace.")
@click.option("-I", "--go-on", is_flag=True, help="Go on after errors; they are listed, and the code is 3.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Connections to load over; default: RESTORE_JOBS.")
@click.option("--admin-user", metavar="NAME", default="", help="Who restores; default: the database's user.")
@click.option("--admin-password-file", metavar="FILE", default="", help="File with the password of NAME.")
@_JSON
def restore(**given: Any) -> Exit:  # noqa: ANN401 - options
    """Restore a database from its newest good backup.

    The backup is checked first, then loaded into a new database beside the old one, and compared with its
    manifest. Only then is the old one renamed to NAME_before_TIME and the new one to NAME, with owner,
    rights, settings and comment, in one transaction. Whatever goes wrong before that, the old database is
    as it was.

    Where there is no good backup here, the newest copy at a secondary location is fetched first.
    """
    return restoring.run(restoring.wanted(given), restoring.environment(os.environ, given))


@app.command(epilog=EXIT_CODES, short_help="Store what is missing at the secondary locations.")
@_SPEC
@_JSON
def upload(spec: tuple[str, ...], as_json: bool) -> Exit:
    """Store what is missing at the secondary locations, of every database or of those named.

    Every backup does so by itself; this is for what it could not reach. What the locations' retention
    (REMOTE_RETENTION) would not keep is not stored, and what it does not keep is removed there.
    """
    begun = session.begin()
    return uploading.run(begun, begun.specs(spec), as_json=as_json)


@app.command(epilog=EXIT_CODES, short_help="Get backups back from a secondary location.")
@_SPEC
@_FILTER
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), help="Folder to put them into, not BACKUP_DIR."
)
@_JSON
def fetch(spec: tuple[str, ...], pattern: str, to: Path | None, as_json: bool) -> Exit:
    """Bring the newest copy of each database named back into the backup directory, or of `all`.

    Each is compared with its manifest on the way, and published under its own name only when it is whole.
    What is there already stays as it is. With -f, the newest copy whose name holds the text.
    """
    begun = session.begin()
    if not spec:
        raise UsageError("which database?", hint="name it as host/dbname, or write `all`")
    return bringing.run(begun, begun.specs(spec), pattern=pattern, to=to, as_json=as_json)


@app.command(epilog=EXIT_CODES, short_help="Show the settings, databases and schedules.")
@_JSON
def config(as_json: bool) -> Exit:
    """Show the settings, databases and schedules as they were understood; secrets are masked."""
    begun = session.begin()
    show = configured.configuration if as_json else configured.configuration_text
    shown = show(begun.settings, begun.conf)
    session.show(shown if isinstance(shown, str) else render.as_json(shown))
    for warning in (*begun.conf.warnings, *begun.unchosen()):
        begun.warn(warning)
    return Exit.OK


@app.command(epilog=EXIT_CODES, short_help="Remove the backups that retention does not keep.")
@_SPEC
@_FILTER
@click.option("--dry-run", is_flag=True, help="Only say what would be removed, and why.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@_JSON
def prune(spec: tuple[str, ...], pattern: str, dry_run: bool, yes: bool, as_json: bool) -> Exit:
    """Remove the backups that retention does not keep; with -f, the matching ones, each after a question.

    Without a SPEC, only those of databases that the configuration names, and of their servers' globals:
    other jobs may keep theirs on the same volume. `all` means every backup that is found.

    The newest good backup of a database is never removed, nor is a file of which it cannot be told
    for certain whose it is.
    """
    begun = session.begin()
    return pruning.run(
        begun,
        begun.specs(spec),
        everything="all" in spec,
        pattern=pattern,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )


@app.command(epilog=EXIT_CODES, short_help="Try it out: a server and sample databases of its own.")
@click.option(
    "--dir", "folder", default="asyncbackup-demo", show_default=True, help="Folder for the demo's backups."
)
def demo(folder: str) -> Exit:
    """Start an embedded PostgreSQL, fill sample databases, and back them up."""
    from asyncbackup import demo as demo_of  # noqa: PLC0415 - needs the `embedded` extra

    result = session.run(demo_of.run(Path(folder)))
    return Exit(result)


@app.command(epilog=EXIT_CODES, short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(completing.SHELLS))
def completion(shell: str) -> Exit:
    r"""Print the completion script for a shell: commands, options, and the configured databases.

    \b
    For bash, put this into ~/.bashrc:
      eval "$(asyncbackup completion bash)"
    """
    session.show(completing.script(app, shell))
    return Exit.OK


def invoke(command: click.Command, name: str) -> Exit:
    """Run the command line and return its exit code; errors of ours become a sentence and a hint."""
    logs.open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, TextIOWrapper
        ):  # a name that the terminal's encoding lacks is escaped, not refused
            stream.reconfigure(errors="backslashreplace")
    try:
        result: Any = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Abort:
        return session.fail(CancelledError("interrupted"))
    except click.ClickException as error:
        if session.speaks_json(os.environ):
            return session.fail(UsageError(error.format_message()))
        error.show()
        return Exit.USAGE
    except AsyncbackupError as error:
        return session.fail(error)
    return result if isinstance(result, Exit) else Exit.OK


class CancelledError(AsyncbackupError):
    """Ctrl-C came while nothing was running that had to be unwound."""

    exit_code = Exit.INTERRUPTED
    category = "interrupted"


def main() -> NoReturn:
    """Run `asyncbackup`."""
    sys.exit(invoke(app, "asyncbackup"))
