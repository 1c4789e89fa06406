"""What psql's end means: that the dump does not load, that the server lacks something, or that it went away."""

from typing import cast

import pytest

from asyncbackup.errors import (
    AsyncbackupError,
    BusyError,
    ConnectError,
    KilledDumpError,
    LackingError,
    LoadError,
)
from asyncbackup.model import PgVersion
from asyncbackup.postgres.load import failure, restricts
from asyncbackup.process import Child

LOST = [
    "server closed the connection unexpectedly",
    "\tThis probably means the server terminated abnormally",
    "\tbefore or while processing the request.",
]


def said(*lines: str, status: int = 3) -> AsyncbackupError:
    return failure("h:1/db", Child(cast("object", None), stderr=list(lines)), status)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "lines", "kind"),
    [
        (3, ['psql:<stdin>:12: ERROR:  relation "x" already exists'], LoadError),
        (3, ['psql:<stdin>:12: ERROR:  COPY t, line 3: "server closed the connection"'], LoadError),
        (3, ["ERROR:  insert or update violates foreign key constraint"], LoadError),  # deferred until COMMIT
        (
            3,
            ["psql:<stdin>:3: error: backslash commands are restricted; only \\unrestrict is allowed"],
            LoadError,
        ),
        (3, [], LoadError),
        (3, ['psql:<stdin>:12: ERROR:  extension "x" is not available'], LackingError),
        (
            3,
            ['psql:<stdin>:9: ERROR:  could not extend file "base/5/16391": No space left on device'],
            LackingError,
        ),
        (
            3,
            [
                'psql:<stdin>:9: ERROR:  could not extend file "base/5/1": wrote only 4096 of 8192 bytes at block 7'
            ],
            LackingError,
        ),
        # The server ended while psql committed: to psql, that is a failure of the script.
        (3, ["WARNING:  terminating connection due to immediate shutdown command", *LOST], KilledDumpError),
        (3, ["psql:<stdin>:7: WARNING:  PID 1 is not a PostgreSQL backend process", *LOST], KilledDumpError),
        (
            2,
            ["psql:<stdin>:7: FATAL:  terminating connection due to administrator command", *LOST],
            KilledDumpError,
        ),
        (2, ['psql: error: connection to server on socket "/s" failed: Connection refused'], ConnectError),
        (2, ["psql: error: FATAL:  the database system is in recovery mode"], BusyError),
        (1, ["psql: error: nobody knows"], LoadError),
        (-9, [], KilledDumpError),  # out of memory, perhaps
    ],
)
def test_what_psqls_end_means(status: int, lines: list[str], kind: type[AsyncbackupError]) -> None:
    assert type(said(*lines, status=status)) is kind


def test_values_of_rows_are_not_repeated() -> None:
    error = said(
        'psql:<stdin>:9: ERROR:  duplicate key value violates unique constraint "t_pkey"',
        "DETAIL:  Key (id)=(secret) already exists.",
        'CONTEXT:  COPY t, line 4, column a: "secret"',
    )
    assert "secret" not in str(error)
    assert "(COPY t, line 4, column a)" in str(error)


@pytest.mark.parametrize(
    ("version", "known"),
    [((15, 14), True), ((15, 13), False), ((16, 10), True), ((16, 9), False), ((17, 6), True), ((17, 5), False), ((18, 0), True), ((19, 0), True), ((14, 19), True), ((14, 18), False), ((13, 22), True), ((12, 22), False)],
)  # fmt: skip
def test_which_psql_can_be_restricted(version: tuple[int, int], *, known: bool) -> None:
    assert restricts(PgVersion(*version)) is known
