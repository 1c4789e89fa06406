"""What an S3 service has answered, and what to do about it: obstore's errors, put as ours.

obstore tells the answer only in an error's text: the service's XML, and below it how the request went.
"""

import re
from typing import NamedTuple

from asyncbackup.errors import TargetError

_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_STATUS = re.compile(r"non-2xx status code: (\d{3})([^:\n]*)")
_NOTHING = re.compile(r"non-2xx status code: 404[^:\n]*:[ \t]*(?:\n|$)")
# How the request went: `kind: Connect`, and what the system has said, innermost last.
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_SAID = re.compile(r'(?:message|error): "([^"\n]+)"')
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(?:Other\()?\s*(\w+)")
_LONGEST = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_KEY = "check S3_USER and S3_PASSWORD"
_REGION = "check S3_REGION and S3_ENDPOINT: the bucket lies elsewhere"
_BUCKET = "check S3_BUCKET and S3_ENDPOINT: the bucket must be there already"
_FULL = "free some space at the service, or keep fewer backups there"
_HINTS = {
    "AccessDenied": "let this access key read, write, list and delete in the bucket",
    "AllAccessDisabled": "the bucket is closed for everyone: ask whoever runs it",
    "AuthorizationHeaderMalformed": _REGION,
    "BucketNotFound": _BUCKET,
    "EntityTooLarge": "the service takes no file as large as this",
    "ExpiredToken": "the access key was for a time only, which is over: get a new one",
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": _KEY,
    "InvalidBucketName": "check S3_BUCKET: no bucket can have that name",
    "InvalidToken": "the access key was for a time only, and is not valid: get a new one",
    "KeyTooLongError": "the service takes no name as long as this: choose a shorter S3_PREFIX",
    "NoSuchBucket": _BUCKET,
    "NotImplemented": "the service cannot do this: it may be of another kind than S3",
    "PermanentRedirect": _REGION,
    "QuotaExceeded": _FULL,
    "RequestTimeTooSkewed": "set this machine's clock right",
    "SignatureDoesNotMatch": _KEY,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
}
_MAY_PASS = {
    "BadDigest", "IncompleteBody", "InternalError", "NoSuchUpload", "OperationAborted", "RequestTimeout",
    "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "TooManyRequests",
    "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "XMinioServerNotInitialized",
}  # fmt: skip
_STATUS_PASSES = {408, 409, 425, 429, 500, 502, 503, 504}
_STATUS_HINTS = {
    401: _KEY,
    403: _HINTS["AccessDenied"],
    404: _BUCKET,
    405: "check S3_ENDPOINT: this seems to be no S3 service",
    507: _FULL,
}
_CERTIFICATES = (
    "check S3_ENDPOINT; SSL_CERT_FILE may name a file with the certificates that may sign the service's"
)
_SLOW = "check the way to the service; TRANSFER_TIMEOUT gives it more time"
_UNREACHABLE = "check S3_ENDPOINT, and that nothing on the way keeps us out"


class _Reading(NamedTuple):
    why: str
    hint: str
    retryable: bool


def missing(error: Exception) -> bool:
    """Whether the service says that there is no such file: in words, or by an answer that can have none."""
    text = str(error)
    return _code(text) == "NoSuchKey" or _NOTHING.search(text) is not None


def denied(error: Exception) -> bool:
    """Whether we are known, but may not do this."""
    status = _STATUS.search(str(error))
    return _code(str(error)) == "AccessDenied" or (
        status is not None and int(status[1]) == 403 and not _code(str(error))  # noqa: PLR2004 - Forbidden
    )


def failure(what: str, where: str, error: Exception) -> TargetError:
    """Say what the service has answered, or why there is no answer; no line of it is obstore's own."""
    read = _read(str(error))
    return TargetError(f"cannot {what} {where}: {read.why}", hint=read.hint, retryable=read.retryable)


def _read(text: str) -> _Reading:
    code, status = _code(text), _STATUS.search(text)
    if code:
        message = _MESSAGE.search(text)
        number = int(status[1]) if status else 0
        return _Reading(
            f"{code}: {_line(message[1])}" if message and message[1].strip() else code,
            _HINTS.get(code) or _STATUS_HINTS.get(number, "what the service says may tell more"),
            code in _MAY_PASS or (code not in _HINTS and number in _STATUS_PASSES),
        )
    if status:
        number = int(status[1])
        return _Reading(
            f"the service answered {number}{_line(status[2])}",
            _STATUS_HINTS.get(number, "the service's own logs may tell more"),
            number in _STATUS_PASSES,
        )
    if "/latest/api/token" in text or "/latest/meta-data" in text or "AccessKey" in text:
        return _Reading("no access key was found", "set S3_USER and S3_PASSWORD", retryable=False)
    if "redirect without LOCATION" in text:
        return _Reading("the service sends us elsewhere", _REGION, retryable=False)
    return _way(text)


def _way(text: str) -> _Reading:
    """Say what happened to a request that has no answer; from uploads, less is known of it."""
    certificate = _CERTIFICATE.search(text)
    if certificate:
        return _Reading(f"its certificate is not accepted ({certificate[1]})", _CERTIFICATES, retryable=False)
    if "InvalidContentType" in text:
        hint = "check S3_ENDPOINT: with http:// it would be taken in clear text"
        return _Reading("it does not speak TLS", hint, retryable=False)
    kind, said = _KIND.search(text), _SAID.findall(text)
    if kind and kind[1] == "Timeout":
        return _Reading("it did not answer in time", _SLOW, retryable=True)
    if kind:
        happened = "it cannot be reached" if kind[1] == "Connect" else "the connection was lost"
        return _Reading(f"{happened}: {_line(said[-1])}" if said else happened, _UNREACHABLE, retryable=True)
    if "HTTP error" in text:
        return _Reading("the connection was lost, or nothing came in time", _SLOW, retryable=True)
    return _Reading(_line(text.partition("\n\nDebug source")[0]), "check what is set for S3", retryable=False)


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found[1] if found else ""


def _line(text: str) -> str:
    """Return what a service has said as one line of bounded length."""
    line = _CONTROL.sub(" ", text).rstrip()
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
