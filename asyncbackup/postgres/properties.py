"""A database's own properties: what pg_dump without --create leaves out, and a new database needs."""

from collections.abc import Iterator

from asyncbackup.model import DatabaseProperties, PgVersion

PROVIDERS_SINCE = 15
_BUILTIN_SINCE = 17


def quoted(identifier: str) -> str:
    """Return an identifier as it stands in SQL."""
    doubled = identifier.replace('"', '""')
    return f'"{doubled}"'


def literal(value: str) -> str:
    """Return a string as it stands in SQL, whatever standard_conforming_strings says."""
    escaped = value.replace("'", "''")
    return f" E'{escaped}'".replace("\\", "\\\\") if "\\" in value else f"'{escaped}'"


def create_database(name: str, properties: DatabaseProperties, server: PgVersion, owner: str = "") -> str:
    """Return the statement that makes an empty database alike: encoding, locale and provider.

    It comes from template0, which no site has added anything to, and which alone may have another
    encoding or locale than the template that it is copied from.
    """
    words = [f"CREATE DATABASE {quoted(name)} TEMPLATE template0"]
    if owner:
        words.append(f"OWNER {quoted(owner)}")
    words += _locale(properties, server)
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
    elif properties.locale and properties.locale_provider == "builtin" and server.major >= _BUILTIN_SINCE:
        yield f"BUILTIN_LOCALE {literal(properties.locale)}"
