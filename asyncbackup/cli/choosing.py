"""Databases named on a command line: one that nobody knows is a mistake, not an empty result."""

import difflib

from asyncbackup import conf, dbspec
from asyncbackup.cli import text
from asyncbackup.cli.session import Session, backups
from asyncbackup.errors import UsageError
from asyncbackup.model import DatabaseSpec, Server


def require_known(session: Session, specs: tuple[DatabaseSpec, ...]) -> None:
    """Raise UsageError for databases that are neither configured nor have a backup, with a guess."""
    strange = [spec for spec in specs if not _configured(session.conf, spec)]
    if strange:
        known = {found.spec for found in backups(session, specs)}
        strange = [spec for spec in strange if spec not in known]
    if not strange:
        return
    everything = {*session.conf.databases, *(found.spec for found in backups(session) if found.spec)}
    names = sorted(text.database(spec) for spec in everything)
    near = [difflib.get_close_matches(text.database(spec), names, 1) for spec in strange]
    guesses = dict.fromkeys(f"did you mean {guess}?" for found in near for guess in found)
    raise UsageError(
        "\n".join(
            f"{text.database(spec)} is not configured, and has no backup in {session.settings.backup_dir}"
            for spec in strange
        ),
        hint="\n".join(guesses)
        or "`asyncbackup list` shows every backup, `asyncbackup config` every database",
    )


def _configured(found: conf.Conf, spec: DatabaseSpec) -> bool:
    wanted = [
        line for line in found.patterns if not line.exclude and Server(line.host, line.port) == spec.server
    ]
    if spec.is_globals:
        return bool(wanted) or spec.server in {one.server for one in found.databases}
    return spec in found.databases or any(dbspec.matches(line.pattern, spec.dbname) for line in wanted)
