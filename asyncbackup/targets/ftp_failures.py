"""What a failure at an FTP server means: whether trying again may help, and what else does."""

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import aioftp

from asyncbackup.errors import TargetError
from asyncbackup.targets.ftp import DataPortError
from asyncbackup.targets.ftp_control import ClearTextError, ReplyError, SilentError

Step = Literal["connect", "implicit", "auth", "login", "folder", "store", "rename", "other"]
"""What was being done; `implicit` is connecting with TLS from the first byte, `auth` is asking for TLS."""

_LONGEST = 300  # characters of a reply that are repeated
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

_CERTIFICATE = (
    "FTP_CA_FILE names a file with the authority that has signed it; FTP_SERVER_NAME the name in it, where"
    " that is not the URL's; FTP_TLS_VERIFY=ca accepts any name, and off accepts everything"
)
_NO_TLS = (
    "the server offers no TLS on this port; FTP_TLS=off would send everything in clear text, the password too"
)
_WANTS_TLS = "the server wants TLS: set FTP_TLS=required"
_USE_IMPLICIT = "if this is a port for TLS from the first byte, the URL begins with ftps://"
_USE_EXPLICIT = "if TLS begins with AUTH TLS on this port, as it does on port 21, the URL begins with ftp://"
_OLD_TLS = "the server must offer TLS 1.2 or newer; what it did not like is in its log"
_PASSIVE = (
    "the server's range of passive ports must be open for this machine; FTP_PASSIVE=pasv may suit a firewall"
)
_LOGIN = "check FTP_USER and FTP_PASSWORD"
_FULL = "make room there, raise the quota, or keep fewer backups there with REMOTE_RETENTION"
_DENIED = (
    "check that the folder of FTP_URL is the right one, and that the user may make and write files there; a"
    " path is relative to where the login leads, unless it begins with %2F"
)
_RENAME = (
    "a backup is stored under another name until it is whole: the user needs the right to rename files"
    " (vsftpd: anon_other_write_enable for anonymous users; ProFTPD: AllowOverwrite; Pure-FTPd: not -G)"
)
_PROTECTION = "the server and this program do not agree on TLS for data connections; see the server's log"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """The first one whose step, code and text fit a reply says what it means."""

    steps: frozenset[str] = frozenset()
    """None means any."""
    code: str = r"..."
    text: str = ""
    retryable: bool = False
    hint: str = ""


_RULES = (
    _Rule(steps=frozenset({"auth"}), code=r"(?!421)...", hint=_NO_TLS),
    _Rule(
        steps=frozenset({"login"}),
        text=r"\b(tls|ssl|encrypt\w*|clear-?text)\b",
        code=r"421|530|550|534|331",
        hint=_WANTS_TLS,
    ),
    _Rule(code=r"452|552", hint=_FULL),
    # Where a disk is full or a quota reached, vsftpd and Pure-FTPd only say that they could not write.
    _Rule(code=r"[45]..", text=r"no space|disk full|quota|writ\w+ to (local )?file", hint=_FULL),
    _Rule(code=r"530|430|33.", hint=_LOGIN),
    _Rule(code=r"431|52[12]|53[346]", hint=_PROTECTION),
    _Rule(code=r"425", retryable=True, hint=_PASSIVE),
    _Rule(code=r"421|426|450|451", retryable=True),
    _Rule(steps=frozenset({"rename"}), code=r"5..", hint=_RENAME),
    _Rule(steps=frozenset({"folder", "store"}), code=r"5..", hint=_DENIED),
    _Rule(),
)

_NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}


@contextlib.contextmanager
def failing(label: str, doing: str, step: Step = "other") -> Iterator[None]:
    """Turn whatever an FTP connection raises in the block into a TargetError."""
    try:
        yield
    except UnicodeError:  # holds what was to be sent, which may be the password
        raise TargetError(
            f"{label}: {doing}: user, password or path hold what is no UTF-8", hint=_LOGIN
        ) from None
    except (OSError, aioftp.AIOFTPException, ReplyError, ClearTextError) as error:
        raise failure(error, label, doing, step) from error


def failure(error: Exception, label: str, doing: str, step: Step = "other") -> TargetError:
    """Return what a failure of an FTP connection means."""
    if isinstance(error, aioftp.StatusCodeError):
        why, hint, retryable = _of_reply(error, step)
    elif isinstance(error, ssl.SSLError):
        why, hint, retryable = _of_tls(error, step)
    elif isinstance(error, OSError):
        why, hint, retryable = _of_connection(error, step)
    else:
        hint = _USE_EXPLICIT if isinstance(error, ClearTextError) and step == "implicit" else ""
        why, retryable = str(error), False
    return TargetError(f"{label}: {doing}: {why}", hint=hint, retryable=retryable)


def code_of(error: aioftp.StatusCodeError) -> str:
    """Return the code of the reply that was not expected."""
    return str(error.received_codes[-1])


def _of_reply(error: aioftp.StatusCodeError, step: Step) -> tuple[str, str, bool]:
    code = code_of(error)
    lines = [error.info] if isinstance(error.info, str) else error.info
    text = _CONTROL.sub(" ", " ".join(filter(None, lines)))[:_LONGEST].strip()
    rule = next(
        rule
        for rule in _RULES
        if (not rule.steps or step in rule.steps)
        and re.fullmatch(rule.code, code)
        and re.search(rule.text, text, re.IGNORECASE)
    )
    return f"the server says: {code} {text}".rstrip(), rule.hint, rule.retryable


def _of_tls(error: ssl.SSLError, step: Step) -> tuple[str, str, bool]:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}", _CERTIFICATE, False
    why = f"TLS failed: {error.reason or error.strerror or error}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or step not in {
        "connect",
        "implicit",
        "auth",
    }:
        return why, "", True
    hint = _USE_EXPLICIT if step == "implicit" and error.reason in _NOT_TLS else ""
    return why, hint or _OLD_TLS, False


def _of_connection(error: OSError, step: Step) -> tuple[str, str, bool]:
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved: {error.strerror}", "check the host of FTP_URL", True
    hint = {SilentError: _USE_IMPLICIT, DataPortError: _PASSIVE}.get(type(error), "")
    if isinstance(error, ConnectionResetError) and step in {"implicit", "auth"}:
        hint = _OLD_TLS
    why = os.strerror(error.errno) if error.errno else str(error)
    return why or "the connection was lost", hint, True
