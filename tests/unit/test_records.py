"""Verification records: sealed, of one file only, never half written, never hiding one that says more."""

import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup import records, sealed
from asyncbackup.errors import ManifestError, StorageError
from asyncbackup.model import Difference, Level, Manifest, StoredFile, Verdict, Verification
from tests.invariants import small_disk

SHA, OTHER_SHA = "0123456789abcdef" * 4, "f" * 64
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAME = "h-app_2026-03-01_12-00-00.sql.gz"
SMALL = Verification(
    name=NAME, host="h", port=5432, dbname="app", verdict=Verdict.GOOD, level=Level.CONTENT, proven=True,
    run_id="20260301T120000Z-00000000", started_at=AT, seconds=2.5, load_seconds=1.25, bytes=20, sha256=SHA,
    server_version="15.20",
)  # fmt: skip
FULL = dataclasses.replace(
    SMALL,
    dbname='o"dd\n日本 \udce9',
    verdict=Verdict.BAD,
    level=Level.ROWS,
    started_at=AT + timedelta(microseconds=1),
    asyncbackup_version="1.0",
    tables=3,
    rows=2**40,
    indexes_checked=0,
    differences=(Difference(kind="rows", name='"S".t', expected="3", found="2"),) * 2,
    lacking=("extension postgis 3.3",),
    notes=("a note",),
    error="public.t: expected 3 rows,\nfound 2",
    hint="restore an older one",
)
PROOF = Manifest(
    host="h", port=5432, dbname="app", kind="database", run_id="r", started_at=AT, finished_at=AT,
    local_time="", server_version="15.1", client_version="15.1", loads_into=15,
    file=StoredFile(name=NAME, bytes=20, sha256=SHA, compressor="isal", level=1),
    sql_bytes=1, rows=0, table_count=0, encoding="UTF8", outside_blake3="0" * 64, restricted=True,
)  # fmt: skip

texts = st.text(max_size=20)
counts = st.integers(0, 2**63)
spans = st.floats(0, 1e9, allow_nan=False)
any_record = st.builds(
    Verification,
    name=texts, host=texts, dbname=texts, run_id=texts, error=texts, hint=texts,
    started_at=st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    seconds=spans, load_seconds=spans, bytes=counts, rows=counts,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    indexes_checked=st.none() | counts,
    differences=st.lists(st.builds(Difference, kind=texts, name=texts, expected=texts, found=texts), max_size=3).map(tuple),
    lacking=st.lists(texts, max_size=3).map(tuple),
    notes=st.lists(texts, max_size=3).map(tuple),
)  # fmt: skip


class TestForm:
    @settings(deadline=None)
    @given(any_record)
    def test_it_is_read_back(self, record: Verification) -> None:
        assert records.from_json(records.to_json(record)) == record

    @pytest.mark.parametrize("record", [SMALL, FULL])
    def test_it_is_canonical_and_fits_the_schema(self, record: Verification) -> None:
        written = records.to_json(record)
        assert records.to_json(records.from_json(written)) == written
        assert (written.isascii(), written.endswith(b"}\n")) == (True, True)
        jsonschema.Draft202012Validator.check_schema(records.schema())
        jsonschema.validate(json.loads(written), records.schema())

    @settings(deadline=None)
    @given(st.data())
    def test_every_change_is_noticed(self, data: st.DataObject) -> None:
        written = records.to_json(FULL)
        at = data.draw(st.integers(0, len(written) - 1))
        changed = written[:at] + data.draw(st.binary(max_size=2)) + written[at + 1 :]
        try:
            same = json.loads(changed) == json.loads(written)
        except ValueError:
            same = False
        if not same:
            with pytest.raises(ManifestError):
                records.from_json(changed)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"version": 2}, "it is of version 2, this program reads version 1"),
            ({"format": "asyncbackup-manifest"}, "it is not a verification record"),
            ({"verdict": "excellent"}, "does not have the fields"),
            ({"sha256": ...}, "does not have the fields"),
            ({"started_at": "2026-03-01T12:00:00"}, "has no zone"),
        ],
    )
    def test_what_somebody_else_has_sealed(self, changes: dict[str, Any], told: str) -> None:
        document = json.loads(records.to_json(SMALL)) | changes
        document = {name: value for name, value in document.items() if value is not ...}
        del document["digest"]
        document["digest"] = sealed.digest(document)
        with pytest.raises(ManifestError, match=told):
            records.from_json(json.dumps(document).encode())

    @pytest.mark.parametrize("data", [b"", b"null", b"[" * 100_000, b"\xff"])
    def test_what_is_no_record(self, data: bytes) -> None:
        with pytest.raises(ManifestError, match="it is not"):
            records.from_json(data)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "backups" / "2026-03-01" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 20)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from small_disk(tmp_path / "disk", "size=1m")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


