"""The manifest's JSON form: canonical, versioned, and sealed with its own digest.

The file is one JSON object with `format`, `version`, the fields of `model.Manifest`, and as its last
member `digest`: SHA-256 over the object's canonical JSON (keys sorted, no spaces, ASCII only) without
`digest` itself. A single changed byte is noticed; a version newer than ours is refused, never guessed.
"""

import hashlib
import json
from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from asyncbackup.errors import ManifestError
from asyncbackup.model import Manifest

FORMAT = "asyncbackup-manifest"
VERSION = 1


@cache
def _adapter() -> TypeAdapter[Manifest]:
    """Return what reads the fields; making it takes as long as backing up a small database."""
    return TypeAdapter(Manifest)


def _digest(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def to_json(manifest: Manifest) -> bytes:
    """Return the manifest as it is written beside its backup."""
    document = {"format": FORMAT, "version": VERSION, **to_jsonable_python(manifest)}
    document["digest"] = _digest(document)
    lines = (f"{json.dumps(key)}: {_member(value)}" for key, value in document.items())
    return ("{" + ",\n".join(lines) + "}\n").encode("ascii")


def _member(value: object) -> str:
    """Return one member: on a line of its own, and lists of objects with an object a line."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


_BULK = ("tables", "sequences", "large_objects", "object_counts", "unlogged", "warnings", "roles")
"""What grows with a database, and is only of use to whoever verifies or restores it."""


def from_json(data: bytes, *, brief: bool = False) -> Manifest:
    """Read a manifest, or raise ManifestError saying what is wrong with it.

    `brief` leaves out what grows with the database, after it was checked.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError("it is not JSON") from error
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ManifestError("it is not a manifest of asyncbackup")
    version = document.pop("version", None)
    if version != VERSION:
        raise ManifestError(
            f"it is of version {version}, this program reads version {VERSION}",
            hint="use the asyncbackup that wrote it, or a newer one",
        )
    digest = document.pop("digest", None)
    if digest != _digest({"format": FORMAT, "version": VERSION, **document}):
        raise ManifestError("it was changed after it was written (its digest does not fit)")
    if brief:
        for name in _BULK:
            document.pop(name, None)
    try:
        return _adapter().validate_python(document, strict=False)
    except ValidationError as error:
        raise ManifestError(f"it does not have the fields of version {VERSION}: {error}") from error


def brief(manifest: Manifest) -> Manifest:
    """Return a copy without what grows with the database, to be kept for the length of a run."""
    return replace(
        manifest, tables=(), sequences=(), large_objects=(), object_counts={}, warnings=(), roles=()
    )


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the file."""
    generated = _adapter().json_schema(mode="serialization")
    properties = generated["properties"]
    generated["properties"] = {
        "format": {"const": FORMAT},
        "version": {"const": VERSION},
        **properties,
        "digest": {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "SHA-256 over the canonical JSON without this member",
        },
    }
    generated["required"] = ["format", "version", *generated.get("required", []), "digest"]
    generated["title"] = "asyncbackup manifest"
    generated["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return generated
