"""Variables that may stand in a file, and the credentials that a host's name leads to."""

import os
import re
import stat
from collections.abc import Mapping

from asyncbackup.dbspec import MAX_PATH, shown
from asyncbackup.errors import ConfigError
from asyncbackup.model import Credentials, Secret

FILE = "_FILE"
MAX_FILE = 64 * 1024
GENERAL = ("POSTGRESQL", "DATABASE")
"""Where to look for a user and a password when a host has none of its own."""


def read(environ: Mapping[str, str], name: str) -> str:
    """Return a variable, or the content of the file that `<name>_FILE` names; empty when neither is set."""
    value, path = environ.get(name, ""), environ.get(name + FILE, "")
    if not path:
        return value
    told = f"{name}{FILE}={shown(path, MAX_PATH)}"
    if value:
        raise ConfigError([f"{name}{FILE}: {name} is set, too; set only one of them"])
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError([f"{told}: is no regular file"])
            data = os.read(descriptor, MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError([f"{told}: cannot be read: {error.strerror}"]) from error
    if len(data) > MAX_FILE or b"\0" in data:
        raise ConfigError([f"{told}: must be a short text"])
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{told}: must be text in UTF-8"]) from error


def prefixes(host: str, port: int) -> tuple[str, ...]:
    """Return what may stand before `_USER` and `_PASSWORD` for a server, the most exact first.

    A shell cannot set a name that begins with a digit; hence `HOST_`.
    """
    name = re.sub("[^A-Z0-9]", "_", host.upper())
    names = (name, f"HOST_{name}") if name[:1].isdigit() else (name,)
    return (*(f"{name}_{port}" for name in names), *names, *GENERAL)


def credentials(environ: Mapping[str, str], host: str, port: int) -> Credentials:
    """Return what to log in with at a server, or raise ConfigError with every unreadable file.

    User and password are looked for separately, as of old. Files are read anew at each call, so that
    a secret can be exchanged while the program runs.
    """
    problems: list[str] = []

    def first(suffix: str) -> str | None:
        for prefix in prefixes(host, port):
            try:
                value = read(environ, f"{prefix}_{suffix}")
            except ConfigError as error:
                problems.extend(error.problems)
                continue
            if value:
                return value
        return None

    user, password = first("USER"), first("PASSWORD")
    if problems:
        raise ConfigError(problems)
    return Credentials(user=user, password=None if password is None else Secret(password))
