"""A database as text: `host[:port]/dbname`, in a configuration file and on a command line.

What has no place in a name is percent-encoded: a blank, a slash, the folder of a Unix socket as
host (`%2Fvar%2Frun%2Fpostgresql`), an asterisk (`%2A`, since a bare one is a wildcard).
"""

import re
from dataclasses import dataclass
from socket import AF_INET6, inet_ntop, inet_pton
from urllib.parse import quote, unquote

from asyncbackup.errors import UsageError
from asyncbackup.model import GLOBALS, GLOBALS_LABEL, DatabaseSpec

MAX_DBNAME = 63  # NAMEDATALEN - 1, in bytes
MAX_HOST = 253
MAX_PORT = 65535
MAX_PATH = 200
"""How much of a path a message shows."""

_HOST = re.compile(r"[A-Za-z0-9._%-]+")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KIND = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=")


@dataclass(frozen=True, slots=True)
class Foreign:
    """A line for a container of another kind, such as `mongo=host/dbname`."""

    kind: str


def shown(text: str, limit: int = 60) -> str:
    """Return input fit for a message: quoted, short, control characters escaped."""
    safe = "".join(char if char.isprintable() else _escaped(char) for char in text[: limit + 1])
    return f'"{safe}"' if len(safe) <= limit else f'"{safe[:limit]}…"'


def is_utf8(text: str) -> bool:
    """Tell whether a text from the system was UTF-8; what was not, Python holds as lone surrogates."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that was not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def split_kind(text: str) -> tuple[str, str]:
    """Split off `type=`; the type is empty for PostgreSQL's own."""
    match = _KIND.match(text) if "=" in text else None
    if match is None:
        return "", text
    kind, rest = match[1].lower(), text[match.end() :]
    if kind == "postgres":
        return "", rest
    if kind.startswith(("postg", "pg", "psql")):  # skipping it would leave a database without backup
        raise ValueError(f"the type {shown(match[1])} is not known; write postgres=host[:port]/dbname")
    if rest.find("/") < 1:  # never echoed whole, for it may hold a password
        raise ValueError(f"{shown(match[0])} has no place here; variables are set in the environment")
    return kind, rest


