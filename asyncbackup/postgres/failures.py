"""What a client program's complaint means: whose fault it is, and whether trying again helps."""

import re

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

# The first that matches decides. The programs' own messages are English (LC_ALL=C); a server may
# speak another language, then its complaint counts as a permanent failure, which is the safe side.
_MEANINGS: tuple[tuple[str, type[AsyncbackupError], str], ...] = (
    (
        r"setpriv: failed to execute",
        ClientError,
        "check that the client is there and executable, with all that it needs",
    ),
    (
        # pg_dump keeps its --lock-wait-timeout by a statement timeout.
        r"lock timeout|could not obtain lock|statement timeout\s(.*\s)?.*Query was: LOCK TABLE",
        TransientDumpError,
        "something holds a table exclusively; raise LOCK_WAIT_TIMEOUT, or back up at another time",
    ),
    (
        r"conflict with recovery",
        TransientDumpError,
        "the standby cancelled it; raise max_standby_streaming_delay there, or set hot_standby_feedback",
    ),
    (
        r"cache lookup failed|could not open relation with OID|relation .* does not exist",
        TransientDumpError,
        "something was dropped while it was dumped",
    ),
    (
        r"invalid snapshot identifier|could not import|snapshot .* does not exist|source process .* running",
        SnapshotLostError,
        "the address leads to more than one server; name one of them",
    ),
    (
        r"too many (clients|connections)|remaining connection slots",
        BusyError,
        "lower MAX_CONCURRENT_DUMPS_PER_SERVER, or raise the server's max_connections",
    ),
    (r"the database system is", BusyError, "the server refuses for now"),
    (
        r"password authentication failed|no pg_hba\.conf entry|no password supplied",
        AccessError,
        "check the user and its password",
    ),
    (
        r'database ".*" does not exist',
        DatabaseMissingError,
        "correct the name, or remove its line; its old backups stay",
    ),
    (
        r"row-level security",
        AccessError,
        "give the role BYPASSRLS: a dump under row security would lack rows",
    ),
    (
        r"permission denied for large object",
        AccessError,
        "pg_read_all_data does not cover them: GRANT SELECT ON LARGE OBJECT, or set lo_compat_privileges",
    ),
    (
        r"permission denied|must be (owner|superuser)",
        AccessError,
        "grant the role pg_read_all_data (PostgreSQL 14 and newer), or membership in the owning roles",
    ),
    (r"server version mismatch", ClientError, "install a client of the server's major version"),
    (
        (
            r"terminated by user|server closed the connection|terminating connection"
            r"|connection to server was lost|lost synchronization|SSL SYSCALL|could not receive data"
            r"|connection not open|no connection to"
        ),
        KilledDumpError,
        "look into the server's log",
    ),
    (
        r"connection to server .* failed|could not connect|could not translate host name|timeout expired",
        ConnectError,
        "check the host name, the port and that the server is running",
    ),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), kind, hint) for pattern, kind, hint in _MEANINGS)


def classify(said: str) -> tuple[type[AsyncbackupError], str]:
    """Return the kind of error that a program's stderr tells of, and a hint; DumpError if unknown."""
    for pattern, kind, hint in _COMPILED:
        if pattern.search(said):
            return kind, hint
    return DumpError, ""
