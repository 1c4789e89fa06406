"""A file's bytes against its manifest: what is wrong is named, what was expected, and what was found."""

import asyncio
import gzip
import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import pytest

from asyncbackup import dbspec, inventory, naming
from asyncbackup.cli import checking
from asyncbackup.events import Event, Events
from asyncbackup.manifest import to_json
from asyncbackup.model import CopyBlock, DatabaseSpec, LargeObject, Manifest, SequenceValue, StoredFile
from asyncbackup.proof import check
from asyncbackup.stream import Progress
from asyncbackup.unpack import Unpacked, unpack

DUMPS = sorted((Path(__file__).parents[1] / "data" / "dumps").glob("pg*.sql"))


def unpacked(path: Path, data: bytes) -> Unpacked:
    path.write_bytes(data)
    with FileIO(path) as source:
        return unpack(source, Progress())


def manifest_of(data: bytes, found: Unpacked, name: str = "h-d_2026-01-31_03-00-00.sql.gz") -> Manifest:
    """Return what a backup would have written beside these bytes."""
    scan, now = found.scan, datetime.now(UTC)
    return Manifest(
        host="h", port=5432, dbname="d", kind="database", run_id="r", started_at=now, finished_at=now,
        local_time="", server_version="15.18", client_version="15.18", loads_into=15,
        file=StoredFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), compressor="zlib", level=6),
        sql_bytes=scan.bytes, rows=scan.rows, table_count=len({(b.schema, b.table) for b in scan.blocks}),
        encoding=scan.encoding, outside_blake3=scan.outside_blake3, restricted=scan.restricted,
        sequences=scan.sequences, large_objects=scan.large_objects, tables=scan.blocks,
    )  # fmt: skip


@pytest.fixture(params=DUMPS, ids=lambda path: path.stem)
def text(request: pytest.FixtureRequest) -> bytes:
    dump: Path = request.param
    return dump.read_bytes()


def test_what_was_written_is_good(text: bytes, tmp_path: Path) -> None:
    data = gzip.compress(text)
    found = unpacked(tmp_path / "file", data)
    assert check.judge(found, manifest_of(data, found)) == ()
    assert check.judge(found, None) == ()


def test_another_compression_of_the_same_is_not_what_was_written(text: bytes, tmp_path: Path) -> None:
    data = gzip.compress(text, 9, mtime=0)
    manifest = manifest_of(data, unpacked(tmp_path / "file", data))
    again = gzip.compress(text, 1, mtime=0)
    found = unpacked(tmp_path / "file", again)
    assert check.judge(found, manifest) == (
        f"the file: expected {len(data):,} bytes, found {len(again):,}",
        f"the file: expected SHA-256 {manifest.file.sha256}, found {found.sha256}",
    )
    assert check.judge(found, None) == ()


def test_a_dump_that_is_cut_off_and_compressed_anew_is_not_whole(text: bytes, tmp_path: Path) -> None:
    data = gzip.compress(text)
    whole = unpacked(tmp_path / "file", data)
    found = unpacked(tmp_path / "file", gzip.compress(text[:-60]))
    assert check.judge(found, None) == (found.scan.problem,)
    assert found.scan.problem in check.judge(found, manifest_of(data, whole))


def test_nothing_at_all_is_named_once(tmp_path: Path) -> None:
    assert check.judge(unpacked(tmp_path / "file", b""), None) == ("it is empty",)
    assert check.judge(unpacked(tmp_path / "file", gzip.compress(b"")), None) == ("the dump is empty",)


