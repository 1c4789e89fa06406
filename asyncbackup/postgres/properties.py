"""A database's own properties: what pg_dump without --create leaves out, and a new database needs."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asyncbackup.model import DatabaseProperties, PgVersion

PROVIDERS_SINCE = 15
_BUILTIN_SINCE = 17
_RULES_SINCE = 16
_DEFAULT_TABLESPACE = "pg_default"
_PRIVILEGES = {"C": "CREATE", "T": "TEMPORARY", "c": "CONNECT"}
_NAME = r'(?:"((?:[^"]|"")*)"|([^"=/]*))'
_ITEM = re.compile(rf"{_NAME}=([A-Za-z*]*)/{_NAME}", re.DOTALL)
_LIST_ENTRY = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')
# Parameters whose value is a list of names, each quoted by itself: those that pg_dump treats so, too.
_LISTS = {
    "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
    "temp_tablespaces", "unix_socket_directories",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One entry of a database's access list; the grantee "" is PUBLIC."""

    grantee: str
    privileges: tuple[tuple[str, bool], ...]
    """Each with whether it may be granted on."""
    grantor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that makes a database what it should be."""

    what: str
    statements: tuple[str, ...]
    vital: bool
    """Whether nothing may be swapped without it."""


def quoted(identifier: str) -> str:
    """Return an identifier as it stands in SQL."""
    doubled = identifier.replace('"', '""')
    return f'"{doubled}"'


def literal(value: str) -> str:
    """Return a string as it stands in SQL, whatever standard_conforming_strings says."""
    escaped = value.replace("'", "''")
    return f" E'{escaped}'".replace("\\", "\\\\") if "\\" in value else f"'{escaped}'"


def create_database(
    name: str,
    properties: DatabaseProperties,
    server: PgVersion,
    owner: str = "",
    *,
    tablespace: str = "",
    closed: bool = False,
) -> str:
    """Return the statement that makes an empty database alike: encoding, locale and provider.

    It comes from template0, which no site has added anything to, and which alone may have another
    encoding or locale than the template that it is copied from. A `closed` one lets superusers in only.
    """
    words = [f"CREATE DATABASE {quoted(name)} TEMPLATE template0"]
    if owner:
        words.append(f"OWNER {quoted(owner)}")
    words += _locale(properties, server)
    if tablespace and tablespace != _DEFAULT_TABLESPACE:
        words.append(f"TABLESPACE {quoted(tablespace)}")
    if closed:
        words.append("CONNECTION LIMIT 0")
    return " ".join(words)


def _locale(properties: DatabaseProperties, server: PgVersion) -> Iterator[str]:
    if properties.encoding:
        yield f"ENCODING {literal(properties.encoding)}"
    if properties.collate:
        yield f"LC_COLLATE {literal(properties.collate)}"
    if properties.ctype:
        yield f"LC_CTYPE {literal(properties.ctype)}"
    if server.major < PROVIDERS_SINCE or not properties.locale_provider:
        return
    yield f"LOCALE_PROVIDER {properties.locale_provider}"
    if properties.locale and properties.locale_provider == "icu":
        yield f"ICU_LOCALE {literal(properties.locale)}"
        if properties.icu_rules and server.major >= _RULES_SINCE:
            yield f"ICU_RULES {literal(properties.icu_rules)}"
    elif properties.locale and properties.locale_provider == "builtin" and server.major >= _BUILTIN_SINCE:
        yield f"BUILTIN_LOCALE {literal(properties.locale)}"


def check_locale(properties: DatabaseProperties) -> str:
    """Return a statement that fails where no database with this locale can be made; undo it afterwards."""
    if properties.locale_provider in {"icu", "builtin"} and properties.locale:
        options = f"provider = {properties.locale_provider}, locale = {literal(properties.locale)}"
    else:
        options = f"lc_collate = {literal(properties.collate)}, lc_ctype = {literal(properties.ctype)}"
    return f"CREATE COLLATION pg_temp.asyncbackup ({options})"


def grants(acl: Iterable[str]) -> tuple[Grant, ...]:
    """Return the entries of an access list, which PostgreSQL writes as `grantee=privileges/grantor`."""
    found = []
    for text in acl:
        match = _ITEM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no entry of an access list")
        letters = re.findall(r"([A-Za-z])(\*?)", match[3])
        found.append(
            Grant(
                grantee=_unquoted(match[1], match[2]),
                privileges=tuple((_PRIVILEGES[letter], bool(star)) for letter, star in letters),
                grantor=_unquoted(match[4], match[5]),
            )
        )
    return tuple(found)


def _unquoted(inside: str | None, plain: str | None) -> str:
    return plain or "" if inside is None else inside.replace('""', '"')


def roles(properties: DatabaseProperties) -> frozenset[str]:
    """Return every role that the properties name."""
    entries = grants(properties.acl or ())
    named = {properties.owner, *(one.grantee for one in entries), *(one.grantor for one in entries)}
    named.update(role for role, _ in properties.settings)
    return frozenset(named - {""})


def changes(
    dbname: str,
    properties: DatabaseProperties,
    *,
    owner: str,
    admin: str,
    closed: bool,
    allow_connections: bool,
    vital: bool,
) -> tuple[Change, ...]:
    """Return what makes a database that `create_database` has made have these properties.

    It may be owned by another than the properties say; then `owner` stands for that one. One that was
    not made `closed` was kept to `admin` by its access list. With `vital`, owner and rights must be as
    they should, or nothing is swapped; a comment, a setting or a label never stands in the way.
    """
    name = quoted(dbname)
    found = []
    if owner == properties.owner:
        found.append(
            Change(
                what=f"the owner {owner}",
                statements=(f"ALTER DATABASE {name} OWNER TO {quoted(owner)}",),
                vital=vital,
            )
        )
    if statements := tuple(_access(name, properties, owner, admin, closed=closed)):
        found.append(Change(what="the access rights", statements=statements, vital=vital))
    limit = f"ALTER DATABASE {name} CONNECTION LIMIT {properties.connection_limit}"
    found.append(Change(what="the connection limit", statements=(limit,), vital=True))
    found += [
        Change(what=what, statements=(statement,), vital=False)
        for what, statement in _details(name, properties)
    ]
    if not allow_connections:
        closing = f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"
        found.append(Change(what="that it takes no connections", statements=(closing,), vital=vital))
    return tuple(found)


def _access(
    name: str, properties: DatabaseProperties, owner: str, admin: str, *, closed: bool
) -> Iterator[str]:
    if properties.acl is None:
        if closed:
            return  # it never had another list than the default one
        everything = tuple((privilege, False) for privilege in _PRIVILEGES.values())
        public = (("TEMPORARY", False), ("CONNECT", False))
        entries: Sequence[Grant] = (
            Grant(grantee="", privileges=public, grantor=owner),
            Grant(grantee=owner, privileges=everything, grantor=owner),
        )
    else:
        entries = grants(properties.acl)
    losers = dict.fromkeys([quoted(owner), *([] if closed else [quoted(admin)])])
    yield f"REVOKE ALL ON DATABASE {name} FROM PUBLIC, {', '.join(losers)}"
    # Whoever grants on must have been granted it before.
    for entry in sorted(entries, key=lambda one: one.grantor != properties.owner):
        others = entry.grantor not in {properties.owner, owner}
        if others:
            yield f"SET LOCAL ROLE {quoted(entry.grantor)}"
        yield from _grant(name, entry)
        if others:
            yield "SET LOCAL ROLE NONE"


def _grant(name: str, entry: Grant) -> Iterator[str]:
    to = quoted(entry.grantee) if entry.grantee else "PUBLIC"
    for option, ending in ((False, ""), (True, " WITH GRANT OPTION")):
        chosen = [privilege for privilege, star in entry.privileges if star is option]
        if chosen:
            yield f"GRANT {', '.join(chosen)} ON DATABASE {name} TO {to}{ending}"


def _details(name: str, properties: DatabaseProperties) -> Iterator[tuple[str, str]]:
    """Yield what a database can do without, and the statement that sets it."""
    if properties.comment is not None:
        yield "the comment", f"COMMENT ON DATABASE {name} IS {literal(properties.comment)}"
    for role, setting in properties.settings:
        parameter, _, value = setting.partition("=")
        whose = f"ROLE {quoted(role)} IN DATABASE {name}" if role else f"DATABASE {name}"
        what = f"the setting {setting}" + (f" of {role}" if role else "")
        yield what, f"ALTER {whose} SET {quoted(parameter)} TO {_value(parameter, value)}"
    for provider, label in properties.security_labels:
        yield (
            f"the security label of {provider}",
            f"SECURITY LABEL FOR {quoted(provider)} ON DATABASE {name} IS {literal(label)}",
        )
    if properties.is_template:
        yield "that it is a template", f"ALTER DATABASE {name} IS_TEMPLATE true"


def _value(parameter: str, value: str) -> str:
    if parameter.lower() not in _LISTS:
        return literal(value)
    entries = [_unquoted(*match.groups()) for match in _LIST_ENTRY.finditer(value)]
    return ", ".join(map(literal, entries)) or literal("")
