"""What the refusals of FTP servers mean, in the words that real ones use."""

import socket
import ssl
from typing import get_args

import aioftp
import pytest

from asyncbackup.errors import TargetError
from asyncbackup.targets.ftp import DataPortError
from asyncbackup.targets.ftp_control import ClearTextError, ReplyError, SilentError
from asyncbackup.targets.ftp_failures import Step, failing, failure

STEPS: tuple[Step, ...] = get_args(Step)


def refused(reply: str, step: Step = "store") -> TargetError:
    code, _, text = reply.partition(" ")
    error = aioftp.StatusCodeError(aioftp.Code("2xx"), aioftp.Code(code), [text])
    found = failure(error, "ftp://host/", "storing x", step)
    assert found.message == f"ftp://host/: storing x: the server says: {reply}"
    return found


@pytest.mark.parametrize(
    "reply",
    [
        "421 There are too many connected users, please try later.",
        "421 Data timeout. Reconnect. Sorry.",
        "425 Unable to build data connection: Operation not permitted",
        "426 Failure reading network stream.",
        "426 Transfer aborted. Data connection closed",
        "450 File busy.",
        "451 Append/Restart not permitted, try again",
        "451 Error during read from data connection",
    ],
)
def test_what_may_pass_is_worth_another_try(reply: str) -> None:
    assert refused(reply).retryable


@pytest.mark.parametrize(
    ("reply", "step", "hint"),
    [
        ("451 Failure writing to local file.", "store", "REMOTE_RETENTION"),
        ("451 Error during write to file", "store", "REMOTE_RETENTION"),
        ("451 Error during write to file: No space left on device", "store", "REMOTE_RETENTION"),
        ("426 Transfer aborted. Disk quota exceeded", "store", "quota"),
        ("452 Transfer aborted. No space left on device", "store", "REMOTE_RETENTION"),
        ("552 Transfer aborted. Quota exceeded", "store", "quota"),
        ("552 Exceeded storage allocation", "store", "quota"),
        ("530 Login incorrect.", "login", "FTP_USER"),
        ("530 Please login with USER and PASS.", "folder", "FTP_USER"),
        ("430 Invalid username or password", "login", "FTP_USER"),
        ("530 Non-anonymous sessions must use encryption.", "login", "FTP_TLS=required"),
        ("550 SSL/TLS required on the control channel", "login", "FTP_TLS=required"),
        ("421 Sorry, cleartext sessions and weak ciphers are not accepted", "login", "FTP_TLS=required"),
        ("502 'auth' not implemented", "auth", "FTP_TLS=off"),
        ("530 Please login with USER and PASS.", "auth", "FTP_TLS=off"),
        ("431 Service is unavailable.", "auth", "FTP_TLS=off"),
        ("522 Data connections must be encrypted.", "store", "TLS for data"),
        ("522 SSL connection failed: session reuse required", "store", "TLS for data"),
        ("536 PROT not supported", "login", "TLS for data"),
        ("550 Permission denied.", "store", "FTP_URL"),
        ("553 Could not create file.", "store", "FTP_URL"),
        ("553 Prohibited file name: x", "store", "FTP_URL"),
        ("550 x: Overwrite permission denied", "store", "FTP_URL"),
        ("550 Failed to change directory.", "folder", "FTP_URL"),
        ("550 Permission denied.", "rename", "right to rename"),
        ("550 Rename/move failure: No such file or directory", "rename", "right to rename"),
    ],
)
def test_what_cannot_pass_says_what_to_do(reply: str, step: Step, hint: str) -> None:
    found = refused(reply, step)
    assert not found.retryable
    assert hint in found.hint


@pytest.mark.parametrize(
    "code", ["530", "532", "550", "551", "552", "553", "500", "501", "502", "503", "504"]
)
@pytest.mark.parametrize("step", STEPS)
def test_what_is_refused_for_good_is_never_tried_again(code: str, step: Step) -> None:
    assert not refused(f"{code} No.", step).retryable


