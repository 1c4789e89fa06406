"""The manifest's JSON form, and the brief one that is kept for the length of a run."""

from dataclasses import replace
from typing import Any

from asyncbackup.model import Manifest
from asyncbackup.sealed import Form

FORMAT = "asyncbackup-manifest"
VERSION = 1

_FORM = Form(Manifest, FORMAT, VERSION, "manifest")
_BULK = ("tables", "sequences", "large_objects", "object_counts", "unlogged", "warnings", "roles")
"""What grows with a database, and is only of use to whoever verifies or restores it."""


def to_json(manifest: Manifest) -> bytes:
    """Return the manifest as it is written beside its backup."""
    return _FORM.to_json(manifest)


def from_json(data: bytes, *, brief: bool = False) -> Manifest:
    """Read a manifest, or raise ManifestError saying what is wrong with it.

    `brief` leaves out what grows with the database, after it was checked.
    """
    return _FORM.from_json(data, without=_BULK if brief else ())


def brief(manifest: Manifest) -> Manifest:
    """Return a copy without what grows with the database, to be kept for the length of a run."""
    return replace(
        manifest, tables=(), sequences=(), large_objects=(), object_counts={}, warnings=(), roles=()
    )


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the file."""
    return _FORM.schema()