RECORD = f"{NAME}.verified.json"


class TestWriting:
    @pytest.mark.parametrize("mode", [0o600, 0o640])
    def test_it_lies_beside_its_backup(self, backup: Path, tmp_path: Path, mode: int) -> None:
        written = records.write(SMALL, backup, tmp_path / "own", mode)
        assert written == backup.parent / RECORD
        assert records.read(written) == SMALL
        assert written.stat().st_mode & 0o7777 == mode
        assert names(backup.parent) == [NAME, RECORD]
        assert not (tmp_path / "own").exists()

    def test_a_newer_one_takes_its_place_at_once(self, backup: Path) -> None:
        path = records.write(SMALL, backup, None, 0o600)
        before = path.open("rb")
        newer = dataclasses.replace(SMALL, verdict=Verdict.BAD, error="gone bad")
        assert records.write(newer, backup, None, 0o600) == path
        assert records.read(path) == newer
        with before:  # who was reading the older one reads all of it
            assert records.from_json(before.read()) == SMALL

    def test_what_a_killed_run_left_is_in_nobodys_way(self, backup: Path) -> None:
        (backup.parent / f"{NAME}.verified.part").write_bytes(b"{")
        records.write(SMALL, backup, None, 0o600)
        assert names(backup.parent) == [NAME, RECORD]

    def test_where_the_volume_is_read_only_it_goes_elsewhere(self, disk: Path, tmp_path: Path) -> None:
        backup = disk / "2026-03-01" / NAME
        backup.parent.mkdir()
        backup.touch()
        subprocess.run(["mount", "-o", "remount,ro", f"{disk}"], check=True)
        own = tmp_path / "verify" / "records"
        assert records.write(SMALL, backup, own, 0o600) == own / RECORD
        assert records.read(own / RECORD) == SMALL
        assert (names(own), own.stat().st_mode & 0o7777) == ([RECORD], 0o700)
        with pytest.raises(StorageError, match=r"cannot write .*Read-only") as caught:
            records.write(SMALL, backup, None, 0o600)
        assert "VERIFY_DIR" in caught.value.hint

    @pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o600, 0o700), (0o640, 0o750)])
    def test_who_may_read_backups_may_read_what_is_kept_apart(
        self, tmp_path: Path, file_mode: int, folder_mode: int
    ) -> None:
        own = tmp_path / "verify" / "records"
        before = os.umask(0o077)
        try:
            path = records.write_apart(SMALL, own, file_mode)
        finally:
            os.umask(before)
        assert (own.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (folder_mode, file_mode)

    def test_where_the_volume_is_full_it_goes_elsewhere(self, disk: Path, tmp_path: Path) -> None:
        backup = disk / "2026-03-01" / NAME
        backup.parent.mkdir()
        backup.touch()
        older = records.write(SMALL, backup, None, 0o600)
        newer = dataclasses.replace(SMALL, error="x" * 2_000_000)
        assert records.write(newer, backup, tmp_path / "own", 0o600) == tmp_path / "own" / RECORD
        assert records.read(older) == SMALL
        assert names(backup.parent) == [NAME, RECORD]
        with pytest.raises(StorageError, match=r"nor .*No space") as caught:
            records.write(newer, backup, disk / "own", 0o600)
        assert "VERIFY_DIR" in caught.value.hint

    @pytest.mark.parametrize("place", ["the record", "the part", "the folder"])
    def test_it_follows_no_link(self, backup: Path, tmp_path: Path, place: str) -> None:
        own, victim = tmp_path / "own", tmp_path / "victim"
        if place == "the folder":
            backup.parent.rename(victim)
            backup.parent.symlink_to(victim)
            assert records.write(SMALL, backup, own, 0o600) == own / RECORD
            assert names(victim) == [NAME]
            return
        victim.write_text("untouched")
        suffix = {"the record": "verified.json", "the part": "verified.part"}[place]
        (backup.parent / f"{NAME}.{suffix}").symlink_to(victim)
        written = records.write(SMALL, backup, own, 0o600)
        assert (victim.read_text(), written.is_symlink()) == ("untouched", False)
        assert records.read(written) == SMALL

    def test_below_the_root_it_follows_no_link_at_all(self, tmp_path: Path, backup: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        (root / "daily").symlink_to(backup.parent.parent)
        there = root / "daily" / "2026-03-01" / NAME
        assert records.write(SMALL, there, tmp_path / "own", 0o600, root=root) == tmp_path / "own" / RECORD
        assert names(backup.parent) == [NAME]

    def test_own_may_be_no_link(self, disk: Path, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.mkdir()
        (tmp_path / "own").symlink_to(victim)
        backup = tmp_path / "linked" / NAME
        backup.parent.symlink_to(disk)
        (disk / NAME).touch()
        with pytest.raises(StorageError):
            records.write(SMALL, backup, tmp_path / "own", 0o600)
        assert (names(victim), names(disk)) == ([], [NAME])

    @pytest.mark.parametrize("whole_folder", [False, True])
    def test_none_is_written_for_a_backup_that_is_gone(
        self, backup: Path, tmp_path: Path, *, whole_folder: bool
    ) -> None:
        backup.unlink()
        if whole_folder:
            backup.parent.rmdir()
        with pytest.raises(StorageError, match="the backup is gone"):
            records.write(SMALL, backup, tmp_path / "own", 0o600)
        assert names(tmp_path) == ["backups"]

    @pytest.mark.parametrize("halfway", [True, False])
    def test_another_that_comes_between_leaves_nothing_torn(
        self, backup: Path, monkeypatch: pytest.MonkeyPatch, *, halfway: bool
    ) -> None:
        part, sync, others = backup.parent / f"{NAME}.verified.part", os.fsync, iter([1, 2])

        def fsync(descriptor: int) -> None:
            sync(descriptor)
            if next(others, 0):  # it takes our file for one that a killed run has left
                part.unlink()
                if halfway:
                    part.write_bytes(b"{")

        monkeypatch.setattr(os, "fsync", fsync)
        assert records.read(records.write(SMALL, backup, None, 0o600)) == SMALL
        assert names(backup.parent) == [NAME, RECORD]

    def test_many_that_write_at_once_leave_one_whole_record(self, backup: Path) -> None:
        ones = [dataclasses.replace(SMALL, error=letter * 50_000) for letter in "abcdef"]
        failures: list[Exception] = []

        def write(one: Verification) -> None:
            for _ in range(30):
                try:
                    records.write(one, backup, None, 0o600)
                except StorageError as error:  # always beaten to it: told, and nothing broken
                    if "others write the same record" not in str(error):
                        failures.append(error)

        threads = [threading.Thread(target=write, args=(one,)) for one in ones]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert records.read(backup.parent / RECORD) in ones
        assert names(backup.parent) == [NAME, RECORD]


UNVERIFIED = dataclasses.replace(SMALL, verdict=Verdict.UNVERIFIED, started_at=AT + timedelta(days=1))


class TestNoVerdict:
    @pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.BAD])
    @pytest.mark.parametrize("own", [False, True])
    def test_it_replaces_none_of_the_same_file(
        self, backup: Path, tmp_path: Path, verdict: Verdict, *, own: bool
    ) -> None:
        known = dataclasses.replace(SMALL, verdict=verdict)
        where = (tmp_path if own else backup.parent) / RECORD
        where.write_bytes(records.to_json(known))
        assert records.write(UNVERIFIED, backup, tmp_path, 0o600) == where
        assert records.read(where) == known
        assert len([*tmp_path.rglob(RECORD)]) == 1

    @pytest.mark.parametrize(
        "older",
        [
            records.to_json(dataclasses.replace(UNVERIFIED, started_at=AT)),
            records.to_json(dataclasses.replace(SMALL, sha256=OTHER_SHA)),
            b"damaged",
        ],
    )
    def test_it_replaces_what_says_no_more(self, backup: Path, older: bytes) -> None:
        (backup.parent / RECORD).write_bytes(older)
        assert records.read(records.write(UNVERIFIED, backup, None, 0o600)) == UNVERIFIED

    def test_it_hides_none(self, tmp_path: Path) -> None:
        one, other = tmp_path / "1", tmp_path / "2"
        one.write_bytes(records.to_json(UNVERIFIED))
        assert records.attach([one], NAME, 20, PROOF) == (UNVERIFIED, "")
        other.write_bytes(records.to_json(SMALL))
        for paths in ([one, other], [other, one]):
            assert records.attach(paths, NAME, 20, PROOF) == (SMALL, "")


class TestAttaching:
    def attach(
        self, tmp_path: Path, record: Verification, *, size: int = 20, manifest: Manifest | None = PROOF
    ) -> tuple[Verification | None, str]:
        path = tmp_path / "record"
        path.write_bytes(records.to_json(record))
        return records.attach([path], NAME, size, manifest)

    def test_the_newest_counts(self, tmp_path: Path) -> None:
        paths = [tmp_path / f"{day}" for day in range(3)]
        ones = [
            dataclasses.replace(SMALL, started_at=AT + timedelta(days=day), verdict=verdict)
            for day, verdict in enumerate([Verdict.GOOD, Verdict.BAD, Verdict.GOOD])
        ]
        for path, one in zip(paths, ones, strict=True):
            path.write_bytes(records.to_json(one))
        assert records.attach(paths, NAME, 20, PROOF) == (ones[2], "")
        assert records.attach(paths[1::-1], NAME, 20, PROOF) == (ones[1], "")
        assert records.attach([], NAME, 20, PROOF) == (None, "")

    @pytest.mark.parametrize("verdict", Verdict)
    def test_it_is_of_one_file_only(self, tmp_path: Path, verdict: Verdict) -> None:
        of_this = dataclasses.replace(SMALL, verdict=verdict)
        assert self.attach(tmp_path, of_this) == (of_this, "")
        for change in ({"name": "other.sql.gz"}, {"sha256": OTHER_SHA, "bytes": 21}):
            found, note = self.attach(tmp_path, dataclasses.replace(of_this, **change))
            assert found is None
            assert "of another file" in note

    @pytest.mark.parametrize("verdict", Verdict)
    def test_a_file_that_was_not_what_its_manifest_says_was_found_bad(
        self, tmp_path: Path, verdict: Verdict
    ) -> None:
        rotten = dataclasses.replace(SMALL, verdict=verdict, sha256=OTHER_SHA)
        assert self.attach(tmp_path, rotten)[0] == (rotten if verdict is Verdict.BAD else None)
        cut = dataclasses.replace(rotten, bytes=5)
        assert self.attach(tmp_path, cut, size=5)[0] == (cut if verdict is Verdict.BAD else None)
        assert self.attach(tmp_path, cut)[0] is None  # another file has taken its place since

    def test_without_a_manifest_the_size_must_do(self, tmp_path: Path) -> None:
        assert self.attach(tmp_path, SMALL, manifest=None) == (SMALL, "")
        assert self.attach(tmp_path, SMALL, manifest=None, size=21)[0] is None

    def test_what_cannot_be_read_is_noted_and_hides_none(self, tmp_path: Path) -> None:
        whole, torn, pipe, missing = (tmp_path / name for name in ("whole", "torn", "pipe", "missing"))
        whole.write_bytes(records.to_json(SMALL))
        torn.write_bytes(records.to_json(SMALL)[:-40])
        os.mkfifo(pipe)
        for bad in (torn, pipe, missing):
            found, note = records.attach([whole, bad], NAME, 20, PROOF)
            assert found == SMALL
            assert f"cannot be read: {bad}" in note


def test_our_own_folder_is_where_verify_dir_is() -> None:
    assert records.folder(None) is None
    assert records.folder(Path("/var/verify")) == Path("/var/verify/records")
