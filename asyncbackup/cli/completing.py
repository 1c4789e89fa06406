"""Completion in a shell: commands, options, and the configured databases; and guesses at mistyped ones."""

import difflib

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from asyncbackup import dbspec
from asyncbackup.cli import session
from asyncbackup.errors import AsyncbackupError

SHELLS = ("bash", "zsh", "fish")


class _Bash(BashComplete):
    """Completion for bash, which takes words apart at colons, where a port begins."""

    source_template = """\
%(complete_func)s() {
    local typed="${COMP_LINE:0:COMP_POINT}" prefix="" response completion type value
    local -a words
    IFS=$' \\t' read -r -a words <<< "$typed"
    [[ "$typed" == *[[:space:]] ]] && words+=("")
    local current="${words[${#words[@]}-1]}"
    [[ "$COMP_WORDBREAKS" == *:* && "$current" == *:* ]] && prefix="${current%%"${current##*:}"}"
    response=$(IFS=$'\\n'; COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    while IFS=',' read -r type value; do
        case "$type" in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain) COMPREPLY+=("${value#"$prefix"}") ;;
        esac
    done <<< "$response"
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


add_completion_class(_Bash)


class Commands(click.Group):
    """A group that guesses which command a mistyped one was meant to be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"There is no command {dbspec.shown(args[0])}.{guess}", ctx) from error


def complete_spec(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the configured databases that begin like this; none where the configuration is wrong."""
    try:
        begun = session.begin()
    except (AsyncbackupError, OSError):
        return []
    names = ["all"]
    for spec in begun.conf.databases:
        full = dbspec.spec_text(spec)
        short = full.replace(f":{spec.port}/", "/", 1)
        names.append(short if spec.port == begun.settings.default_port and ":" not in incomplete else full)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def script(command: click.Command, shell: str) -> str:
    """Return what a shell has to evaluate."""
    kind = get_completion_class(shell)
    return kind(command, {}, "asyncbackup", "_ASYNCBACKUP_COMPLETE").source() if kind is not None else ""
