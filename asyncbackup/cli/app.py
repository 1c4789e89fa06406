"""The command `asyncbackup`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from asyncbackup import __version__
from asyncbackup.cli import pruning, render, session
from asyncbackup.errors import AsyncbackupError, Exit

EXIT_CODES = """\b
Exit codes:
  0  all good
  1  nothing succeeded
  2  wrong usage or configuration; nothing was touched
  3  some succeeded, some did not
  4  locked: another run is working on the same database
  130, 143  interrupted; children ended, partial files removed
"""

_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_FILTER = click.option(
    "-f", "--filter", "pattern", default="", metavar="FILTER", help="Only files whose path holds this text."
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
    invoke_without_command=False,
)
@click.version_option(__version__, prog_name="asyncbackup")
def app() -> None:
    """Back up a fleet of PostgreSQL databases, many at once, and prove what was written.

    What to back up stands in backup.conf (BACKUP_CONF) or in the environment; `asyncbackup config`
    shows what was understood. No server at hand? `asyncbackup demo` brings one.
    """


@app.command(epilog=EXIT_CODES)
@click.argument("spec", nargs=-1)
@_JSON
def backup(spec: tuple[str, ...], as_json: bool) -> Exit:
    """Back up every configured database, or only those named (host[:port]/dbname)."""
    begun = session.begin()
    report = session.back_up(begun, begun.specs(spec), show=session.wants_display(begun))
    if isinstance(report, Exit):
        return report
    click.echo(render.as_json(render.report(report)) if as_json else render.report_text(report))
    return session.exit_code(report)


@app.command("list", epilog=EXIT_CODES)
@click.argument("spec", nargs=-1)
@_FILTER
@_JSON
def list_(spec: tuple[str, ...], pattern: str, as_json: bool) -> Exit:
    """List the backups there are, newest first; those of the bash tool, too."""
    begun = session.begin()
    found = session.backups(begun, begun.specs(spec), pattern)
    now = datetime.now(UTC)
    if as_json:
        click.echo(render.as_json([render.backup(one, now) for one in found]))
    else:
        click.echo(render.listing(found, begun.settings.backup_dir, now))
    return Exit.OK


@app.command(epilog=EXIT_CODES)
@_JSON
def config(as_json: bool) -> Exit:
    """Show the settings, databases and schedules as they were understood; secrets are masked."""
    begun = session.begin()
    show = render.configuration if as_json else render.configuration_text
    shown = show(begun.settings, begun.conf)
    click.echo(shown if isinstance(shown, str) else render.as_json(shown))
    for warning in begun.conf.warnings:
        click.echo(f"Warning: {warning}", err=True)
    return Exit.OK


@app.command(epilog=EXIT_CODES)
@click.argument("spec", nargs=-1)
@_FILTER
@click.option("--dry-run", is_flag=True, help="Only say what would be removed, and why.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_JSON
def prune(spec: tuple[str, ...], pattern: str, dry_run: bool, yes: bool, as_json: bool) -> Exit:
    """Remove the backups that retention does not keep; with -f, the matching files one by one.

    The newest good backup of a database is never removed.
    """
    begun = session.begin()
    return pruning.run(begun, begun.specs(spec), pattern=pattern, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command(epilog=EXIT_CODES)
@click.option(
    "--dir", "folder", default="asyncbackup-demo", show_default=True, help="Folder for the demo's backups."
)
def demo(folder: str) -> Exit:
    """Start an embedded PostgreSQL, fill sample databases, and back them up."""
    from asyncbackup import demo as demo_of  # noqa: PLC0415 - needs the `embedded` extra

    result = session.run(demo_of.run(Path(folder)))
    return Exit(result)


_SHELLS = ("bash", "zsh", "fish")


@app.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> Exit:
    """Print the completion script for a shell: eval "$(asyncbackup completion bash)"."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(app, {}, "asyncbackup", "_ASYNCBACKUP_COMPLETE").source())
    return Exit.OK


def invoke(command: click.Command, arguments: list[str] | None, name: str) -> Exit:
    """Run a command line and return its exit code; errors of ours become a sentence and a hint."""
    try:
        result: Any = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.exceptions.Abort:
        return Exit.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except AsyncbackupError as error:
        return session.fail(error)
    except BrokenPipeError:
        sys.stderr.close()
        return Exit.FAILED
    return result if isinstance(result, Exit) else Exit.OK


def main() -> NoReturn:
    """Run `asyncbackup`."""
    sys.exit(invoke(app, None, "asyncbackup"))
