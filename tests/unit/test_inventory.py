"""Whose backups are whose: what has no manifest is nobody's, unless that is certain."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asyncbackup import dbspec, inventory, records
from asyncbackup import manifest as manifests
from asyncbackup.model import (
    Backup,
    DatabasePattern,
    DatabaseSpec,
    Level,
    Manifest,
    StoredFile,
    Verdict,
    Verification,
)
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


def result_of(backup: Path, spec: DatabaseSpec = ONE, **changes: Any) -> Verification:
    """Return the result of a good test restore of what `proven` makes."""
    record = Verification(
        name=backup.name, host=spec.host, port=spec.port, dbname=spec.dbname, verdict=Verdict.GOOD,
        level=Level.CONTENT, proven=True, run_id="r", started_at=AT, seconds=1, load_seconds=1, bytes=20,
        sha256="0" * 64, server_version="15.1",
    )  # fmt: skip
    return replace(record, **changes)


def only(root: Path, records_in: Path | None = None) -> Backup:
    found = inventory.scan(root, records_in)
    (entry,) = found.entries
    return inventory.load(entry, owners([ONE]))


def test_a_record_is_found_beside_its_backup_and_in_our_own_folder(tmp_path: Path) -> None:
    root, own = tmp_path / "backups", tmp_path / "own"
    root.mkdir()
    path = proven(root, "h-app", 1, ONE)
    assert (only(root).verification, only(root, own).verification, only(root).note) == (None, None, "")
    own.mkdir()
    apart = result_of(path)
    (own / f"{path.name}.verified.json").write_bytes(records.to_json(apart))
    assert only(root).verification is None
    found = only(root, own)
    assert (found.verification, found.verified, found.bad) == (apart, True, False)
    beside = result_of(path, verdict=Verdict.BAD, started_at=AT + timedelta(days=1))
    assert records.write(beside, path, own, 0o600).parent == path.parent
    found = only(root, own)
    assert (found.verification, found.verified, found.bad) == (beside, False, True)
    assert found.good  # as a file; the rest is for retention to weigh
    assert inventory.scan(root, own).orphans == ()


@pytest.mark.parametrize(
    ("changes", "verified"),
    [({}, True), ({"level": Level.ROWS}, True), ({"level": Level.TABLES}, False), ({"proven": False}, False),
     ({"verdict": Verdict.UNVERIFIED}, False), ({"verdict": Verdict.BAD}, False)],
)  # fmt: skip
def test_verified_is_what_was_proven_by_its_rows(
    tmp_path: Path, changes: dict[str, Any], *, verified: bool
) -> None:
    path = proven(tmp_path, "h-app", 1, ONE)
    records.write(result_of(path, **changes), path, None, 0o600)
    assert only(tmp_path).verified is verified


@pytest.mark.parametrize("what", ["torn", "of another file", "a link", "a folder"])
def test_a_record_that_cannot_count_is_noted_and_held_against_nobody(tmp_path: Path, what: str) -> None:
    path = proven(tmp_path, "h-app", 1, ONE)
    there = path.with_name(f"{path.name}.verified.json")
    if what == "torn":
        there.write_bytes(records.to_json(result_of(path))[:-9])
    elif what == "of another file":
        there.write_bytes(records.to_json(result_of(path, sha256="1" * 64)))
    elif what == "a folder":
        there.mkdir()
    else:
        (tmp_path / "elsewhere").write_bytes(records.to_json(result_of(path)))
        there.symlink_to(tmp_path / "elsewhere")
    found = only(tmp_path)
    assert (found.verification, found.good, found.problem) == (None, True, "")
    # What is no file is not seen at all.
    assert (str(there) in found.note) is (what in {"torn", "of another file"})


def test_our_own_folder_may_be_of_no_use(tmp_path: Path) -> None:
    proven(tmp_path, "h-app", 1, ONE)
    (tmp_path / "own").touch()
    assert inventory.scan(tmp_path, tmp_path / "own").unreadable == (tmp_path / "own",)
    assert only(tmp_path, tmp_path / "own").good


def test_a_record_goes_when_its_backup_has_gone(tmp_path: Path) -> None:
    gone, there = proven(tmp_path, "h-app", 1, ONE), proven(tmp_path, "h-app", 2, ONE)
    theirs = proven(tmp_path, "h-app", 3, OTHER)
    torn = file(tmp_path, "h-app", 4, b"", ".sql.gz.verified.json")
    for path, spec in ((gone, ONE), (there, ONE), (theirs, OTHER)):
        records.write(result_of(path, spec), path, None, 0o600)
    for path in (gone, theirs):
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()
    left, kept, of_others = (path.with_name(f"{path.name}.verified.json") for path in (gone, there, theirs))
    found = inventory.scan(tmp_path)
    assert {*found.orphans} == {left, of_others, torn}
    # An empty one could be anybody's where a wildcard stands beside.
    assert inventory.sweep(found, ONE, owners([ONE], WILD)) == (left,)
    assert (left.exists(), kept.exists(), of_others.exists(), torn.exists()) == (False, True, True, True)
    assert inventory.sweep(found, ONE, owners([ONE])) == (torn,)
