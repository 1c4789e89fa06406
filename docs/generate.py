"""Write what the reference can take from the code: settings, commands, the manifest's schema.

Run it as `python -m docs.generate`; tests/unit/test_docs.py fails while a page differs from the code.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import click

from asyncbackup import configuration, manifest, records
from asyncbackup.cli.app import app

REFERENCE = Path(__file__).parent / "reference"

_WIDTH = 104
_OLD_FLAGS = "asyncbackup.cli.seed"
_COMMANDS = """\
# Commands

Results go to stdout, logs to stderr, so that `asyncbackup backup --json > report.json` is a valid
JSON file. The configuration is read and checked before a command does anything. A database is named
`host/dbname` or `host:port/dbname`, with the odd characters of a name percent-encoded; `all`, or
nothing, means every configured one. To `list`, `check` and `prune`, `host/@globals` is a server's roles and
tablespaces.

## Exit codes

The same for every command, and for `backup.sh`:

| Code | Meaning |
|---|---|
| 0 | All good. |
| 1 | Nothing succeeded. A run of one database that failed, too, and one that found none to back up. |
| 2 | Wrong usage or configuration. Nothing was touched. |
| 3 | Some databases succeeded, some did not. |
| 4 | Locked: other runs are working on every database that was asked for. |
| 130 | Interrupted by Ctrl-C (SIGINT). Children have ended, partial files are removed. |
| 143 | The same by SIGTERM or SIGHUP. A second signal ends the program at once. |

A server's globals that could not be had do not change the code; they are reported, and the databases
count. Neither do warnings, such as those that pg_dump prints.

## asyncbackup
"""


def commands() -> str:
    """Return the page on the command line, made from the help texts."""
    root = click.Context(app, info_name="asyncbackup", terminal_width=_WIDTH, **app.context_settings)
    page = [_COMMANDS + "\n" + _block(app, root)]
    for name in app.list_commands(root):
        command = app.get_command(root, name)
        if command is not None:
            below = click.Context(command, info_name=name, parent=root, terminal_width=_WIDTH)
            page += [f"## asyncbackup {name}\n", _block(command, below)]
    if find_spec(_OLD_FLAGS):
        page += ["## backup.sh\n", "The same program under the flags of the bash tool.\n", _old_flags()]
    return "\n".join(page).rstrip() + "\n"


def _block(command: click.Command, context: click.Context) -> str:
    formatter = context.make_formatter()
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    command.format_options(context, formatter)  # without the epilog: the exit codes stand at the top
    return f"```text\n{formatter.getvalue().strip()}\n```\n"


def _old_flags() -> str:
    code = f"import sys; from {_OLD_FLAGS} import main; sys.argv = ['backup.sh', '-h']; main()"
    environ = {"COLUMNS": str(_WIDTH), "LC_ALL": "C.UTF-8"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    return f"```text\n{told.stdout.strip()}\n```\n"


def manifest_schema() -> str:
    """Return the JSON schema of a manifest."""
    return json.dumps(manifest.schema(), indent=2) + "\n"


def record_schema() -> str:
    """Return the JSON schema of a verification record."""
    return json.dumps(records.schema(), indent=2) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": configuration.reference,
    "commands.md": commands,
    "manifest.schema.json": manifest_schema,
    "verification.schema.json": record_schema,
}
"""Every generated file of the reference, and what gives its content."""


def main() -> None:
    """Write them all."""
    for name, content in PAGES.items():
        (REFERENCE / name).write_text(content(), encoding="utf-8")
        click.echo(f"wrote docs/reference/{name}")


if __name__ == "__main__":
    main()
