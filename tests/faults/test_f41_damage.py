"""Files that are not what was written any more (F41): each one is found, and named.

Real backups, damaged in every way that a disk, a network or a person has.
"""

import gzip
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from asyncbackup import inventory
from asyncbackup.errors import ManifestError
from asyncbackup.manifest import to_json
from asyncbackup.model import Manifest
from asyncbackup.proof import check
from asyncbackup.proof.check import Checked, State
from asyncbackup.stream import Progress
from tests.invariants import Site, small_disk
from tests.servers import Cli, Database, Databases, Postgres

PAGE = 4096
FLIPS = 10_000
MANIFEST_BYTES = 2_000  # of a manifest that are changed, one at a time


@dataclass(frozen=True)
class Kept:
    """A backup and its manifest, in memory, to be written anew and damaged."""

    name: str
    data: bytes
    manifest: bytes

    @classmethod
    def of(cls, path: Path) -> "Kept":
        return cls(path.name, path.read_bytes(), path.with_name(f"{path.name}.json").read_bytes())

    def write(self, folder: Path, *, manifest: bool = True) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / self.name
        path.write_bytes(self.data)
        if manifest:
            (folder / f"{self.name}.json").write_bytes(self.manifest)
        return path

    def as_of_old(self) -> "Kept":
        """The same dump as the bash tool would have written it: without our mark."""
        return replace(self, data=gzip.compress(gzip.decompress(self.data), mtime=0))


def look(path: Path) -> Checked:
    checked = check.inspect(path, Progress())
    assert all(str(path) in problem for problem in checked.problems), "a problem names its file"
    return checked


@pytest.fixture(scope="module")
def backups(pg15: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kept]]:
    """A tiny backup, of which every bit can be tried, another of the same kind, and a bigger one."""
    folder = tmp_path_factory.mktemp("f41")
    (folder / "home").mkdir()
    rows = "CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, 1500) i"
    with Databases(pg15) as factory:
        made = {
            "tiny": factory("f41_tiny", sql="CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)"),
            "other": factory("f41_other", sql="CREATE TABLE t (a int); INSERT INTO t VALUES (3), (4)"),
            "big": factory("f41_big", sql=rows),
        }
        site = Site(Cli(folder / "home"), folder).use(pg15).configure(*made.values())
        done = site.good()
        paths = {one["dbname"]: Path(one["path"]) for one in done.databases}
        yield {name: Kept.of(paths[database.name]) for name, database in made.items()}


@pytest.fixture
def tiny(backups: dict[str, Kept]) -> Kept:
    assert len(backups["tiny"].data) < 2000
    return backups["tiny"]


@pytest.fixture
def big(backups: dict[str, Kept]) -> Kept:
    assert len(backups["big"].data) > 7 * PAGE
    return backups["big"]


def flipped(path: Path, bits: "range | list[int]") -> Iterator[tuple[int, Checked]]:
    """Turn each of these bits of a file over, look at the file, and turn it back."""
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            position, value = bit // 8, data[bit // 8]
            file.seek(position)
            file.write(bytes([value ^ 1 << bit % 8]))
            yield bit, look(path)
            file.seek(position)
            file.write(bytes([value]))
    assert path.read_bytes() == data


def test_undamaged_they_are_good(tiny: Kept, big: Kept, tmp_path: Path) -> None:
    for kept in (tiny, big):
        assert look(kept.write(tmp_path)).state is State.GOOD
        assert look(kept.as_of_old().write(tmp_path / "old", manifest=False)).state is State.WHOLE


