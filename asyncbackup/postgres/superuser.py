"""The superuser of a throw-away server: sessions, name and password, by its socket."""

import secrets
from pathlib import Path

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from asyncbackup.model import Secret


async def connect(
    sockets: Path, port: int, user: str, dbname: str = "postgres"
) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect without a password. Everything is named: no PG* variable around us decides anything."""
    return await asyncpg.connect(
        host=f"{sockets}",
        port=port,
        user=user,
        password="",
        database=dbname,
        ssl=False,
        target_session_attrs=SessionAttribute.any,
    )


async def rename(sockets: Path, port: int, old: str, new: str) -> None:
    """Give the superuser another name, which takes a second one for a moment: nobody renames himself."""
    helper = f"helper_{secrets.token_hex(8)}"
    await _execute(sockets, port, old, f"CREATE ROLE {helper} SUPERUSER LOGIN")
    await _execute(sockets, port, helper, f"ALTER ROLE {_quoted(old)} RENAME TO {_quoted(new)}")
    await _execute(sockets, port, new, f"DROP ROLE {helper}")


async def set_password(sockets: Path, port: int, user: str) -> Secret:
    """Give the superuser a random password, and return it."""
    password = secrets.token_hex(16)
    await _execute(sockets, port, user, f"ALTER ROLE {_quoted(user)} PASSWORD '{password}'")
    return Secret(password)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def _execute(sockets: Path, port: int, user: str, sql: str) -> None:
    connection = await connect(sockets, port, user)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
