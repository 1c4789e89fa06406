"""Whose the copies at a location are, remembered from one run to the next.

A name does not always tell whose a backup is; its manifest does, and reading hundreds of them over a slow
line takes long. What is remembered here is only used to count; before anything is deleted, its manifest is
read.
Losing this file costs time, and nothing else.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asyncbackup import volume
from asyncbackup.model import DatabaseSpec

_LARGEST = 256 << 20  # bytes; such a file is not one of ours
_LINE = [str, int, str, int, str]


@dataclass(slots=True)
class Known:
    """Series by the name of a copy and its length; blocking, for a thread."""

    path: Path
    series: dict[tuple[str, int], DatabaseSpec] = field(default_factory=dict)

    def learn(self, found: Mapping[tuple[str, int], DatabaseSpec]) -> None:
        """Remember these, too."""
        new = {key: spec for key, spec in found.items() if self.series.get(key) != spec}
        self.series.update(new)
        if new:
            _write(self.path, new, os.O_APPEND)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget copies that are gone, once they are the most of what is remembered."""
        there = set(names)
        kept = {key: spec for key, spec in self.series.items() if key[0] in there}
        if len(kept) * 2 < len(self.series):
            self.series = kept
            _write(self.path, kept, os.O_TRUNC)


def load(lock_folder: Path, label: str) -> Known:
    """Read what is remembered of a location; nothing, where there is no such file or it cannot be read."""
    known = Known(lock_folder / f"copies-{hashlib.sha256(label.encode()).hexdigest()[:16]}.jsonl")
    content = b""
    with contextlib.suppress(OSError):
        if known.path.stat().st_size < _LARGEST:
            content = volume.read(known.path, _LARGEST)
    for line in content.splitlines():
        with contextlib.suppress(ValueError, TypeError, RecursionError):  # cut short by a crash, or garbage
            found = json.loads(line)
            if [type(one) for one in found] == _LINE:
                name, size, host, port, dbname = found
                known.series[name, size] = DatabaseSpec(host, port, dbname)
    return known


def _write(path: Path, found: Mapping[tuple[str, int], DatabaseSpec], how: int) -> None:
    """Write lines in one go, which several processes may do at once; that it cannot be done is no failure."""
    lines = [[*key, spec.host, spec.port, spec.dbname] for key, spec in found.items()]
    # What a full disk has cut short before is ended first.
    content = ("\n" + "".join(json.dumps(line) + "\n" for line in lines)).encode("ascii")
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | how
        descriptor = os.open(path, flags, 0o600)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
