"""JSON files that cannot be changed unnoticed: canonical, versioned, sealed with their own digest.

Such a file is one JSON object with `format`, `version`, the fields of a dataclass, and as its last
member `digest`: SHA-256 over the object's canonical JSON (keys sorted, no spaces, ASCII only) without
`digest` itself. A single changed byte is noticed; a version that is not ours is refused, never guessed.
The seal is against damage: whoever may write such a file can seal it, too.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from asyncbackup.errors import ManifestError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """One kind of sealed file; `noun` is what people call it."""

    of: type[T]
    format: str
    version: int
    noun: str

    def to_json(self, value: T) -> bytes:
        """Return the file's content."""
        document = {"format": self.format, "version": self.version, **to_jsonable_python(value)}
        document["digest"] = digest(document)
        lines = (f"{json.dumps(key)}: {_member(member)}" for key, member in document.items())
        return ("{" + ",\n".join(lines) + "}\n").encode("ascii")

    def from_json(self, data: bytes, *, without: Collection[str] = ()) -> T:
        """Read such a file, or raise ManifestError saying what is wrong with it.

        What is in `without` is left out once it was checked, and has its default.
        """
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ManifestError("it is not JSON") from error
        if not isinstance(document, dict) or document.pop("format", None) != self.format:
            raise ManifestError(f"it is not a {self.noun} of asyncbackup")
        version = document.pop("version", None)
        if version != self.version:
            raise ManifestError(
                f"it is of version {version}, this program reads version {self.version}",
                hint="use the asyncbackup that wrote it, or a newer one",
            )
        seal = document.pop("digest", None)
        if seal != digest({"format": self.format, "version": self.version, **document}):
            raise ManifestError("it was changed after it was written (its digest does not fit)")
        for name in without:
            document.pop(name, None)
        try:
            found: T = _adapter(self).validate_python(document, strict=False)
        except ValidationError as error:
            raise ManifestError(f"it does not have the fields of version {self.version}: {error}") from error
        return found

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema (draft 2020-12) of the file."""
        generated = _adapter(self).json_schema(mode="serialization")
        generated["properties"] = {
            "format": {"const": self.format},
            "version": {"const": self.version},
            **generated["properties"],
            "digest": {
                "type": "string",
                "pattern": "^[0-9a-f]{64}$",
                "description": "SHA-256 over the canonical JSON without this member",
            },
        }
        generated["required"] = ["format", "version", *generated.get("required", []), "digest"]
        generated["title"] = f"asyncbackup {self.noun}"
        generated["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        return generated


@cache
def _adapter(form: Form[Any]) -> TypeAdapter[Any]:
    """Return what reads the fields; making it takes as long as backing up a small database."""
    return TypeAdapter(form.of)


def digest(document: dict[str, Any]) -> str:
    """Return the seal of a document that does not hold it yet."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _member(value: object) -> str:
    """Return one member: on a line of its own, and lists of objects with an object a line."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)
