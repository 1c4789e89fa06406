"""Before a verification is timed: does it call good backups good, and damaged ones bad?

Three copies of a backup are damaged, each so that only the level that is to notice it can: a flipped
bit, and two dumps that undo a part of themselves while they are loaded, under manifests that fit them
but for that. Reading those two files is not enough: what is wrong only shows in the restored database.
"""

import gzip
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

from asyncbackup import manifest as manifests
from asyncbackup.model import Level
from asyncbackup.naming import MANIFEST
from asyncbackup.stream import Progress
from asyncbackup.unpack import unpack
from bench.baselines import command

_END = b"--\n-- PostgreSQL database dump complete\n--\n"
_LOST = b"DELETE FROM public.readings WHERE id = 1;\n\n"
_CHANGED = b"UPDATE public.readings SET sensor = sensor + 1 WHERE id = 1;\n\n"


class UnprovenError(Exception):
    """A verification did not find what it must; there is nothing to measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What is done to a copy of a backup, and the least level that must notice it."""

    what: str
    level: Level
    do: Callable[[Path], None]


def check(environment: Mapping[str, str], backups: Sequence[Path], folder: Path) -> None:
    """Verify all backups at the level `content`, then damaged copies of the last; raise UnprovenError.

    `environment` holds the settings of a verification; `folder` is for the copies.
    """
    found = _verify(environment, Level.CONTENT)
    wrong = [one for one in found if one["verdict"] != "good" or not one["proven"]]
    if wrong or {path.name for path in backups} - {Path(one["path"] or "").name for one in found}:
        raise UnprovenError(f"backups that are good are not called good: {json.dumps(wrong, indent=1)}")
    for number, damage in enumerate(DAMAGES):
        place = folder / f"damaged-{number}"
        copy = place / backups[-1].relative_to(environment["BACKUP_DIR"])
        copy.parent.mkdir(parents=True)
        for path in (backups[-1], _manifest(backups[-1])):
            shutil.copy(path, copy.with_name(path.name))
        damage.do(copy)
        conf = place / "backup.conf"
        conf.write_text(_database(copy) + "\n")
        settings = {"BACKUP_DIR": f"{place}", "BACKUP_CONF": f"{conf}"}
        found = _verify({**environment, **settings}, damage.level)
        if [one["verdict"] for one in found] != ["bad"]:
            raise UnprovenError(f"{damage.what}: not called bad, but {json.dumps(found, indent=1)}")


def _verify(environment: Mapping[str, str], level: Level) -> list[dict[str, Any]]:
    done = subprocess.run(
        command("verify", "all", "--json"),
        env={**environment, "VERIFY_LEVEL": level.value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    try:
        backups: list[dict[str, Any]] = json.loads(done.stdout)["backups"]
    except (ValueError, KeyError) as error:
        said = done.stderr.decode(errors="replace")[-3000:]
        raise UnprovenError(f"asyncbackup verify: exit {done.returncode}\n{said}") from error
    return backups


def _manifest(backup: Path) -> Path:
    return backup.with_name(backup.name + MANIFEST)


def _database(backup: Path) -> str:
    found = manifests.from_json(_manifest(backup).read_bytes())
    return f"{found.host}:{found.port}/{found.dbname}"


def _flip(backup: Path) -> None:
    """Flip one bit in the middle of the file."""
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 1
    backup.write_bytes(data)


def _insert(statement: bytes) -> Callable[[Path], None]:
    """Return what adds a statement at a dump's end, and tells the manifest all of it but the effect."""

    def do(backup: Path) -> None:
        head, end, tail = gzip.decompress(backup.read_bytes()).rpartition(_END)
        if not end:
            raise UnprovenError(f"{backup}: the end of a dump is not where it should be")
        data = gzip.compress(head + statement + end + tail, 1)
        backup.write_bytes(data)
        with FileIO(backup) as source:
            scan = unpack(source, Progress()).scan
        old = manifests.from_json(_manifest(backup).read_bytes())
        file = replace(old.file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        fits = replace(old, file=file, sql_bytes=scan.bytes, outside_blake3=scan.outside_blake3)
        _manifest(backup).write_bytes(manifests.to_json(fits))

    return do


DAMAGES = (
    Damage(what="a flipped bit", level=Level.TABLES, do=_flip),
    Damage(what="a row that is lost while it is restored", level=Level.ROWS, do=_insert(_LOST)),
    Damage(what="a value that changes while it is restored", level=Level.CONTENT, do=_insert(_CHANGED)),
)