def test_every_bit_of_a_small_file(tiny: Kept, tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    tried = 0
    for bit, checked in flipped(path, range(8 * len(tiny.data))):
        assert any("expected SHA-256" in problem for problem in checked.problems), bit
        tried += 1
    assert tried == 8 * len(tiny.data)


def test_every_bit_of_a_small_file_without_a_manifest(tiny: Kept, tmp_path: Path) -> None:
    """What gzip's checksum does not notice has changed nothing of the dump."""
    kept = tiny.as_of_old()
    path = kept.write(tmp_path, manifest=False)
    whole = look(path)
    assert whole.unpacked
    unnoticed = 0
    for bit, checked in flipped(path, range(8 * len(kept.data))):
        if checked.state is State.WHOLE:
            assert checked.unpacked, bit
            assert checked.unpacked.scan == whole.unpacked.scan, bit
            unnoticed += 1
    # The header's time and system, and what pads the last bits to a byte.
    assert unnoticed < 64


def test_a_file_of_ours_without_its_manifest(tiny: Kept, tmp_path: Path) -> None:
    path = tiny.write(tmp_path, manifest=False)
    assert look(path).problems == (f"{path}: its manifest is missing",)


def test_every_length_of_a_small_file(tiny: Kept, tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    old = tiny.as_of_old()
    bare = old.write(tmp_path / "old", manifest=False)
    for length in range(len(tiny.data)):
        path.write_bytes(tiny.data[:length])
        problems = look(path).problems
        assert any(f"bytes, found {length:,}" in problem for problem in problems), length
        assert any(problem.endswith(("is empty", "is cut off")) for problem in problems), length
    for length in range(len(old.data)):
        bare.write_bytes(old.data[:length])
        assert look(bare).problems, length


def test_ten_thousand_random_bits_of_a_bigger_file(big: Kept, tmp_path: Path) -> None:
    path = big.write(tmp_path)
    chosen = random.Random(41).sample(range(8 * len(big.data)), FLIPS)
    for bit, checked in flipped(path, chosen):
        assert any("expected SHA-256" in problem for problem in checked.problems), bit


def test_random_bits_of_a_bigger_file_without_a_manifest(big: Kept, tmp_path: Path) -> None:
    kept = big.as_of_old()
    path = kept.write(tmp_path, manifest=False)
    whole = look(path)
    assert whole.unpacked
    header, tail = 10, 1  # not in the checksum, and the last byte of the compressed data, which is padded
    bits = range(8 * header, 8 * (len(kept.data) - 8 - tail))
    for bit, checked in flipped(path, random.Random(42).sample(bits, FLIPS // 10)):
        if not checked.problems:  # the same bytes can be said in more than one way
            assert checked.unpacked, bit
            assert checked.unpacked.scan == whole.unpacked.scan, bit


def test_cut_off_at_every_page(big: Kept, tmp_path: Path) -> None:
    path = big.write(tmp_path)
    for length in range(0, len(big.data), PAGE):
        path.write_bytes(big.data[:length])
        assert look(path).state is State.BAD, length


def test_every_page_zeroed(big: Kept, tmp_path: Path) -> None:
    path = big.write(tmp_path)
    for start in range(0, len(big.data), PAGE):
        end = min(start + PAGE, len(big.data))
        path.write_bytes(big.data[:start] + bytes(end - start) + big.data[end:])
        assert look(path).state is State.BAD, start


@pytest.mark.parametrize("appended", [b"\0", b"\n", b"junk", b"\x1f", b"\x1f\x8b", bytes(PAGE)])
def test_something_behind_the_end(tiny: Kept, tmp_path: Path, appended: bytes) -> None:
    path = replace(tiny, data=tiny.data + appended).write(tmp_path)
    size = len(tiny.data)
    assert f"{path}: the file: expected {size:,} bytes, found {size + len(appended):,}" in look(path).problems
    kept = tiny.as_of_old()
    assert look(replace(kept, data=kept.data + appended).write(tmp_path / "old", manifest=False)).problems


def test_a_second_file_behind_the_first(tiny: Kept, backups: dict[str, Kept], tmp_path: Path) -> None:
    for second in (tiny.data, backups["other"].data, gzip.compress(b""), gzip.compress(b"\n")):
        path = replace(tiny, data=tiny.data + second).write(tmp_path)
        assert any("expected SHA-256" in problem for problem in look(path).problems)


def test_an_empty_file(tiny: Kept, tmp_path: Path) -> None:
    path = replace(tiny, data=b"").write(tmp_path)
    problems = look(path).problems
    assert f"{path}: the file: expected {len(tiny.data):,} bytes, found 0" in problems
    assert f"{path}: it is empty" in problems
    assert f"{path}: table public.t: expected 2 rows, found no such COPY in the dump" in problems
    bare = replace(tiny, data=b"").write(tmp_path / "old", manifest=False)
    assert look(bare).problems == (f"{bare}: it is empty",)


def test_two_files_swapped(tiny: Kept, backups: dict[str, Kept], tmp_path: Path) -> None:
    one, two = tiny, backups["other"]
    first = replace(one, data=two.data).write(tmp_path)
    second = replace(two, data=one.data).write(tmp_path)
    for path in (first, second):
        problems = look(path).problems
        assert any("the file: expected SHA-256" in problem for problem in problems)
        assert any("table public.t: expected rows of BLAKE3" in problem for problem in problems)


def test_two_files_swapped_with_their_manifests(tiny: Kept, backups: dict[str, Kept], tmp_path: Path) -> None:
    other = backups["other"]
    path = replace(other, name=tiny.name).write(tmp_path)
    assert look(path).problems == (f"{path}: its manifest is that of {other.name}",)


def test_the_manifest_of_another_file(tiny: Kept, backups: dict[str, Kept], tmp_path: Path) -> None:
    other = backups["other"]
    path = replace(tiny, manifest=other.manifest).write(tmp_path)
    problems = look(path).problems
    assert f"{path}: its manifest is that of {other.name}" in problems
    assert any("the file: expected SHA-256" in problem for problem in problems)


def test_every_byte_of_a_manifest_counts(tiny: Kept, tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    said = path.with_name(f"{path.name}.json")
    was = inventory.read_manifest(path)
    chance = random.Random(43)
    positions = chance.sample(range(len(tiny.manifest)), min(MANIFEST_BYTES, len(tiny.manifest)))
    harmless = 0
    for position in positions:
        changed = bytearray(tiny.manifest)
        changed[position] ^= chance.randrange(1, 256)
        said.write_bytes(changed)
        checked = look(path)
        if checked.problems:
            assert checked.state is State.BAD
            assert any(str(said) in problem for problem in checked.problems), position
        else:  # one kind of white space for another says the same
            assert checked.manifest == was, position
            harmless += 1
    assert harmless < len(positions) // 50


def test_a_manifest_cut_off(tiny: Kept, tmp_path: Path) -> None:
    for length in range(0, len(tiny.manifest) - 1, 7):
        path = replace(tiny, manifest=tiny.manifest[:length]).write(tmp_path)
        checked = look(path)
        assert len(checked.problems) == 1, length
        assert checked.problems[0].startswith(f"{path}.json: it "), length


def test_a_manifest_of_a_newer_version(tiny: Kept, tmp_path: Path) -> None:
    newer = tiny.manifest.replace(b'"version": 1,', b'"version": 2,')
    path = replace(tiny, manifest=newer).write(tmp_path)
    assert look(path).problems == (f"{path}.json: it is of version 2, this program reads version 1",)


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda path, target: path.symlink_to(target), "it is a link"),
        (lambda path, _: path.mkdir(), "it is not a regular file"),
        (lambda path, _: subprocess.run(["mkfifo", path], check=True), "it is not a regular file"),
    ],
)
def test_something_else_in_its_place(
    tiny: Kept, tmp_path: Path, put: Callable[[Path, Path], object], said: str
) -> None:
    target = tiny.write(tmp_path)
    path = target.rename(target.with_name("elsewhere")).with_name(tiny.name)
    put(path, target.with_name("elsewhere"))
    assert look(path).problems == (f"{path}: it cannot be read: {said}",)


# The command


@pytest.fixture
def folder(backups: dict[str, Kept], tmp_path: Path) -> dict[str, Path]:
    """A backup directory with all three."""
    day = tmp_path / "backups" / "2026-01-31"
    day.mkdir(parents=True)
    return {name: kept.write(day) for name, kept in backups.items()}


def run(site: Site, *arguments: str) -> tuple[int, list[dict[str, object]]]:
    done = site.cli("check", "--json", *arguments, env=site.env)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_one_that_is_damaged_leaves_the_others_good(site: Site, folder: dict[str, Path], tiny: Kept) -> None:
    folder["tiny"].write_bytes(tiny.data[:-1])
    code, found = run(site)
    assert code == 3
    assert {one["path"]: one["verdict"] for one in found} == {
        str(folder["tiny"]): "bad",
        str(folder["other"]): "good",
        str(folder["big"]): "good",
    }
    for path in folder.values():
        path.write_bytes(path.read_bytes()[:-1])
    code, found = run(site)
    assert (code, {one["verdict"] for one in found}) == (1, {"bad"})


def test_data_that_is_gone_is_missed(site: Site, folder: dict[str, Path], tiny: Kept) -> None:
    folder["tiny"].unlink()
    code, found = run(site)
    assert code == 3
    (missing,) = [one for one in found if one["verdict"] != "good"]
    assert (missing["verdict"], missing["dbname"], missing["path"]) == (
        "missing",
        "f41_tiny",
        str(folder["tiny"]),
    )
    # Not where a run was killed between the two, or is just there: its partial file is still there.
    folder["tiny"].with_name(f"{tiny.name}.in_progress").write_bytes(tiny.data)
    code, found = run(site)
    assert (code, len(found)) == (0, 2)


def test_where_nothing_can_be_written(site: Site, backups: dict[str, Kept], tmp_path: Path) -> None:
    disk = small_disk(tmp_path / "disk", "size=16m")
    root = next(disk)
    try:
        (root / "2026-01-31").mkdir()
        for kept in backups.values():
            kept.write(root / "2026-01-31")
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        site.env["BACKUP_DIR"] = f"{root}"
        code, found = run(site)
        assert (code, {one["verdict"] for one in found}) == (0, {"good"})
    finally:
        next(disk, None)


# The whole way, on every server


def test_a_database_full_of_oddities_is_good(site: Site, torture: Database, tmp_path: Path) -> None:
    site.use(torture.server).configure(torture)
    path = site.good().path
    checked = look(path)
    assert checked.state is State.GOOD
    assert checked.unpacked
    assert checked.manifest
    assert len(checked.unpacked.scan.blocks) == len(checked.manifest.tables) > 15
    code, (found,) = run(site)
    assert (code, found["verdict"], found["rows"]) == (0, "good", checked.manifest.rows)
    damaged = Kept.of(path)
    chance = random.Random(44)
    copy = damaged.write(tmp_path / "copy")
    for _, again in flipped(copy, chance.sample(range(8 * len(damaged.data)), 20)):
        assert again.state is State.BAD
    shutil.rmtree(tmp_path / "copy")
    # What was packed anew is whole, and still not what was written.
    copy = replace(damaged.as_of_old(), manifest=damaged.manifest).write(tmp_path / "copy")
    problems = look(copy).problems
    assert problems
    assert all("the file: expected" in problem for problem in problems)


def one_row_less(manifest: Manifest) -> Manifest:
    first, *rest = manifest.tables
    return replace(manifest, tables=(replace(first, rows=first.rows - 1), *rest))


def test_a_manifest_that_contradicts_its_own_file(tiny: Kept, tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    manifest = one_row_less(inventory.read_manifest(path))
    path = replace(tiny, manifest=to_json(manifest)).write(tmp_path)
    assert look(path).problems == (
        f"{path}: the file is what was written, but not what its manifest says: the manifest is wrong",
        f"{path}: table public.t: expected 1 rows, found 2",
    )
    with pytest.raises(ManifestError):
        inventory.read_manifest(path.with_name("nowhere"))
