"""How to reach a server: the same way for asyncpg and for the client programs.

Host, port, database and credentials are the configuration's; everything else (TLS above all) is
libpq's own: its variables, its service and pass files, its defaults.
"""

import asyncio
import contextlib
import os
import pwd
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import asyncpg

from asyncbackup import pgpass, variables
from asyncbackup.dbspec import spec_text
from asyncbackup.errors import AccessError, AsyncbackupError, BusyError, ConnectError, DatabaseMissingError
from asyncbackup.model import Credentials, DatabaseSpec, Secret, Server
from asyncbackup.postgres import handshake

APPLICATION_NAME = "asyncbackup"

# What decides how values are written must not be inherited, or equal rows differ in bytes. jit only
# costs time on catalog queries; a function body's quoting must be the standard's.
SESSION = {
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
}
# libpq's variables (PostgreSQL documentation, Environment Variables) less those that are decided here; a
# password of ours may begin with PG, too, when a host does.
_INHERITED = {
    "PGCHANNELBINDING", "PGGSSDELEGATION", "PGGSSENCMODE", "PGGSSLIB", "PGKRBSRVNAME", "PGLOADBALANCEHOSTS",
    "PGLOCALEDIR", "PGMAXPROTOCOLVERSION", "PGMINPROTOCOLVERSION", "PGPASSFILE", "PGREQUIREAUTH",
    "PGREQUIREPEER", "PGREQUIRESSL", "PGSERVICE", "PGSERVICEFILE", "PGSSLCERT", "PGSSLCERTMODE",
    "PGSSLCOMPRESSION", "PGSSLCRL", "PGSSLCRLDIR", "PGSSLKEY", "PGSSLMAXPROTOCOLVERSION",
    "PGSSLMINPROTOCOLVERSION", "PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLROOTCERT", "PGSSLSNI", "PGSYSCONFDIR",
    "PGTARGETSESSIONATTRS", "PGUSER",
    "HOME", "PATH", "LD_LIBRARY_PATH", "KRB5CCNAME", "KRB5_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR",
}  # fmt: skip
_NOWHERE = "/dev/null/none"
_MEMFD_MODE = 0o600
_NEXT_ADDRESS = 0.25  # seconds until the next address of a name is tried, too
_ANSWER = 120.0  # seconds; the catalogs of 100,000 tables are counted in a few
JIT_SINCE = 11

Connection = asyncpg.Connection  # asyncpg-stubs make it generic, the class itself is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One database and the means to log in to it."""

    spec: DatabaseSpec
    user: str | None
    password: Secret | None
    connect_timeout: float

    @property
    def server(self) -> Server:
        """The server."""
        return self.spec.server


def endpoint(
    spec: DatabaseSpec, credentials: Credentials, environ: Mapping[str, str], connect_timeout: float
) -> Endpoint:
    """Complete the configured credentials by libpq's own rules.

    PGPASSWORD and password files count, but go to children in a passfile of ours like every other password.
    With PGSERVICE, what the configuration leaves open is the service file's to say. Raises AccessError when
    there is no user name at all.
    """
    password = credentials.password
    if password is None and environ.get("PGPASSWORD"):
        password = Secret(environ["PGPASSWORD"])
    user = credentials.user
    if user is None and not environ.get("PGSERVICE"):
        user = environ.get("PGUSER")
    if not user and not environ.get("PGSERVICE"):
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            raise AccessError(
                f"{spec}: no user name is configured, and user id {os.geteuid()} has none",
                hint="set <HOST>_USER, POSTGRESQL_USER or PGUSER",
            ) from None
    if password is None and user and not environ.get("PGSERVICE"):
        password = pgpass.password(environ, spec, user)
    return Endpoint(spec=spec, user=user, password=password, connect_timeout=connect_timeout)


def conninfo(endpoint: Endpoint) -> str:
    """Return libpq's connection string, without the password.

    A bare database name would be taken for a connection string of its own if it looks like one. The
    keepalives find a vanished server in seconds instead of hours.
    """
    parameters = {
        "host": endpoint.spec.host,
        "port": str(endpoint.spec.port),
        "dbname": endpoint.spec.dbname,
        "user": endpoint.user,
        "application_name": APPLICATION_NAME,
        "connect_timeout": str(max(2, round(endpoint.connect_timeout))),  # libpq takes 1 for 2
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
    }
    return " ".join(f"{name}={quoted(value)}" for name, value in parameters.items() if value is not None)


