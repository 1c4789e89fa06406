"""Verification records: how the result of a test restore is kept beside its backup."""

from typing import Any

from asyncbackup.errors import ManifestError
from asyncbackup.model import Verification
from asyncbackup.sealed import Form

FORMAT = "asyncbackup-verification"
VERSION = 1

_FORM = Form(Verification, FORMAT, VERSION, "verification record")


def to_json(verification: Verification) -> bytes:
    """Return the record as it is written."""
    return _FORM.to_json(verification)


def from_json(data: bytes) -> Verification:
    """Read a record, or raise ManifestError saying what is wrong with it."""
    found = _FORM.from_json(data)
    if found.started_at.utcoffset() is None:
        raise ManifestError("its time has no zone")
    return found


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the file."""
    return _FORM.schema()
