r"""Before anything is timed: is what asyncbackup writes what pg_dump writes?

Both are read line by line by nothing of asyncbackup's: gzip unpacks, sha256 compares. The lines that
differ from dump to dump by design, \restrict and \unrestrict with their random key, are left out.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bench.server import Target

_KEYS = (b"\\restrict ", b"\\unrestrict ")
_SESSION = "-c TimeZone=UTC -c bytea_output=hex"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A dump's SQL: its size as it stands, and a digest and rows without the lines with a key."""

    bytes: int
    rows: int
    sha256: str


class ContentsDifferError(Exception):
    """A backup is not what pg_dump writes; there is nothing to measure."""


def reference(target: Target, databases: Iterable[str]) -> dict[str, Text]:
    """Dump every database once with plain pg_dump."""
    environment = target.environment | {"PGOPTIONS": _SESSION}

    def one(name: str) -> tuple[str, Text]:
        command = [str(target.bindir / "pg_dump"), *target.options, "--", name]
        return name, _read(command, environment)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(one, databases))


def check(folder: Path, expected: Mapping[str, Text]) -> None:
    """Compare the backups in a folder with pg_dump's output and with their manifests, or raise."""
    faults: list[str] = []
    seen: set[str] = set()
    for manifest_path in sorted(folder.rglob("*.sql.gz.json")):
        manifest = json.loads(manifest_path.read_text())
        name = str(manifest["dbname"])
        if name in expected:
            seen.add(name)
            path = manifest_path.with_suffix("")
            faults += [f"{path.name}: {fault}" for fault in _faults(path, manifest, expected[name])]
    faults += [f"{name}: no backup" for name in expected if name not in seen]
    if faults:
        raise ContentsDifferError("\n".join(["the backups are not what pg_dump writes:", *faults[:20]]))


def _faults(path: Path, manifest: Mapping[str, object], expected: Text) -> list[str]:
    file = manifest["file"]
    if not isinstance(file, dict):
        return ["a manifest without a file"]
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    text = _read(["gzip", "-dc", str(path)], None)
    said = {
        "sha256 of the file": (file["sha256"], digest),
        "size of the file": (file["bytes"], path.stat().st_size),
        "bytes of SQL": (manifest["sql_bytes"], text.bytes),
        "rows": (manifest["rows"], text.rows),
    }
    faults = [f"{what}: the manifest says {a}, it is {b}" for what, (a, b) in said.items() if a != b]
    if text.sha256 != expected.sha256:
        faults.append(f"SQL differs from pg_dump's ({text} against {expected})")
    return faults


def _read(command: list[str], environment: Mapping[str, str] | None) -> Text:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, bufsize=1 << 20
    ) as process:
        if process.stdout is None:
            raise RuntimeError(command)
        text = _scan(process.stdout)  # type: ignore[arg-type]
    if process.returncode:
        raise ContentsDifferError(f"{' '.join(command)}: exit {process.returncode}")
    return text


def _scan(stream: BinaryIO) -> Text:
    size = rows = 0
    copying = False
    digest = hashlib.sha256()
    while lines := stream.readlines(1 << 20):
        for number, line in enumerate(lines):
            if copying:
                copying = line != b"\\.\n"
                rows += copying
            elif line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n"):
                copying = True
            elif line.startswith(_KEYS):
                size += len(line)
                lines[number] = b""
        block = b"".join(lines)
        size += len(block)
        digest.update(block)
    return Text(bytes=size, rows=rows, sha256=digest.hexdigest())