def split_address(text: str, default_port: int) -> tuple[str, int, str]:
    """Take `host[:port]/name` apart; the name is still encoded and may hold wildcards."""
    address, _, name = text.partition("/")
    if "@" in text.rpartition("/")[0]:  # never echoed, for it may hold a password
        raise ValueError("holds an @ before the /; write host[:port]/dbname, without user or password")
    if not name:
        raise ValueError(f"the database name is missing after {shown(text)}; write host/dbname")
    if "/" in name:
        raise ValueError(f"the name {shown(name)} holds a /; write it as %2F")
    if address.startswith("["):
        literal, bracket, rest = address[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        try:
            host = _ipv6(decode(literal, "host"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{shown(literal)} is no IPv6 address; write [::1]/dbname") from error
        if not bracket or colon not in {"", ":"}:
            raise ValueError(f"{shown(address)} is no address; write [::1]/dbname or [::1]:5432/dbname")
    else:
        host, colon, port = address.partition(":")
        if ":" in port:
            raise ValueError(f"{shown(address)} holds several colons; write an IPv6 address as [::1]/dbname")
        host = _read_host(host)
    if not colon:
        return host, default_port, name
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= MAX_PORT):  # noqa: PLR2004
        raise ValueError(f"the port {shown(port)} must be a number from 1 to {MAX_PORT}")
    return host, int(port), name


def _ipv6(text: str) -> str:
    """Return an IPv6 address in its short form, so that one address is one server."""
    address, percent, zone = text.partition("%")
    if percent and not zone.isalnum():
        raise ValueError("the zone after the % is missing")
    return inet_ntop(AF_INET6, inet_pton(AF_INET6, address)) + percent + zone


def check_host(host: str) -> str:
    """Return a name, an address or a socket's folder, not encoded, or raise ValueError."""
    if len(host) > MAX_HOST:
        raise ValueError(f"the host {shown(host)} is longer than {MAX_HOST} characters")
    # libpq takes a comma for a list of hosts, and a leading slash for a folder of Unix sockets.
    if not host.isprintable() or " " in host or "," in host or ("/" in host and host[0] != "/"):
        raise ValueError(f"the host {shown(host)} must be a name, an address or the folder of a socket")
    return host


def _read_host(text: str) -> str:
    if not text:
        raise ValueError("the host is missing before the /; write host/dbname")
    if "*" in text:
        raise ValueError(f"the host {shown(text)} holds a wildcard; only a database name may have one")
    if not _HOST.fullmatch(text):
        raise ValueError(f"the host {shown(text)} holds an odd character; percent-encode it: {_quoted(text)}")
    return check_host(decode(text, "host"))


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")[:60]


def decode(text: str, what: str) -> str:
    """Undo percent-encoding, strictly; `what` names the text in the error."""
    if "%" not in text:
        return text
    if _ESCAPE.search(text):
        raise ValueError(
            f"a % in the {what} {shown(text)} needs two hexadecimal digits; write % itself as %25"
        )
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"the {what} {shown(text)} does not decode to UTF-8") from error


def check_dbname(name: str, *, least: int = 1) -> str:
    """Return a name that PostgreSQL can have, or raise ValueError."""
    if len(name) < least:
        raise ValueError("the database name is missing; write host/dbname")
    if not is_utf8(name):
        raise ValueError(f"the database name {shown(name)} is not UTF-8")
    length = len(name.encode())
    if length > MAX_DBNAME:
        raise ValueError(f"the database name {shown(name)} has {length} bytes; the most is {MAX_DBNAME}")
    if "\0" in name:
        raise ValueError(f"the database name {shown(name)} holds a NUL, which no name can")
    return name


def parse_spec(text: str, *, default_port: int) -> DatabaseSpec:
    """Return the database that `host[:port]/dbname` names on a command line, or raise UsageError.

    `host/@globals` names a server's roles and tablespaces.
    """
    try:
        return read_spec(text, default_port)
    except ValueError as error:
        raise UsageError(str(error)) from error


def read_spec(text: str, default_port: int) -> DatabaseSpec:
    """Do what `parse_spec` does, but raise ValueError, for those who know the line number."""
    kind, address = split_kind(text)
    if kind:
        raise ValueError(f"{shown(text)} is no PostgreSQL database")
    if "://" in text:
        raise ValueError("looks like a URL; write host[:port]/dbname, and set the credentials as variables")
    if "/" not in address:
        raise ValueError(f"{shown(text)} is no database; write host/dbname or host:port/dbname")
    host, port, name = split_address(address, default_port)
    if "*" in name:
        raise ValueError(f"{shown(text)} may stand for many databases; name one, or write * itself as %2A")
    if name == GLOBALS_LABEL:
        return DatabaseSpec(host, port, GLOBALS)
    return DatabaseSpec(host, port, check_dbname(decode(name, "database name")))


def spec_text(spec: DatabaseSpec) -> str:
    """Return a database as `parse_spec` and a configuration file take it, odd characters encoded."""
    host = f"[{spec.host}]" if ":" in spec.host else quote(spec.host, safe="")
    return f"{host}:{spec.port}/{quote(spec.dbname, safe='') or GLOBALS_LABEL}"


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name fits a pattern as written, where * stands for any run of characters."""
    first, *rest = (unquote(piece) for piece in pattern.split("*"))
    if not rest:
        return first == name
    *middle, last = rest
    position, end = len(first), len(name) - len(last)
    if position > end or not name.startswith(first) or not name.endswith(last):
        return False
    for piece in middle:
        at = name.find(piece, position, end)
        if at < 0:
            return False
        position = at + len(piece)
    return True