BLOCK = CopyBlock(schema="public", table="t", columns=("a", "b"), rows=3, bytes=1200, blake3="aa")
PART = replace(BLOCK, table="root", rows=1)
SEQUENCE = SequenceValue(schema="public", name="s", last_value=7, is_called=True)
LARGE_OBJECT = LargeObject(oid=4711, bytes=5, sha256="bb")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Unpacked, Manifest]:
    """A file with one of everything, and its manifest."""
    data = gzip.compress(DUMPS[0].read_bytes())
    found = unpacked(tmp_path / "file", data)
    scan = replace(
        found.scan, blocks=(BLOCK, PART, PART), sequences=(SEQUENCE,), large_objects=(LARGE_OBJECT,)
    )
    found = replace(found, scan=scan)
    return found, manifest_of(data, found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: replace(m, tables=(replace(BLOCK, rows=4), PART, PART)),
            "table public.t: expected 4 rows, found 3",
        ),
        (
            lambda m: replace(m, tables=(replace(BLOCK, bytes=1201), PART, PART)),
            "table public.t: expected 1,201 bytes of rows, found 1,200",
        ),
        (
            lambda m: replace(m, tables=(replace(BLOCK, blake3="cc"), PART, PART)),
            "table public.t: expected rows of BLAKE3 cc, found aa",
        ),
        (
            lambda m: replace(m, tables=(replace(BLOCK, columns=("a",)), PART, PART)),
            "table public.t: expected columns a; found a, b",
        ),
        (
            lambda m: replace(m, tables=(BLOCK, PART, replace(PART, rows=2))),
            "table public.root: expected 2 rows, found 1",
        ),
        (
            lambda m: replace(m, tables=(BLOCK, PART)),
            "table public.root: expected no such COPY in the dump, found 1 rows",
        ),
        (
            lambda m: replace(m, tables=(BLOCK, PART, PART, replace(BLOCK, schema="x")), table_count=3),
            "table x.t: expected 3 rows, found no such COPY in the dump",
        ),
        (
            lambda m: replace(m, tables=(PART, PART), table_count=1),
            "table public.t: expected no such COPY in the dump, found 3 rows",
        ),
        (lambda m: replace(m, table_count=9), "its manifest counts 9 tables, and lists 2"),
        (lambda m: replace(m, rows=6), "the dump: expected 6 rows in all, found 5"),
        (
            lambda m: replace(m, sql_bytes=m.sql_bytes + 1),
            f"the dump: expected {DUMPS[0].stat().st_size + 1:,} bytes of SQL, found {DUMPS[0].stat().st_size:,}",
        ),
        (
            lambda m: replace(m, encoding="LATIN1"),
            "the dump: expected encoding LATIN1, found UTF8",
        ),
        (
            lambda m: replace(m, sequences=(replace(SEQUENCE, last_value=8),)),
            "sequence public.s: expected 8, found 7",
        ),
        (
            lambda m: replace(m, sequences=(replace(SEQUENCE, is_called=False),)),
            "sequence public.s: expected 7 (not called yet), found 7",
        ),
        (lambda m: replace(m, sequences=()), "sequence public.s: expected none, found 7"),
        (
            lambda m: replace(m, large_objects=(replace(LARGE_OBJECT, oid=4712), LARGE_OBJECT)),
            "large object 4712: expected 5 bytes of SHA-256 bb, found none",
        ),
        (
            lambda m: replace(m, large_objects=(replace(LARGE_OBJECT, sha256="cc"),)),
            "large object 4711: expected 5 bytes of SHA-256 cc, found 5 bytes of SHA-256 bb",
        ),
    ],
)
def test_each_difference_is_named_and_the_manifest_blamed_for_it(
    pair: tuple[Unpacked, Manifest], change: Callable[[Manifest], Manifest], said: str
) -> None:
    found, manifest = pair
    assert check.judge(found, manifest) == ()
    # The file itself is what was written, so that the manifest is what cannot be true.
    problems = check.judge(found, change(manifest))
    assert (
        problems[0] == "the file is what was written, but not what its manifest says: the manifest is wrong"
    )
    assert problems[1:] == (said,)


def test_what_stands_outside_of_the_rows_counts_too(pair: tuple[Unpacked, Manifest]) -> None:
    found, manifest = pair
    (_, other) = check.judge(found, replace(manifest, outside_blake3="dd"))
    assert other.startswith("the statements outside of the rows: expected BLAKE3 dd, found ")
    (_, other) = check.judge(found, replace(manifest, restricted=not manifest.restricted))
    assert "\\restrict line, found" in other


def test_a_file_that_is_not_what_was_written_is_blamed_itself(pair: tuple[Unpacked, Manifest]) -> None:
    found, manifest = pair
    found = replace(found, sha256="ee", problem="the compressed data is damaged (x)")
    found = replace(found, scan=replace(found.scan, blocks=(replace(BLOCK, rows=2), PART, PART)))
    assert check.judge(found, manifest) == (
        f"the file: expected SHA-256 {manifest.file.sha256}, found ee",
        "the compressed data is damaged (x)",
        "the dump: expected 5 rows in all, found 4",
        "table public.t: expected 3 rows, found 2",
    )


# A file and what lies beside it

