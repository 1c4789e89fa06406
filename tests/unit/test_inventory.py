"""Whose backups are whose: what has no manifest is nobody's, unless that is certain."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncbackup import dbspec, inventory
from asyncbackup import manifest as manifests
from asyncbackup.model import DatabasePattern, DatabaseSpec, Manifest, StoredFile
from asyncbackup.naming import Owners
from asyncbackup.stream import MARK

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE, OTHER = DatabaseSpec("h", 5432, "app"), DatabaseSpec("h", 5433, "app")
WILD = DatabasePattern(host="h", port=5433, pattern="*", exclude=False, line=2)
GZIP_HEADER = b"\x1f\x8b\x08\x10" + bytes(6)


def owners(specs: Iterable[DatabaseSpec], *patterns: DatabasePattern) -> Owners:
    return Owners.build(specs, patterns, dbspec.matches)


def file(root: Path, core: str, hour: int, data: bytes = b"x" * 20, suffix: str = ".sql.gz") -> Path:
    path = root / "2026-03-01" / f"{core}_2026-03-01_{hour:02}-00-00{suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def proven(root: Path, core: str, hour: int, spec: DatabaseSpec) -> Path:
    path = file(root, core, hour)
    of = Manifest(
        host=spec.host, port=spec.port, dbname=spec.dbname, kind="database", run_id="r", started_at=AT,
        finished_at=AT, local_time="", server_version="15.1", client_version="15.1", loads_into=15,
        file=StoredFile(name=path.name, bytes=20, sha256="0" * 64, compressor="isal", level=1),
        sql_bytes=1, rows=0, table_count=0, encoding="UTF8", outside_blake3="0" * 64, restricted=True,
    )  # fmt: skip
    path.with_name(path.name + ".json").write_bytes(manifests.to_json(replace(of, started_at=AT)))
    return path


def of(root: Path, spec: DatabaseSpec, whose: Owners) -> set[Path]:
    return {backup.path for backup in inventory.series(inventory.scan(root), spec, whose)}


def test_a_file_without_a_manifest_is_its_only_possible_owners(tmp_path: Path) -> None:
    legacy, ours = file(tmp_path, "h-app", 1), proven(tmp_path, "h-app", 2, ONE)
    assert of(tmp_path, ONE, owners([ONE])) == {legacy, ours}
    same_server = replace(WILD, port=5432)
    assert of(tmp_path, ONE, owners([ONE], same_server)) == {legacy, ours}


@pytest.mark.parametrize("whose", [owners([ONE, OTHER]), owners([ONE], WILD)], ids=["listed", "wildcard"])
def test_where_another_could_own_it_only_manifests_count(tmp_path: Path, whose: Owners) -> None:
    file(tmp_path, "h-app", 1)
    ours = proven(tmp_path, "h-app", 2, ONE)
    assert of(tmp_path, ONE, whose) == {ours}
    assert of(tmp_path, OTHER, whose) == set()


def test_a_manifest_of_another_series_under_the_same_name_casts_doubt(tmp_path: Path) -> None:
    legacy, ours = file(tmp_path, "h-app", 1), proven(tmp_path, "h-app", 2, ONE)
    theirs = proven(tmp_path, "h-app", 3, OTHER)
    assert of(tmp_path, ONE, owners([ONE])) == {ours}
    assert of(tmp_path, OTHER, owners([ONE])) == {theirs}
    loaded = inventory.load_all(inventory.scan(tmp_path), {"h-app"}, owners([ONE]))
    assert {backup.path: backup.spec for backup in loaded} == {legacy: None, ours: ONE, theirs: OTHER}


@pytest.mark.parametrize("what", ["partial", "torn manifest"])
def test_leftovers_go_only_where_they_are_certainly_of_the_series(tmp_path: Path, what: str) -> None:
    if what == "partial":
        left = file(tmp_path, "h-app", 1, GZIP_HEADER + MARK, ".sql.gz.in_progress")
    else:
        left = file(tmp_path, "h-app", 1, b"", ".sql.gz.json")
    theirs = proven(tmp_path, "h-app", 3, OTHER)
    assert inventory.sweep(inventory.scan(tmp_path), ONE, owners([ONE])) == ()
    theirs.with_name(theirs.name + ".json").unlink()
    found = inventory.scan(tmp_path)
    assert inventory.sweep(found, ONE, owners([ONE], WILD)) == ()
    assert left.exists()
    assert inventory.sweep(found, ONE, owners([ONE])) == (left,)
    assert not left.exists()


def test_leftovers_of_odd_names_go_under_a_wildcard_of_their_own(tmp_path: Path) -> None:
    odd = DatabaseSpec("h", 5433, "a b")
    left = file(tmp_path, "h-a%20b", 1, GZIP_HEADER + MARK, ".sql.gz.in_progress")
    assert inventory.sweep(inventory.scan(tmp_path), odd, owners([odd], WILD)) == (left,)
