"""What pg_dump and pg_dumpall really say, and what is made of it."""

import pytest

from asyncbackup.errors import (
    AccessError,
    AsyncbackupError,
    BusyError,
    ClientError,
    ConnectError,
    DatabaseMissingError,
    DumpError,
    KilledDumpError,
    SnapshotLostError,
    TransientDumpError,
)
from asyncbackup.postgres.failures import classify

CONNECTION = 'pg_dump: error: connection to server at "127.0.0.1", port 5432 failed: '

# Taken from PostgreSQL 15, 16 and 18.
SAID = [
    (TransientDumpError, "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\npg_dump: detail: Query was: LOCK TABLE public.t IN ACCESS SHARE MODE"),
    (DumpError, "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\npg_dump: detail: Query was: SELECT 1"),
    (TransientDumpError, "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout\npg_dump: detail: Query was: LOCK TABLE public.t IN ACCESS SHARE MODE"),
    (TransientDumpError, 'pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\npg_dump: detail: Error message from server: ERROR:  canceling statement due to conflict with recovery\nDETAIL:  User query might have needed to see row versions that must be removed.'),
    (TransientDumpError, 'pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\npg_dump: detail: Error message from server: FATAL:  terminating connection due to conflict with recovery'),
    (SnapshotLostError, 'pg_dump: error: query failed: ERROR:  invalid snapshot identifier: "00000003-0000001B-1"'),
    (SnapshotLostError, "pg_dump: error: query failed: ERROR:  could not import the requested snapshot\nDETAIL:  The source process with PID 4711 is not running anymore."),
    (SnapshotLostError, 'pg_dump: error: query failed: ERROR:  snapshot "00000003-0000001B-1" does not exist'),
    (BusyError, CONNECTION + "FATAL:  sorry, too many clients already"),
    (BusyError, CONNECTION + "FATAL:  remaining connection slots are reserved for non-replication superuser connections"),
    (BusyError, CONNECTION + "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute"),
    (BusyError, CONNECTION + 'FATAL:  too many connections for database "app"'),
    (BusyError, CONNECTION + 'FATAL:  too many connections for role "app"'),
    (BusyError, CONNECTION + "FATAL:  the database system is starting up"),
    (BusyError, CONNECTION + "FATAL:  the database system is shutting down"),
    (ConnectError, CONNECTION + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"),
    (ConnectError, CONNECTION + "timeout expired"),
    (ConnectError, 'pg_dump: error: connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory'),
    (ConnectError, 'pg_dump: error: could not translate host name "nowhere.invalid" to address: Name or service not known'),
    (AccessError, CONNECTION + 'FATAL:  password authentication failed for user "app"'),
    (AccessError, CONNECTION + "fe_sendauth: no password supplied"),
    (AccessError, CONNECTION + 'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "app", database "app", no encryption'),
    (DatabaseMissingError, CONNECTION + 'FATAL:  database "app" does not exist'),
    (DatabaseMissingError, CONNECTION + 'FATAL:  database "it\'s" does not exist'),
    (AccessError, "pg_dump: error: query failed: ERROR:  permission denied for table secret\npg_dump: detail: Query was: LOCK TABLE public.secret IN ACCESS SHARE MODE"),
    (AccessError, "pg_dump: error: query failed: ERROR:  permission denied for schema private"),
    (AccessError, "pg_dumpall: error: query failed: ERROR:  permission denied for table pg_authid"),
    (AccessError, 'pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\npg_dump: detail: Error message from server: ERROR:  query would be affected by row-level security policy for table "t"\nHINT:  To disable the policy for the table\'s owner, use ALTER TABLE NO FORCE ROW LEVEL SECURITY.'),
    (ClientError, "setpriv: failed to execute /usr/bin/pg_dump: Permission denied"),
    (ClientError, "pg_dump: error: aborting because of server version mismatch\npg_dump: detail: server version: 18.4; pg_dump version: 15.18"),
    (KilledDumpError, 'pg_dump: error: Dumping the contents of table "t" failed: PQgetCopyData() failed.\npg_dump: detail: Error message from server: server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n\tbefore or while processing the request.'),
    (KilledDumpError, "pg_dump: error: query failed: FATAL:  terminating connection due to administrator command\nserver closed the connection unexpectedly"),
    (KilledDumpError, "pg_dump: error: query failed: SSL SYSCALL error: EOF detected"),
    (KilledDumpError, "pg_dump: error: query failed: could not receive data from server: Connection reset by peer"),
    (DumpError, 'pg_dump: error: could not parse ACL list (x) for object "t" (TABLE)'),
    (KilledDumpError, "pg_dump: error: terminated by user"),  # which is SIGTERM
    (DumpError, "pg_dump: Fehler: Anfrage fehlgeschlagen"),
    (DumpError, ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "said"), SAID)
def test_what_it_means(kind: type[AsyncbackupError], said: str) -> None:
    found, hint = classify(said)
    assert found is kind
    assert hint or kind is DumpError


def test_what_may_pass_is_tried_again_and_nothing_else() -> None:
    tried = {kind for kind, _ in SAID if kind.retryable}
    assert tried == {TransientDumpError, SnapshotLostError, ConnectError, BusyError, KilledDumpError}


def test_the_first_complaint_is_not_drowned_by_what_follows() -> None:
    # A server that goes down tells the reason first, then the connection breaks.
    said = "FATAL:  terminating connection due to conflict with recovery\nserver closed the connection unexpectedly"
    assert classify(said)[0] is TransientDumpError
