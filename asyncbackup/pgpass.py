"""Password files by libpq's rules, where no password is configured.

asyncpg reads them, too, but takes escaped colons and backslashes, IPv6 hosts and socket folders otherwise.
"""

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from asyncbackup.model import DatabaseSpec, Secret

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_DEFAULT_SOCKETS = {"/tmp", "/var/run/postgresql", "/run/postgresql"}  # noqa: S108 - PostgreSQL's, Debian's
_LOCALHOST = "localhost"


def path(environ: Mapping[str, str]) -> Path | None:
    """Return where the password file is looked for; None where this user has no home."""
    if environ.get("PGPASSFILE"):
        return Path(environ["PGPASSFILE"])
    home = environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            return None
    return Path(home, ".pgpass")


def problem(environ: Mapping[str, str]) -> str:
    """Return why the password file is ignored although it is there; empty when it is not, or missing."""
    file = path(environ)
    try:
        mode = file.stat().st_mode if file else None
    except OSError:
        return ""
    if mode is None:
        return ""
    if not stat.S_ISREG(mode):
        return f"the password file {file} is ignored: it is no regular file"
    if mode & _OTHERS:
        return f"the password file {file} is ignored: others may read it; its mode must be 0600"
    return ""


def password(environ: Mapping[str, str], spec: DatabaseSpec, user: str) -> Secret | None:
    """Return the password of the first line that fits; None without one, or where the file is ignored."""
    file = path(environ)
    if file is None or not spec.dbname or problem(environ):
        return None
    host = _LOCALHOST if spec.host in _DEFAULT_SOCKETS else spec.host
    wanted = [os.fsencode(text) for text in (host, str(spec.port), spec.dbname, user)]
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError:
        return None
    for line in lines:
        fields = _fields(line.rstrip(b"\r"))
        if fields is not None and all(
            raw == b"*" or value == want for (raw, value), want in zip(fields, wanted, strict=False)
        ):
            try:
                found = fields[4][1].decode()
            except UnicodeDecodeError:
                return None
            return Secret(found) if found else None
    return None


def _fields(line: bytes) -> list[tuple[bytes, bytes]] | None:
    """Return the five fields of a line, as written and with their escapes resolved."""
    if line.startswith(b"#"):
        return None
    fields: list[tuple[bytes, bytes]] = []
    raw, value = bytearray(), bytearray()
    at = 0
    while at < len(line):
        byte = line[at : at + 1]
        if byte == b":":
            fields.append((bytes(raw), bytes(value)))
            raw, value = bytearray(), bytearray()
            at += 1
            continue
        if byte == b"\\" and at + 1 < len(line):
            raw += byte
            at += 1
            byte = line[at : at + 1]
        raw += byte
        value += byte
        at += 1
    fields.append((bytes(raw), bytes(value)))
    least = 5  # what stands behind the password, and another colon, does not count
    return fields[:least] if len(fields) >= least else None
