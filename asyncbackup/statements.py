"""What the scanner understands of single statements: those that pg_dump writes, in its own form."""

import re

from asyncbackup.model import SequenceValue

IDENT = rb'(?:"(?:[^"]|"")+"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)'
"""One identifier, quoted or not, as a pattern; it fits bytes in any encoding that a server has."""

_COPY = re.compile(rb"COPY (%b)\.(%b) (?:\((.*)\) )? ?FROM stdin;" % (IDENT, IDENT), re.DOTALL)
_COLUMN = re.compile(rb"(%b)(?:, |\Z)" % IDENT, re.DOTALL)
_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\('((?:[^']|'')+)', (-?\d+), (true|false)\);", re.DOTALL)
_QUALIFIED = re.compile(rb"(%b)\.(%b)" % (IDENT, IDENT), re.DOTALL)
_LO_OPEN = re.compile(rb"SELECT pg_catalog\.lo_open\('(\d+)', \d+\);")
_ENCODING = re.compile(rb"SET client_encoding = '([^']*)';")
_OWNER = re.compile(rb"ALTER .* OWNER TO (%b);\Z" % IDENT, re.DOTALL)
_NAMED = re.compile(
    rb"(?:SET SESSION AUTHORIZATION|ALTER DEFAULT PRIVILEGES FOR ROLE|CREATE USER MAPPING FOR"
    rb"|CREATE ROLE) (%b)" % IDENT,
    re.DOTALL,
)
_GRANT = re.compile(
    rb"(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) .* (?:TO|FROM) (%b)[^\"]*;\Z" % IDENT, re.DOTALL
)
_POLICY = re.compile(rb"CREATE POLICY .*? TO (%b(?:, %b)*)" % (IDENT, IDENT), re.DOTALL)
_SUPERUSER = re.compile(
    rb"ALTER (?:FOREIGN DATA WRAPPER|EVENT TRIGGER|PUBLICATION|SUBSCRIPTION) %b OWNER TO (%b);\Z"
    % (IDENT, IDENT),
    re.DOTALL,
)
_TABLESPACE = re.compile(rb"(?:SET default_tablespace = |CREATE TABLESPACE )(%b)[ ;]" % IDENT, re.DOTALL)
_EXTENSION = re.compile(rb"CREATE EXTENSION IF NOT EXISTS (%b) " % IDENT, re.DOTALL)
_ROLE_STATEMENTS = (
    b"ALTER ",
    b"SET SESSION ",
    b"CREATE USER ",
    b"CREATE ROLE ",
    b"GRANT ",
    b"REVOKE ",
    b"CREATE POLICY ",
)

# PostgreSQL's encodings that Python knows under another name. What has no codec here (SQL_ASCII,
# MULE_INTERNAL ...) is read byte for byte as LATIN1, which loses nothing and can be turned back.
_CODECS = {
    "UTF8": "utf-8", "LATIN1": "latin-1", "LATIN2": "iso8859-2", "LATIN3": "iso8859-3",
    "LATIN4": "iso8859-4", "LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14", "LATIN9": "iso8859-15", "LATIN10": "iso8859-16", "ISO_8859_5": "iso8859-5",
    "ISO_8859_6": "iso8859-6", "ISO_8859_7": "iso8859-7", "ISO_8859_8": "iso8859-8",
    "KOI8R": "koi8-r", "KOI8U": "koi8-u", "WIN866": "cp866", "WIN874": "cp874", "WIN1250": "cp1250",
    "WIN1251": "cp1251", "WIN1252": "cp1252", "WIN1253": "cp1253", "WIN1254": "cp1254",
    "WIN1255": "cp1255", "WIN1256": "cp1256", "WIN1257": "cp1257", "WIN1258": "cp1258",
    "EUC_JP": "euc_jp", "EUC_KR": "euc_kr", "EUC_CN": "gb2312", "EUC_JIS_2004": "euc_jis_2004",
}  # fmt: skip


def codec(encoding: str) -> str:
    """Return the Python codec in which names of a dump in this PostgreSQL encoding are read."""
    return _CODECS.get(encoding, "latin-1")


def name(identifier: bytes, encoding: str) -> str:
    """Return an identifier as text, its quotes taken off."""
    if identifier.startswith(b'"'):
        identifier = identifier[1:-1].replace(b'""', b'"')
    try:
        return identifier.decode(codec(encoding))
    except UnicodeDecodeError:
        return identifier.decode("latin-1")


def copy(statement: bytes, encoding: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return schema, table and columns of `COPY … FROM stdin;`, or None for any other form."""
    match = _COPY.fullmatch(statement)
    if match is None:
        return None
    columns = tuple(name(c[1], encoding) for c in _COLUMN.finditer(match[3] or b""))
    return name(match[1], encoding), name(match[2], encoding), columns


def setval(statement: bytes, encoding: str) -> SequenceValue | None:
    """Return what `SELECT pg_catalog.setval(…);` sets, or None for any other form."""
    match = _SETVAL.fullmatch(statement)
    qualified = _QUALIFIED.fullmatch(match[1].replace(b"''", b"'")) if match else None
    if match is None or qualified is None:
        return None
    return SequenceValue(
        schema=name(qualified[1], encoding),
        name=name(qualified[2], encoding),
        last_value=int(match[2]),
        is_called=match[3] == b"true",
    )


def large_object(statement: bytes) -> int | None:
    """Return the oid that `SELECT pg_catalog.lo_open(…);` opens."""
    match = _LO_OPEN.fullmatch(statement)
    return int(match[1]) if match else None


def client_encoding(statement: bytes) -> str | None:
    """Return the encoding that `SET client_encoding` names."""
    match = _ENCODING.fullmatch(statement)
    return match[1].decode("ascii", "replace") if match else None


def roles(statement: bytes) -> tuple[bytes, ...]:
    """Return the identifiers of the roles that a statement refers to, PUBLIC left out."""
    if not statement.startswith(_ROLE_STATEMENTS):
        return ()
    found = [
        column[1]
        for pattern in (_OWNER, _NAMED, _GRANT, _POLICY)
        if (match := pattern.match(statement))
        for column in _COLUMN.finditer(match[1])
    ]
    return tuple(role for role in found if role.upper() != b"PUBLIC")


def superuser(statement: bytes) -> bytes | None:
    """Return the identifier of a role that has to be a superuser to own what the statement gives it."""
    match = _SUPERUSER.match(statement) if statement.startswith(b"ALTER ") else None
    return match[1] if match else None


def tablespace(statement: bytes) -> bytes | None:
    """Return the identifier of the tablespace in which what follows is made; None for the default one."""
    match = _TABLESPACE.match(statement) if statement.startswith((b"SET def", b"CREATE TABLES")) else None
    return match[1] if match else None


def extension(statement: bytes) -> bytes | None:
    """Return the identifier of the extension that the statement makes."""
    match = _EXTENSION.match(statement) if statement.startswith(b"CREATE EXT") else None
    return match[1] if match else None