def quoted(value: str) -> str:
    """Return a value as it stands in a connection string."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def child_environment(environ: Mapping[str, str], *, jit: bool) -> dict[str, str]:
    """Return the environment of a client program: libpq's variables, and no secret of ours."""
    env = {name: value for name, value in environ.items() if name in _INHERITED}
    settings = {**SESSION, "jit": "off"} if jit else SESSION
    env["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in settings.items())
    env["LC_ALL"] = "C"  # so that their messages can be told apart
    return env


@contextlib.contextmanager
def passfile(password: Secret | None) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Hold a password file for a child; yields the variables and the descriptors to pass on.

    The file lives in memory, has no name in any folder, and mode 0600 as libpq demands; it is gone
    with the last process that holds it, even when we are killed.
    """
    if password is None:
        yield {}, ()
        return
    if "\n" in password.reveal():
        raise AccessError("a password holds a line end, which no password file can carry", hint="change it")
    escaped = password.reveal().replace("\\", "\\\\").replace(":", "\\:")
    descriptor = os.memfd_create("passfile")
    try:
        os.fchmod(descriptor, _MEMFD_MODE)
        os.write(descriptor, f"*:*:*:*:{escaped}\n".encode())
        yield {"PGPASSFILE": f"/proc/self/fd/{descriptor}"}, (descriptor,)
    finally:
        os.close(descriptor)


class _Eager:
    """An event loop that tries all addresses of a name, so that one that is dead does not cost all the time.

    asyncpg asks for one after the other within a single limit; libpq gives each a limit of its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the loop has
        return getattr(self._loop, name)

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        return await self._loop.create_connection(*arguments, **options, happy_eyeballs_delay=_NEXT_ADDRESS)


@contextlib.asynccontextmanager
async def connection(endpoint: Endpoint, *, answer: float | None = _ANSWER) -> AsyncIterator[Connection]:
    """Connect by asyncpg for the length of the block; wrap in `mapped` what asks the server there.

    `answer` is the seconds that a statement may take; None for as long as it takes.
    """
    service = os.environ.get("PGSERVICE", "")
    root = os.environ.get("PGSSLROOTCERT", "")
    if tls_verified(os.environ) and root not in {"", "system"} and not os.path.exists(root):  # noqa: PTH110, ASYNC240
        raise AccessError(
            f"{endpoint.spec}: PGSSLROOTCERT={root}: there is no such file",
            hint="name the certificate of the authority that signed the server's, or say system",
        )
    required = handshake.kept(os.environ, str(endpoint.spec), verified=tls_verified(os.environ))
    with mapped(endpoint.spec), _entering(endpoint), required:
        endpoint.spec.dbname.encode()  # asyncpg can say nothing else, and says so badly
        connected = await asyncpg.connect(
            # asyncpg looks into a service file only when a DSN names the service.
            f"postgresql://?service={quote(service)}" if service else None,
            host=endpoint.spec.host,
            port=endpoint.spec.port,
            database=endpoint.spec.dbname,
            user=endpoint.user,
            password=endpoint.password.reveal() if endpoint.password else None,
            # We have read it already, and by libpq's rules; only a service file may still name another one.
            passfile=None if service and not pgpass.problem(os.environ) else _NOWHERE,
            timeout=endpoint.connect_timeout,
            command_timeout=answer,
            # libpq's word for the system's own certificates, which asyncpg does not know.
            ssl=ssl.create_default_context() if os.environ.get("PGSSLROOTCERT") == "system" else None,
            statement_cache_size=0,  # works through poolers, too
            server_settings={"application_name": APPLICATION_NAME},
            loop=cast("asyncio.AbstractEventLoop", _Eager(asyncio.get_running_loop())),
        )
    try:
        yield connected
    finally:
        connected.terminate()


@contextlib.contextmanager
def _entering(endpoint: Endpoint) -> Iterator[None]:
    """Say what would help where a login is refused."""
    spec = endpoint.spec
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise AccessError(
            f"{spec}: {error}",
            hint=f"let the role in (GRANT CONNECT ON DATABASE), or exclude it by a line !{spec_text(spec)}",
        ) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        if endpoint.password is not None:
            raise
        *_, name, _, _ = variables.prefixes(spec.host, spec.port)  # the last two are not its own
        raise AccessError(
            f"{spec}: {error}",
            hint=f"no password is configured for {spec.server}: set {name}_USER and {name}_PASSWORD"
            f" (or {name}_PASSWORD_FILE)",
        ) from error


def tls_verified(environ: Mapping[str, str]) -> bool:
    """Whether libpq's variables make a remote server prove who it is."""
    return environ.get("PGSSLMODE") in {"verify-ca", "verify-full"}


_TLS = "check PGSSLMODE, PGSSLROOTCERT, libpq's other variables, and the server's certificate"

# The first that fits decides; what the server says is in the message.
_MEANINGS: tuple[tuple[tuple[type[Exception], ...], type[AsyncbackupError], str], ...] = (
    (
        (asyncpg.InvalidCatalogNameError,),
        DatabaseMissingError,
        "correct the name, or remove its line; its old backups stay",
    ),
    (
        (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError),
        AccessError,
        "check the user, its password and its rights",
    ),
    (
        (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError),
        BusyError,
        "the server refuses for now; lower MAX_CONCURRENT_DUMPS_PER_SERVER if this happens often",
    ),
    ((asyncpg.AdminShutdownError, asyncpg.CrashShutdownError), BusyError, "the server is going down"),
    (
        (asyncpg.PostgresConnectionError, asyncpg.QueryCanceledError),
        ConnectError,
        "look into the server's log",
    ),
    ((asyncpg.PostgresError,), AsyncbackupError, "look into the server's log"),
    (
        (ssl.SSLError, asyncpg.ClientConfigurationError),
        AccessError,
        _TLS,
    ),
    ((TimeoutError,), ConnectError, "check the network, or raise CONNECT_TIMEOUT"),
    ((OSError,), ConnectError, "check the host name, the port and that the server is running"),
    ((UnicodeError,), AsyncbackupError, "the server has names that are not valid in their encoding"),
    ((asyncpg.InterfaceError, asyncpg.InternalClientError), ConnectError, "check libpq's variables"),
)


@contextlib.contextmanager
def mapped(spec: DatabaseSpec | str) -> Iterator[None]:
    """Turn asyncpg's failures, and those of the network, into our own kinds."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConnectionError) and "SSL" in str(error):
            demanded = f"PGSSLMODE={os.environ.get('PGSSLMODE', '')} demands TLS"
            raise AccessError(f"{spec}: {demanded}, and the server refused it", hint=_TLS) from error
        for kinds, ours, hint in _MEANINGS:
            if isinstance(error, kinds):
                said = "; ".join(str(error).splitlines()) or "no answer within the time allowed"
                if "connection_lost() call" in said:
                    said = "the server closed the connection before anybody could log in"
                if isinstance(error, OSError) and error.errno and "Connect call failed" in said:
                    said = os.strerror(error.errno).lower()
                raise ours(f"{spec}: {said}", hint=hint) from error
        raise