NAME = "h-d_2026-01-31_03-00-00.sql.gz"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A backup with its manifest, in a backup directory."""
    day = tmp_path / "backups" / "2026-01-31"
    day.mkdir(parents=True)
    data = gzip.compress(DUMPS[0].read_bytes())
    manifest = manifest_of(data, unpacked(day / NAME, data), NAME)
    (day / f"{NAME}.json").write_bytes(to_json(manifest))
    return day / NAME


def test_a_backup_with_its_manifest_is_proven(path: Path) -> None:
    progress = Progress()
    checked = check.inspect(path, progress)
    assert (checked.state, checked.problems) == (check.State.GOOD, ())
    assert progress.file_bytes == path.stat().st_size
    assert progress.sql_bytes == DUMPS[0].stat().st_size
    path.with_name(f"{NAME}.json").unlink()
    assert check.inspect(path, Progress()).state is check.State.WHOLE


def test_one_that_is_gone_is_no_verdict(path: Path) -> None:
    path.unlink()
    with pytest.raises(FileNotFoundError):
        check.inspect(path, Progress())


def test_reading_ends_soon_after_it_is_told_to(path: Path) -> None:
    stop = threading.Event()

    class Stops(Progress):
        """Tells it when the first bytes have been read."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "file_bytes" and value:
                stop.set()

    endless = gzip.compress(bytes(10_000_000), 1) * 100
    path.write_bytes(endless)
    progress = Stops()
    with pytest.raises(check.StoppedError):
        check.inspect(path, progress, stop)
    assert 0 < progress.file_bytes < len(endless) // 10


def test_damage_does_not_keep_it_from_ending(path: Path) -> None:
    """Behind damage, nobody gets any SQL, and still the file is read to its end."""
    path.write_bytes(b"damaged" + bytes(10_000_000))
    stop = threading.Event()
    stop.set()
    with pytest.raises(check.StoppedError):
        check.inspect(path, Progress(), stop)


def orphans(path: Path) -> list[str]:
    found = inventory.scan(path.parents[1])
    return [said for one in found.orphans if (said := check.orphan(one, found.partials))]


def test_a_manifest_without_its_data_is_an_orphan(path: Path) -> None:
    assert orphans(path) == []
    path.unlink()
    assert orphans(path) == [f"{path}: its data is missing, only its manifest is there"]


@pytest.mark.parametrize(
    ("partial", "reported"),
    [
        ("h-d_2026-01-31_03-00-00", False),
        ("h-d_2026-01-31_02-59-58", False),  # the second was taken when it was to be published
        ("h-d_2026-01-31_04-30-00", True),
        ("h-d_2026-01-30_03-00-00", True),
        ("h-other_2026-01-31_03-00-00", True),
        ("x_h-d_2026-01-31_03-00-00", True),
    ],
)
def test_what_is_about_to_be_published_is_none(path: Path, partial: str, *, reported: bool) -> None:
    path.unlink()
    path.with_name(f"{partial}.sql.gz.in_progress").write_bytes(b"")
    assert bool(orphans(path)) == reported


def test_what_came_or_went_since_we_looked_is_none(path: Path) -> None:
    path.unlink()
    manifest = path.with_name(f"{NAME}.json")
    assert check.orphan(manifest, ())
    path.write_bytes(b"")
    assert not check.orphan(manifest, ())
    path.unlink()
    manifest.unlink()
    assert not check.orphan(manifest, ())


def test_a_file_that_is_pruned_before_its_turn_is_no_result(path: Path) -> None:
    gone = path.with_name("h-d_2026-01-31_04-00-00.sql.gz")
    gone.write_bytes(path.read_bytes())
    found = inventory.scan(path.parents[1])
    owners = naming.Owners.build([DatabaseSpec("h", 5432, "d")], (), dbspec.matches)
    work = checking.Work(
        root=path.parents[1],
        backups=list(inventory.load_all(found, found.by_core, owners)),
        orphans=set(),
        specs=(),
        required=(DatabaseSpec("h", 5432, "d"),),
        pattern="",
        owners=owners,
    )
    gone.unlink()
    told: list[Event] = []
    results = asyncio.run(checking.check_all(work, Events(told.append)))
    assert [(one.path, one.state) for one in results] == [(path, check.State.GOOD)]
    (vanished,) = [event for event in told if event.name == "check.vanished"]
    assert vanished.fields["path"] == str(gone)


def test_data_that_is_removed_before_its_turn_and_leaves_its_manifest_is_missed(path: Path) -> None:
    found = inventory.scan(path.parents[1])
    owners = naming.Owners.build((), (), dbspec.matches)
    backups = list(inventory.load_all(found, found.by_core, owners))
    work = checking.Work(
        root=path.parents[1],
        backups=backups,
        orphans=set(),
        specs=(),
        required=(),
        pattern="",
        owners=owners,
    )
    path.unlink()
    (missing,) = asyncio.run(checking.check_all(work, Events()))
    assert (missing.path, missing.state, missing.spec) == (
        path,
        check.State.MISSING,
        DatabaseSpec("h", 5432, "d"),
    )
