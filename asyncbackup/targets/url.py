"""The URL of a folder at an FTP server, taken apart: pure text, checked when the settings are read.

`ftp://` means explicit TLS (AUTH TLS) on port 21, `ftps://` TLS from the first byte on port 990. The path is
relative to where the login leads; `%2F` at its beginning, or a second slash, makes it absolute (RFC 1738).
"""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

from asyncbackup.model import Secret

ANONYMOUS = "anonymous"
_PORTS = {"ftp": 21, "ftps": 990}
_WRONG_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FtpUrl:
    """Where files go; user and password are None where the URL has none."""

    implicit: bool
    host: str
    port: int
    path: str
    """The folder, without a slash at its end: relative (`db`), absolute (`/srv/db`), or empty."""
    user: str | None
    password: Secret | None

    @property
    def label(self) -> str:
        """The URL without user and password, as shown and logged."""
        scheme = "ftps" if self.implicit else "ftp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[scheme] else f":{self.port}"
        absolute = "%2F" if self.path.startswith("/") else ""
        path = f"{absolute}{quote(self.path.removeprefix('/'))}/" if self.path else ""
        return f"{scheme}://{host}{port}/{path}"


def parse_ftp(text: str) -> FtpUrl:
    """Take a URL apart; raises ValueError without repeating any part of it, which may be a secret."""
    if _CONTROL.search(text) or any(character.isspace() for character in text):
        raise ValueError("must not hold spaces or control characters; write them percent-encoded")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("must have a host, and a port from 1 to 65535 if any") from error
    if parts.scheme.lower() not in _PORTS or not host:
        raise ValueError("must begin with ftp:// or ftps://, and name a host")
    if port == 0:
        raise ValueError("must have a port from 1 to 65535")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must not hold ? or #; write them percent-encoded")
    if _WRONG_ESCAPE.search(text):
        raise ValueError("has a % that two hexadecimal digits do not follow; a real % is written %25")
    return FtpUrl(
        implicit=parts.scheme.lower() == "ftps",
        host=unquote(host),
        port=port or _PORTS[parts.scheme.lower()],
        path=_path(parts),
        user=None if parts.username is None else _decoded(parts.username),
        password=None if parts.password is None else Secret(_decoded(parts.password)),
    )


def _path(parts: SplitResult) -> str:
    path = _decoded(parts.path.removeprefix("/"))
    absolute = path.startswith("/")
    names = [name for name in path.split("/") if name]
    if any(name in {".", ".."} for name in names):
        raise ValueError("must not hold . or .. in its path")
    return "/" * absolute + "/".join(names)


def _decoded(text: str) -> str:
    """Decode what is percent-encoded; a line of the protocol ends at CR or LF, and NUL ends names."""
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("must be UTF-8 where it is percent-encoded") from error
    if _CONTROL.search(decoded):
        raise ValueError("must not hold control characters, not even percent-encoded")
    return decoded
