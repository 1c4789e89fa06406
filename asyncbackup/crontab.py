"""A schedule as text: a cron line with a user column and one of our own commands.

The command is understood here, word by word, and never handed to a shell.
"""

import getopt
import re
from datetime import UTC, datetime
from functools import lru_cache

from cronsim import CronSim, CronSimError

from asyncbackup.dbspec import Foreign, read_spec, shown, split_kind
from asyncbackup.model import Action, Schedule

ALL = "all"
NICKNAMES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
"""The @names that a schedule may begin with; @reboot and @every name no point in time."""

_CRON = re.compile(r"[0-9A-Za-z*,/ -]{1,256}")
_CRON_FIELDS = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L or LW, and a day that its month has",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT, and 5L for the last Friday",
}
_PROGRAMS = ("backup.sh", "asyncbackup")
_SHELL = re.compile(r"[;&|<>$`\\(){}]")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@lru_cache(maxsize=1024)
def _check_cron(expression: str) -> None:
    if not _CRON.fullmatch(expression) or any(field.count("*") > 1 for field in expression.split()):
        raise ValueError(f"the schedule {shown(expression)} is not valid; write as in 0 1 * * *")
    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        value = expression.split()[list(_CRON_FIELDS).index(field)]
        raise ValueError(
            f"the {field} {shown(value)} is not valid; allowed: {_CRON_FIELDS[field]}"
        ) from error


def read_schedule(words: list[str], number: int, default_port: int) -> Schedule | Foreign:
    """Understand the words of a line, or raise ValueError with a sentence about them."""
    count = 1 if words[0].startswith("@") else len(_CRON_FIELDS)
    expression = " ".join(words[:count])
    if count == 1:
        expression = expression.lower()
        if expression not in NICKNAMES:
            raise ValueError(f"{shown(words[0])} is not known; use one of {', '.join(NICKNAMES)}")
    user, command = words[count : count + 1], words[count + 1 :]
    if user and _program(user[0]):
        raise ValueError(
            f"the user column is missing before {shown(user[0])}; "
            "write as in 0 1 * * * default ./backup.sh -s"
        )
    if not command:
        raise ValueError("the schedule is cut short; write as in 0 1 * * * default ./backup.sh -s")
    if count > 1:
        _check_cron(expression)
    if not _USER.fullmatch(user[0]):
        raise ValueError(
            f"the user {shown(user[0])} is no name; a schedule has five time fields, then the user"
        )
    action, spec, chosen = _command(command)
    if spec != ALL:
        kind, _ = split_kind(spec)
        if kind:
            return Foreign(kind)
        read_spec(spec, default_port)
    return Schedule(line=number, expression=expression, user=user[0], action=action, spec=spec, filter=chosen)


def _program(word: str) -> str:
    name = word.rpartition("/")[2]
    return name if name in _PROGRAMS else ""


def _command(words: list[str]) -> tuple[Action, str, str]:
    """Return what a command asks for: the action, `all` or one database, and the filter."""
    words = [
        word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word for word in words
    ]
    for word in words:
        special = _SHELL.search(word)
        if special:
            raise ValueError(
                f"{special[0]} needs a shell, and commands here are never handed to one; leave it out"
            )
    program, arguments = _program(words[0]), words[1:]
    if not program:
        raise ValueError(f"the command {shown(words[0])} is not known; only backup.sh and asyncbackup are")
    try:
        return _old_command(arguments) if program == _PROGRAMS[0] else _new_command(arguments)
    except getopt.GetoptError as error:
        raise ValueError(f"in the command, {error.msg}") from error


def _old_command(arguments: list[str]) -> tuple[Action, str, str]:
    try:
        options, rest = getopt.getopt(arguments, "s1pnv:f:")
    except getopt.GetoptError as error:
        if "recognized" not in error.msg:
            raise
        raise ValueError(f"-{error.opt} has no place in a schedule; -s, -1, -v, -p and -f have") from error
    if rest:
        raise ValueError(
            f"{shown(rest[0])} is not understood in the command; write as in ./backup.sh -s -v all"
        )
    given = dict(options)
    chosen = given.get("-f", "")
    if "-p" in given:
        return Action.PRUNE, ALL, chosen
    if "-v" in given:
        return Action.VERIFY, given["-v"], chosen
    if "-s" in given or "-1" in given:
        return Action.BACKUP, ALL, ""
    raise ValueError("the command does not say what to do; write ./backup.sh -s to back up")


def _new_command(arguments: list[str]) -> tuple[Action, str, str]:
    if not arguments or arguments[0] not in list(Action):
        what = shown(arguments[0]) if arguments else "asyncbackup alone"
        raise ValueError(f"{what} has no place in a schedule; backup, verify and prune have")
    action = Action(arguments[0])
    long = ["filter=", "yes"]
    before, rest = getopt.getopt(arguments[1:], "f:", long)
    after, extra = getopt.getopt(rest[1:], "f:", long)
    if extra:
        raise ValueError(f"{shown(extra[0])} is one too many; name one database, or all")
    given = {name.lstrip("-")[0]: value for name, value in before + after}
    if action is Action.BACKUP and "f" in given:
        raise ValueError("a filter chooses a backup to verify or prune; leave it out when backing up")
    return action, rest[0] if rest else ALL, given.get("f", "")
