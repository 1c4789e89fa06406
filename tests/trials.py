"""Test restores run in this very process, and backups that were forged so well that only their rows tell."""

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import configuration, inventory, manifest
from asyncbackup.events import Event, Events
from asyncbackup.model import DatabaseSpec
from asyncbackup.postgres import client
from asyncbackup.proof import verify
from asyncbackup.proof.verify import Result, VerifyReport
from asyncbackup.stream import HEADER, Progress
from asyncbackup.unpack import open_backup, unpack
from tests.servers import Database


@dataclass(frozen=True)
class Verified:
    """What a run came to, and what it told."""

    report: VerifyReport
    events: list[Event]

    @property
    def code(self) -> int:
        return int(verify.exit_code(self.report))

    @property
    def only(self) -> Result:
        (found,) = self.report.results
        return found

    @property
    def by_name(self) -> dict[str, Result]:
        return {one.spec.dbname if one.spec else one.label: one for one in self.report.results}

    @property
    def states(self) -> dict[str, str]:
        return {name: one.state.value for name, one in self.by_name.items()}

    def of(self, database: Database | str) -> Result:
        name = database if isinstance(database, str) else database.name
        (found,) = [one for one in self.report.results if one.spec and one.spec.dbname == name]
        return found

    def told(self, name: str) -> list[Mapping[str, Any]]:
        return [event.fields for event in self.events if event.name == name]


def verified(env: Mapping[str, str], *only: DatabaseSpec, pattern: str = "", **variables: str) -> Verified:
    """Run a verification to its end."""
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", **env, **variables}
    loaded = configuration.load(environ)
    conf = configuration.databases(loaded)
    events: list[Event] = []
    work = verify.run(
        loaded, conf, environ, Events(events.append), only=only, required=conf.databases, pattern=pattern
    )
    report = asyncio.run(work)
    bugs = [event.fields for event in events if event.name == "verify.bug"]
    assert not bugs, bugs
    return Verified(report, events)


def only_servers(monkeypatch: pytest.MonkeyPatch, *bindirs: Path) -> None:
    """Let these be all the PostgreSQL that is installed on this machine."""
    monkeypatch.setattr(client, "bindirs", lambda extra, path: tuple(bindirs))


def differences(result: Result) -> list[tuple[str, str, str, str]]:
    assert result.verification is not None
    return [(d.kind, d.name, d.expected, d.found) for d in result.verification.differences]


@dataclass(frozen=True)
class Forger:
    """Makes backups of what the source never had: the same file name, packed and summed up anew."""

    folder: Path
    original: Path

    def write(
        self,
        dbname: str,
        change: Callable[[bytes], bytes] = lambda sql: sql,
        *,
        honest: bool = False,
        fields: Mapping[str, Any] | None = None,
    ) -> DatabaseSpec:
        """Write a backup with its SQL changed, as one of another database or in the original's own name.

        The manifest's file is that of the changed one; all the rest is as the source had it, or, if
        `honest`, what the dump now says; and then these `fields`.
        """
        sql = change(gzip.decompress(self.original.read_bytes()))
        was = inventory.read_manifest(self.original)
        name = was.file.name
        if dbname != was.dbname:
            name = name.replace(f"-{was.dbname}_", f"-{dbname}_")
            assert name != was.file.name
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        data = marked(gzip.compress(sql, 1))
        path.write_bytes(data)
        file = replace(was.file, name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        made = replace(was, dbname=dbname, file=file)
        if honest:
            with open_backup(path) as source:
                scan = unpack(source, Progress()).scan
            made = replace(
                made,
                sql_bytes=scan.bytes,
                rows=scan.rows,
                encoding=scan.encoding,
                tables=scan.blocks,
                table_count=len({(one.schema, one.table) for one in scan.blocks}),
                sequences=scan.sequences,
                large_objects=scan.large_objects,
                outside_blake3=scan.outside_blake3,
                restricted=scan.restricted,
            )
        made = replace(made, **(fields or {}))
        path.with_name(f"{name}.json").write_bytes(manifest.to_json(made))
        return made.spec


def marked(data: bytes) -> bytes:
    """Put our header, with its mark, in the place of a plain one."""
    assert data[3] == 0, "a header without extras"
    return HEADER + data[10:]


def names(results: Sequence[Result]) -> list[str]:
    return [one.spec.dbname for one in results if one.spec]