@pytest.mark.parametrize("code", ["121", "221", "350", "432", "499", "599", "631"])
@pytest.mark.parametrize("step", STEPS)
def test_every_reply_means_something(code: str, step: Step) -> None:
    assert not refused(f"{code} Whatever.", step).retryable


def test_a_reply_of_many_lines_is_told_in_one_without_what_moves_the_cursor() -> None:
    error = aioftp.StatusCodeError(
        aioftp.Code("230"), aioftp.Code("530"), ["Sorry,", "", "\x1b[2Jno\r", "x" * 1000]
    )
    message = failure(error, "ftp://host/", "logging in as me", "login").message
    assert message.startswith("ftp://host/: logging in as me: the server says: 530 Sorry,  [2Jno")
    assert message.isprintable()
    assert len(message) < 400


def certificate_error(code: int, why: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, why
    return error


def tls_error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}] (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "step", "says", "hint", "retryable"),
    [
        (certificate_error(10, "certificate has expired"), "auth", "has expired", "FTP_CA_FILE", False),
        (certificate_error(62, "Hostname mismatch"), "store", "Hostname mismatch", "FTP_SERVER_NAME", False),
        (tls_error("WRONG_VERSION_NUMBER"), "implicit", "WRONG_VERSION_NUMBER", "with ftp://", False),
        (tls_error("RECORD_LAYER_FAILURE"), "implicit", "RECORD_LAYER_FAILURE", "with ftp://", False),
        (tls_error("WRONG_VERSION_NUMBER"), "auth", "WRONG_VERSION_NUMBER", "TLS 1.2", False),
        (tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), "auth", "HANDSHAKE_FAILURE", "TLS 1.2", False),
        (tls_error("UNEXPECTED_EOF", ssl.SSLEOFError), "auth", "UNEXPECTED_EOF", "", True),
        (tls_error("TLSV1_ALERT_DECODE_ERROR"), "other", "DECODE_ERROR", "", True),
        (ConnectionRefusedError(111, "x"), "connect", "Connection refused", "", True),
        (ConnectionResetError(104, "x"), "store", "Connection reset by peer", "", True),
        (ConnectionResetError(), "store", "the connection was lost", "", True),
        (ConnectionResetError(), "auth", "the connection was lost", "TLS 1.2", True),
        (TimeoutError("no reply within 60 s"), "store", "no reply within 60 s", "", True),
        (TimeoutError(110, "x"), "store", "Connection timed out", "", True),
        (OSError("Multiple exceptions: a, b"), "connect", "Multiple exceptions: a, b", "", True),
        (socket.gaierror(-2, "Name or service not known"), "connect", "not known", "FTP_URL", True),
        (SilentError("does not greet"), "connect", "does not greet", "ftps://", True),
        (DataPortError("its port 5 for data"), "store", "port 5", "FTP_PASSIVE=pasv", True),
        (ClearTextError("in clear text"), "implicit", "in clear text", "with ftp://", False),
        (ClearTextError("in clear text"), "auth", "in clear text", "", False),
        (ReplyError("does not end"), "other", "does not end", "", False),
    ],
    ids=repr,
)
def test_connections_fail_in_words_too(
    error: Exception,
    step: Step,
    says: str,
    hint: str,
    retryable: bool,  # noqa: FBT001
) -> None:
    found = failure(error, "ftp://host/", "storing x", step)
    assert says in found.message
    assert found.retryable is retryable
    assert hint in found.hint
    assert bool(found.hint) is bool(hint)


def test_errors_of_others_pass() -> None:
    with pytest.raises(ZeroDivisionError), failing("ftp://host/", "storing x"):
        raise ZeroDivisionError
    known = TargetError("known")
    with pytest.raises(TargetError) as caught, failing("ftp://host/", "storing x"):
        raise known
    assert caught.value is known
